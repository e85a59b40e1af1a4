"""Schedules of the mask ratio over the inner updates of a rollout batch: the two of UniGRPO, and those of its successors.

The UniGRPO paper prints two grids that disagree (Algorithm 1, line 13; the example of section 5.2), so the caller must choose:

    Algorithm1()        start ~ U{0..T-1}, then evenly up to T       start 100, 5 updates: 100 325 550 775 1000
    Systematic()        start ~ U{0..T-1}, stride T / updates, mod T start 100, 5 updates: 100 300 500 700 900
    Iid()               an independent ratio for every row and update
    Truncated(gamma)    no randomness, from above gamma to 1         MaskGRPO

Algorithm1 always ends fully masked and has a mean ratio of 3/4. Systematic has 1/2: the wrap-around, which the paper does not
print, keeps the stride where the start is not below T / updates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mmada.errors import InputError, check_number, check_whole

__all__ = ["Algorithm1", "Iid", "Systematic", "Times", "Truncated"]


class Times(Protocol):
    """A schedule of mask ratios over the inner updates."""

    def ratios(self, updates: int, rows: int, group: int, generator: torch.Generator) -> Tensor:
        """Mask ratios (updates, rows) in [0, 1]; ``group`` consecutive rows are completions of one prompt."""
        ...


@dataclass(frozen=True)
class Algorithm1:
    """Algorithm 1 of UniGRPO: t_n = floor((n - 1) / (mu - 1) * (T - t_1) + t_1). One start per prompt; ``total``: T."""

    total: int = 1000

    def __post_init__(self) -> None:
        check_whole("total of the schedule", self.total, 1)

    def grid(self, start: int, updates: int) -> list[int]:
        """t_1..t_mu, in 0..T, from t_1 = ``start``; a single update stays there."""
        return [start + n * (self.total - start) // max(1, updates - 1) for n in range(updates)]

    def ratios(self, updates: int, rows: int, group: int, generator: torch.Generator) -> Tensor:
        """As `Times.ratios`."""
        starts = _starts(self.total, rows // group, generator)
        return _spread([self.grid(start, updates) for start in starts], self.total, group)


@dataclass(frozen=True)
class Systematic:
    """Section 5.2 of the paper, wrapped: t_n = (t_1 + floor((n - 1) T / mu)) mod T. One start per prompt; ``total``: T."""

    total: int = 1000

    def __post_init__(self) -> None:
        check_whole("total of the schedule", self.total, 1)

    def grid(self, start: int, updates: int) -> list[int]:
        """t_1..t_mu, in 0..T-1, from t_1 = ``start``."""
        return [(start + n * self.total // updates) % self.total for n in range(updates)]

    def ratios(self, updates: int, rows: int, group: int, generator: torch.Generator) -> Tensor:
        """As `Times.ratios`."""
        starts = _starts(self.total, rows // group, generator)
        return _spread([self.grid(start, updates) for start in starts], self.total, group)


@dataclass(frozen=True)
class Iid:
    """Independent ratios for every row and update, uniform between ``min_ratio`` and ``max_ratio``."""

    min_ratio: float = 0.0
    max_ratio: float = 1.0

    def __post_init__(self) -> None:
        _check_range(self.min_ratio, self.max_ratio)

    def ratios(self, updates: int, rows: int, group: int, generator: torch.Generator) -> Tensor:
        """As `Times.ratios`."""
        return self.min_ratio + (self.max_ratio - self.min_ratio) * torch.rand(updates, rows, generator=generator)


@dataclass(frozen=True)
class Truncated:
    """MaskGRPO: gamma + (1 - gamma) n / mu for n = 1..mu, capped at ``max_ratio``: only high ratios, and no randomness."""

    gamma: float = 0.6
    max_ratio: float = 0.999

    def __post_init__(self) -> None:
        _check_range(self.gamma, self.max_ratio, low="gamma")

    def ratios(self, updates: int, rows: int, group: int, generator: torch.Generator) -> Tensor:
        """As `Times.ratios`."""
        grid = self.gamma + (1 - self.gamma) * torch.arange(1, updates + 1) / updates
        return grid.clamp(max=self.max_ratio)[:, None].expand(updates, rows)


def _starts(total: int, count: int, generator: torch.Generator) -> list[int]:
    """Start times, uniform over 0..T-1: lines 7 and 10 of Algorithm 1 (floor(T u) of a uniform u)."""
    return [int(start) for start in torch.randint(total, (count,), generator=generator)]


def _spread(grids: list[list[int]], total: int, group: int) -> Tensor:
    """Ratios (updates, rows) from one grid per prompt."""
    return (torch.tensor(grids, dtype=torch.float64) / total).float().repeat_interleave(group, 0).T


def _check_range(min_ratio: float, max_ratio: float, *, low: str = "min_ratio") -> None:
    check_number(f"{low} of the schedule", min_ratio, 0, 1)
    check_number("max_ratio of the schedule", max_ratio, 0, 1)
    if min_ratio > max_ratio:
        raise InputError(f"{low} of the schedule must not be above its max_ratio {max_ratio:g}, got {min_ratio:g}")
