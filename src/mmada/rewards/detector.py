"""Detector reward: the share of a caption that a drawn picture shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mmada.rewards.reward import part_of_score
from mmada.tasks.task import Completion, Task

__all__ = ["REWARD", "Detector"]


@dataclass(frozen=True)
class Detector:
    """Share, 0 to 1, of what a picture should show that the task's detector finds; 1 exactly where the picture is right.

    Denser than `Correctness`: a picture with one of two objects gets 0.5.
    """

    name: ClassVar[str] = "detector"

    def fits(self, task: Task) -> str:
        """As `Reward`: tasks with a detector."""
        return "" if "detector" in task.scores else "needs drawings that a detector can check"

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        """As `Reward`. Raises InputError for a completion that is not a picture or cannot be checked."""
        return [part_of_score(completion, "detector") for completion in completions]


REWARD = Detector
