"""Phase: how one modality is decoded; Frame: the canvas after one step of the loop.

Shapes: B rows, L positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mmada.canvas import Canvas, Modality, Trajectory
from mmada.errors import InputError, check_choice
from mmada.sampling.kv_reuse import CacheRule
from mmada.sampling.parallel import UnmaskingRule
from mmada.sampling.policy import (
    BlockSchedule,
    Guidance,
    RemaskingStrategy,
    SingleBlock,
    StopAtEos,
    TokenSampler,
    UnmaskingSchedule,
)
from mmada.sampling.speculative import Lookahead

__all__ = ["Frame", "Phase", "check_fits"]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """How the masked positions of one modality are filled; thinking before drawing is two phases.

    ``schedule``: how many positions each step unmasks. ``remasking``: which of them. ``token_sampler``: how a token is drawn.
    ``blocks``: in which order the sequence is worked on. ``stop``: when a row ends early. ``open_vocabulary``: a text position
    may
    take any token id, image codes and the mask token too, as in the released sampler.

    Optional accelerations (`mmada.sampling.acceleration`): ``parallel``: a rule that unmasks as many positions as it accepts, at
    least one a row, in place of the schedule. ``reuse``: keep keys and values between steps. ``lookahead``: compute likely next
    steps in the same forward pass; exact, so it goes with the schedule alone.
    """

    modality: Modality
    schedule: UnmaskingSchedule
    remasking: RemaskingStrategy
    token_sampler: TokenSampler
    guidance: Guidance = field(default_factory=Guidance)
    blocks: BlockSchedule = field(default_factory=SingleBlock)
    stop: StopAtEos | None = None
    open_vocabulary: bool = False
    parallel: UnmaskingRule | None = None
    reuse: CacheRule | None = None
    lookahead: Lookahead | None = None

    def __post_init__(self) -> None:
        check_choice("modality of a phase", self.modality, ("text", "image"))
        if self.lookahead is not None and (self.parallel is not None or self.reuse is not None):
            raise InputError("lookahead is exact and works with the fixed schedule only; leave out parallel and reuse")

    @property
    def follows_schedule(self) -> bool:
        """Whether the phase is the plain algorithm: no acceleration that changes or skips work."""
        return self.parallel is None and self.reuse is None and self.lookahead is None

    def num_blocks(self, masked_BL: Tensor) -> int:
        """Number of blocks that the masked positions make."""
        longest = masked_BL.sum(1).max()
        return int(self.blocks.block(longest - 1)) + 1 if int(longest) else 0

    def max_steps(self, inside_BL: Tensor) -> int:
        """Most steps that a block of the positions ``inside_BL`` takes; a parallel rule unmasks at least one a step."""
        return int(inside_BL.sum(1).max()) if self.parallel else self.schedule.steps

    def planned_steps(self, masked_BL: Tensor) -> int:
        """Most steps that the whole phase takes."""
        return int(masked_BL.sum(1).max()) if self.parallel else self.num_blocks(masked_BL) * self.schedule.steps

    def num_unmasked(self, step: int, unknown_B: Tensor, left_B: Tensor) -> Tensor:
        """Positions to unmask in each row at ``step`` of a block, int64 (B,); a parallel rule may unmask more.

        ``unknown_B``: masked positions of the block before its first step; ``left_B``: those still masked. A row takes the steps
        and blocks that it would take alone, however long the rows beside it are.
        """
        if self.parallel is not None:
            return ((left_B > 0) & (step < unknown_B)).long()
        count_B = self.schedule.num_unmasked(unknown_B, left_B, step)
        return torch.minimum(count_B, left_B) * (unknown_B > 0)


@dataclass(frozen=True)
class Frame:
    """The canvas after one step.

    ``canvas``: its own tokens, safe to keep. ``changed_BL``: bool, the positions that this step wrote. ``decided_BL``: int64, the
    number of the frame that decided each position, 0 where none did: context, and what is still masked. ``phase``: the modality
    at work. ``step``: 0 (the start, nothing changed) to at most ``steps``; rows that end early leave the last ones out. ``nfe``:
    forward passes of the model so far, one number a row; guidance and speculation are part of one pass.
    """

    canvas: Canvas
    changed_BL: Tensor
    decided_BL: Tensor
    phase: Modality
    step: int
    steps: int
    nfe: tuple[int, ...] = ()

    @property
    def tokens_BL(self) -> Tensor:
        """Tokens after the step."""
        return self.canvas.tokens_BL

    @property
    def trajectory(self) -> Trajectory:
        """The canvas with the step at which each position was decided."""
        return Trajectory(self.canvas, self.decided_BL)

    def row(self, index: int) -> Frame:
        """One row's view of the frame, its padding cut off."""
        canvas = self.canvas.row(index)
        cut = (slice(index, index + 1), slice(0, canvas.length))
        nfe = self.nfe[index : index + 1]
        return replace(self, canvas=canvas, changed_BL=self.changed_BL[cut], decided_BL=self.decided_BL[cut], nfe=nfe)


def check_fits(
    canvas: Canvas, phases: Sequence[Phase], generators: Sequence[torch.Generator], unconditional: Canvas | None
) -> None:
    """Raise ValueError where generators or the unconditional canvas do not fit ``canvas``."""
    if not phases:
        raise ValueError("phases must name at least one phase, got none")
    if len(generators) != canvas.rows:
        raise ValueError(f"generators must be one a row, {canvas.rows}, got {len(generators)}")
    for phase in phases:
        if phase.guidance.scale == 0:
            continue
        if unconditional is None:
            raise ValueError(f"guidance {phase.guidance.scale} needs an unconditional canvas, got none")
        here, there = (c.positions(phase.modality).sum(1).tolist() for c in (canvas, unconditional))
        if here != there:
            raise ValueError(f"unconditional canvas needs {here} editable {phase.modality} positions, got {there}")
