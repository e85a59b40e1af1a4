"""Schedules, the forward process, and the objective against its plain twin and against exact values."""

import math
from typing import Any

import pytest
import torch
from tests.helpers import generator
from torch import Tensor

from mmada.canvas import Canvas, Segment
from mmada.diffusion.forward_process import ForwardProcess, corrupt, systematic_times
from mmada.diffusion.loss import chunked_cross_entropy, likelihood_bound, plain_cross_entropy, weighted_mean
from mmada.diffusion.schedule import Cosine, Linear, Power, Schedule, Sigmoid
from mmada.errors import InputError

MASK = 99


@pytest.mark.parametrize("schedule", [Cosine(), Linear(), Power(), Power(0.5), Sigmoid(), Sigmoid(-2, 4, 0.5)])
def test_schedules_fall_from_one_to_zero(schedule: Schedule) -> None:
    ratio = schedule.ratio(torch.linspace(0, 1, 33))
    assert ratio[0] == pytest.approx(1, abs=1e-6)
    assert ratio[-1] == pytest.approx(0, abs=1e-6)
    assert (ratio.diff() < 1e-6).all()


def test_schedule_values_by_hand() -> None:
    third = torch.tensor([1 / 3])
    assert Cosine().ratio(third).item() == pytest.approx(math.sqrt(3) / 2)
    assert Power(2).ratio(third).item() == pytest.approx(8 / 9)


@pytest.mark.parametrize(
    "make", [lambda: Power(0), lambda: Sigmoid(1, 1), lambda: Sigmoid(tau=0), lambda: ForwardProcess(least=1.1)]
)
def test_impossible_choices_are_refused(make: Any) -> None:
    with pytest.raises(InputError):
        make()


def test_systematic_times_put_one_in_every_slot_and_are_uniform() -> None:
    times = systematic_times(50, generator())
    assert sorted((times * 50).floor().int().tolist()) == list(range(50))
    firsts = torch.stack([systematic_times(7, generator(s))[0] for s in range(400)])
    assert abs(firsts.mean().item() - 0.5) < 0.05


def packed() -> tuple[Tensor, Tensor, Tensor]:
    tokens = torch.arange(1, 81).view(2, 40)
    segment = torch.cat([torch.full((40,), 1), torch.full((25,), 2), torch.zeros(15)]).long().view(2, 40)
    editable = torch.ones(2, 40, dtype=torch.bool)
    editable[:, ::4] = False
    return tokens, editable, segment


@pytest.mark.parametrize(
    "noise", [ForwardProcess.paper(), ForwardProcess.released_image(), ForwardProcess(count="exact"), ForwardProcess(Cosine())]
)
def test_only_editable_places_of_examples_are_masked(noise: ForwardProcess) -> None:
    tokens, editable, segment = packed()
    for seed in range(20):
        noised = corrupt(tokens, editable, segment, mask_id=MASK, noise=noise, generator=generator(seed))
        assert not (noised.masked_BL & ~(editable & (segment > 0))).any()
        assert (noised.tokens_BL[noised.masked_BL] == MASK).all()
        assert torch.equal(noised.tokens_BL[~noised.masked_BL], tokens[~noised.masked_BL])


def test_exact_count_follows_the_schedule() -> None:
    tokens, editable, segment = packed()
    times = torch.tensor([0.25, 0.9])
    noised = corrupt(
        tokens, editable, segment, mask_id=MASK, noise=ForwardProcess.released_image(), generator=generator(), times_S=times
    )
    for index, time in enumerate(times.tolist(), start=1):
        places = int((editable & (segment == index)).sum())
        assert int((noised.masked_BL & (segment == index)).sum()) == max(1, round(places * math.cos(math.pi * time / 2)))


def test_bernoulli_masks_its_share_and_weighs_by_its_inverse() -> None:
    tokens = torch.ones(1, 4000, dtype=torch.long)
    everywhere = torch.ones_like(tokens, dtype=torch.bool)
    time = torch.tensor([0.7])  # the linear schedule masks 1 - t
    noised = corrupt(tokens, everywhere, tokens, mask_id=MASK, noise=ForwardProcess.paper(), generator=generator(), times_S=time)
    assert noised.masked_BL.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert noised.weight_BL[0, 0].item() == pytest.approx(1 / (0.3 * (1 - 1e-3) + 1e-3), rel=1e-5)


def test_an_exact_subset_is_uniform() -> None:
    tokens, editable, segment = packed()
    seen = torch.zeros(2, 40)
    for seed in range(600):
        noise = ForwardProcess(Linear(), "exact", "none", 0.0)
        half = torch.tensor([0.5, 0.5])
        seen += corrupt(tokens, editable, segment, mask_id=MASK, noise=noise, generator=generator(seed), times_S=half).masked_BL
    shares = (seen / 600)[editable & (segment > 0)]
    assert shares.min() > 0.4
    assert shares.max() < 0.6


def test_chunked_cross_entropy_equals_the_plain_one_with_its_gradients() -> None:
    hidden = torch.randn(37, 8, generator=generator(), dtype=torch.float64)
    weight = torch.randn(11, 8, generator=generator(1), dtype=torch.float64)
    target = torch.randint(0, 11, (37,), generator=generator(2))
    grads = []
    for chunk in (5, 1000):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        loss = chunked_cross_entropy(h, w, target, chunk=chunk)
        assert torch.allclose(loss, plain_cross_entropy(hidden, weight, target))
        loss.square().sum().backward()
        grads.append((h.grad, w.grad))
    assert torch.allclose(grads[0][0], grads[1][0])
    assert torch.allclose(grads[0][1], grads[1][1])


def test_normalisers_by_hand() -> None:
    loss, weight = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2.0, 2.0, 4.0])
    segment, places = torch.tensor([0, 0, 1]), torch.tensor([4.0, 8.0])
    by = {n: weighted_mean(loss, weight, segment, places, normaliser=n).item() for n in ("example", "token", "masked")}
    assert by["example"] == pytest.approx(((2 + 4) / 4 + 16 / 8) / 2)
    assert by["token"] == pytest.approx(22 / 12)
    assert by["masked"] == pytest.approx(22 / 8)


class Unigram:
    """Knows only how frequent tokens are, so that the bound is exact and computable by hand."""

    def __init__(self, probability: Tensor) -> None:
        self.log = probability.log()

    def predict(self, tokens_BL: Tensor, *, query_BL: Tensor, vocab: range, valid_BL: Tensor | None = None) -> Tensor:
        return self.log[vocab.start : vocab.stop].expand(int(query_BL.sum()), -1)


def test_likelihood_bound_is_exact_for_independent_tokens() -> None:
    probability = torch.tensor([0.1, 0.2, 0.3, 0.4])
    rows = [
        Canvas.join([Segment([0]), Segment([1, 2, 3, 3], editable=True)]),
        Canvas.join([Segment([0]), Segment([2], editable=True)]),
    ]
    bound = likelihood_bound(
        Unigram(probability), Canvas.stack(rows), mask_id=0, vocab=range(4), samples=512, generator=generator()
    )
    exact = [math.log(0.2 * 0.3 * 0.4 * 0.4), math.log(0.3)]
    assert bound.tolist() == pytest.approx(exact, abs=0.12)


def test_the_least_ratio_of_1_masks_everything() -> None:
    tokens, editable, segment = (
        torch.arange(12).view(2, 6),
        torch.rand(2, 6, generator=generator()) < 0.7,
        torch.ones(2, 6).long(),
    )
    noised = corrupt(
        tokens, editable, segment, mask_id=MASK, noise=ForwardProcess(least=1.0, weight="none"), generator=generator()
    )
    assert torch.equal(noised.masked_BL, editable)
    assert (noised.weight_BL == 1).all()
