"""Golden tests of policy optimisation: named combinations against the plain ones, printed schedules, what holds at mu = 1."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.helpers import SMALL, generator
from tests.plain_policies import COMBINATIONS, lengths, plain_elbo_a_place, plain_log_p
from tests.toy_policies import ADVANTAGE, Recorder, a_canvas, a_model, assert_same, gradients, moved, updates_of
from torch import Tensor

from mmada.rl import (
    Algorithm1,
    Elbo,
    Kl,
    MaskedViews,
    NoRatio,
    RandomMasks,
    SampledSteps,
    Sandwich,
    Systematic,
    draw_views,
    log_probabilities,
    path_grpo,
    policy_loss,
    prepare,
    spg,
    unigrpo,
)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_golden_combination_equals_the_plain_one(name: str) -> None:
    method, plain = COMBINATIONS[name]
    canvas, old = a_canvas(), a_model()
    new, ref = moved(old, 1, 0.01), moved(old, 2, 0.01)
    drawn = updates_of(method, old, canvas, ref)
    assert len(drawn) == method.updates
    for update in drawn[-2:]:
        ours, statistics = policy_loss(new, canvas, ADVANTAGE, update, method=method, vocabulary=SMALL)
        found = [plain_log_p(m, canvas, update.views) for m in (new, old, ref)]
        assert_same(new, ours, plain(*found, canvas))
        assert statistics["masked"] == sum(len(row) for view in found[0] for row in view)


def test_golden_our_own_is_on_the_path() -> None:
    assert path_grpo(window=3, samples=2).masking == SampledSteps(3, 2)
    assert path_grpo().masking == SampledSteps(1, 4)


def test_golden_the_comparison_reaches_the_clip() -> None:
    canvas, old = a_canvas(), a_model()
    new = moved(old, 1, 0.01)
    for name in ("unigrpo, algorithm 1", "diffu_grpo", "mask_grpo", "coupled_grpo"):
        method = COMBINATIONS[name][0]
        update = updates_of(method, old, canvas)[-1]
        statistics = policy_loss(new, canvas, ADVANTAGE, update, method=method, vocabulary=SMALL)[1]
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
    for method in (unigrpo(Systematic(), updates=1, kl=0), unigrpo(Systematic(), updates=4, kl=0)):
        update = updates_of(method, model, canvas)[0]
        assert (update.old_KBL is None) == (method.updates == 1)
        loss, statistics = policy_loss(model, canvas, ADVANTAGE, update, method=method, vocabulary=SMALL)
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
    method, _ = COMBINATIONS[name]
    canvas, model = a_canvas(), a_model()
    for update in updates_of(method, model, canvas):
        statistics = policy_loss(model, canvas, ADVANTAGE, update, method=method, vocabulary=SMALL)[1]
        assert statistics["ratio"].item() == pytest.approx(1, abs=1e-6)
        assert statistics["kl"].item() == pytest.approx(0, abs=1e-6)


# The same masks for all


class RecordedReference(Recorder):
    @contextmanager
    def scorer(self) -> Any:
        yield self


@pytest.mark.parametrize("name", [n for n in COMBINATIONS if "spg" not in n])
def test_golden_policy_old_and_reference_see_the_same_bytes(name: str) -> None:
    method = replace(COMBINATIONS[name][0], kl=Kl(0.1))
    canvas, model = a_canvas(), a_model()
    new, old, reference = Recorder(model), Recorder(model), RecordedReference(model)
    drawn = prepare(
        old,
        canvas,
        method=method,
        vocabulary=SMALL,
        group=2,
        generator=generator(),
        reference=reference,
        steps_BL=torch.arange(canvas.length).expand(canvas.rows, -1),
    )
    for update in drawn:
        policy_loss(new, canvas, ADVANTAGE, update, method=method, vocabulary=SMALL)
    assert len(new.inputs) == len(drawn)
    assert new.inputs == old.inputs == reference.inputs


# What it is for


@pytest.mark.parametrize("name", COMBINATIONS)
def test_golden_a_few_updates_prefer_what_was_rewarded(name: str) -> None:
    method, _ = COMBINATIONS[name]
    model, canvas = a_model(), a_canvas()
    reward_B = torch.tensor([1.0, 0.0, 0.0, 1.0])
    everything = MaskedViews(
        torch.where(canvas.editable_BL, SMALL.mask, canvas.tokens_BL)[None],
        canvas.editable_BL[None],
        canvas.editable_BL[None].float(),
    )

    def preference() -> Tensor:
        log_B = log_probabilities(model, canvas, everything, vocabulary=SMALL)[0].sum(1).detach() / canvas.editable_BL.sum(1)
        return log_B[reward_B == 1].mean() - log_B[reward_B == 0].mean()

    before = preference()
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    for update in updates_of(method, model, canvas):
        optimiser.zero_grad()
        loss = policy_loss(model, canvas, method.advantages(reward_B, group=2), update, method=method, vocabulary=SMALL)[0]
        torch.autograd.backward(loss)
        optimiser.step()
    assert preference() > before


# SPG


def test_golden_spg_at_omega_zero_is_the_elbo_policy_gradient() -> None:
    canvas, model = a_canvas(), a_model()
    method = spg(updates=1, block=3, omega=0)
    update = updates_of(method, model, canvas)[0]
    ours = policy_loss(model, canvas, ADVANTAGE, update, method=method, vocabulary=SMALL)[0]
    found = plain_log_p(model, canvas, update.views)
    total = torch.zeros((), dtype=torch.float64)
    for b, length in enumerate(lengths(canvas)):
        total = total - float(ADVANTAGE[b]) * length * plain_elbo_a_place(found, b)
    assert_same(model, ours, total / sum(lengths(canvas)))
    same = replace(method, likelihood=Elbo())
    assert ours.item() == policy_loss(model, canvas, ADVANTAGE, update, method=same, vocabulary=SMALL)[0].item()
    mixed = replace(method, likelihood=Sandwich(0.5))
    assert ours.item() != policy_loss(model, canvas, ADVANTAGE, update, method=mixed, vocabulary=SMALL)[0].item()


def test_golden_no_ratio_needs_no_old_policy() -> None:
    method = spg(updates=3)
    assert isinstance(method.ratio, NoRatio)
    assert all(u.old_KBL is None and u.reference_KBL is None for u in updates_of(method, a_model(), a_canvas()))
