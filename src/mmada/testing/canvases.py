"""Canvases of one row, random generators and completions."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmada.canvas import Canvas, Segment
from mmada.tasks.mathematics import Mathematics
from mmada.tasks.task import Completion
from mmada.testing.models import TINY_VOCABULARY

__all__ = ["answered", "generator", "image_row", "masked_row", "text_row"]


def generator(seed: int = 0) -> torch.Generator:
    """A torch generator of its own."""
    return torch.Generator().manual_seed(seed)


def text_row(tokens: Sequence[int]) -> Canvas:
    """A row of text, all of it editable."""
    return Canvas.join([Segment(tokens, editable=True)])


def masked_row(context: Sequence[int], length: int) -> Canvas:
    """Context, then ``length`` masked text positions."""
    return Canvas.join([Segment(context), Segment([TINY_VOCABULARY.mask] * length, editable=True)])


def image_row(prompt: Sequence[int], codes: Sequence[int | None]) -> Canvas:
    """A prompt, then image codes of `TINY_VOCABULARY`, of which None are masked."""
    v = TINY_VOCABULARY
    pieces = [Segment([v.t2i, *prompt, v.soi])]
    pieces += [Segment([v.mask if code is None else v.image_offset + code], code is None, "image") for code in codes]
    return Canvas.join([*pieces, Segment([v.eoi])])


def answered(gold: str, answer: str, raw_text: str = "") -> Completion:
    """A completion to a question of mathematics with the answer ``gold``; ``raw_text``: what the model wrote, if that is more."""
    prompt = Mathematics().prompt({"question": "What is the answer?", "answer": gold})
    return Completion(prompt, raw_text or answer, answer)
