"""Masked and scored positions of each masking plan of policy optimisation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from tests.helpers import SMALL, generator
from tests.toy_policies import drawn, rows
from torch import Tensor

from mmada.rl import (
    Algorithm1,
    AllSteps,
    BlockMasks,
    CoupledCounts,
    CoupledMasks,
    Elbo,
    FullMask,
    Iid,
    RandomMasks,
    SampledSteps,
    Systematic,
    Truncated,
    draw_views,
)
from mmada.rl.masked_views import completion

PLANS: list[Any] = [
    RandomMasks(Algorithm1()),
    RandomMasks(Truncated(), "fading"),
    RandomMasks(Iid(), samples=3),
    FullMask(),
    CoupledMasks(),
    CoupledMasks(full=False),
    CoupledCounts(),
    BlockMasks(block=3),
    BlockMasks(block=3, scored="block"),
    AllSteps(2),
    SampledSteps(),
    SampledSteps(3),
    SampledSteps(2, samples=3),
]


@pytest.mark.parametrize("plan", PLANS, ids=repr)
def test_every_plan_scores_masked_positions_of_the_completion_and_is_deterministic(plan: Any) -> None:
    canvas = rows(9, 1, 0, 6, 7, 2)
    for views, again in zip(drawn(plan, canvas, 4, 2), drawn(plan, canvas, 4, 2), strict=True):
        assert torch.equal(views.tokens_KBL, again.tokens_KBL)
        masked_KBL = views.tokens_KBL == SMALL.mask
        assert not (views.scored_KBL & ~(masked_KBL & completion(canvas))).any()
        assert not (masked_KBL & ~canvas.valid_BL).any(), "padding stays as it is"
        assert torch.equal(views.tokens_KBL[~masked_KBL], canvas.tokens_BL.expand_as(masked_KBL)[~masked_KBL])
        assert not views.weight_KBL[~views.scored_KBL].any()
        assert (views.weight_KBL[views.scored_KBL] >= 1).all()
        has_places_B = completion(canvas).any(1)
        assert torch.equal(views.scored_KBL.any(2).any(0), has_places_B), "every completion has a scored position in some view"


@pytest.mark.parametrize("plan", [p for p in PLANS if not isinstance(p, (FullMask, BlockMasks))], ids=repr)
def test_the_prompt_stays_clean(plan: Any) -> None:
    canvas = rows(9, 6)
    for views in drawn(plan, canvas, 3):
        assert not ((views.tokens_KBL == SMALL.mask) & ~completion(canvas)).any()


def test_full_mask_has_a_noisy_prompt_that_changes() -> None:
    canvas = rows(*[8] * 40, prompt=20)
    first, second = drawn(FullMask(0.15), canvas, 2)
    context_BL = canvas.valid_BL & ~completion(canvas)
    for views in (first, second):
        masked_BL = views.tokens_KBL[0] == SMALL.mask
        assert masked_BL[completion(canvas)].all()
        assert masked_BL[context_BL].float().mean().item() == pytest.approx(0.15, abs=0.04)
    assert not torch.equal(first.tokens_KBL, second.tokens_KBL)


def test_views_of_an_update_lie_apart_in_one_schedule_of_all_views() -> None:
    canvas = rows(*[2000] * 2)
    updates = drawn(RandomMasks(Systematic(), samples=3), canvas, 2)
    shares = [[float(s.sum()) / 2000 for s in views.scored_KBL[:, 0]] for views in updates]
    for three in shares:
        gaps = [(b - a) % 1 for a, b in zip(three, [*three[1:], three[0]], strict=True)]
        assert gaps == pytest.approx([1 / 3] * 3, abs=0.06)
    assert (shares[1][0] - shares[0][0]) % 1 == pytest.approx(1 / 6, abs=0.06), "the other update lies between"


def test_random_masks_follow_their_ratio() -> None:
    canvas = rows(*[50] * 40)
    views = drawn(RandomMasks(Truncated(0.4)), canvas, 3)
    for update, ratio in zip(views, (0.6, 0.8, 0.999), strict=True):
        assert update.scored_KBL.sum() / 2000 == pytest.approx(ratio, abs=0.04)
        share_B = update.scored_KBL[0].sum(1) / 50
        weight_B = update.weight_KBL[0].amax(1)
        torch.testing.assert_close(weight_B * share_B, torch.ones(40))


def test_at_least_one_position_is_masked() -> None:
    views = drawn(RandomMasks(Iid(0, 0)), rows(9, 1, 0, 5))[0]
    assert views.scored_KBL.sum(2).tolist() == [[1, 1, 0, 1]]


def test_fading_masks_later_positions_more_often_and_equally_many() -> None:
    canvas = rows(*[20] * 200)
    plan = RandomMasks(Truncated(0.4, 0.7), "fading")
    scored_BL = drawn(plan, canvas, 1)[0].scored_KBL[0]
    share_L = scored_BL.float().mean(0)[4:24]
    assert scored_BL.sum() / 4000 == pytest.approx(0.7, abs=0.03)
    assert share_L[0] == pytest.approx(0.4, abs=0.1)  # visible with 2 * 0.3
    assert share_L[-1] == 1
    assert share_L[:7].mean() < share_L[7:14].mean() < share_L[14:].mean()


def test_mean_ratios_of_the_schedules() -> None:
    many = {t: t.ratios(5, 4000, 1, generator()).mean().item() for t in (Algorithm1(), Systematic(), Iid(0.1, 0.9))}
    assert list(many.values()) == pytest.approx([0.75, 0.5, 0.5], abs=0.02)
    spread = Systematic().ratios(5, 4000, 1, generator()).mean(0).std()
    assert spread < 0.07 < Iid().ratios(5, 4000, 1, generator()).mean(0).std(), "systematic times vary less"
    torch.testing.assert_close(Truncated(0.6).ratios(4, 2, 1, generator())[:, 0], torch.tensor([0.7, 0.8, 0.9, 0.999]))


def test_coupled_masks_are_complements() -> None:
    canvas = rows(30, 35, 40, 35)
    for views in drawn(CoupledMasks(0.2, 0.8), canvas, 3, 2):
        mask_BL, rest_BL, full_BL = views.scored_KBL
        assert torch.equal(mask_BL ^ rest_BL, full_BL)
        assert torch.equal(full_BL, completion(canvas))
        inverse_B, other_B = 1 / views.weight_KBL[0].amax(1), 1 / views.weight_KBL[1].amax(1)
        torch.testing.assert_close(inverse_B + other_B, torch.ones(4))
        assert inverse_B[0] == inverse_B[1] != inverse_B[2] == inverse_B[3], "one ratio a prompt"


def test_coupled_counts_are_an_unbiased_bound() -> None:
    """Were every ln p = -1, the bound would be minus the length: in the mean over views and draws."""
    canvas = rows(*[6] * 500)
    views = drawn(CoupledCounts(2), canvas)[0]
    bound_B = Elbo().rows(-views.scored_KBL.float(), views, completion(canvas).sum(1), torch.zeros(500))
    assert bound_B.mean().item() == pytest.approx(-6, abs=0.1)
    count_KB = views.scored_KBL.sum(2)
    assert (count_KB[0] + count_KB[1] == 6).all()
    assert torch.bincount(count_KB[0]).float().std() < 2, "counts are spread systematically"


@pytest.mark.parametrize("scored", ["masked", "block"])
def test_block_masks(scored: Any) -> None:
    canvas = rows(*[11] * 60, 2)
    views = drawn(BlockMasks(4, 3, prompt=0.0, scored=scored), canvas)[0]
    chosen = []
    for k in range(3):
        for b in range(60):
            masked = (views.tokens_KBL[k, b] == SMALL.mask)[4:15]
            first = int(masked.nonzero()[0, 0])
            block = first // 4
            assert masked[: block * 4].sum() == 0
            assert masked[(block + 1) * 4 :].all()
            inside = int(masked[block * 4 : (block + 1) * 4].sum())
            wanted = masked if scored == "masked" else masked & (torch.arange(11) // 4 == block)
            assert torch.equal(views.scored_KBL[k, b, 4:15], wanted)
            assert 1 <= inside <= min(4, 11 - block * 4)
            chosen.append(block)
    assert sorted(set(chosen)) == [0, 1, 2]
    assert all({chosen[b], chosen[60 + b], chosen[120 + b]} == {0, 1, 2} for b in range(60)), "each block once a row"


def test_block_masks_noise_what_stands_before() -> None:
    canvas = rows(*[8] * 100, prompt=10)
    views = drawn(BlockMasks(4, 2, prompt=0.5), canvas)[0]
    assert (views.tokens_KBL[:, :, :10] == SMALL.mask).float().mean().item() == pytest.approx(0.5, abs=0.05)
    second_KB = ~views.scored_KBL[:, :, 14:18].all(2)  # where the first block is chosen, all of the second is masked
    earlier = views.scored_KBL[:, :, 10:14][second_KB].float()
    assert len(earlier) > 50
    assert earlier.mean().item() == pytest.approx(0.5, abs=0.1), (
        "noised positions of earlier blocks count, as in the released code"
    )


def test_trajectory_replays_the_steps() -> None:
    canvas = rows(5, 3)
    steps_BL = torch.zeros(2, canvas.length, dtype=torch.long)
    steps_BL[0, 4:10] = torch.tensor([1, 8, 2, 2, 4, 3])  # the last one is padding
    steps_BL[1, 4:7] = torch.tensor([5, 5, 1])
    plan = AllSteps(steps_per_view=2)
    views = draw_views(plan, canvas, mask_id=SMALL.mask, updates=2, group=1, generator=generator(), steps_BL=steps_BL)
    masked = [(v.tokens_KBL == SMALL.mask)[:, :, 4:10].int().tolist() for v in views]
    assert masked[0] == masked[1] == [[[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]], [[0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]]]
    assert views[0].scored_KBL[:, :, 4:9].int().tolist() == [
        [[1, 0, 1, 1, 0], [1, 1, 1, 0, 0]],
        [[0, 1, 0, 0, 1], [0, 0, 0, 0, 0]],
    ]
    log_KBL = -views[0].scored_KBL.double()
    assert Elbo().rows(log_KBL, views[0], torch.tensor([5, 3]), torch.zeros(2)).tolist() == [-5, -3]


@dataclass(frozen=True)
class Constant:
    """The same ratio everywhere."""

    ratio: float

    def ratios(self, updates: int, rows: int, group: int, generator: torch.Generator) -> Tensor:
        return torch.full((updates, rows), self.ratio)


@pytest.mark.parametrize(
    ("plan", "share"),
    [
        (RandomMasks(Constant(0.25)), 0.25),
        (RandomMasks(Constant(0.25), "fading"), 1.0),
        (FullMask(0.1), 1.0),
        (CoupledMasks(0.3, 0.3), (0.3 + 0.7 + 1) / 3),
        (CoupledCounts(), 0.5),
        (BlockMasks(block=3, prompt=0.1), 1.0),
    ],
)
def test_padding_after_the_end_is_masked_like_the_completion_and_never_scored(plan: Any, share: float) -> None:
    """Visible padding would reveal the length of the text, which the sampler did not know."""
    canvas = rows(*[8] * 100, prompt=10)
    padding_BL = canvas.editable_BL & (torch.arange(canvas.length) >= 14)
    ended = replace(canvas, editable_BL=canvas.editable_BL & ~padding_BL)
    views = draw_views(
        plan, ended, mask_id=SMALL.mask, updates=2, group=1, generator=generator(), steps_BL=canvas.editable_BL.long()
    )
    for one in views:
        masked_KBL = one.tokens_KBL == SMALL.mask
        assert masked_KBL[:, padding_BL].float().mean().item() == pytest.approx(share, abs=0.04)
        assert not one.scored_KBL[:, ~completion(ended)].any()
        assert (masked_KBL | ~one.scored_KBL).all()
    unseen = draw_views(plan, ended, mask_id=SMALL.mask, updates=2, group=1, generator=generator())
    if not isinstance(plan, FullMask | BlockMasks):  # these add noise to unknown context as they do to the prompt
        assert not (unseen[0].tokens_KBL == SMALL.mask)[:, padding_BL].any()


@pytest.mark.parametrize("window", [1, 2])
def test_sampled_steps_are_states_of_the_rollout_equally_often(window: int) -> None:
    """The state before a step is restored, padding included, and the expected ELBO is that of all steps."""
    canvas = rows(5, 3)
    steps_BL = torch.zeros(2, canvas.length, dtype=torch.long)
    steps_BL[0, 4:10] = torch.tensor([1, 8, 2, 2, 4, 3])  # the last one is padding
    steps_BL[1, 4:8] = torch.tensor([5, 5, 1, 9])
    drawn = draw_views(
        SampledSteps(window), canvas, mask_id=SMALL.mask, updates=2000, group=1, generator=generator(), steps_BL=steps_BL
    )
    weight_BL = torch.stack([views.weight_KBL[0] for views in drawn]).mean(0)
    torch.testing.assert_close(weight_BL, completion(canvas).float(), atol=0.1, rtol=0)
    for row, size in enumerate((5, 3)):
        order = steps_BL[row, 4 : 5 + size]
        ranks = torch.unique(order[:size], return_inverse=True)[1]
        legal = {tuple(((ranks >= k) & (ranks < k + window)).tolist()) for k in range(1 - window, int(ranks.max()) + 1)}
        assert {tuple(v.scored_KBL[0, row, 4 : 4 + size].tolist()) for v in drawn} == legal
        for views in drawn[:50]:
            masked_L = views.tokens_KBL[0, row] == SMALL.mask
            first = order[:size][views.scored_KBL[0, row, 4 : 4 + size]].min()
            assert masked_L[4 : 5 + size].tolist() == (order >= first).tolist()
            assert masked_L.sum() == masked_L[4 : 5 + size].sum()


def test_samples_of_steps_overlap_as_little_as_possible() -> None:
    """Four steps a row: two samples are never the same step nor its neighbour round the end, four are all, five one twice."""
    canvas = rows(4, 3)
    steps_BL = torch.zeros(2, canvas.length, dtype=torch.long)
    steps_BL[:, 4:8] = torch.tensor([[3, 1, 2, 4], [1, 1, 2, 3]])  # the last position of the second row is padding

    def steps_of(samples: int) -> list[list[int]]:
        drawn = draw_views(
            SampledSteps(samples=samples),
            canvas,
            mask_id=SMALL.mask,
            updates=30,
            group=1,
            generator=generator(),
            steps_BL=steps_BL,
        )
        found = [[int(steps_BL[0][scored_BL[0]].min()) for scored_BL in views.scored_KBL] for views in drawn]
        assert all(views.weight_KBL[:, 0].amax(1).tolist() == [4.0] * samples for views in drawn)
        return [sorted(steps) for steps in found]

    assert {tuple(steps) for steps in steps_of(2)} == {(1, 3), (2, 4)}
    assert all(steps == [1, 2, 3, 4] for steps in steps_of(4))
    assert all(len(steps) == 5 and set(steps) == {1, 2, 3, 4} for steps in steps_of(5))


def test_sampled_steps_of_rows_without_completion_stay_clean() -> None:
    canvas = rows(5, 3)
    idle = replace(canvas, editable_BL=canvas.editable_BL & torch.tensor([[True], [False]]))
    steps_BL = canvas.editable_BL.long()
    views = draw_views(SampledSteps(), idle, mask_id=SMALL.mask, updates=1, group=1, generator=generator(), steps_BL=steps_BL)[0]
    assert not (views.tokens_KBL[0, 1] == SMALL.mask).any()
