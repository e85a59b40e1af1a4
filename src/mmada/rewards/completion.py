"""What rewards are asked about: a prompt of the nano world, and what a rollout made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from mmada.nano.world.arithmetic import Problem
from mmada.nano.world.captions import Drawable
from mmada.nano.world.geneval import GenPrompt
from mmada.nano.world.questions import Question
from mmada.tasks.mathematics import Known

__all__ = ["CHECKED", "DRAWN", "Caption", "Completion", "Prompt", "Reward"]


@dataclass(frozen=True)
class Caption:
    """What a picture is drawn for by its words alone, of which nothing here can check whether it shows them."""

    text: str


CHECKED = (Drawable, GenPrompt)
"""What a picture is drawn for and checked against."""
DRAWN = (*CHECKED, Caption)
"""What a picture is drawn for; the others are answered with text."""


@dataclass(frozen=True)
class Prompt:
    """One prompt: its words, the picture that is asked about if there is one, and the task by which an answer is judged."""

    words: str
    about: Problem | Question | Known | Drawable | GenPrompt | Caption
    picture: Image.Image | None = None


@dataclass(frozen=True)
class Completion:
    """One finished completion. ``written``: all of its text, tags included; ``answer``: without the reasoning; ``drawn``: its
    picture, where it is one."""

    asked: Prompt
    written: str = ""
    answer: str = ""
    drawn: Image.Image | None = None


class Reward(Protocol):
    """How good completions are. Any function of this form is a reward.

    One that has a method ``prepare()`` is asked to read its model before training begins, under no time-out.
    """

    def __call__(self, completions: Sequence[Completion]) -> Sequence[float]:
        """One number a completion. NaN where it cannot be judged; what is raised is reported by `RewardSum`."""
        ...
