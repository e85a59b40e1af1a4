"""Format reward: reasoning in tags, then an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mmada.tasks.task import Completion, Task
from mmada.tokenizers.prompt import well_formed

__all__ = ["REWARD", "Format"]


@dataclass(frozen=True)
class Format:
    """1 for ``<think> reasoning </think> answer``, each tag once and neither part empty; else 0."""

    name: ClassVar[str] = "format"

    def fits(self, task: Task) -> str:
        """As `Reward`: tasks that are answered with text."""
        return "" if task.output == "text" else "judges text, but the task asks for pictures"

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        """As `Reward`."""
        return [float(well_formed(completion.raw_text)) for completion in completions]


REWARD = Format
