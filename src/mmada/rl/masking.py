"""Masking plans: which positions of a finished completion are masked again, to ask the policy how probable its tokens are.

    RandomMasks(times)     prompt clean, a share of the completion      UniGRPO, MaskGRPO (order "fading" for text)
    FullMask(prompt)       whole completion, prompt noisy               diffu-GRPO (d1)
    CoupledMasks(...)      a mask, its complement and the full mask     coupled-GRPO (DiffuCoder)
    CoupledCounts(samples) exact counts and their complements           ESPO
    BlockMasks(block, ...) earlier blocks clean, later ones masked      SPG
    AllSteps(together)   what was masked at each step of the rollout  TraceRL
    SampledSteps(ahead, ...)    the same, some random steps an update

A plan draws the masks of all inner updates at once (`draw_views`), so that policy, old policy and reference are asked about
byte-identical inputs. What the rollout filled behind the end of a text is masked as the completion is, and never scored.

Shapes: B rows, L positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal, cast

import torch
from torch import Tensor

from mmada.errors import InputError, check_choice, check_number, check_whole
from mmada.rl.mask_ratios import Times
from mmada.rl.masked_views import MaskedViews, MaskingContext, completion, exact_mask, random_mask, realised_weight

__all__ = ["AllSteps", "BlockMasks", "CoupledCounts", "CoupledMasks", "FullMask", "RandomMasks", "SampledSteps"]


@dataclass(frozen=True)
class RandomMasks:
    """A share of the completion, at least one position of it; the prompt stays clean (UniGRPO, section 5.1).

    ``order``: "uniform" masks each position with the same probability, "fading" (MaskGRPO, text) later positions more often:
    the probability to stay visible falls linearly to 0 along the completion. ``samples``: views an update; the schedule is one
    over all views of all updates, each update has some from everywhere in it. The ELBO weight of a position is completion
    length / number of masked positions; it is that of a bound for "uniform" alone.
    """

    times: Times
    order: Literal["uniform", "fading"] = "uniform"
    samples: int = 1

    def __post_init__(self) -> None:
        check_choice("order of the masks", self.order, ("uniform", "fading"))
        check_whole("samples of the masks", self.samples, 1)

    def draw(self, wanted: MaskingContext) -> tuple[MaskedViews, ...]:
        """As `MaskingPlan.draw`."""
        positions_BL = completion(wanted.canvas)
        times_NB = self.times.ratios(wanted.updates * self.samples, len(positions_BL), wanted.group, wanted.generator)
        drawn = []
        for update in range(wanted.updates):
            chances = [self.chance(positions_BL, ratio_B) for ratio_B in times_NB[update :: wanted.updates]]
            scored = [random_mask(positions_BL, chance_BL, wanted.generator) for chance_BL in chances]
            masks = [mask_BL | wanted.behind(chance_BL) for mask_BL, chance_BL in zip(scored, chances, strict=True)]
            drawn.append(wanted.views(masks, scored, [realised_weight(positions_BL, mask_BL) for mask_BL in scored]))
        return tuple(drawn)

    def chance(self, positions_BL: Tensor, ratio_B: Tensor) -> Tensor:
        """Probability (B, L) that a position is masked."""
        if self.order == "uniform":
            return ratio_B[:, None].expand(positions_BL.shape)
        rank_BL = positions_BL.cumsum(1) - 1
        count_B1 = positions_BL.sum(1, keepdim=True)
        curve_BL = (1 - rank_BL / (count_B1 - 1).clamp(min=1)) * positions_BL
        kept_BL = curve_BL * (1 - ratio_B[:, None]) * count_B1 / curve_BL.sum(1, keepdim=True).clamp(min=1e-6)
        return 1 - kept_BL.clamp(max=1)


@dataclass(frozen=True)
class FullMask:
    """The whole completion in one view, and each position of the prompt with probability ``prompt``, anew each update (d1)."""

    prompt: float = 0.15

    def __post_init__(self) -> None:
        check_number("prompt of the full mask", self.prompt, 0, 1)

    def draw(self, wanted: MaskingContext) -> tuple[MaskedViews, ...]:
        """As `MaskingPlan.draw`."""
        positions_BL = completion(wanted.canvas)
        whole_BL = positions_BL | wanted.behind_BL
        masks = [whole_BL | wanted.noisy_context(self.prompt) for _ in range(wanted.updates)]
        return tuple(wanted.views([mask_BL], [positions_BL], [1.0]) for mask_BL in masks)


@dataclass(frozen=True)
class CoupledMasks:
    """A mask of ratio t ~ U(least, most), one t a prompt, its complement, and with ``full`` the full mask (DiffuCoder).

    Weights 1/t, 1/(1 - t) and 1: every position is scored once, or twice with the full mask.
    """

    least: float = 0.2
    most: float = 0.8
    full: bool = True

    def __post_init__(self) -> None:
        if not 0 < check_number("least of the coupled masks", self.least, 0, 1) <= self.most < 1:
            raise InputError(
                f"least and most of the coupled masks must be 0 < least <= most < 1, got {self.least} and {self.most}"
            )

    def draw(self, wanted: MaskingContext) -> tuple[MaskedViews, ...]:
        """As `MaskingPlan.draw`."""
        positions_BL = completion(wanted.canvas)
        drawn = []
        for _ in range(wanted.updates):
            share = self.least + (self.most - self.least) * wanted.uniform(len(positions_BL) // wanted.group)
            ratio_B1 = share.repeat_interleave(wanted.group)[:, None]
            whole_BL = positions_BL | wanted.behind_BL
            mask_BL = whole_BL & (wanted.uniform(*positions_BL.shape) < ratio_B1)
            masks, weights = [mask_BL, whole_BL & ~mask_BL], [1 / ratio_B1, 1 / (1 - ratio_B1)]
            if self.full:
                masks, weights = [*masks, whole_BL], [*weights, torch.ones_like(ratio_B1)]
            drawn.append(wanted.views(masks, [mask_BL & positions_BL for mask_BL in masks], weights))
        return tuple(drawn)


@dataclass(frozen=True)
class CoupledCounts:
    """k of the n positions and the other n - k, ``samples`` times, k ~ U{0..n} spread systematically over the rows (ESPO).

    Weights (n + 1) / k and (n + 1) / (n - k): the mean over views of the weighted sums is an unbiased ELBO.
    """

    samples: int = 2

    def __post_init__(self) -> None:
        check_whole("samples of the coupled counts", self.samples, 1)

    def draw(self, wanted: MaskingContext) -> tuple[MaskedViews, ...]:
        """As `MaskingPlan.draw`."""
        return tuple(self.one(wanted) for _ in range(wanted.updates))

    def one(self, wanted: MaskingContext) -> MaskedViews:
        """The views of one update."""
        positions_BL = completion(wanted.canvas)
        rows, count_B = len(positions_BL), positions_BL.sum(1)
        masks: list[Tensor] = []
        scored: list[Tensor] = []
        weights: list[Tensor] = []
        for _ in range(self.samples):
            share_B = (wanted.uniform(1) + torch.arange(rows) / rows) % 1
            chosen_B = (share_B * (count_B + 1)).floor().long().minimum(count_B)
            mask_BL = exact_mask(positions_BL, chosen_B, wanted.generator)
            scored += [mask_BL, positions_BL & ~mask_BL]
            behind_BL = wanted.behind((chosen_B / count_B.clamp(min=1))[:, None])
            masks += [mask_BL | behind_BL, scored[-1] | (wanted.behind_BL & ~behind_BL)]
            weights += [((count_B + 1) / k_B.clamp(min=1))[:, None] for k_B in (chosen_B, count_B - chosen_B)]
        return wanted.views(masks, scored, weights)


@dataclass(frozen=True)
class BlockMasks:
    """Semi-autoregressive views (SPG): of a random block 1 to all positions are masked, of later blocks and behind the end
    all, of earlier ones none.

    ``samples``: views an update, of different blocks while there are any. ``prompt``: probability to mask each position before
    the block, prompt and earlier blocks alike. ``scored``: "masked" counts every masked position of the completion, as SPG's
    code does; "block" those of the chosen block alone. Weight: completion length / number of scored positions.
    """

    block: int = 32
    samples: int = 2
    prompt: float = 0.15
    scored: Literal["masked", "block"] = "masked"

    def __post_init__(self) -> None:
        check_whole("block of the block masks", self.block, 1)
        check_whole("samples of the block masks", self.samples, 1)
        check_number("prompt of the block masks", self.prompt, 0, 1)
        check_choice("scored of the block masks", self.scored, ("masked", "block"))

    def draw(self, wanted: MaskingContext) -> tuple[MaskedViews, ...]:
        """As `MaskingPlan.draw`."""
        return tuple(self.one(wanted) for _ in range(wanted.updates))

    def one(self, wanted: MaskingContext) -> MaskedViews:
        """The views of one update."""
        positions_BL = completion(wanted.canvas)
        block_BL = torch.where(positions_BL, (positions_BL.cumsum(1) - 1) // self.block, -1)
        blocks_B = (block_BL.amax(1) + 1).clamp(min=1)
        order = wanted.uniform(len(positions_BL), int(blocks_B.max()))
        order = order.masked_fill(torch.arange(order.shape[1]) >= blocks_B[:, None], inf).argsort(1)
        masks, scores = [], []
        for sample in range(self.samples):
            chosen_B1 = order.gather(1, (sample % blocks_B)[:, None])
            inside_BL = positions_BL & (block_BL == chosen_B1)
            size_B = inside_BL.sum(1)
            count_B = (wanted.uniform(len(size_B)) * size_B).floor().long() + 1
            core_BL = exact_mask(inside_BL, count_B, wanted.generator)
            before_BL = wanted.canvas.valid_BL & (block_BL < chosen_B1) & ~wanted.behind_BL
            mask_BL = core_BL | (positions_BL & (block_BL > chosen_B1)) | wanted.behind_BL
            mask_BL = mask_BL | (before_BL & (wanted.uniform(*positions_BL.shape) < self.prompt))
            masks.append(mask_BL)
            scores.append(core_BL if self.scored == "block" else mask_BL & positions_BL)
        return wanted.views(masks, scores, [realised_weight(positions_BL, scored_BL) for scored_BL in scores])


@dataclass(frozen=True)
class AllSteps:
    """The steps of the rollout again, ``together`` of them at a time (TraceRL): view k masks what was not decided before its
    steps, and scores what they decided, so every position counts once. Weight: K, so that the ELBO is the sum over all steps."""

    together: int = 1

    def __post_init__(self) -> None:
        check_whole("together of all steps", self.together, 1)

    def draw(self, wanted: MaskingContext) -> tuple[MaskedViews, ...]:
        """As `MaskingPlan.draw`."""
        positions_BL, rank_BL = completion(wanted.canvas), step_ranks(wanted)
        stage_BL = torch.where(positions_BL, rank_BL // self.together, -1)
        count = max(1, int(stage_BL.max()) + 1)
        scores = [positions_BL & (stage_BL == k) for k in range(count)]
        masks = [found_masked(wanted, scored_BL) for scored_BL in scores]
        return (wanted.views(masks, scores, [float(count)] * count),) * wanted.updates


@dataclass(frozen=True)
class SampledSteps:
    """Random steps of each rollout: what a step found masked is masked, and what was decided ``ahead`` steps from there on is
    scored. Every step of a row is scored as often, in ``samples`` views, where `AllSteps` takes as many as there are steps.

    ``samples``: steps an update, spread evenly from a random one on, so that they are as different as can be.

    Weight: (steps + ahead - 1) / ahead, one over
    the chance that a step is scored, so that the mean of the ELBO over draws is the sum over all steps.
    """

    ahead: int = 1
    samples: int = 1

    def __post_init__(self) -> None:
        check_whole("ahead of the sampled steps", self.ahead, 1)
        check_whole("samples of the sampled steps", self.samples, 1)

    def draw(self, wanted: MaskingContext) -> tuple[MaskedViews, ...]:
        """As `MaskingPlan.draw`."""
        rank_BL = step_ranks(wanted)
        count_B1 = (rank_BL.amax(1, keepdim=True) + 1).clamp(min=1)
        # A window of `ahead` steps that may begin before the first one, so that every step is in as many windows.
        windows_B1 = count_B1 + self.ahead - 1
        drawn = []
        for _ in range(wanted.updates):
            start_B1 = wanted.uniform(*count_B1.shape)
            masked, scored = [], []
            for k in range(self.samples):
                window_B1 = ((start_B1 + k / self.samples) % 1 * windows_B1).long().minimum(windows_B1 - 1)
                first_B1 = window_B1 - (self.ahead - 1)
                scored.append((rank_BL >= first_B1.clamp(min=0)) & (rank_BL < first_B1 + self.ahead))
                masked.append(found_masked(wanted, scored[k]))
            drawn.append(wanted.views(masked, scored, [windows_B1 / self.ahead] * self.samples))
        return tuple(drawn)


NEVER = torch.iinfo(torch.long).max


def found_masked(wanted: MaskingContext, scored_BL: Tensor) -> Tensor:
    """Positions that were masked before the first of the steps that decided ``scored_BL`` (B, L)."""
    steps_BL = cast(Tensor, wanted.steps_BL)
    now_B1 = steps_BL.masked_fill(~scored_BL, NEVER).amin(1, keepdim=True)
    return (completion(wanted.canvas) | wanted.behind_BL) & (steps_BL >= now_B1)


def step_ranks(wanted: MaskingContext) -> Tensor:
    """Rank of the step that decided each position of a completion (B, L), from 0 without gaps in each row; -1 elsewhere.

    Raises InputError where the steps are missing.
    """
    positions_BL = completion(wanted.canvas)
    if wanted.steps_BL is None or wanted.steps_BL.shape != positions_BL.shape:
        raise InputError("steps_BL of a rollout must give the step of every position of the canvas; pass it to draw_views")
    rank_BL = torch.full_like(wanted.steps_BL, -1)
    for row, positions_L in enumerate(positions_BL):
        if bool(positions_L.any()):
            rank_BL[row, positions_L] = torch.unique(wanted.steps_BL[row, positions_L], return_inverse=True)[1]
    return rank_BL
