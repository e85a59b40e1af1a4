"""The forward process: mask a random share of the editable places of each example, text and pictures alike.

Examples may be packed several to a row; ``segment_BL`` says which example a place belongs to (0 = none). Text follows eq. 1 and
eq. 2 (each place masked independently with probability t, weight 1/t); pictures by default follow the released code (an exact
count of places from the cosine schedule, no weight).

Shapes: B rows, L positions, S examples (segments are numbered 1..S over the whole batch).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from mmada.diffusion.schedule import Cosine, Linear, Schedule
from mmada.errors import InputError

__all__ = ["Corrupted", "ForwardProcess", "corrupt", "systematic_times"]


@dataclass(frozen=True)
class ForwardProcess:
    """How one modality is masked and weighted.

    ``count``: ``"bernoulli"`` masks each place independently, ``"exact"`` masks round(ratio * places), at least one.
    ``weight``: ``"inverse_ratio"`` is the 1/t of eq. 1, ``"none"`` is the released image loss.
    ``least``: the smallest mask ratio drawn; above 0 it bounds the 1/t weight, at 1 every place is masked.
    """

    schedule: Schedule = field(default_factory=Linear)
    count: Literal["bernoulli", "exact"] = "bernoulli"
    weight: Literal["inverse_ratio", "none"] = "inverse_ratio"
    least: float = 1e-3

    def __post_init__(self) -> None:
        if self.count not in ("bernoulli", "exact"):
            raise InputError(f"count of the noise must be 'bernoulli' or 'exact', got {self.count!r}")
        if self.weight not in ("inverse_ratio", "none"):
            raise InputError(f"weight of the noise must be 'inverse_ratio' or 'none', got {self.weight!r}")
        if not 0 <= self.least <= 1:
            raise InputError(f"least mask ratio must lie in [0, 1], got {self.least}")

    @staticmethod
    def paper() -> ForwardProcess:
        """Eq. 1 and eq. 2."""
        return ForwardProcess()

    @staticmethod
    def released_image() -> ForwardProcess:
        """The released image loss: cosine ratio, exact count, no weight."""
        return ForwardProcess(Cosine(), "exact", "none", 0.0)


@dataclass(frozen=True)
class Corrupted:
    """``tokens_BL`` with masks; ``masked_BL`` says where (the targets); ``weight_BL`` the 1/t of each place's example."""

    tokens_BL: Tensor
    masked_BL: Tensor
    weight_BL: Tensor


def systematic_times(count: int, generator: torch.Generator) -> Tensor:
    """Low-discrepancy times (count,): evenly spaced from one uniform offset, in random order; each alone is uniform."""
    grid = (torch.arange(count) + torch.rand((), generator=generator)) / count
    return grid[torch.randperm(count, generator=generator)]


def corrupt(
    tokens_BL: Tensor,
    editable_BL: Tensor,
    segment_BL: Tensor,
    *,
    mask_id: int,
    noise: ForwardProcess,
    generator: torch.Generator,
    times_S: Tensor | None = None,
) -> Corrupted:
    """Mask a share of the editable places of every segment.

    ``times_S``: the time of each segment, drawn systematically over the batch unless given. Only places of ``editable_BL`` are
    ever masked; call it once a modality with that modality's editable places.
    """
    segments = int(segment_BL.max()) if segment_BL.numel() else 0
    times = systematic_times(segments, generator) if times_S is None else times_S
    ratio_S = noise.schedule.ratio(times) * (1 - noise.least) + noise.least
    index_BL = (segment_BL - 1).clamp(min=0)
    ratio_BL = ratio_S[index_BL] if segments else torch.zeros(tokens_BL.shape)
    draw_BL = torch.rand(tokens_BL.shape, generator=generator)
    editable_BL = editable_BL & (segment_BL > 0)
    if noise.count == "bernoulli":
        masked_BL = editable_BL & (draw_BL < ratio_BL)
    else:
        masked_BL = exact_masks(draw_BL, ratio_S, editable_BL, index_BL)
    weight_BL = 1.0 / ratio_BL.clamp(min=1e-6) if noise.weight == "inverse_ratio" else torch.ones_like(ratio_BL)
    return Corrupted(torch.where(masked_BL, mask_id, tokens_BL), masked_BL, weight_BL)


def exact_masks(draw_BL: Tensor, ratio_S: Tensor, editable_BL: Tensor, index_BL: Tensor) -> Tensor:
    """A uniform subset of round(ratio * places), at least one, of the editable places of each segment."""
    places_S = torch.bincount(index_BL[editable_BL], minlength=len(ratio_S))
    wanted_S = (ratio_S * places_S).round().long().clamp(min=1)
    # Order the editable places by (segment, random draw); a place's rank in its segment decides.
    at = editable_BL.flatten().nonzero()[:, 0]
    segment_N = index_BL.flatten()[at]
    order = torch.argsort(segment_N.double() + draw_BL.flatten()[at].double())
    start_S = places_S.cumsum(0) - places_S
    rank_N = torch.arange(len(at)) - start_S[segment_N[order]]
    masked = torch.zeros(editable_BL.numel(), dtype=torch.bool)
    masked[at[order]] = rank_N < wanted_S[segment_N[order]]
    return masked.view_as(editable_BL)
