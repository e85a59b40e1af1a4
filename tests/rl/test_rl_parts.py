"""The parts of policy optimisation alone: advantages, KL, clip, averages and likelihoods by hand, references, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.helpers import SMALL, generator, tiny_model
from tests.toy_policies import drawn, rows
from torch import Tensor, nn

from mmada.canvas import Canvas
from mmada.errors import InputError
from mmada.rl import (
    AdaptersOff,
    Algorithm1,
    AllSteps,
    BlockMasks,
    CentredReward,
    CoupledCounts,
    CoupledMasks,
    Elbo,
    FrozenCopy,
    FullMask,
    Iid,
    Kl,
    LeaveOneOut,
    MaskedViews,
    MeanField,
    Method,
    NoRatio,
    PerSample,
    PerToken,
    RandomMasks,
    RatioClip,
    SampledSteps,
    Sandwich,
    SequenceRatio,
    Systematic,
    TokenRatio,
    Truncated,
    ZScore,
    advantages,
    draw_views,
    espo,
    log_probabilities,
    policy_loss,
    prepare,
    unigrpo,
)
from mmada.rl.objective import Units

# Advantages


def test_advantages_by_hand() -> None:
    reward_B = torch.tensor([1.0, 2.0, 3.0, 5.0, 5.0, 8.0])
    assert advantages(CentredReward(), reward_B, group=3).tolist() == [-1, 0, 1, -1, -1, 2]
    torch.testing.assert_close(advantages(LeaveOneOut(), reward_B, group=3), torch.tensor([-1.5, 0.0, 1.5, -1.5, -1.5, 3.0]))
    torch.testing.assert_close(advantages(ZScore(0.0), reward_B[:3], group=3), torch.tensor([-1.0, 0.0, 1.0]) * math.sqrt(1.5))
    torch.testing.assert_close(advantages(ZScore(0.0, 1), reward_B[:3], group=3), torch.tensor([-1.0, 0.0, 1.0]))
    torch.testing.assert_close(advantages(ZScore(1.0, 1), reward_B[:3], group=3), torch.tensor([-0.5, 0.0, 0.5]))


# KL, clip, averages


def units(log_BU: Tensor, scored_BU: Tensor | None = None, size_BU: Tensor | None = None) -> Units:
    scored = torch.ones_like(log_BU, dtype=torch.bool) if scored_BU is None else scored_BU
    return Units(log_BU, scored, torch.ones_like(log_BU) if size_BU is None else size_BU)


def test_kl_estimators_by_hand() -> None:
    here, there = units(torch.tensor([[-1.0, -3.0]])), torch.tensor([[-2.0, -2.5]])
    torch.testing.assert_close(Kl(1, "k1").of(here, there), torch.tensor([[1.0, -0.5]]))
    torch.testing.assert_close(Kl(1, "k2").of(here, there), torch.tensor([[0.5, 0.125]]))
    torch.testing.assert_close(Kl(1, "k3").of(here, there), torch.tensor([[math.exp(-1), math.exp(0.5) - 1.5]]))
    row = units(torch.tensor([[-10.0]]), size_BU=torch.tensor([[5.0]]))
    torch.testing.assert_close(Kl(1, "k2").of(row, torch.tensor([[-14.0]])), torch.tensor([[8 / 5]]))


def test_clip_holds_only_what_would_gain() -> None:
    log_BU = torch.log(torch.tensor([[1.5, 0.5, 1.1]])).expand(2, 3).clone().requires_grad_()
    gain = TokenRatio().gain(units(log_BU), torch.zeros(2, 3), torch.tensor([2.0, -2.0]), RatioClip(0.2, 0.3))
    torch.testing.assert_close(gain.value_BU, torch.tensor([[2.6, 1.0, 2.2], [-3.0, -1.6, -2.2]]))
    assert gain.clipped_BU.tolist() == [[True, False, False], [False, True, False]]
    (slope,) = torch.autograd.grad(gain.value_BU.sum(), log_BU)
    torch.testing.assert_close(slope, torch.tensor([[0.0, 1.0, 2.2], [-3.0, 0.0, -2.2]]))
    free = TokenRatio().gain(units(log_BU), torch.zeros(2, 3), torch.tensor([2.0, -2.0]), None)
    assert not free.clipped_BU.any()
    torch.testing.assert_close(free.value_BU[0], torch.tensor([3.0, 1.0, 2.2]))


def test_averages_by_hand() -> None:
    scored_BU = torch.tensor([[True, True, False, False], [True, False, False, False]])
    tokens, length_B = units(torch.zeros(2, 4), scored_BU), torch.tensor([4, 2])
    weigh: dict[Any, list[list[float]]] = {
        PerSample("positions"): [[1 / 8, 1 / 8, 0, 0], [1 / 4, 0, 0, 0]],
        PerSample("masked"): [[1 / 4, 1 / 4, 0, 0], [1 / 2, 0, 0, 0]],
        PerToken("positions"): [[1 / 6, 1 / 6, 0, 0], [1 / 6, 0, 0, 0]],
        PerToken("masked"): [[1 / 3, 1 / 3, 0, 0], [1 / 3, 0, 0, 0]],
    }
    for choice, expected in weigh.items():
        torch.testing.assert_close(choice.weights(tokens, length_B), torch.tensor(expected))
    row = units(torch.zeros(2, 1), size_BU=torch.tensor([[4.0], [2.0]]))
    torch.testing.assert_close(PerSample().weights(row, length_B), torch.tensor([[0.5], [0.5]]))
    torch.testing.assert_close(PerToken().weights(row, length_B), torch.tensor([[2 / 3], [1 / 3]]))


def test_the_sum_of_the_kl_grows_with_the_length_and_the_mean_does_not() -> None:
    torch.manual_seed(0)
    model, canvas = tiny_model(SMALL.size), rows(8, 8)
    with torch.no_grad():
        model.lm_head.weight *= 20
    other = FrozenCopy(tiny_model(SMALL.size))
    found: dict[Any, float] = {}
    for ratio in (TokenRatio(), SequenceRatio()):
        for reduce in ("mean", "sum"):
            method = replace(
                unigrpo(Algorithm1(), updates=1), masking=FullMask(0), ratio=ratio, kl=Kl(1, "k2", "reference", reduce)
            )
            update = prepare(model, canvas, method=method, vocabulary=SMALL, group=2, generator=generator(), reference=other)[0]
            loss, statistics = policy_loss(model, canvas, torch.zeros(2), update, method=method, vocabulary=SMALL)
            assert statistics["kl"] > 0
            found[ratio, reduce] = loss.item() / statistics["kl"].item()
    assert list(found.values()) == pytest.approx([1, 8, 1, 8])


# Likelihoods


def test_likelihoods_by_hand() -> None:
    scored_KBL = torch.tensor([[[True, True, False]], [[False, True, False]]])
    views = MaskedViews(scored_KBL.long(), scored_KBL, scored_KBL * torch.tensor([1.5, 3.0])[:, None, None])
    log_KBL = torch.tensor([[[-1.0, -2.0, 0.0]], [[0.0, -4.0, 0.0]]])
    length_B = torch.tensor([3])
    assert MeanField().tokens(log_KBL, views).tolist() == [[-1, -3, 0]]
    assert MeanField().rows(log_KBL, views, length_B, torch.ones(1)).item() == pytest.approx(-7)
    assert Elbo().tokens(log_KBL, views).tolist() == [[-1.5, -7.5, 0]]
    assert Elbo().rows(log_KBL, views, length_B, torch.ones(1)).item() == pytest.approx((-4.5 - 12) / 2)
    first = math.log(1.5 * math.exp(-2) / 2)
    second = math.log((1.5 * math.exp(-4) + 3 * math.exp(-8)) / 2)
    upper = 3 / 2 * (first + second) / 2
    sandwich = Sandwich(0.25, 2.0)
    assert sandwich.rows(log_KBL, views, length_B, torch.ones(1)).item() == pytest.approx(-8.25)
    assert sandwich.rows(log_KBL, views, length_B, -torch.ones(1)).item() == pytest.approx(0.25 * upper - 0.75 * 8.25)


# Reference


def test_a_frozen_copy_stays_and_is_refreshed() -> None:
    torch.manual_seed(0)
    model, canvas = tiny_model(SMALL.size), rows(5)
    reference = FrozenCopy(model)
    views = drawn(FullMask(0), canvas)[0]

    def asked() -> Tensor:
        with reference.scorer() as scorer:
            return log_probabilities(scorer, canvas, views, vocabulary=SMALL)

    before = asked()
    assert not before.requires_grad
    with torch.no_grad():
        model.lm_head.weight += 1
        model.model.norm.weight += 0.5 * torch.randn(32)
    assert torch.equal(asked(), before)
    reference.refresh(model)
    assert not torch.equal(asked(), before)
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in reference.model.parameters())


class Adapted(nn.Module):
    """The interface of `transformers` after ``add_adapter``: a model with additional weights that can be disabled."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.on, self.peft_config = tiny_model(SMALL.size), True, ["default"]
        self.adapter = nn.Parameter(torch.randn(32))

    def hidden(self, tokens_BL: Tensor, *, valid_BL: Tensor | None = None) -> Tensor:
        found = self.model.hidden(tokens_BL, valid_BL=valid_BL)
        return found * (1 + self.adapter) if self.on else found

    def head(self, vocab: range) -> Tensor:
        return self.model.head(vocab)

    def disable_adapters(self) -> None:
        self.on = False

    def enable_adapters(self) -> None:
        self.on = True


class Wrapped(Adapted):
    """The interface of ``peft.PeftModel``."""

    def disable_adapters(self) -> None:
        raise AssertionError("peft's own way is asked for first")

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        self.on = False
        try:
            yield
        finally:
            self.on = True


@pytest.mark.parametrize("kind", [Adapted, Wrapped])
def test_adapters_off_is_the_model_beneath(kind: Callable[[], Adapted]) -> None:
    torch.manual_seed(0)
    adapted, canvas = kind(), rows(5, 6)
    check_adapters(adapted, adapted.model, canvas)
    assert adapted.on
    with pytest.raises(KeyError), AdaptersOff(adapted).scorer():
        raise KeyError
    assert adapted.on, "on again after an error too"


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's own use of transformers
@pytest.mark.parametrize("wrapped", [False, True])
def test_lora_off_is_the_model_beneath(wrapped: bool) -> None:
    peft = pytest.importorskip("peft", exc_type=ImportError)
    torch.manual_seed(0)
    model, canvas = tiny_model(SMALL.size), rows(5, 6)
    beneath = deepcopy(model)
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    if wrapped:
        model = peft.get_peft_model(model, lora)
    else:
        model.add_adapter(lora)
    before = {name for name, p in model.named_parameters() if p.requires_grad}
    check_adapters(model, beneath, canvas)
    assert before == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in before)


def check_adapters(adapted: Any, beneath: Any, canvas: Canvas) -> None:
    method = unigrpo(Algorithm1(), updates=1, kl=0.1)
    update = prepare(
        adapted, canvas, method=method, vocabulary=SMALL, group=2, generator=generator(), reference=AdaptersOff(adapted)
    )[0]
    assert update.reference_KBL is not None
    torch.testing.assert_close(update.reference_KBL, log_probabilities(beneath, canvas, update.views, vocabulary=SMALL).detach())
    loss, statistics = policy_loss(adapted, canvas, torch.ones(2), update, method=method, vocabulary=SMALL)
    assert loss.requires_grad
    assert statistics["kl"] > 0


# Refusals


def policy_with(**parts: Any) -> Method:
    usual: dict[str, Any] = {
        "masking": FullMask(),
        "likelihood": MeanField(),
        "ratio": TokenRatio(),
        "advantage": CentredReward(),
    }
    return Method(**(usual | {"aggregation": PerToken()} | parts))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Algorithm1(0), "total"),
        (lambda: Systematic(2.5), "total"),
        (lambda: Iid(0.8, 0.2), "min_ratio"),
        (lambda: Truncated(1.5), "gamma"),
        (lambda: RandomMasks(Iid(), "late"), "order"),
        (lambda: RandomMasks(Iid(), samples=0), "samples"),
        (lambda: FullMask(-0.1), "prompt"),
        (lambda: CoupledMasks(0, 0.5), "min_ratio"),
        (lambda: CoupledMasks(0.5, 1), "max_ratio"),
        (lambda: CoupledCounts(0), "samples"),
        (lambda: BlockMasks(0), "block"),
        (lambda: BlockMasks(scored="all"), "scored"),
        (lambda: AllSteps(0), "steps_per_view"),
        (lambda: SampledSteps(0), "window"),
        (lambda: SampledSteps(samples=0), "samples"),
        (lambda: Sandwich(1.1), "omega"),
        (lambda: Sandwich(beta=0.5), "beta"),
        (lambda: ZScore(-1), "epsilon"),
        (lambda: ZScore(correction=2), "correction"),
        (lambda: RatioClip(2.0), "low"),
        (lambda: RatioClip(0.2, math.nan), "high"),
        (lambda: Kl(-1), "weight"),
        (lambda: Kl(1, "k4"), "estimator"),
        (lambda: Kl(1, target="new"), "target"),
        (lambda: Kl(1, reduce="max"), "reduce"),
        (lambda: PerSample("tokens"), "over"),
        (lambda: PerToken("tokens"), "over"),
        (lambda: policy_with(updates=0), "updates"),
        (lambda: policy_with(ratio=NoRatio(), clip=RatioClip()), "clip"),
        (lambda: policy_with(likelihood=Sandwich()), "ratio"),
        (lambda: policy_with(likelihood=Sandwich(), ratio=NoRatio(), kl=Kl(0.1)), "kl"),
        (lambda: AdaptersOff(tiny_model(SMALL.size)), "adapters"),
        (lambda: advantages(CentredReward(), torch.ones(5), group=2), "group"),
        (lambda: advantages(CentredReward(), torch.tensor([1.0, math.nan]), group=2), "rewards"),
        (lambda: drawn(FullMask(), rows(3, 3, 3), group=2), "group"),
        (lambda: drawn(FullMask(), rows(3).with_tokens(torch.full((1, 8), SMALL.mask))), "canvas"),
        (
            lambda: draw_views(AllSteps(), rows(3), mask_id=SMALL.mask, updates=1, group=1, generator=generator()),
            "steps_BL",
        ),
    ],
)
def test_impossible_choices_are_refused(make: Callable[[], Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        make()


def test_a_kl_without_its_reference_is_refused() -> None:
    model, canvas, method = tiny_model(SMALL.size), rows(4), espo(updates=1)
    with pytest.raises(InputError, match="reference"):
        prepare(model, canvas, method=method, vocabulary=SMALL, group=1, generator=generator())
    without = prepare(model, canvas, method=replace(method, kl=Kl()), vocabulary=SMALL, group=1, generator=generator())[0]
    with pytest.raises(InputError, match="reference_KBL"):
        policy_loss(model, canvas, torch.ones(1), without, method=method, vocabulary=SMALL)


def test_tokens_of_the_wrong_modality_are_refused() -> None:
    canvas = rows(4)
    picture = replace(canvas, modality_BL=torch.ones_like(canvas.modality_BL))
    with pytest.raises(InputError, match="image"):
        log_probabilities(tiny_model(SMALL.size), picture, drawn(FullMask(0), picture)[0], vocabulary=SMALL)


def test_bounds_of_tokens_are_refused() -> None:
    views = drawn(FullMask(0), rows(3))[0]
    with pytest.raises(InputError, match="Sandwich"):
        Sandwich().tokens(torch.zeros(views.scored_KBL.shape), views)


@pytest.mark.parametrize("estimator", ["k2", "k3"])
@pytest.mark.parametrize("size", [1, 7])
def test_the_gradient_of_the_kl_points_to_the_reference(estimator: Any, size: int) -> None:
    """At any distance, in both directions: a step against the gradient brings the policy closer."""
    d_BU = torch.cat([torch.linspace(-60, 60, 1201), torch.tensor([-20.1, -20.0, -19.9, -1e-3, 1e-3, 19.9, 20.0, 20.1])])[:, None]
    d_BU = d_BU[d_BU[:, 0].abs() > 1e-4].requires_grad_()
    units = Units(d_BU, torch.ones_like(d_BU, dtype=torch.bool), torch.full_like(d_BU, size))
    value_BU = Kl(1.0, estimator).of(units, torch.zeros_like(d_BU))
    (slope_BU,) = torch.autograd.grad(value_BU.sum(), d_BU)
    assert value_BU.isfinite().all()
    assert (value_BU >= 0).all()
    assert slope_BU.isfinite().all()
    assert (slope_BU.sign() == d_BU.sign()).all()
    order = d_BU.detach()[:, 0].argsort()
    assert (slope_BU[order, 0].diff() >= -1e-6 * slope_BU.abs().max()).all()  # convex: further away is never pulled less


@pytest.mark.parametrize("d", [-19.9, -5.0, -0.5, 0.0, 0.5, 30.0])
def test_k3_is_exact_where_it_is_not_extended(d: float) -> None:
    one = torch.tensor([[d]], dtype=torch.float64)
    value = Kl(1.0, "k3").of(Units(one, torch.ones_like(one, dtype=torch.bool), torch.ones_like(one)), torch.zeros_like(one))
    assert float(value) == pytest.approx(math.exp(-d) - 1 + d, rel=1e-12)


@pytest.mark.parametrize("d", [-20.5, -40.0])
def test_k3_is_a_line_beyond(d: float) -> None:
    one = torch.tensor([[d]], dtype=torch.float64)
    value = Kl(1.0, "k3").of(Units(one, torch.ones_like(one, dtype=torch.bool), torch.ones_like(one)), torch.zeros_like(one))
    assert float(value) == pytest.approx(math.exp(20) - 21 + (math.exp(20) - 1) * (-20 - d), rel=1e-12)
