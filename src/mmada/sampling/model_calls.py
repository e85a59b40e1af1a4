"""Model calls: the forward passes of a phase, and how many each row took part in (NFE).

`ModelCalls` is the plain one: each step computes every position. Others replace it: `kv_reuse.CachedCalls`,
`speculative.SpeculativeCalls`, `fixed_shape.FixedShapeCalls`.

Shapes: B rows, R of them at work, L positions, N query positions (row-major), V vocabulary slice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmada.canvas import Canvas, Denoiser, Modality
from mmada.sampling.guidance import GuidedBatch
from mmada.sampling.policy import Guidance

__all__ = ["ModelCalls", "Positions", "Query", "UniqueRows"]


@dataclass(frozen=True)
class Positions:
    """Positions ``query_RL`` of the rows ``rows_R``; ``row_N`` and ``position_N`` say where each of them is."""

    rows_R: Tensor
    query_RL: Tensor
    row_N: Tensor
    position_N: Tensor

    @staticmethod
    def of(query_BL: Tensor, rows_B: Tensor) -> Positions:
        """The positions ``query_BL`` of the rows that ``rows_B`` marks."""
        rows_R = rows_B.nonzero()[:, 0]
        index_N, position_N = query_BL[rows_R].nonzero().T
        return Positions(rows_R, query_BL[rows_R], rows_R[index_N], position_N)

    def put(self, value_N: Tensor, into_BL: Tensor) -> Tensor:
        """A copy of ``into_BL`` with values at the positions."""
        return into_BL.index_put((self.row_N, self.position_N), value_N)


@dataclass(frozen=True)
class Query:
    """The request of one step: logits over the token ids ``vocab`` at some positions.

    ``suppressed``: columns that no position may take. ``working_B``: rows that unmask something. ``unmasked_later``: positions
    (B,) to unmask at the step so many ahead, for speculation. ``verify_RL``: decided positions to predict once more (`parallel`).
    """

    at: Positions
    vocab: range
    suppressed: Tensor | None
    modality: Modality
    guidance: Guidance
    working_B: Tensor
    unmasked_later: Callable[[int], Tensor]
    verify_RL: Tensor | None = None


@dataclass(frozen=True)
class UniqueRows:
    """A batch in which some rows are equal, such as several seeds of one prompt before they differ: ``once`` has each of them
    once, and query n of the batch is query ``index_N[n]`` of ``once``."""

    once: Canvas
    index_N: Tensor

    @staticmethod
    def of(batch: Canvas) -> UniqueRows | None:
        """None where all rows differ."""
        if batch.rows == 1:
            return None
        rows_B3L = torch.cat([batch.tokens_BL, batch.editable_BL, batch.valid_BL], 1)
        found_U3L, which_B = torch.unique(rows_B3L, dim=0, return_inverse=True)
        if len(found_U3L) == batch.rows:
            return None
        row_U = torch.empty(len(found_U3L), dtype=torch.long, device=which_B.device)
        row_U[which_B] = torch.arange(batch.rows, device=which_B.device)
        once = Canvas(batch.tokens_BL[row_U], batch.editable_BL[row_U], batch.valid_BL[row_U], batch.modality_BL[row_U])
        count_B, count_U = batch.editable_BL.sum(1), once.editable_BL.sum(1)
        shift_B = (count_U.cumsum(0) - count_U)[which_B] - (count_B.cumsum(0) - count_B)
        index_N = torch.arange(int(count_B.sum()), device=which_B.device) + shift_B.repeat_interleave(count_B)
        return UniqueRows(once, index_N)


class ModelCalls:
    """Forward passes over every position of the rows at work.

    ``nfe_B``: forward passes of each row so far; counted here, shared by the phases of a run.
    """

    def __init__(self, denoiser: Denoiser, canvas: Canvas, unconditional: Canvas | None, mask_id: int, nfe_B: Tensor) -> None:
        self.denoiser, self.canvas, self.unconditional, self.mask_id = denoiser, canvas, unconditional, mask_id
        self.batches = GuidedBatch(canvas, unconditional)
        self.nfe_B = nfe_B

    sync_every = 1
    """Steps between two host synchronisations."""

    def enter(self, block_BL: Tensor, left_BL: Tensor, query_at: Callable[[Positions], Query]) -> None:
        """Begin a block of the positions ``block_BL``; its first step has ``left_BL`` to fill and asks ``query_at`` positions."""

    def positions(self, left_BL: Tensor, working_B: Tensor) -> Positions:
        """The positions that a step predicts: those still masked, in the rows that unmask something."""
        return Positions.of(left_BL, working_B)

    def wrote(self, changed_BL: Tensor) -> None:
        """Take note of the positions that a step wrote."""

    def logits(self, query: Query, tokens_BL: Tensor) -> Tensor:
        """Guided logits (N, V), those of verification tokens behind them; one forward pass for the rows at work."""
        rows_R = query.at.rows_R
        logits_NV = self.run(query, tokens_BL[rows_R], rows_R, query.at.query_RL)
        self.nfe_B += query.working_B
        return logits_NV

    def run(self, query: Query, tokens_RL: Tensor, rows_R: Tensor, query_RL: Tensor) -> Tensor:
        """One forward pass over rows (a row may come more than once) that now hold ``tokens_RL``."""
        modality, guidance = query.modality, query.guidance
        batch = self.batches.of(tokens_RL, rows_R, query_RL, modality, guidance)
        extra = self.extra(query, rows_R, query_RL)
        if query.verify_RL is not None:
            extra |= {"verify_BL": self.batches.both(query.verify_RL, rows_R, modality, guidance), "mask": self.mask_id}
        unique = None if extra else UniqueRows.of(batch)
        once = batch if unique is None else unique.once
        logits_NV = self.denoiser.predict(
            once.tokens_BL, query_BL=once.editable_BL, vocab=query.vocab, valid_BL=once.valid_BL, **extra
        )
        if unique is not None:
            logits_NV = logits_NV[unique.index_N]
        queries = int(batch.editable_BL.sum()) if self.batches.guided(guidance) else None
        return suppressed(self.batches.combined(logits_NV, guidance, queries), query.suppressed)

    def extra(self, query: Query, rows_R: Tensor, query_RL: Tensor) -> dict[str, Any]:
        """Further arguments of the forward pass."""
        return {}


def suppressed(logits_NV: Tensor, columns: Tensor | None) -> Tensor:
    """Logits without the columns that no position may take."""
    return logits_NV if columns is None else logits_NV.index_fill(1, columns, float("-inf"))
