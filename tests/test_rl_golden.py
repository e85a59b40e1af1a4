"""Golden tests of policy optimisation: the printed schedules, the identities that hold at mu = 1, the harmless corner cases, and
every named combination against a plain implementation in float64, one row and one token at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from tests.helpers import SMALL, tiny_model
from torch import Tensor

from mmada.canvas import Canvas, Piece
from mmada.model.mmada import MMaDAModel
from mmada.training.rl import (
    Algorithm1,
    CoupledMasks,
    Elbo,
    FrozenCopy,
    FullMask,
    Iid,
    Kl,
    LeaveOneOut,
    MeanOnly,
    Moments,
    NoRatio,
    Policy,
    RandomMasks,
    Sandwich,
    Systematic,
    Trajectory,
    Update,
    Views,
    ZScore,
    advantages,
    coupled_grpo,
    diffu_grpo,
    draw_views,
    espo,
    log_probabilities,
    mask_grpo,
    parts,
    path_grpo,
    policy_loss,
    prepare,
    spg,
    unigrpo,
)
from mmada.training.rl.likelihood import at_places

ADVANTAGE = torch.tensor([1.25, -0.5, 0.75, -1.5])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def a_model(seed: int = 0) -> MMaDAModel:
    """A toy policy in float64, sharp enough for its ratios to leave the clip range when it moves a little."""
    torch.manual_seed(seed)
    model = tiny_model(SMALL.size).double()
    with torch.no_grad():
        model.lm_head.weight *= 20
    return model


def moved(model: MMaDAModel, seed: int, by: float) -> MMaDAModel:
    other = deepcopy(model)
    noise = generator(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=noise, dtype=torch.float64))
    return other


def a_canvas() -> Canvas:
    """Two prompts of two completions of 4 to 11 places: text, text in a row with padding, pictures, text before a picture."""
    text = Piece([12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22], editable=True)
    return Canvas.stack(
        [
            Canvas.join([Piece([0, 30, 31, 2]), text]),
            Canvas.join([Piece([0, 30, 31, 2]), Piece([39, 25, 1, 38], editable=True), Piece([4])]),
            Canvas.join([Piece([8, 33, 6]), Piece([40, 63, 50, 51, 52, 45], editable=True, modality="image"), Piece([7])]),
            Canvas.join(
                [
                    Piece([8, 33]),
                    Piece([22, 23], editable=True),
                    Piece([6]),
                    Piece([41, 62, 44, 44], editable=True, modality="image"),
                    Piece([7]),
                ]
            ),
        ]
    )


def updates_of(policy: Policy, model: MMaDAModel, canvas: Canvas, reference: MMaDAModel | None = None) -> tuple[Update, ...]:
    steps_BL = (1 + torch.arange(canvas.length) * 7 % 5) * canvas.editable_BL
    return prepare(
        model,
        canvas,
        policy=policy,
        vocabulary=SMALL,
        group=2 if canvas.rows % 2 == 0 else 1,
        generator=generator(3),
        reference=FrozenCopy(reference or model),
        steps_BL=steps_BL,
    )


def gradients(model: MMaDAModel, loss: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), found, strict=True)]


def assert_same(model: MMaDAModel, ours: Tensor, plain: Tensor) -> None:
    """Loss and every gradient. Log-softmax runs in float32 in the package, so it is not the last digits."""
    assert ours.item() == pytest.approx(plain.item(), rel=1e-5, abs=1e-6)
    left, right = gradients(model, ours), gradients(model, plain)
    scale = max(float(g.abs().max()) for g in right)
    assert scale > 1e-4, "a gradient of zero proves nothing"
    for g, h in zip(left, right, strict=True):
        assert float((g - h).abs().max()) < 2e-5 * scale


# The plain implementation: nothing of mmada.training.rl is used below but the masks.


def plain_log_p(model: MMaDAModel, canvas: Canvas, views: Views) -> list[list[dict[int, Tensor]]]:
    """[view][row] -> {place: ln p}: every row alone, without its padding, over the ids of the place's modality."""
    found = []
    for tokens_BL, scored_BL in zip(views.tokens_KBL, views.scored_KBL, strict=True):
        rows = []
        for b in range(canvas.rows):
            length = int(canvas.valid_BL[b].sum())
            hidden_LD = model.hidden(tokens_BL[b : b + 1, :length])[0]
            row = {}
            for place in range(length):
                if scored_BL[b, place]:
                    picture = int(canvas.modality_BL[b, place]) == 1
                    low, high = (40, 64) if picture else (0, 40)
                    logits = model.lm_head.weight[low:high] @ hidden_LD[place]
                    row[place] = torch.log_softmax(logits, -1)[int(canvas.tokens_BL[b, place]) - low]
            rows.append(row)
        found.append(rows)
    return found


def lengths(canvas: Canvas) -> list[int]:
    return [int((canvas.editable_BL[b] & canvas.valid_BL[b]).sum()) for b in range(canvas.rows)]


def plain_surrogate(new: Tensor, old: Tensor, advantage: float, clip: float) -> Tensor:
    ratio = torch.exp(new - old.detach())
    held = min(max(float(ratio.detach()), 1 - clip), 1 + clip)
    if ratio.item() * advantage <= held * advantage:
        return ratio * advantage
    return torch.tensor(held * advantage, dtype=torch.float64)


def plain_k3(new: Tensor, other: Tensor) -> Tensor:
    return torch.exp(other.detach() - new) - (other.detach() - new) - 1


def plain_token_terms(new: Any, old: Any, ref: Any, clip: float, beta: float) -> list[dict[int, Tensor]]:
    """Per row: place -> surrogate - beta k3, for one view."""
    return [
        {
            i: plain_surrogate(new[b][i], old[b][i], float(ADVANTAGE[b]), clip) - beta * plain_k3(new[b][i], ref[b][i])
            for i in new[b]
        }
        for b in range(len(new))
    ]


def plain_unigrpo(new: Any, old: Any, ref: Any, canvas: Canvas) -> Tensor:
    terms = plain_token_terms(new[0], old[0], ref[0], 0.2, 0.01)
    total = torch.zeros((), dtype=torch.float64)
    for length, row in zip(lengths(canvas), terms, strict=True):
        total = total + sum(row.values()) / length
    return -total / canvas.rows


def plain_unigrpo_masked(new: Any, old: Any, ref: Any, canvas: Canvas) -> Tensor:
    """Of several views, a place takes the mean over those that score it."""

    def estimate(found: Any) -> list[dict[int, Tensor]]:
        rows = [[view[b] for view in found] for b in range(canvas.rows)]
        return [
            {i: torch.stack([v[i] for v in views if i in v]).mean() for i in sorted({i for v in views for i in v})}
            for views in rows
        ]

    terms = plain_token_terms(estimate(new), estimate(old), estimate(ref), 0.2, 0.01)
    return -torch.stack([torch.stack(list(row.values())).mean() for row in terms]).mean()


def plain_tokens_of_the_batch(clip: float, beta: float) -> Callable[..., Tensor]:
    def loss(new: Any, old: Any, ref: Any, canvas: Canvas) -> Tensor:
        terms = [t for row in plain_token_terms(new[0], old[0], ref[0], clip, beta) for t in row.values()]
        return -torch.stack(terms).sum() / len(terms)

    return loss


def plain_coupled(new: Any, old: Any, ref: Any, canvas: Canvas) -> Tensor:
    """Ratio t = 0.3: half the full mask's value plus half of 1/t or 1/(1 - t) times the one of the mask that holds the place."""

    def estimate(found: Any) -> list[dict[int, Tensor]]:
        mask, rest, full = found
        return [
            {i: (full[b][i] + (mask[b][i] / 0.3 if i in mask[b] else rest[b][i] / 0.7)) / 2 for i in full[b]}
            for b in range(len(full))
        ]

    terms = plain_token_terms(estimate(new), estimate(old), estimate(ref), 0.5, 0.01)
    flat = [t for row in terms for t in row.values()]
    assert len(flat) == sum(lengths(canvas))
    return -torch.stack(flat).mean()


def plain_elbo_a_place(found: Any, b: int) -> Tensor:
    """Mean over views of the mean log-probability of a masked place: 1/t is length / masked."""
    return torch.stack([torch.stack(list(view[b].values())).mean() for view in found]).mean()


def plain_eubo_a_place(found: Any, b: int, length: int, beta: float) -> Tensor:
    places = sorted({i for view in found for i in view[b]})
    logs = []
    for i in places:
        total = torch.zeros((), dtype=torch.float64)
        for view in found:
            if i in view[b]:
                t = len(view[b]) / length
                total = total + torch.exp(view[b][i]) ** beta / t
        logs.append(torch.log(total / len(found)))
    return torch.stack(logs).mean() / beta


def plain_spg(omega: float) -> Callable[..., Tensor]:
    def loss(new: Any, old: Any, ref: Any, canvas: Canvas) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for b, length in enumerate(lengths(canvas)):
            value = plain_elbo_a_place(new, b)
            if ADVANTAGE[b] <= 0:
                value = omega * plain_eubo_a_place(new, b, length, 1.5) + (1 - omega) * value
            total = total - float(ADVANTAGE[b]) * value * length
        return total / sum(lengths(canvas))

    return loss


def plain_espo(new: Any, old: Any, ref: Any, canvas: Canvas) -> Tensor:
    def elbo(found: Any, b: int, length: int) -> Tensor:
        samples = []
        for mask, rest in zip(found[::2], found[1::2], strict=True):
            one = torch.zeros((), dtype=torch.float64)
            k = len(mask[b])
            assert k + len(rest[b]) == length
            for value in mask[b].values():
                one = one + value / (k / (length + 1))
            for value in rest[b].values():
                one = one + value / (length / (length + 1) - k / (length + 1))
            samples.append(one / 2)
        return torch.stack(samples).mean()

    total = torch.zeros((), dtype=torch.float64)
    for b, length in enumerate(lengths(canvas)):
        now, before, other = (elbo(found, b, length) for found in (new, old, ref))
        total = total + plain_surrogate(now / length, before / length, float(ADVANTAGE[b]), 0.2)
        total = total - 1e-3 * (now - other.detach()) ** 2 / 2 / length
    return -total / canvas.rows


def plain_trajectory(new: Any, old: Any, ref: Any, canvas: Canvas) -> Tensor:
    """TraceRL as its code has it: token ratio over the sampled steps, mean of a completion, k3 to the old policy summed."""
    total = torch.zeros((), dtype=torch.float64)
    for b, length in enumerate(lengths(canvas)):
        count = 0
        for view_new, view_old in zip(new, old, strict=True):
            for i in view_new[b]:
                total = total + plain_surrogate(view_new[b][i], view_old[b][i], float(ADVANTAGE[b]), 0.2) / length
                total = total - 0.01 * plain_k3(view_new[b][i], view_old[b][i])
                count += 1
        assert count == length
    return -total / canvas.rows


TRACE = replace(
    unigrpo(Algorithm1(), updates=2), noise=Trajectory(together=2), kl=Kl(0.01, "k3", "old", "sum")
)  # a combination of parts, not a named one
COMBINATIONS: dict[str, tuple[Policy, Callable[..., Tensor]]] = {
    "unigrpo, algorithm 1": (unigrpo(Algorithm1()), plain_unigrpo),
    "unigrpo, section 5.2": (unigrpo(Systematic()), plain_unigrpo),
    "unigrpo, by masked tokens": (unigrpo(Systematic(), over="masked"), plain_unigrpo_masked),
    "path_grpo": (path_grpo(updates=2), plain_unigrpo_masked),
    "path_grpo, one step": (path_grpo(updates=2, samples=1), plain_unigrpo_masked),
    "path_grpo, windows that overlap": (path_grpo(updates=2, ahead=3), plain_unigrpo_masked),
    "diffu_grpo": (diffu_grpo(updates=3), plain_tokens_of_the_batch(0.5, 0.04)),
    "mask_grpo": (mask_grpo(updates=3), plain_tokens_of_the_batch(0.2, 0.01)),
    "mask_grpo, text": (mask_grpo(updates=3, fading=True), plain_tokens_of_the_batch(0.2, 0.01)),
    "coupled_grpo": (replace(coupled_grpo(), noise=CoupledMasks(0.3, 0.3)), plain_coupled),
    "spg": (spg(updates=2, block=3), plain_spg(0.5)),
    "spg, upper bound alone": (spg(updates=2, block=3, omega=1), plain_spg(1.0)),
    "espo": (espo(updates=3), plain_espo),
    "trajectory": (TRACE, plain_trajectory),
}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_golden_combination_equals_the_plain_one(name: str) -> None:
    policy, plain = COMBINATIONS[name]
    canvas, old = a_canvas(), a_model()
    new, ref = moved(old, 1, 0.01), moved(old, 2, 0.01)
    drawn = updates_of(policy, old, canvas, ref)
    assert len(drawn) == policy.updates
    for update in drawn[-2:]:
        ours, statistics = policy_loss(new, canvas, ADVANTAGE, update, policy=policy, vocabulary=SMALL)
        found = [plain_log_p(m, canvas, update.views) for m in (new, old, ref)]
        assert_same(new, ours, plain(*found, canvas))
        assert statistics["masked"] == sum(len(row) for view in found[0] for row in view)


def test_golden_our_own_is_on_the_path() -> None:
    assert path_grpo(ahead=3, samples=2).noise == Moments(3, 2)
    assert path_grpo().noise == Moments(1, 4)


def test_golden_the_comparison_reaches_the_clip() -> None:
    canvas, old = a_canvas(), a_model()
    new = moved(old, 1, 0.01)
    for name in ("unigrpo, algorithm 1", "diffu_grpo", "mask_grpo", "coupled_grpo"):
        policy = COMBINATIONS[name][0]
        update = updates_of(policy, old, canvas)[-1]
        statistics = policy_loss(new, canvas, ADVANTAGE, update, policy=policy, vocabulary=SMALL)[1]
        assert 0 < statistics["clipped"] < 1, name


# Schedules


def test_golden_schedules() -> None:
    assert Systematic().grid(100, 5) == [100, 300, 500, 700, 900]
    assert Algorithm1().grid(100, 5) == [100, 325, 550, 775, 1000]
    assert Systematic().grid(300, 5) == [300, 500, 700, 900, 100], "wraps around"
    assert Algorithm1().grid(100, 1) == Systematic().grid(100, 1) == [100]


def test_golden_schedules_reach_the_masks() -> None:
    """The drawn ratios are these grids over T, one start a prompt, shared by its completions."""
    for times in (Algorithm1(), Systematic()):
        ratio_NB = times.ratios(5, 6, 3, generator())
        for b in range(6):
            grid = times.grid(round(float(ratio_NB[0, b]) * 1000), 5)
            assert (ratio_NB[:, b] * 1000).round().long().tolist() == grid
        assert all(torch.equal(ratio_NB[:, 0], ratio_NB[:, b]) == (b < 3) for b in range(6))
    full = draw_views(RandomMasks(Algorithm1()), a_canvas(), mask_id=SMALL.mask, updates=5, group=2, generator=generator())
    assert torch.equal(full[-1].scored_KBL[0], a_canvas().editable_BL), "Algorithm 1 ends fully masked"


# mu = 1


def test_golden_ratio_is_one_and_the_gradient_is_weighted_cross_entropy() -> None:
    canvas, model = a_canvas(), a_model()
    for policy in (unigrpo(Systematic(), updates=1, kl=0), unigrpo(Systematic(), updates=4, kl=0)):
        update = updates_of(policy, model, canvas)[0]
        assert (update.old_KBL is None) == (policy.updates == 1)
        loss, statistics = policy_loss(model, canvas, ADVANTAGE, update, policy=policy, vocabulary=SMALL)
        assert statistics["ratio"] == 1
        assert statistics["clipped"] == 0
        plain = torch.zeros((), dtype=torch.float64)
        for b, row in enumerate(plain_log_p(model, canvas, update.views)[0]):
            plain = plain - float(ADVANTAGE[b]) * sum(row.values()) / lengths(canvas)[b] / canvas.rows
        left, right = gradients(model, loss), gradients(model, plain)
        scale = max(float(g.abs().max()) for g in right)
        assert all(float((g - h).abs().max()) < 2e-5 * scale for g, h in zip(left, right, strict=True))


@pytest.mark.parametrize("name", [n for n in COMBINATIONS if "spg" not in n])
def test_golden_ratio_is_one_before_the_first_update(name: str) -> None:
    policy, _ = COMBINATIONS[name]
    canvas, model = a_canvas(), a_model()
    for update in updates_of(policy, model, canvas):
        statistics = policy_loss(model, canvas, ADVANTAGE, update, policy=policy, vocabulary=SMALL)[1]
        assert statistics["ratio"].item() == pytest.approx(1, abs=1e-6)
        assert statistics["kl"].item() == pytest.approx(0, abs=1e-6)


# The same masks for all


class Recorder:
    """A model that keeps what it was asked."""

    def __init__(self, model: MMaDAModel) -> None:
        self.model, self.asked = model, list[bytes]()

    def hidden(self, tokens_BL: Tensor, *, valid_BL: Tensor | None = None) -> Tensor:
        self.asked.append(tokens_BL.numpy().tobytes())
        return self.model.hidden(tokens_BL, valid_BL=valid_BL)

    def head(self, columns: range) -> Tensor:
        return self.model.head(columns)


class RecordedReference(Recorder):
    @contextmanager
    def scorer(self) -> Any:
        yield self


@pytest.mark.parametrize("name", [n for n in COMBINATIONS if "spg" not in n])
def test_golden_policy_old_and_reference_see_the_same_bytes(name: str) -> None:
    policy = replace(COMBINATIONS[name][0], kl=Kl(0.1))
    canvas, model = a_canvas(), a_model()
    new, old, reference = Recorder(model), Recorder(model), RecordedReference(model)
    drawn = prepare(
        old,
        canvas,
        policy=policy,
        vocabulary=SMALL,
        group=2,
        generator=generator(),
        reference=reference,
        steps_BL=torch.arange(canvas.length).expand(canvas.rows, -1),
    )
    for update in drawn:
        policy_loss(new, canvas, ADVANTAGE, update, policy=policy, vocabulary=SMALL)
    assert len(new.asked) == len(drawn)
    assert new.asked == old.asked == reference.asked


# What it is for


@pytest.mark.parametrize("name", COMBINATIONS)
def test_golden_a_few_updates_prefer_what_was_rewarded(name: str) -> None:
    policy, _ = COMBINATIONS[name]
    model, canvas = a_model(), a_canvas()
    reward_B = torch.tensor([1.0, 0.0, 0.0, 1.0])
    everything = Views(
        torch.where(canvas.editable_BL, SMALL.mask, canvas.tokens_BL)[None],
        canvas.editable_BL[None],
        canvas.editable_BL[None].float(),
    )

    def preference() -> Tensor:
        log_B = log_probabilities(model, canvas, everything, vocabulary=SMALL)[0].sum(1).detach() / canvas.editable_BL.sum(1)
        return log_B[reward_B == 1].mean() - log_B[reward_B == 0].mean()

    before = preference()
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    for update in updates_of(policy, model, canvas):
        optimiser.zero_grad()
        loss = policy_loss(model, canvas, policy.advantages(reward_B, group=2), update, policy=policy, vocabulary=SMALL)[0]
        torch.autograd.backward(loss)
        optimiser.step()
    assert preference() > before


# SPG


def test_golden_spg_at_omega_zero_is_the_elbo_policy_gradient() -> None:
    canvas, model = a_canvas(), a_model()
    policy = spg(updates=1, block=3, omega=0)
    update = updates_of(policy, model, canvas)[0]
    ours = policy_loss(model, canvas, ADVANTAGE, update, policy=policy, vocabulary=SMALL)[0]
    found = plain_log_p(model, canvas, update.views)
    total = torch.zeros((), dtype=torch.float64)
    for b, length in enumerate(lengths(canvas)):
        total = total - float(ADVANTAGE[b]) * length * plain_elbo_a_place(found, b)
    assert_same(model, ours, total / sum(lengths(canvas)))
    same = replace(policy, likelihood=Elbo())
    assert ours.item() == policy_loss(model, canvas, ADVANTAGE, update, policy=same, vocabulary=SMALL)[0].item()
    mixed = replace(policy, likelihood=Sandwich(0.5))
    assert ours.item() != policy_loss(model, canvas, ADVANTAGE, update, policy=mixed, vocabulary=SMALL)[0].item()


# Corners


@pytest.mark.parametrize("name", COMBINATIONS)
def test_golden_equal_rewards_give_no_gradient(name: str) -> None:
    policy, _ = COMBINATIONS[name]
    canvas, model = a_canvas(), a_model()
    equal_B = policy.advantages(torch.tensor([0.1, 0.1, 0.7, 0.7]), group=2)
    assert torch.equal(equal_B, torch.zeros(4))
    for update in updates_of(policy, model, canvas):  # the KL is to the policy itself: 0, with gradient 0
        loss = policy_loss(model, canvas, equal_B, update, policy=policy, vocabulary=SMALL)[0]
        assert loss.isfinite()
        assert all(float(g.abs().max()) < 1e-6 for g in gradients(model, loss))


@pytest.mark.parametrize("choice", [ZScore(), ZScore(0.0), ZScore(0.0, 1), MeanOnly(), LeaveOneOut()])
@pytest.mark.parametrize("group", [1, 3])
def test_golden_equal_rewards_have_advantage_zero(choice: Any, group: int) -> None:
    for reward in (0.1, 1e30, -7.0):
        assert torch.equal(advantages(choice, torch.full((3,), reward), group=group), torch.zeros(3))


@pytest.mark.parametrize("name", COMBINATIONS)
def test_golden_a_completion_of_length_zero_is_harmless(name: str) -> None:
    policy, _ = COMBINATIONS[name]
    model = a_model()
    full = a_canvas()
    editable_BL = full.editable_BL.clone()
    editable_BL[1] = False
    canvas = replace(full, editable_BL=editable_BL)
    new, ref = moved(model, 1, 0.01), moved(model, 2, 0.01)
    for update in updates_of(policy, model, canvas, ref):
        loss, statistics = policy_loss(new, canvas, ADVANTAGE, update, policy=policy, vocabulary=SMALL)
        assert all(s.isfinite() for s in (loss, *statistics.values()))
        left = gradients(new, loss)
        assert all(g.isfinite().all() for g in left)
        elsewhere = ADVANTAGE.clone()
        elsewhere[1] = 40.0  # nothing depends on what an empty completion was worth
        other = policy_loss(new, canvas, elsewhere, update, policy=policy, vocabulary=SMALL)[0]
        assert other.item() == loss.item()
        assert all(torch.equal(g, h) for g, h in zip(left, gradients(new, other), strict=True))


@pytest.mark.parametrize("name", COMBINATIONS)
def test_golden_a_batch_without_completions_is_harmless(name: str) -> None:
    policy, _ = COMBINATIONS[name]
    model = a_model()
    canvas = replace(a_canvas(), editable_BL=torch.zeros_like(a_canvas().editable_BL))
    for update in updates_of(policy, model, canvas, moved(model, 2, 0.01)):
        loss, statistics = policy_loss(model, canvas, ADVANTAGE, update, policy=policy, vocabulary=SMALL)
        assert loss.item() == 0
        assert statistics["masked"] == 0
        assert loss.requires_grad
        assert all(not g.any() for g in gradients(model, loss))


def test_golden_a_view_without_masked_tokens_is_harmless() -> None:
    """By hand, as no plan draws it for every row: a completion that has places, none of them scored."""
    canvas, model = a_canvas(), a_model()
    policy = unigrpo(Systematic())
    update = updates_of(policy, model, canvas)[2]
    views = update.views
    none = Views(canvas.tokens_BL[None], torch.zeros_like(views.scored_KBL), torch.zeros_like(views.weight_KBL))
    for choice in (policy, replace(spg(), noise=policy.noise), espo()):
        empty = Update(none, torch.zeros(none.scored_KBL.shape), torch.zeros(none.scored_KBL.shape))
        loss = policy_loss(model, canvas, ADVANTAGE, empty, policy=choice, vocabulary=SMALL)[0]
        assert loss.item() == 0
        assert all(not g.any() for g in gradients(model, loss))


def test_golden_a_far_policy_gives_no_nan() -> None:
    """Log-ratios of hundreds, with an advantage of 0 beside: exp would overflow to inf * 0."""
    canvas, old = a_canvas(), a_model()
    far = deepcopy(old)
    with torch.no_grad():
        far.lm_head.weight *= -300
    advantage_B = torch.tensor([0.0, 0.0, 1.0, -1.0])
    for policy, _ in COMBINATIONS.values():
        for update in updates_of(policy, far, canvas, old):
            loss = policy_loss(old, canvas, advantage_B, update, policy=policy, vocabulary=SMALL)[0]
            assert loss.isfinite()
            assert all(g.isfinite().all() for g in gradients(old, loss))


# Log-probabilities


def test_golden_chunked_log_probabilities_are_log_softmax() -> None:
    canvas, model = a_canvas(), a_model()
    views = draw_views(RandomMasks(Iid(), samples=2), canvas, mask_id=SMALL.mask, updates=1, group=1, generator=generator())[0]
    plain = plain_log_p(model, canvas, views)
    for chunk in (2, 1024):
        log_KBL = log_probabilities(model, canvas, views, vocabulary=SMALL, chunk=chunk)
        for k, rows in enumerate(plain):
            for b, row in enumerate(rows):
                assert row
                for place, value in row.items():
                    assert log_KBL[k, b, place].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-6)
        assert not log_KBL[~views.scored_KBL].any()
    whole = math.log(SMALL.codebook_size)  # an even policy: the code slice alone is normalised over
    flat = deepcopy(model)
    with torch.no_grad():
        flat.lm_head.weight.zero_()
    log_KBL = log_probabilities(flat, canvas, views, vocabulary=SMALL)
    picture_KBL = views.scored_KBL & (canvas.modality_BL == 1)
    torch.testing.assert_close(log_KBL[picture_KBL], torch.full_like(log_KBL[picture_KBL], -whole))


@pytest.mark.parametrize("together", [1, 32])
def test_golden_rows_that_read_alike_are_computed_once(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full mask hides in what completions differ, and a view drawn twice is the same: two inputs for twelve rows."""
    monkeypatch.setattr("mmada.training.rl.likelihood.TOGETHER", together)
    asked = [8, 33, 6]
    rows = [Canvas.join([Piece(asked), Piece([12 + i, 13, 14 + 2 * i], editable=True)]) for i in range(4)]
    rows += [Canvas.join([Piece([30, 31]), Piece([41 + i, 62], editable=True, modality="image"), Piece([7])]) for i in (0, 0)]
    canvas, model = Canvas.stack(rows), a_model()
    once = draw_views(FullMask(0.0), canvas, mask_id=SMALL.mask, updates=1, group=2, generator=generator())[0]
    again = Views(*(torch.cat([x, x]) for x in (once.tokens_KBL, once.scored_KBL, once.weight_KBL)))
    again.scored_KBL[1, 0, 3:5] = False  # the same input may be asked about other places
    recorder = Recorder(model)
    log_KBL = log_probabilities(recorder, canvas, again, vocabulary=SMALL)
    short, wide = 2 + 2 + 1, len(asked) + 3
    assert [len(call) // 8 for call in recorder.asked] == ([short, wide] if together == 1 else [2 * wide])  # int64
    plain = [row for view in plain_log_p(model, canvas, again) for row in view]
    ours = [(log_KBL[divmod(i, canvas.rows)][place], value) for i, row in enumerate(plain) for place, value in row.items()]
    assert len(ours) == int(again.scored_KBL.sum())
    share = torch.linspace(-1, 2, len(ours))
    assert_same(model, *(sum(s * pair[i] for s, pair in zip(share, ours, strict=True)) for i in (0, 1)))  # type: ignore[arg-type]


def test_golden_gradients_of_places_that_are_asked_for_often_repeat_themselves() -> None:
    """Bit by bit on two threads, where indexing adds them up in any order."""
    hidden_CLD = torch.randn(1, 3, 1024, generator=generator()).requires_grad_()
    row_M, column_M = torch.zeros(1024, dtype=torch.long), torch.arange(1024) % 3
    weight_MD = torch.randn(1024, 1024, generator=generator())
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        picked_MD = at_places(hidden_CLD, row_M, column_M)
        assert torch.equal(picked_MD, hidden_CLD[row_M, column_M])
        loss = (picked_MD * weight_MD).sum()
        found = [torch.autograd.grad(loss, hidden_CLD, retain_graph=True)[0] for _ in range(30)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0], other) for other in found)
    plain = torch.zeros(3, 1024).index_add(0, column_M, weight_MD)
    torch.testing.assert_close(found[0][0], plain, atol=1e-4, rtol=1e-4)


def test_golden_no_ratio_needs_no_old_policy() -> None:
    policy = spg(updates=3)
    assert isinstance(policy.ratio, NoRatio)
    assert all(u.old_KBL is None and u.reference_KBL is None for u in updates_of(policy, a_model(), a_canvas()))


def test_golden_rows_that_run_together_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, plain = COMBINATIONS["coupled_grpo"]
    canvas, old = a_canvas(), a_model()
    new, ref = moved(old, 1, 0.01), moved(old, 2, 0.01)
    for rows in (1, 3):
        monkeypatch.setattr("mmada.training.rl.likelihood.TOGETHER", rows)
        update = updates_of(policy, old, canvas, ref)[-1]
        found = [plain_log_p(m, canvas, update.views) for m in (new, old, ref)]
        loss = policy_loss(new, canvas, ADVANTAGE, update, policy=policy, vocabulary=SMALL)[0]
        assert_same(new, loss, plain(*found, canvas))


@pytest.mark.parametrize("held", [1, 3])
@pytest.mark.parametrize("name", COMBINATIONS)
def test_golden_parts_of_a_batch_add_up_to_it(name: str, held: int) -> None:
    """Loss, statistics and gradients, whatever the aggregation averages over."""
    policy, _ = COMBINATIONS[name]
    canvas, old = a_canvas(), a_model()
    new, ref = moved(old, 1, 0.01), moved(old, 2, 0.01)
    update = updates_of(policy, old, canvas, ref)[-1]
    loss = partial(policy_loss, new, canvas, ADVANTAGE, update, policy=policy, vocabulary=SMALL)
    spans = parts(canvas, update.views, held=held)
    assert len(spans) > 1
    assert [row for span in spans for row in range(span.start, span.stop)] == list(range(canvas.rows))
    found = [loss(rows=span) for span in spans]
    whole, statistics = loss()
    assert_same(new, torch.stack([value for value, _ in found]).sum(), whole)
    for key, value in statistics.items():
        assert sum(float(one[key]) for _, one in found) == pytest.approx(float(value), rel=1e-6, abs=1e-6), key


@pytest.mark.parametrize("held", [1, 3, 128])
def test_golden_the_old_policy_is_asked_as_the_update_asks(held: int) -> None:
    """Byte for byte, so that the ratio is 1 before the policy moves, in half precision too."""
    policy, recorder, canvas = diffu_grpo(updates=2, kl=0.0), Recorder(a_model()), a_canvas()
    drawn = prepare(recorder, canvas, policy=policy, vocabulary=SMALL, group=2, generator=generator(), held=held)
    asked, recorder.asked = recorder.asked, []
    for update in drawn:
        for rows in parts(canvas, update.views, held=held):
            policy_loss(recorder, canvas, ADVANTAGE, update, policy=policy, vocabulary=SMALL, rows=rows)
    assert len(asked) >= (2 if held == 128 else 4)
    assert asked == recorder.asked


def test_golden_parts_keep_rows_that_read_alike_together() -> None:
    """A full mask hides in what completions of a prompt differ: two prompts are two rows to compute, whatever the group."""
    rows = [Canvas.join([Piece([8, 33, 6 + i // 4]), Piece([12 + i, 13, 14], editable=True)]) for i in range(8)]
    canvas = Canvas.stack([*rows, Canvas.join([Piece([8, 33, 6, 1, 1, 1])])])
    views = draw_views(FullMask(0.0), canvas, mask_id=SMALL.mask, updates=1, group=3, generator=generator())[0]
    assert parts(canvas, views, held=1) == [slice(0, 4), slice(4, 9)]
    assert parts(canvas, views) == [slice(0, 9)]
    nothing = Views(views.tokens_KBL, views.scored_KBL & False, views.weight_KBL * 0)
    assert parts(canvas, nothing, held=1) == [slice(0, 9)]
