"""Masked copies of finished completions, as a masking plan draws them: once for policy, old policy and reference alike.

Which positions belong to a completion is said by the canvas alone (``editable_BL``): leave end-of-text padding out there to
leave it out of the loss. Masks are drawn on the CPU, so that a seed means the same on every device.

Shapes: K views, B rows, L positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Protocol

import torch
from torch import Tensor

from mmada.canvas import Canvas
from mmada.errors import InputError, check_whole

__all__ = [
    "MaskedViews",
    "MaskingContext",
    "MaskingPlan",
    "completion",
    "draw_views",
    "exact_mask",
    "random_mask",
    "realised_weight",
]


@dataclass(frozen=True)
class MaskedViews:
    """K masked copies of a batch of completions.

    ``tokens_KBL``: int64, what the model reads. ``scored_KBL``: bool, the masked positions of the completion whose
    log-probability counts. ``weight_KBL``: float, what a scored position stands for in the ELBO (1/t of eq. 1), 0 elsewhere.
    """

    tokens_KBL: Tensor
    scored_KBL: Tensor
    weight_KBL: Tensor

    def part(self, rows: slice) -> MaskedViews:
        """The same views of some rows."""
        return MaskedViews(self.tokens_KBL[:, rows], self.scored_KBL[:, rows], self.weight_KBL[:, rows])

    def to(self, device: torch.device | str) -> MaskedViews:
        """The same views on another device."""
        return MaskedViews(self.tokens_KBL.to(device), self.scored_KBL.to(device), self.weight_KBL.to(device))


@dataclass(frozen=True)
class MaskingContext:
    """The batch that a plan masks: ``steps_BL`` is the step at which the rollout decided each position; B is a multiple of
    ``group``.

    ``behind_BL``: what the rollout filled behind the end of a text. It says how long the text is, so plans mask it as they mask
    the completion, and score none of it.
    """

    canvas: Canvas
    mask_id: int
    updates: int
    group: int
    generator: torch.Generator
    steps_BL: Tensor | None

    @cached_property
    def behind_BL(self) -> Tensor:
        """Places (B, L) behind the end; none where the steps of the rollout are unknown."""
        context_BL = self.canvas.valid_BL & ~self.canvas.editable_BL
        return torch.zeros_like(context_BL) if self.steps_BL is None else context_BL & (self.steps_BL > 0)

    def behind(self, chance_BL: Tensor) -> Tensor:
        """Places behind the end, each taken with its probability."""
        return self.behind_BL & (self.uniform(*self.behind_BL.shape) < chance_BL) if self.behind_BL.any() else self.behind_BL

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers."""
        return torch.rand(*shape, generator=self.generator)

    def views(self, masked: Sequence[Tensor], scored: Sequence[Tensor], weights: Sequence[Tensor | float]) -> MaskedViews:
        """MaskedViews from the masks, scored positions and weights, (B, L) or broadcast to it, of each."""
        scored_KBL = torch.stack(list(scored))
        tokens_KBL = torch.where(torch.stack(list(masked)), self.mask_id, self.canvas.tokens_BL)
        weight_KBL = torch.stack(
            [torch.as_tensor(w, dtype=torch.float32).expand_as(s) for w, s in zip(weights, scored, strict=True)]
        )
        return MaskedViews(tokens_KBL, scored_KBL, weight_KBL * scored_KBL)

    def noisy_context(self, share: float) -> Tensor:
        """Places (B, L) before and around the completion, each taken with probability ``share``."""
        context_BL = self.canvas.valid_BL & ~self.canvas.editable_BL & ~self.behind_BL
        return context_BL & (self.uniform(*context_BL.shape) < share)


class MaskingPlan(Protocol):
    """A masking plan."""

    def draw(self, wanted: MaskingContext) -> tuple[MaskedViews, ...]:
        """The views of each inner update; use `draw_views`, which checks and moves what it is given."""
        ...


def completion(canvas: Canvas) -> Tensor:
    """Places (B, L) bool of the completions."""
    return canvas.editable_BL & canvas.valid_BL


def draw_views(
    plan: MaskingPlan,
    canvas: Canvas,
    *,
    mask_id: int,
    updates: int,
    group: int,
    generator: torch.Generator,
    steps_BL: Tensor | None = None,
) -> tuple[MaskedViews, ...]:
    """Masks of ``updates`` inner updates for completed canvases, on the device of the canvas.

    ``group``: G, completions a prompt, which stand next to each other. ``generator``: on the CPU. ``steps_BL``: int64, step at
    which each position was filled, 0 in the context: `AllSteps` and `SampledSteps` need it, and it tells every plan what the
    rollout
    filled behind the end of a text. Raises InputError if a completion is
    unfinished, B is not a multiple of G, or these plans are wanted without steps.
    """
    check_whole("updates", updates, 1)
    if check_whole("group", group, 1) and canvas.rows % group:
        raise InputError(f"group must divide the {canvas.rows} rows of the canvas, got {group}")
    device = canvas.tokens_BL.device
    canvas = canvas.to("cpu")
    unfinished = int((completion(canvas) & (canvas.tokens_BL == mask_id)).sum())
    if unfinished:
        raise InputError(f"canvas holds {unfinished} masked positions in its completions; complete it before scoring it")
    steps_BL = None if steps_BL is None else steps_BL.cpu()
    drawn = plan.draw(MaskingContext(canvas, mask_id, updates, group, generator, steps_BL))
    return tuple(views.to(device) for views in drawn)


def random_mask(positions_BL: Tensor, chance_BL: Tensor, generator: torch.Generator) -> Tensor:
    """Each position with its probability; where a row would have none, the position nearest to being taken."""
    margin_BL = (torch.rand(positions_BL.shape, generator=generator) - chance_BL).masked_fill(~positions_BL, inf)
    return positions_BL & (margin_BL <= margin_BL.amin(1, keepdim=True).clamp(min=0))


def exact_mask(positions_BL: Tensor, count_B: Tensor, generator: torch.Generator) -> Tensor:
    """A uniform subset of ``count_B`` of the positions of each row, or all where there are fewer."""
    draw_BL = torch.rand(positions_BL.shape, generator=generator).masked_fill(~positions_BL, inf)
    return positions_BL & (draw_BL.argsort(1).argsort(1) < count_B[:, None])


def realised_weight(positions_BL: Tensor, scored_BL: Tensor) -> Tensor:
    """Completion length / number of scored positions (B, 1)."""
    return positions_BL.sum(1, keepdim=True) / scored_BL.sum(1, keepdim=True).clamp(min=1)
