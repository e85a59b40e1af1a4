"""Masked copies of finished completions, drawn once by a masking plan and shared by policy, old policy and reference.

The positions of a completion are the ``editable_BL`` of its canvas: end-of-text padding that is not editable is not in the
loss. Masks are drawn on the CPU, so that a seed gives the same masks on every device.

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

    ``tokens_KBL``: int64, the input of the model. ``scored_KBL``: bool, the masked positions of the completion whose
    log-probability counts. ``weight_KBL``: float, weight of a scored position in the ELBO (1/t of eq. 1), 0 elsewhere.
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
    """The batch that a plan masks.

    ``group``: completions per prompt; B is a multiple of it. ``steps_BL``: the step at which the rollout decided each position.
    ``padding_BL``: padding that the rollout wrote after the end of a text. It reveals the length of the text, so plans mask it
    like the completion, and never score it.
    """

    canvas: Canvas
    mask_id: int
    updates: int
    group: int
    generator: torch.Generator
    steps_BL: Tensor | None

    @cached_property
    def padding_BL(self) -> Tensor:
        """Positions (B, L) after the end of a text; none if the steps of the rollout are unknown."""
        context_BL = self.canvas.valid_BL & ~self.canvas.editable_BL
        return torch.zeros_like(context_BL) if self.steps_BL is None else context_BL & (self.steps_BL > 0)

    def random_padding(self, chance_BL: Tensor) -> Tensor:
        """Positions after the end of a text, each chosen with its probability."""
        chosen_BL = self.padding_BL
        return chosen_BL & (self.uniform(*chosen_BL.shape) < chance_BL) if chosen_BL.any() else chosen_BL

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers."""
        return torch.rand(*shape, generator=self.generator)

    def views(self, masked: Sequence[Tensor], scored: Sequence[Tensor], weights: Sequence[Tensor | float]) -> MaskedViews:
        """MaskedViews from the mask, scored positions and weights of each view, (B, L) or broadcast to it."""
        scored_KBL = torch.stack(list(scored))
        tokens_KBL = torch.where(torch.stack(list(masked)), self.mask_id, self.canvas.tokens_BL)
        weight_KBL = torch.stack(
            [torch.as_tensor(w, dtype=torch.float32).expand_as(s) for w, s in zip(weights, scored, strict=True)]
        )
        return MaskedViews(tokens_KBL, scored_KBL, weight_KBL * scored_KBL)

    def noisy_context(self, share: float) -> Tensor:
        """Positions (B, L) of the context (not of padding), each chosen with probability ``share``."""
        context_BL = self.canvas.valid_BL & ~self.canvas.editable_BL & ~self.padding_BL
        return context_BL & (self.uniform(*context_BL.shape) < share)


class MaskingPlan(Protocol):
    """A rule that draws the masked views of each inner update."""

    def draw(self, context: MaskingContext) -> tuple[MaskedViews, ...]:
        """The views of each inner update; call it through `draw_views`, which checks its input and moves it to the CPU."""
        ...


def completion(canvas: Canvas) -> Tensor:
    """Positions (B, L) bool of the completions."""
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

    ``group``: G, completions per prompt, in consecutive rows. ``generator``: on the CPU. ``steps_BL``: int64, the step at which
    each position was filled, 0 in the context: required by `AllSteps` and `SampledSteps`, and used by every plan to find the
    padding after the end of a text. Raises InputError if a completion is unfinished, if B is not a multiple of G, or if such a
    plan is given no steps.
    """
    check_whole("updates", updates, 1)
    if check_whole("group", group, 1) and canvas.rows % group:
        raise InputError(f"group must divide the {canvas.rows} rows of the canvas, got {group}")
    device = canvas.tokens_BL.device
    canvas = canvas.to("cpu")
    unfinished = int((completion(canvas) & (canvas.tokens_BL == mask_id)).sum())
    if unfinished:
        raise InputError(f"canvas holds {unfinished} masked positions in its completions; finish sampling before scoring")
    steps_BL = None if steps_BL is None else steps_BL.cpu()
    drawn = plan.draw(MaskingContext(canvas, mask_id, updates, group, generator, steps_BL))
    return tuple(views.to(device) for views in drawn)


def random_mask(positions_BL: Tensor, chance_BL: Tensor, generator: torch.Generator) -> Tensor:
    """Each position with its probability; at least one per row: if none is drawn, the one with the smallest margin."""
    margin_BL = (torch.rand(positions_BL.shape, generator=generator) - chance_BL).masked_fill(~positions_BL, inf)
    return positions_BL & (margin_BL <= margin_BL.amin(1, keepdim=True).clamp(min=0))


def exact_mask(positions_BL: Tensor, count_B: Tensor, generator: torch.Generator) -> Tensor:
    """A uniform subset of ``count_B`` of the positions of each row, or all where there are fewer."""
    draw_BL = torch.rand(positions_BL.shape, generator=generator).masked_fill(~positions_BL, inf)
    return positions_BL & (draw_BL.argsort(1).argsort(1) < count_B[:, None])


def realised_weight(positions_BL: Tensor, scored_BL: Tensor) -> Tensor:
    """Completion length / number of scored positions (B, 1)."""
    return positions_BL.sum(1, keepdim=True) / scored_BL.sum(1, keepdim=True).clamp(min=1)
