"""Pictures of free captions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from typing import Any, ClassVar

from mmada.canvas import Modality
from mmada.tasks.task import Completion, Prompt, Score

__all__ = ["TEXT_TO_IMAGE", "TextToImage"]


@dataclass(frozen=True)
class TextToImage:
    """Captions to draw. No program can check whether a picture shows one, so that only rewards that are models can judge it."""

    name: ClassVar[str] = "text_to_image"
    inputs: ClassVar[frozenset[Modality]] = frozenset({"text"})
    output: ClassVar[Modality] = "image"
    scores: ClassVar[frozenset[str]] = frozenset()

    def prompt(self, example: Mapping[str, Any]) -> Prompt:
        """From {"caption": text}."""
        return Prompt(example["caption"], self)

    def score(self, completion: Completion) -> Score:
        """NaN: not checkable."""
        return Score(nan)


TEXT_TO_IMAGE = TextToImage()
