"""Questions of mathematics with a known answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mmada.canvas import Modality
from mmada.tasks.compare_answers import same_answer
from mmada.tasks.task import Completion, Prompt, Score

__all__ = ["MATHEMATICS", "Mathematics", "same_answer"]


@dataclass(frozen=True)
class Mathematics:
    """Questions of mathematics with a known answer. The target is that answer, a number or a formula."""

    name: ClassVar[str] = "mathematics"
    inputs: ClassVar[frozenset[Modality]] = frozenset({"text"})
    output: ClassVar[Modality] = "text"
    scores: ClassVar[frozenset[str]] = frozenset({"correct"})

    def prompt(self, example: Mapping[str, Any]) -> Prompt:
        """From {"question": text, "answer": text}."""
        return Prompt(example["question"], self, target=example["answer"])

    def score(self, completion: Completion) -> Score:
        """1 for the same number or formula, else 0."""
        return Score(float(same_answer(completion.prompt.target, completion.answer)))


MATHEMATICS = Mathematics()
