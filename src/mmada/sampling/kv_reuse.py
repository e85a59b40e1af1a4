"""Reuse between steps: which places a step computes anew, while the others keep their keys and values.

    everything before the block        PrefixCache()
    everything outside the block       BlockCache(vicinity, refresh)
    decided tokens, a step late        DelayedCache(refresh)
    until values drift                 DriftCache(limit, vicinity)

All of them approximate: attention is bidirectional, so keys and values of every place change with every token. Without any (the
default) each step computes every place. The first pass on a block, or on a picture, always does.

Shapes: R rows at work, L positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mmada.errors import check_number, check_whole

__all__ = ["CACHES", "BlockCache", "DelayedCache", "DriftCache", "PrefixCache", "Reuse", "Situation"]


@dataclass(frozen=True)
class Situation:
    """What a rule may look at before a pass, all bool (R, L).

    ``block_RL``: places of the working part, decided or not; ``left_RL``: those still masked; ``new_RL``: what the step before
    wrote; ``valid_RL``. ``passes``: since the part was entered. ``since``: since the last pass over everything. ``drift_R``: 1 -
    cosine between new and kept values in the last pass, float (R,), 0 if it computed everything.
    """

    block_RL: Tensor
    left_RL: Tensor
    new_RL: Tensor
    valid_RL: Tensor
    passes: int
    since: int
    drift_R: Tensor


class Reuse(Protocol):
    """Which places to compute."""

    def fresh(self, now: Situation) -> Tensor | None:
        """Bool (R, L), the masked places of the part among them; None is all."""
        ...


def span(places_RL: Tensor, around: int = 0) -> Tensor:
    """From the first to the last place of each row, and ``around`` positions on both sides."""
    position_L = torch.arange(places_RL.shape[1], device=places_RL.device)
    first_R1 = torch.where(places_RL, position_L, places_RL.shape[1]).amin(1, keepdim=True)
    last_R1 = torch.where(places_RL, position_L, -1).amax(1, keepdim=True)
    return (position_L >= first_R1 - around) & (position_L <= last_R1 + around)


def due(refresh: int, now: Situation) -> bool:
    """Whether everything is to be computed: at the start of a part, and after ``refresh`` passes (0 is never)."""
    return now.passes == 0 or (refresh > 0 and now.since >= refresh)


@dataclass(frozen=True)
class PrefixCache:
    """Keeps what stands before the block (Fast-dLLM): prompt and earlier blocks as they were at its entry."""

    refresh: int = 0

    def __post_init__(self) -> None:
        check_whole("refresh", self.refresh, 0)

    def fresh(self, now: Situation) -> Tensor | None:
        """As `Reuse.fresh`."""
        return None if due(self.refresh, now) else span(now.block_RL).cummax(1).values & now.valid_RL


@dataclass(frozen=True)
class BlockCache:
    """Keeps everything outside the block and ``vicinity`` positions around it (Fast-dLLM's dual cache, dInfer's vicinity), and
    computes all of it anew every ``refresh`` passes (0: only at the next block)."""

    vicinity: int = 0
    refresh: int = 0

    def __post_init__(self) -> None:
        check_whole("vicinity", self.vicinity, 0)
        check_whole("refresh", self.refresh, 0)

    def fresh(self, now: Situation) -> Tensor | None:
        """As `Reuse.fresh`."""
        return None if due(self.refresh, now) else span(now.block_RL, self.vicinity) & now.valid_RL


@dataclass(frozen=True)
class DelayedCache:
    """Keeps every decided token one step after it was decided (dKV-Cache), wherever it stands; masked places of the block and
    what the last step wrote are computed, all of it every ``refresh`` passes."""

    refresh: int = 8

    def __post_init__(self) -> None:
        check_whole("refresh", self.refresh, 0)

    def fresh(self, now: Situation) -> Tensor | None:
        """As `Reuse.fresh`."""
        return None if due(self.refresh, now) else (now.left_RL | now.new_RL) & now.valid_RL


@dataclass(frozen=True)
class DriftCache:
    """Keeps everything outside the block until the values inside it have moved by ``limit`` (1 - cosine, mean over the last
    pass); then all of it is computed anew."""

    limit: float = 0.05
    vicinity: int = 0

    def __post_init__(self) -> None:
        check_number("limit", self.limit)
        check_whole("vicinity", self.vicinity, 0)

    def fresh(self, now: Situation) -> Tensor | None:
        """As `Reuse.fresh`."""
        if now.passes == 0:
            return None
        return now.valid_RL & (span(now.block_RL, self.vicinity) | (now.drift_R > self.limit)[:, None])


CACHES: dict[str, type[Reuse]] = {
    "prefix": PrefixCache, "block": BlockCache, "delayed": DelayedCache, "drift": DriftCache,
}  # fmt: skip
"""Rules by the names that people give them by."""
