"""The forward process: which positions are masked, how many, and how they are weighted."""

import math

import pytest
import torch
from torch import Tensor

from mmada.diffusion.forward_process import ForwardProcess, corrupt, systematic_times
from mmada.diffusion.loss import weighted_mean
from mmada.diffusion.schedule import Cosine, Linear, Power, Schedule, Sigmoid
from mmada.errors import InputError
from mmada.testing import generator

MASK = 99


@pytest.mark.parametrize("choice", [{"min_ratio": 1.1}, {"min_ratio": -0.1}, {"count": "some"}, {"weight": "1/t"}])
def test_impossible_choices_are_refused(choice: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(choice))):
        ForwardProcess(**choice)


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
    "process", [ForwardProcess.paper(), ForwardProcess.released_image(), ForwardProcess(count="exact"), ForwardProcess(Cosine())]
)
def test_only_editable_positions_of_examples_are_masked(process: ForwardProcess) -> None:
    tokens, editable, segment = packed()
    for seed in range(20):
        noised = corrupt(tokens, editable, segment, mask_id=MASK, process=process, generator=generator(seed))
        assert not (noised.masked_BL & ~(editable & (segment > 0))).any()
        assert (noised.tokens_BL[noised.masked_BL] == MASK).all()
        assert torch.equal(noised.tokens_BL[~noised.masked_BL], tokens[~noised.masked_BL])


def test_exact_count_follows_the_schedule() -> None:
    tokens, editable, segment = packed()
    times = torch.tensor([0.25, 0.9])
    noised = corrupt(
        tokens, editable, segment, mask_id=MASK, process=ForwardProcess.released_image(), generator=generator(), times_S=times
    )
    for index, time in enumerate(times.tolist(), start=1):
        positions = int((editable & (segment == index)).sum())
        assert int((noised.masked_BL & (segment == index)).sum()) == max(1, round(positions * math.cos(math.pi * time / 2)))


def test_bernoulli_masks_its_share_and_weighs_by_its_inverse() -> None:
    tokens = torch.ones(1, 4000, dtype=torch.long)
    everywhere = torch.ones_like(tokens, dtype=torch.bool)
    time = torch.tensor([0.7])  # the linear schedule masks 1 - t
    noised = corrupt(
        tokens, everywhere, tokens, mask_id=MASK, process=ForwardProcess.paper(), generator=generator(), times_S=time
    )
    assert noised.masked_BL.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert noised.weight_BL[0, 0].item() == pytest.approx(1 / (0.3 * (1 - 1e-3) + 1e-3), rel=1e-5)


def test_an_exact_subset_is_uniform() -> None:
    tokens, editable, segment = packed()
    seen = torch.zeros(2, 40)
    for seed in range(600):
        process = ForwardProcess(Linear(), "exact", "none", 0.0)
        half = torch.tensor([0.5, 0.5])
        seen += corrupt(
            tokens, editable, segment, mask_id=MASK, process=process, generator=generator(seed), times_S=half
        ).masked_BL
    shares = (seen / 600)[editable & (segment > 0)]
    assert shares.min() > 0.4
    assert shares.max() < 0.6


def test_the_smallest_ratio_of_1_masks_everything() -> None:
    tokens, editable, segment = (
        torch.arange(12).view(2, 6),
        torch.rand(2, 6, generator=generator()) < 0.7,
        torch.ones(2, 6).long(),
    )
    noised = corrupt(
        tokens, editable, segment, mask_id=MASK, process=ForwardProcess(min_ratio=1.0, weight="none"), generator=generator()
    )
    assert torch.equal(noised.masked_BL, editable)
    assert (noised.weight_BL == 1).all()


@pytest.mark.parametrize("positions", [1, 2, 5, 7])
def test_exact_counts_weigh_by_the_realised_ratio(positions: int) -> None:
    tokens = torch.ones(400, positions, dtype=torch.long)
    segment = torch.arange(1, 401)[:, None].expand(400, positions)
    noised = corrupt(
        tokens, tokens.bool(), segment, mask_id=MASK, process=ForwardProcess(count="exact", min_ratio=0.0), generator=generator()
    )
    masked_S = noised.masked_BL.sum(1)
    assert torch.allclose(noised.weight_BL[:, 0], positions / masked_S)
    counts = torch.bincount(masked_S, minlength=positions + 1)
    assert counts[0] == 0
    assert (counts[1:] - 400 / positions).abs().max() <= 1, "every count is equally likely"


@pytest.mark.parametrize("count", ["bernoulli", "exact"])
@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Power(2.0), Power(0.5), Sigmoid(), Sigmoid(-2, 4, 0.5)])
def test_the_weighted_loss_estimates_equation_1(schedule: Schedule, count: str) -> None:
    """Against all masks of five positions, with losses that depend on which others are masked.

    Eq. 1 is E_t 1/t sum over masked positions; of t, k masked positions have the density C(n,k) t^k (1-t)^(n-k), and 1/t times it
    integrates to 1/k for each mean over the subsets of k.
    """
    positions, examples = 5, 300_000
    masks_SL = (torch.arange(2**positions)[:, None] >> torch.arange(positions)) & 1
    loss_SL = torch.rand(2**positions, positions, generator=generator(1)) + masks_SL.sum(1, keepdim=True) ** 2
    exact = 0.0
    for k in range(1, positions + 1):
        subsets = masks_SL.sum(1) == k
        exact += (loss_SL * masks_SL)[subsets].sum(1).mean().item() / k
    tokens = torch.ones(examples, positions, dtype=torch.long)
    segment = torch.arange(1, examples + 1)[:, None].expand(examples, positions)
    process = ForwardProcess(schedule, count, min_ratio=0.0)
    noised = corrupt(tokens, tokens.bool(), segment, mask_id=MASK, process=process, generator=generator(2))
    subset_S = (noised.masked_BL.long() << torch.arange(positions)).sum(1)
    masked = noised.masked_BL
    estimate = weighted_mean(
        loss_SL[subset_S][masked],
        noised.weight_BL[masked],
        segment[masked] - 1,
        torch.full((examples,), float(positions)),
        normaliser="example",
    )
    assert estimate.item() * positions == pytest.approx(exact, rel=0.02)
