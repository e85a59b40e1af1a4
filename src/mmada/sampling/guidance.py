"""Classifier-free guidance: one forward pass over the rows and their unconditional twins.

The unconditional canvas is the canvas without its prompt. It has the same editable positions of the modality, in the same order
but at other indices, so what has been filled in so far is copied over before each pass.

Shapes: B rows, R of them at work, L positions, M positions of the unconditional canvas, N query positions (row-major), V
vocabulary slice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmada.canvas import Canvas, Modality
from mmada.sampling.policy import Guidance

__all__ = ["GuidedBatch", "moved", "stacked"]


@dataclass(frozen=True)
class GuidedBatch:
    """The rows of a canvas for a forward pass, with their unconditional twins where guidance is on."""

    canvas: Canvas
    unconditional: Canvas | None

    def guided(self, guidance: Guidance) -> bool:
        """Whether a pass has an unconditional half."""
        return guidance.scale > 0 and self.unconditional is not None

    def of(self, tokens_RL: Tensor, rows_R: Tensor, query_RL: Tensor, modality: Modality, guidance: Guidance) -> Canvas:
        """The batch of one pass over rows that now hold ``tokens_RL``; ``editable`` marks the query positions."""
        queried = Canvas(tokens_RL, query_RL, self.canvas.valid_BL[rows_R], self.canvas.modality_BL[rows_R])
        if not self.guided(guidance):
            return queried
        return Canvas.stack([queried, self.twin(queried, rows_R, query_RL, modality)])

    def twin(self, queried: Canvas, rows_R: Tensor, query_RL: Tensor, modality: Modality) -> Canvas:
        """The unconditional rows with what has been filled in so far, and the same query positions."""
        assert self.unconditional is not None
        here_RL, there_RM = self.pair(rows_R, modality)
        tokens_RM = self.unconditional.tokens_BL[rows_R].masked_scatter(there_RM, queried.tokens_BL[here_RL])
        query_RM = moved(query_RL, here_RL, there_RM)
        return Canvas(tokens_RM, query_RM, self.unconditional.valid_BL[rows_R], self.unconditional.modality_BL[rows_R])

    def pair(self, rows_R: Tensor, modality: Modality) -> tuple[Tensor, Tensor]:
        """Editable positions of a modality in the rows and in their twins, in the same order."""
        assert self.unconditional is not None
        return self.canvas.positions(modality)[rows_R], self.unconditional.positions(modality)[rows_R]

    def both(self, marked_RL: Tensor, rows_R: Tensor, modality: Modality, guidance: Guidance) -> Tensor:
        """Marks on the rows, and where guidance is on, on their twins too."""
        if not self.guided(guidance):
            return marked_RL
        return stacked(marked_RL, moved(marked_RL, *self.pair(rows_R, modality)))

    def combined(self, logits_NV: Tensor, guidance: Guidance, queries: int | None = None) -> Tensor:
        """Guided logits of a pass over `of`; ``queries``: query positions of both halves, which come before any verification
        tokens (None: all)."""
        if not self.guided(guidance):
            return logits_NV
        queries = len(logits_NV) if queries is None else queries
        logits_NV = logits_NV.float()
        parts = (logits_NV[:queries], logits_NV[queries:])
        return torch.cat([guidance.combine(*part.chunk(2)) for part in parts if len(part)])


def stacked(one_RL: Tensor, two_RM: Tensor) -> Tensor:
    """Marks of two canvases as one batch, the shorter rows padded at the right."""
    length = max(one_RL.shape[1], two_RM.shape[1])
    return torch.cat([torch.nn.functional.pad(x, (0, length - x.shape[1])) for x in (one_RL, two_RM)])


def moved(marked_RL: Tensor, here_RL: Tensor, there_RM: Tensor) -> Tensor:
    """Marks on the positions ``here_RL`` as marks on the same positions of the other canvas."""
    return torch.zeros_like(there_RM).masked_scatter(there_RM, marked_RL[here_RL])
