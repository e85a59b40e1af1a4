"""The forward process: mask a random share of the editable positions of each example, text and images alike.

Examples may be packed several to a row; ``segment_BL`` says which example a position belongs to (0 = none). Text follows eq. 1
and eq. 2 (each position masked independently with probability t, weight 1/t); images by default follow the released code (an
exact number of positions by the cosine schedule, no weight).

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
    """Masking and weighting of one modality.

    ``count``: ``"bernoulli"`` masks each position independently with probability ratio(t), ``"exact"`` masks a fixed number.
    ``weight``: ``"inverse_ratio"`` is the weight of the likelihood bound, so that the weighted cross-entropy estimates eq. 1
    without bias for every schedule and count; ``"none"`` is the released image loss.
    ``min_ratio``: the smallest mask ratio drawn; above 0 it bounds the weight, at 1 every position is masked.
    """

    schedule: Schedule = field(default_factory=Linear)
    count: Literal["bernoulli", "exact"] = "bernoulli"
    weight: Literal["inverse_ratio", "none"] = "inverse_ratio"
    min_ratio: float = 1e-3

    def __post_init__(self) -> None:
        if self.count not in ("bernoulli", "exact"):
            raise InputError(f"count of the forward process must be 'bernoulli' or 'exact', got {self.count!r}")
        if self.weight not in ("inverse_ratio", "none"):
            raise InputError(f"weight of the forward process must be 'inverse_ratio' or 'none', got {self.weight!r}")
        if not 0 <= self.min_ratio <= 1:
            raise InputError(f"min_ratio of the forward process must lie in [0, 1], got {self.min_ratio}")

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
    """A masked batch: tokens with masks, the masked positions (targets), and the loss weight of each position."""

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
    process: ForwardProcess,
    generator: torch.Generator,
    times_S: Tensor | None = None,
) -> Corrupted:
    """Mask a share of the editable positions of every segment.

    ``times_S``: the time of each segment, drawn systematically over the batch unless given. Only positions of ``editable_BL`` are
    ever masked; call it once for each modality, with the editable positions of that modality.
    """
    segments = int(segment_BL.max()) if segment_BL.numel() else 0
    times_S = systematic_times(segments, generator) if times_S is None else times_S
    ratio_S = process.schedule.ratio(times_S) * (1 - process.min_ratio) + process.min_ratio
    index_BL = (segment_BL - 1).clamp(min=0)
    draw_BL = torch.rand(tokens_BL.shape, generator=generator)
    editable_BL = editable_BL & (segment_BL > 0)
    if process.count == "bernoulli":
        ratio_BL = ratio_S[index_BL] if segments else torch.zeros(tokens_BL.shape)
        masked_BL = editable_BL & (draw_BL < ratio_BL)
    else:
        positions_S = torch.bincount(index_BL[editable_BL], minlength=len(ratio_S))
        masked_S = exact_counts(ratio_S, positions_S, process)
        masked_BL = exact_masks(draw_BL, masked_S, positions_S, editable_BL, index_BL)
        ratio_S = masked_S / positions_S.clamp(min=1)  # the realised ratio
    weight_S = torch.ones_like(ratio_S)
    if process.weight == "inverse_ratio":
        weight_S = process.schedule.rate(times_S) / ratio_S.clamp(min=1e-6)
    weight_BL = weight_S[index_BL] if segments else torch.ones(tokens_BL.shape)
    return Corrupted(torch.where(masked_BL, mask_id, tokens_BL), masked_BL, weight_BL)


def exact_counts(ratio_S: Tensor, positions_S: Tensor, process: ForwardProcess) -> Tensor:
    """Positions to mask in each segment, int64 (S,), at least one.

    The released image loss rounds. With the weight of the likelihood bound the count is rounded up instead: of n positions, 1..n
    are then masked for ratio ranges of equal width 1/n, and with the realised ratio k/n in the weight the loss is
    1/n sum_k n/k f(k) = sum_k f(k)/k, where f(k) is the expected cross-entropy of k masked positions: exactly eq. 1. Rounding to
    the nearest would give k = 1 one and a half times its weight, and k = n half of it.
    """
    if process.weight == "none":
        return (ratio_S * positions_S).round().long().clamp(min=1)
    # Slightly less, so that rounding errors do not turn a ratio of k/n into k + 1.
    return (ratio_S.double() * positions_S - 1e-6 * positions_S).ceil().long().clamp(min=1)


def exact_masks(draw_BL: Tensor, masked_S: Tensor, positions_S: Tensor, editable_BL: Tensor, index_BL: Tensor) -> Tensor:
    """A uniform subset of ``masked_S`` of the ``positions_S`` editable positions of each segment, bool (B, L)."""
    # Sort the editable positions by (segment, random draw); the rank of a position within its segment decides.
    at = editable_BL.flatten().nonzero()[:, 0]
    segment_N = index_BL.flatten()[at]
    order = torch.argsort(segment_N.double() + draw_BL.flatten()[at].double())
    start_S = positions_S.cumsum(0) - positions_S
    rank_N = torch.arange(len(at)) - start_S[segment_N[order]]
    masked = torch.zeros(editable_BL.numel(), dtype=torch.bool)
    masked[at[order]] = rank_N < masked_S[segment_N[order]]
    return masked.view_as(editable_BL)
