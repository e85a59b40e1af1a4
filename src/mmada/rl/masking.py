"""Masking plans: the choice of positions of a finished completion that are masked again to estimate its likelihood.

    RandomMasks(times)     prompt clean, a share of the completion      UniGRPO, MaskGRPO (order "fading" for text)
    FullMask(prompt)       whole completion, prompt noisy               diffu-GRPO (d1)
    CoupledMasks(...)      a mask, its complement and the full mask     coupled-GRPO (DiffuCoder)
    CoupledCounts(samples) exact counts and their complements           ESPO
    BlockMasks(block, ...) earlier blocks clean, later ones masked      SPG
    AllSteps(...)          the states of every step of the rollout       TraceRL
    SampledSteps(...)      the states of a few random steps             close to AGRPO

A plan draws the masks of all inner updates at once (`draw_views`), so that policy, old policy and reference are evaluated on
byte-identical inputs. Padding that the rollout wrote after the end of a text is masked like the completion, and never scored.

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
    """A random share of the completion, at least one position; the prompt stays clean (UniGRPO, section 5.1).

    ``order``: "uniform" masks each position with the same probability, "fading" (MaskGRPO, text) later positions more often:
    the probability to stay visible falls linearly to 0 along the completion. ``samples``: views per update. One schedule runs
    over all views of all updates, and each update takes every ``updates``-th of them. The ELBO weight of a position is
    completion length / number of masked positions; the weighted sum is a lower bound for "uniform" only.
    """

    times: Times
    order: Literal["uniform", "fading"] = "uniform"
    samples: int = 1

    def __post_init__(self) -> None:
        check_choice("order of the masks", self.order, ("uniform", "fading"))
        check_whole("samples of the masks", self.samples, 1)

    def draw(self, context: MaskingContext) -> tuple[MaskedViews, ...]:
        """As `MaskingPlan.draw`."""
        positions_BL = completion(context.canvas)
        times_NB = self.times.ratios(context.updates * self.samples, len(positions_BL), context.group, context.generator)
        drawn = []
        for update in range(context.updates):
            chances = [self.chance(positions_BL, ratio_B) for ratio_B in times_NB[update :: context.updates]]
            scored = [random_mask(positions_BL, chance_BL, context.generator) for chance_BL in chances]
            masks = [mask_BL | context.random_padding(chance_BL) for mask_BL, chance_BL in zip(scored, chances, strict=True)]
            drawn.append(context.views(masks, scored, [realised_weight(positions_BL, mask_BL) for mask_BL in scored]))
        return tuple(drawn)

    def chance(self, positions_BL: Tensor, ratio_B: Tensor) -> Tensor:
        """Probability (B, L) that a position is masked."""
        if self.order == "uniform":
            return ratio_B[:, None].expand(positions_BL.shape)
        rank_BL = positions_BL.cumsum(1) - 1
        count_B1 = positions_BL.sum(1, keepdim=True)
        curve_BL = (1 - rank_BL / (count_B1 - 1).clamp(min=1)) * positions_BL
        visible_BL = curve_BL * (1 - ratio_B[:, None]) * count_B1 / curve_BL.sum(1, keepdim=True).clamp(min=1e-6)
        return 1 - visible_BL.clamp(max=1)


@dataclass(frozen=True)
class FullMask:
    """The whole completion, and each position of the prompt with probability ``prompt``, redrawn every update (d1)."""

    prompt: float = 0.15

    def __post_init__(self) -> None:
        check_number("prompt of the full mask", self.prompt, 0, 1)

    def draw(self, context: MaskingContext) -> tuple[MaskedViews, ...]:
        """As `MaskingPlan.draw`."""
        positions_BL = completion(context.canvas)
        whole_BL = positions_BL | context.padding_BL
        masks = [whole_BL | context.noisy_context(self.prompt) for _ in range(context.updates)]
        return tuple(context.views([mask_BL], [positions_BL], [1.0]) for mask_BL in masks)


@dataclass(frozen=True)
class CoupledMasks:
    """A mask of ratio t ~ U(min_ratio, max_ratio), one t per prompt; its complement; with ``full``, the full mask (DiffuCoder).

    Weights 1/t, 1/(1 - t) and 1: every position is scored once, or twice with the full mask.
    """

    min_ratio: float = 0.2
    max_ratio: float = 0.8
    full: bool = True

    def __post_init__(self) -> None:
        if not 0 < check_number("min_ratio of the coupled masks", self.min_ratio, 0, 1) <= self.max_ratio < 1:
            raise InputError(
                f"min_ratio and max_ratio of the coupled masks must satisfy 0 < min_ratio <= max_ratio < 1, got {self.min_ratio} "
                f"and {self.max_ratio}"
            )

    def draw(self, context: MaskingContext) -> tuple[MaskedViews, ...]:
        """As `MaskingPlan.draw`."""
        positions_BL = completion(context.canvas)
        drawn = []
        for _ in range(context.updates):
            share = self.min_ratio + (self.max_ratio - self.min_ratio) * context.uniform(len(positions_BL) // context.group)
            ratio_B1 = share.repeat_interleave(context.group)[:, None]
            whole_BL = positions_BL | context.padding_BL
            mask_BL = whole_BL & (context.uniform(*positions_BL.shape) < ratio_B1)
            masks, weights = [mask_BL, whole_BL & ~mask_BL], [1 / ratio_B1, 1 / (1 - ratio_B1)]
            if self.full:
                masks, weights = [*masks, whole_BL], [*weights, torch.ones_like(ratio_B1)]
            drawn.append(context.views(masks, [mask_BL & positions_BL for mask_BL in masks], weights))
        return tuple(drawn)


@dataclass(frozen=True)
class CoupledCounts:
    """``samples`` pairs of k of the n positions and the other n - k, k ~ U{0..n} sampled systematically over the rows (ESPO).

    Weights (n + 1) / k and (n + 1) / (n - k): the mean over views of the weighted sums is an unbiased ELBO.
    """

    samples: int = 2

    def __post_init__(self) -> None:
        check_whole("samples of the coupled counts", self.samples, 1)

    def draw(self, context: MaskingContext) -> tuple[MaskedViews, ...]:
        """As `MaskingPlan.draw`."""
        return tuple(self.one(context) for _ in range(context.updates))

    def one(self, context: MaskingContext) -> MaskedViews:
        """The views of one update."""
        positions_BL = completion(context.canvas)
        rows, count_B = len(positions_BL), positions_BL.sum(1)
        masks: list[Tensor] = []
        scored: list[Tensor] = []
        weights: list[Tensor] = []
        for _ in range(self.samples):
            share_B = (context.uniform(1) + torch.arange(rows) / rows) % 1
            chosen_B = (share_B * (count_B + 1)).floor().long().minimum(count_B)
            mask_BL = exact_mask(positions_BL, chosen_B, context.generator)
            scored += [mask_BL, positions_BL & ~mask_BL]
            padding_BL = context.random_padding((chosen_B / count_B.clamp(min=1))[:, None])
            masks += [mask_BL | padding_BL, scored[-1] | (context.padding_BL & ~padding_BL)]
            weights += [((count_B + 1) / k_B.clamp(min=1))[:, None] for k_B in (chosen_B, count_B - chosen_B)]
        return context.views(masks, scored, weights)


@dataclass(frozen=True)
class BlockMasks:
    """Semi-autoregressive views (SPG): a random block with 1 to all of its positions masked, earlier blocks clean, later blocks
    and the padding after the end masked.

    ``samples``: views per update, of different blocks while there are any. ``prompt``: probability to mask each position before
    the block, in the prompt and in earlier blocks. ``scored``: "masked" counts every masked position of the completion, as SPG's
    code does; "block" only those of the chosen block. Weight: completion length / number of scored positions.
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

    def draw(self, context: MaskingContext) -> tuple[MaskedViews, ...]:
        """As `MaskingPlan.draw`."""
        return tuple(self.one(context) for _ in range(context.updates))

    def one(self, context: MaskingContext) -> MaskedViews:
        """The views of one update."""
        positions_BL = completion(context.canvas)
        block_BL = torch.where(positions_BL, (positions_BL.cumsum(1) - 1) // self.block, -1)
        blocks_B = (block_BL.amax(1) + 1).clamp(min=1)
        order = context.uniform(len(positions_BL), int(blocks_B.max()))
        order = order.masked_fill(torch.arange(order.shape[1]) >= blocks_B[:, None], inf).argsort(1)
        masks, scores = [], []
        for sample in range(self.samples):
            chosen_B1 = order.gather(1, (sample % blocks_B)[:, None])
            inside_BL = positions_BL & (block_BL == chosen_B1)
            size_B = inside_BL.sum(1)
            count_B = (context.uniform(len(size_B)) * size_B).floor().long() + 1
            block_mask_BL = exact_mask(inside_BL, count_B, context.generator)
            before_BL = context.canvas.valid_BL & (block_BL < chosen_B1) & ~context.padding_BL
            mask_BL = block_mask_BL | (positions_BL & (block_BL > chosen_B1)) | context.padding_BL
            mask_BL = mask_BL | (before_BL & (context.uniform(*positions_BL.shape) < self.prompt))
            masks.append(mask_BL)
            scores.append(block_mask_BL if self.scored == "block" else mask_BL & positions_BL)
        return context.views(masks, scores, [realised_weight(positions_BL, scored_BL) for scored_BL in scores])


@dataclass(frozen=True)
class AllSteps:
    """All steps of the rollout, ``steps_per_view`` of them in a view (TraceRL).

    View k masks the positions that were not decided before its steps, and scores those that its steps decided, so that every
    position counts once. Weight: K, so that the ELBO is the sum over all steps.
    """

    steps_per_view: int = 1

    def __post_init__(self) -> None:
        check_whole("steps_per_view of all steps", self.steps_per_view, 1)

    def draw(self, context: MaskingContext) -> tuple[MaskedViews, ...]:
        """As `MaskingPlan.draw`."""
        positions_BL, rank_BL = completion(context.canvas), step_ranks(context)
        view_BL = torch.where(positions_BL, rank_BL // self.steps_per_view, -1)
        count = max(1, int(view_BL.max()) + 1)
        scores = [positions_BL & (view_BL == k) for k in range(count)]
        masks = [masked_before(context, scored_BL) for scored_BL in scores]
        return (context.views(masks, scores, [float(count)] * count),) * context.updates


@dataclass(frozen=True)
class SampledSteps:
    """Random steps of each rollout: the state before a step is restored, and positions decided in the next ``window`` steps are
    scored.

    Every step of a row is scored equally often, in ``samples`` views; `AllSteps` needs as many views as there are steps.
    ``samples``: windows per update, evenly spaced from a random first one, so that they overlap as little as possible. Weight:
    (steps + window - 1) / window, the inverse of the probability that a step is scored, so that the expected ELBO is the sum
    over all steps.
    """

    window: int = 1
    samples: int = 1

    def __post_init__(self) -> None:
        check_whole("window of the sampled steps", self.window, 1)
        check_whole("samples of the sampled steps", self.samples, 1)

    def draw(self, context: MaskingContext) -> tuple[MaskedViews, ...]:
        """As `MaskingPlan.draw`."""
        rank_BL = step_ranks(context)
        count_B1 = (rank_BL.amax(1, keepdim=True) + 1).clamp(min=1)
        # A window may begin before the first step, so that every step lies in the same number of windows.
        windows_B1 = count_B1 + self.window - 1
        drawn = []
        for _ in range(context.updates):
            start_B1 = context.uniform(*count_B1.shape)
            masked, scored = [], []
            for k in range(self.samples):
                index_B1 = ((start_B1 + k / self.samples) % 1 * windows_B1).long().minimum(windows_B1 - 1)
                first_B1 = index_B1 - (self.window - 1)
                scored.append((rank_BL >= first_B1.clamp(min=0)) & (rank_BL < first_B1 + self.window))
                masked.append(masked_before(context, scored[k]))
            drawn.append(context.views(masked, scored, [windows_B1 / self.window] * self.samples))
        return tuple(drawn)


NEVER = torch.iinfo(torch.long).max


def masked_before(context: MaskingContext, scored_BL: Tensor) -> Tensor:
    """Positions that were masked before the first of the steps that decided ``scored_BL`` (B, L)."""
    steps_BL = cast(Tensor, context.steps_BL)
    first_B1 = steps_BL.masked_fill(~scored_BL, NEVER).amin(1, keepdim=True)
    return (completion(context.canvas) | context.padding_BL) & (steps_BL >= first_B1)


def step_ranks(context: MaskingContext) -> Tensor:
    """Rank of the step that decided each position of a completion (B, L), from 0 without gaps in each row; -1 elsewhere.

    Raises InputError if the steps are missing.
    """
    positions_BL = completion(context.canvas)
    if context.steps_BL is None or context.steps_BL.shape != positions_BL.shape:
        raise InputError("steps_BL of a rollout must give the step of every position of the canvas; pass it to draw_views")
    rank_BL = torch.full_like(context.steps_BL, -1)
    for row, positions_L in enumerate(positions_BL):
        if bool(positions_L.any()):
            rank_BL[row, positions_L] = torch.unique(context.steps_BL[row, positions_L], return_inverse=True)[1]
    return rank_BL
