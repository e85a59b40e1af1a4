"""Tasks: a task makes prompts from examples and scores completions.

One protocol serves evaluation, rewards, rejection sampling and studies, so that a new task is one file:

    task = TASKS.find("mathematics")
    prompt = task.prompt(example)                              # what the model is given
    score = task.score(Completion(prompt, raw_text="... 4"))   # what its completion is worth

Examples come from a data set (`mmada.data.dataset`); a task never draws at random.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from mmada.canvas import Modality

__all__ = ["Completion", "Prompt", "Score", "Task"]


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    ``text``: the user's words. ``task``: the task that scores its completions. ``target``: what they are scored against, such as
    a gold answer. ``images``: pictures that the prompt is about.
    """

    text: str
    task: Task
    target: Any = None
    images: tuple[Image.Image, ...] = ()


@dataclass(frozen=True)
class Completion:
    """One completion of a prompt.

    ``raw_text``: everything written, reasoning tags included. ``answer``: without the reasoning. ``image``: the picture drawn,
    for tasks whose output is one.
    """

    prompt: Prompt
    raw_text: str = ""
    answer: str = ""
    image: Image.Image | None = None


@dataclass(frozen=True)
class Score:
    """The score of one completion.

    ``correct``: 0 to 1; NaN where it cannot be judged. ``parts``: further scores by name, such as ``reasoning``.
    """

    correct: float
    parts: Mapping[str, float] = field(default_factory=dict)


class Task(Protocol):
    """Makes prompts of one kind and scores their completions. Must be picklable: rewards may run in processes of their own."""

    @property
    def name(self) -> str:
        """Name for logs and reports."""
        ...

    @property
    def inputs(self) -> frozenset[Modality]:
        """Modalities of a prompt."""
        ...

    @property
    def output(self) -> Modality:
        """Modality of a completion."""
        ...

    @property
    def scores(self) -> frozenset[str]:
        """Names of what `score` can judge: "correct", and those of `Score.parts`."""
        ...

    def prompt(self, example: Any) -> Prompt:
        """The prompt of an example of this task's data."""
        ...

    def score(self, completion: Completion) -> Score:
        """The score of a completion of one of this task's prompts."""
        ...
