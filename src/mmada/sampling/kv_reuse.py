"""KV reuse between steps: rules for which positions a step recomputes, while the others keep their keys and values.

    everything before the block            PrefixCache()
    everything outside the block           BlockCache(vicinity, refresh)
    decided tokens, one step late          DelayedCache(refresh)
    until values drift                     DriftCache(limit, vicinity)

All of them approximate: attention is bidirectional, so keys and values of every position change with every token. Without a rule
(the default) each step computes every position. The first pass over a block always does.

Shapes: B rows, R of them at work, L positions, M positions of the unconditional canvas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from mmada.canvas import CachingDenoiser, Canvas, Denoiser
from mmada.errors import check_number, check_whole
from mmada.sampling.guidance import moved, stacked
from mmada.sampling.model_calls import ModelCalls, Positions, Query

__all__ = ["CACHES", "BlockCache", "CacheRule", "CacheState", "CachedCalls", "DelayedCache", "DriftCache", "PrefixCache"]


@dataclass(frozen=True)
class CacheState:
    """The facts that a rule decides by before a pass; masks are bool (R, L).

    ``block_RL``: positions of the block at work, decided or not; ``left_RL``: those still masked; ``new_RL``: what the step
    before
    wrote; ``valid_RL``. ``passes``: since the block was entered. ``since``: since the last pass over everything. ``drift_R``: 1 -
    cosine between new and cached values in the last pass, float (R,), 0 if it computed everything.
    """

    block_RL: Tensor
    left_RL: Tensor
    new_RL: Tensor
    valid_RL: Tensor
    passes: int
    since: int
    drift_R: Tensor


class CacheRule(Protocol):
    """Choice of the positions to recompute."""

    def recompute(self, now: CacheState) -> Tensor | None:
        """Bool (R, L), the masked positions of the block among them; None is all."""
        ...


def span(marked_RL: Tensor, around: int = 0) -> Tensor:
    """From the first to the last marked position of each row, and ``around`` positions on both sides."""
    position_L = torch.arange(marked_RL.shape[1], device=marked_RL.device)
    first_R1 = torch.where(marked_RL, position_L, marked_RL.shape[1]).amin(1, keepdim=True)
    last_R1 = torch.where(marked_RL, position_L, -1).amax(1, keepdim=True)
    return (position_L >= first_R1 - around) & (position_L <= last_R1 + around)


def due(refresh: int, now: CacheState) -> bool:
    """Whether everything is to be recomputed: at the start of a block, and after ``refresh`` passes (0 is never)."""
    return now.passes == 0 or (refresh > 0 and now.since >= refresh)


@dataclass(frozen=True)
class PrefixCache:
    """Caches everything before the block (Fast-dLLM): prompt and earlier blocks as they were when it was entered."""

    refresh: int = 0

    def __post_init__(self) -> None:
        check_whole("refresh", self.refresh, 0)

    def recompute(self, now: CacheState) -> Tensor | None:
        """As `CacheRule.recompute`."""
        return None if due(self.refresh, now) else span(now.block_RL).cummax(1).values & now.valid_RL


@dataclass(frozen=True)
class BlockCache:
    """Caches everything outside the block and ``vicinity`` positions around it (Fast-dLLM's dual cache, dInfer's vicinity).

    All of it is recomputed every ``refresh`` passes (0: only at the next block).
    """

    vicinity: int = 0
    refresh: int = 0

    def __post_init__(self) -> None:
        check_whole("vicinity", self.vicinity, 0)
        check_whole("refresh", self.refresh, 0)

    def recompute(self, now: CacheState) -> Tensor | None:
        """As `CacheRule.recompute`."""
        return None if due(self.refresh, now) else span(now.block_RL, self.vicinity) & now.valid_RL


@dataclass(frozen=True)
class DelayedCache:
    """Caches every decided token one step after it was decided (dKV-Cache), wherever it is.

    Masked positions of the block and what the last step wrote are recomputed, and everything every ``refresh`` passes.
    """

    refresh: int = 8

    def __post_init__(self) -> None:
        check_whole("refresh", self.refresh, 0)

    def recompute(self, now: CacheState) -> Tensor | None:
        """As `CacheRule.recompute`."""
        return None if due(self.refresh, now) else (now.left_RL | now.new_RL) & now.valid_RL


@dataclass(frozen=True)
class DriftCache:
    """Caches everything outside the block until the values inside it have moved by ``limit`` (mean 1 - cosine of the last pass);
    then everything is recomputed."""

    limit: float = 0.05
    vicinity: int = 0

    def __post_init__(self) -> None:
        check_number("limit", self.limit)
        check_whole("vicinity", self.vicinity, 0)

    def recompute(self, now: CacheState) -> Tensor | None:
        """As `CacheRule.recompute`."""
        if now.passes == 0:
            return None
        return now.valid_RL & (span(now.block_RL, self.vicinity) | (now.drift_R > self.limit)[:, None])


class CachedCalls(ModelCalls):
    """Forward passes that recompute what a rule says and use the cached keys and values of the rest."""

    def __init__(
        self, rule: CacheRule, denoiser: Denoiser, canvas: Canvas, unconditional: Canvas | None, mask_id: int, nfe_B: Tensor
    ) -> None:
        super().__init__(denoiser, canvas, unconditional, mask_id, nfe_B)
        self.rule = rule
        # Unconditional twins are rows of the same cache, behind the others.
        halves = 1 if unconditional is None else 2
        self.cache = cast(CachingDenoiser, denoiser).kv_cache(halves * canvas.rows)
        self.block_BL = self.new_BL = torch.zeros_like(canvas.editable_BL)
        self.passes = self.since = 0

    def enter(self, block_BL: Tensor, left_BL: Tensor, query_at: Callable[[Positions], Query]) -> None:
        """As `ModelCalls.enter`."""
        self.block_BL, self.new_BL = block_BL, torch.zeros_like(block_BL)
        self.passes = self.since = 0

    def wrote(self, changed_BL: Tensor) -> None:
        """As `ModelCalls.wrote`."""
        self.new_BL = changed_BL

    def logits(self, query: Query, tokens_BL: Tensor) -> Tensor:
        """As `ModelCalls.logits`."""
        logits_NV = super().logits(query, tokens_BL)
        self.passes, self.since = self.passes + 1, self.since + 1
        return logits_NV

    def extra(self, query: Query, rows_R: Tensor, query_RL: Tensor) -> dict[str, Any]:
        """The cache and the positions to recompute, in both halves of a guided pass."""
        guided, rows = self.batches.guided(query.guidance), self.canvas.rows
        drift_B = self.cache.drift.to(rows_R.device)
        now = CacheState(
            block_RL=self.block_BL[rows_R],
            left_RL=query_RL,
            new_RL=self.new_BL[rows_R],
            valid_RL=self.canvas.valid_BL[rows_R],
            passes=self.passes,
            since=self.since,
            drift_R=(drift_B[rows_R] + drift_B[rows_R + rows]) / 2 if guided else drift_B[rows_R],
        )
        cache = self.cache.only(torch.cat((rows_R, rows_R + rows)) if guided else rows_R)
        recompute_RL = self.rule.recompute(now)
        if recompute_RL is None:
            self.since = 0
            return {"cache": cache, "recompute_BL": None}
        recompute_RL |= query_RL
        if not guided:
            return {"cache": cache, "recompute_BL": recompute_RL}
        twin_RM = self.twin_recompute(now, query, rows_R)
        return {"cache": cache, "recompute_BL": stacked(recompute_RL, twin_RM)}

    def twin_recompute(self, now: CacheState, query: Query, rows_R: Tensor) -> Tensor:
        """The positions to recompute in the unconditional twins, bool (R, M)."""
        assert self.unconditional is not None
        pair = self.batches.pair(rows_R, query.modality)
        there = replace(
            now,
            block_RL=moved(now.block_RL, *pair),
            left_RL=moved(now.left_RL, *pair),
            new_RL=moved(now.new_RL, *pair),
            valid_RL=self.unconditional.valid_BL[rows_R],
        )
        recompute_RM = self.rule.recompute(there)
        assert recompute_RM is not None, "a rule decides on a whole pass by what both halves share"
        return recompute_RM | there.left_RL


CACHES: dict[str, type[CacheRule]] = {
    "prefix": PrefixCache, "block": BlockCache, "delayed": DelayedCache, "drift": DriftCache,
}  # fmt: skip
"""Rules by name, as options and the command line give them."""
