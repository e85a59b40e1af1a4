"""Process reward: the share of correct reasoning, for tasks that can check it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mmada.rewards.reward import part_of_score
from mmada.tasks.task import Completion, Task

__all__ = ["REWARD", "Reasoning"]


@dataclass(frozen=True)
class Reasoning:
    """Share of correct reasoning, 0 to 1; 1 exactly if the task finds every step correct.

    `Correctness` judges only the answer, and training on it alone made the reasoning about pictures worse. Few tasks can check
    reasoning, so it is optional: it is left out for tasks that cannot.
    """

    name: ClassVar[str] = "reasoning"
    optional: ClassVar[bool] = True

    def fits(self, task: Task) -> str:
        """As `Reward`: tasks that score the reasoning."""
        return "" if "reasoning" in task.scores else "needs a task that can check reasoning"

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        """As `Reward`. Raises InputError for a prompt whose correct reasoning is not known."""
        return [part_of_score(completion, "reasoning") for completion in completions]


REWARD = Reasoning
