"""Decoding state: the tokens of a batch while it is denoised, and one step of it.

Shapes: B rows, L positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmada.canvas import Canvas, Denoiser, Modality
from mmada.sampling.fixed_shape import FixedShape
from mmada.sampling.gumbel import key_of
from mmada.sampling.model_calls import Positions, Query
from mmada.sampling.phase import Phase
from mmada.tokenizers.vocabulary import Vocabulary

__all__ = ["DecodingState", "Done", "Step"]

Done = tuple[tuple[int, Canvas], Tensor, Tensor]
"""A step that was taken: (its number within the phase, from 1, and the canvas after it), positions written, passes a row."""


@dataclass(frozen=True)
class Step:
    """One step of a block, before it is taken.

    ``number``: from 0. ``moment``: (phase, block, step); a row's noise is keyed by it, alone or in a batch. ``unknown_B``: masked
    positions when the block began; ``left_BL``: those still masked, of earlier blocks too. ``count_B``: how many to unmask.
    """

    phase: Phase
    number: int
    moment: tuple[int, int, int]
    unknown_B: Tensor
    left_BL: Tensor
    count_B: Tensor

    def unmasked_later(self, ahead: int) -> Tensor:
        """Positions to unmask at the step so many ahead, (B,), if each step before it unmasks what the schedule says."""
        number, left_B, count_B = self.number, self.left_BL.sum(1), self.count_B
        for _ in range(ahead):
            number, left_B = number + 1, left_B - count_B
            count_B = torch.minimum(self.phase.schedule.num_unmasked(self.unknown_B, left_B, number), left_B)
        return count_B


class DecodingState:
    """A batch that is being denoised: its tokens so far, and what all its steps share."""

    def __init__(
        self,
        denoiser: Denoiser,
        canvas: Canvas,
        vocabulary: Vocabulary,
        generators: Sequence[torch.Generator],
        unconditional: Canvas | None,
        fixed_shape: FixedShape | None,
    ) -> None:
        self.denoiser, self.canvas, self.unconditional = denoiser, canvas, unconditional
        self.vocabulary = v = vocabulary
        self.tokens_BL = canvas.tokens_BL.clone()
        self.key_B = torch.tensor([key_of(g) for g in generators]).to(canvas.tokens_BL.device)
        self.nfe_B = torch.zeros(canvas.rows, dtype=torch.long, device=canvas.tokens_BL.device)
        self.suppressed = canvas.tokens_BL.new_tensor([v.mask, v.soi, v.eoi, v.t2i, v.mmu, v.r2i, v.ipad])
        self.fixed_shape = fixed_shape if hasattr(denoiser, "prepared") else None
        self.graphs = None if self.fixed_shape is None else self.fixed_shape.recorder(canvas.tokens_BL.device)

    def snapshot(self) -> Canvas:
        """The canvas as it is now."""
        return self.canvas.with_tokens(self.tokens_BL.clone())

    def masked(self, modality: Modality) -> Tensor:
        """Positions of a modality that are still to be filled, bool (B, L)."""
        return self.canvas.positions(modality) & (self.tokens_BL == self.vocabulary.mask)

    def unfinished(self, modality: Modality, upto_BL: Tensor) -> Tensor:
        """Whether any of the positions ``upto_BL`` is still to be filled, a tensor of one truth value."""
        return (self.masked(modality) & upto_BL).any()

    def vocab(self, phase: Phase) -> range:
        """Token ids that a position may take."""
        open_text = phase.modality == "text" and phase.open_vocabulary
        return range(self.vocabulary.size) if open_text else self.vocabulary.ranges[phase.modality]

    def query(self, step: Step, at: Positions) -> Query:
        """The request of a step to the model."""
        phase = step.phase
        closed_text = phase.modality == "text" and not phase.open_vocabulary
        return Query(
            at=at,
            vocab=self.vocab(phase),
            suppressed=self.suppressed if closed_text else None,
            modality=phase.modality,
            guidance=phase.guidance,
            working_B=step.count_B > 0,
            unmasked_later=step.unmasked_later,
        )
