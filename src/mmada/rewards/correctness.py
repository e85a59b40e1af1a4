"""Correctness reward: the task's own check of the answer, the same as in evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mmada.rewards.reward import part_of_score
from mmada.tasks.task import Completion, Task

__all__ = ["REWARD", "Correctness"]


@dataclass(frozen=True)
class Correctness:
    """1 for a right answer, or for a picture that shows exactly what the prompt asks for; else 0."""

    name: ClassVar[str] = "correctness"

    def fits(self, task: Task) -> str:
        """As `Reward`: tasks with a known right answer."""
        return "" if "correct" in task.scores else "needs prompts whose right answer is known"

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        """As `Reward`. Raises InputError for a prompt whose right answer is not known."""
        return [part_of_score(completion, "correct") for completion in completions]


REWARD = Correctness
