"""Speculative steps: a forward pass computes the next steps too, on the canvases that the last prediction makes likely.

Lossless: a draft that comes true saves its pass, a wrong one is never used, so the tokens are those of the plain sampler.

Shapes: B rows, L positions, N query positions (row-major), n those of one row, Q drafts, V vocabulary slice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mmada.canvas import Canvas, Denoiser
from mmada.errors import check_whole
from mmada.sampling.logits_ops import argmax, log_odds
from mmada.sampling.model_calls import ModelCalls, Positions, Query

__all__ = ["MAX_DRAFT_LENGTH", "Lookahead", "SpeculativeCalls"]

MAX_DRAFT_LENGTH = 1024
"""Most steps of a draft; drafts beyond the end of a block are not made."""


@dataclass(frozen=True)
class Lookahead:
    """Lossless speculation: each pass computes up to ``draft_length`` likely next steps too."""

    draft_length: int = 3

    def __post_init__(self) -> None:
        check_whole("lookahead", self.draft_length, 1, MAX_DRAFT_LENGTH)


class SpeculativeCalls(ModelCalls):
    """Forward passes that also run drafts of the next canvases, and skip a pass whose canvas has been computed already."""

    def __init__(
        self, draft_length: int, denoiser: Denoiser, canvas: Canvas, unconditional: Canvas | None, mask_id: int, nfe_B: Tensor
    ) -> None:
        super().__init__(denoiser, canvas, unconditional, mask_id, nfe_B)
        self.draft_length = draft_length
        self.computed: dict[int, list[tuple[Tensor, Tensor]]] = {}
        """Row -> canvases with their logits, of the row's last pass."""
        self.latest: dict[int, tuple[Tensor, Tensor]] = {}
        """Row -> positions and logits of the step before, from which drafts are made."""

    def enter(self, block_BL: Tensor, left_BL: Tensor, query_at: Callable[[Positions], Query]) -> None:
        """As `ModelCalls.enter`. Drafts do not outlive their block: where the mask token itself may be drawn, a block can end as
        it began, and the next one asks for more positions of the same canvas."""
        self.computed.clear()
        self.latest.clear()

    def logits(self, query: Query, tokens_BL: Tensor) -> Tensor:
        """As `ModelCalls.logits`, from what was computed before where a draft of a row came true."""
        rows = query.at.rows_R.tolist()
        found = {row: self.found(row, tokens_BL[row]) for row in rows}
        wanted = [
            (row, i, tokens_L)
            for i, row in enumerate(rows)
            if found[row] is None
            for tokens_L in (tokens_BL[row].clone(), *self.drafts(query, i, tokens_BL[row]))
        ]
        if wanted:
            self.compute(query, wanted)
        parts = []
        for i, row in enumerate(rows):
            known = found[row] if found[row] is not None else self.found(row, tokens_BL[row])
            assert known is not None
            self.latest[row] = (query.at.query_RL[i].nonzero()[:, 0], known)
            parts.append(known)
        return torch.cat(parts)

    def compute(self, query: Query, wanted: list[tuple[int, int, Tensor]]) -> None:
        """Run one pass over canvases and drafts, as (row, index among the rows at work, tokens)."""
        tokens_QL = torch.stack([tokens_L for _, _, tokens_L in wanted])
        owner_Q = torch.tensor([row for row, _, _ in wanted], device=tokens_QL.device)
        block_QL = torch.stack([query.at.query_RL[i] for _, i, _ in wanted])
        query_QL = block_QL & (tokens_QL == self.mask_id)
        computed = torch.split(self.run(query, tokens_QL, owner_Q, query_QL), query_QL.sum(1).tolist())
        for row in {row for row, _, _ in wanted}:
            self.computed[row] = []
            self.nfe_B[row] += 1
        for (row, _, tokens_L), logits_nV in zip(wanted, computed, strict=True):
            self.computed[row].append((tokens_L, logits_nV))

    def found(self, row: int, tokens_L: Tensor) -> Tensor | None:
        """Logits that were computed for exactly this canvas."""
        return next((logits for tokens, logits in self.computed.get(row, []) if torch.equal(tokens, tokens_L)), None)

    def drafts(self, query: Query, index: int, tokens_L: Tensor) -> list[Tensor]:
        """Canvases that may come next, by the prediction of the step before this one."""
        row = int(query.at.rows_R[index])
        if row not in self.latest:
            return []
        position_n, logits_nV = self.latest[row]
        still_n = query.at.query_RL[index][position_n]
        position_n, logits_nV = position_n[still_n], logits_nV[still_n]
        token_n = argmax(logits_nV)
        order_n = log_odds(logits_nV, token_n).argsort(descending=True, stable=True)
        left = int(query.at.query_RL[index].sum())
        canvases: list[Tensor] = []
        done = 0
        for step in range(self.draft_length):
            done += int(query.unmasked_later(step)[row])
            if done >= left or done > len(order_n):
                break
            first_n = order_n[:done]
            canvases.append(tokens_L.scatter(0, position_n[first_n], token_n[first_n] + query.vocab.start))
        return canvases
