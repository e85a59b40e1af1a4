"""Visual questions with a known short answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mmada.canvas import Modality
from mmada.tasks.mathematics import same_answer
from mmada.tasks.task import Completion, Prompt, Score

__all__ = ["VISUAL_QUESTIONS", "VQA"]


@dataclass(frozen=True)
class VQA:
    """Questions about a picture, answered by a word, a number or the letter of a choice. The target is that answer."""

    name: ClassVar[str] = "vqa"
    inputs: ClassVar[frozenset[Modality]] = frozenset({"text", "image"})
    output: ClassVar[Modality] = "text"
    scores: ClassVar[frozenset[str]] = frozenset({"correct"})

    def prompt(self, example: Mapping[str, Any]) -> Prompt:
        """From {"question": text, "answer": text, "image": picture}."""
        return Prompt(example["question"], self, target=example["answer"], images=(example["image"],))

    def score(self, completion: Completion) -> Score:
        """1 for the same answer in any spelling, else 0."""
        return Score(float(same_answer(completion.prompt.target, completion.answer)))


VISUAL_QUESTIONS = VQA()
