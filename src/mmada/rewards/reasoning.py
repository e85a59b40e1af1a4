"""Process reward: the share of the reasoning that is right, where a task can tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mmada.rewards.reward import part_of_score
from mmada.tasks.task import Completion, Task

__all__ = ["REWARD", "Reasoning"]


@dataclass(frozen=True)
class Reasoning:
    """Share of the reasoning that is right, 0 to 1; 1 exactly where the task calls every step right.

    `Correctness` sees the answer alone, and trained with it alone the reasoning about pictures gets worse. Few tasks know the
    right reasoning, so it is optional: left out of tasks that do not.
    """

    name: ClassVar[str] = "reasoning"
    optional: ClassVar[bool] = True

    def fits(self, task: Task) -> str:
        """As `Reward`: tasks that score the reasoning."""
        return "" if "reasoning" in task.scores else "needs a task that can check reasoning"

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        """As `Reward`. Raises InputError for a prompt whose right reasoning is not known."""
        return [part_of_score(completion, "reasoning") for completion in completions]


REWARD = Reasoning
