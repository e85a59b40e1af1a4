"""Rewards that the tasks themselves verify, by the same code as evaluation, and the format of reasoning."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmada.errors import InputError
from mmada.nano.world.arithmetic import Problem, check_steps
from mmada.nano.world.geneval import grade, judge
from mmada.nano.world.questions import Question, check_reasoning, shared_statements
from mmada.rewards.completion import CHECKED, Caption, Completion
from mmada.rewards.math_verify import Formulas
from mmada.tasks.mathematics import Known, same_formula
from mmada.tokenizers.prompt import split_thinking, well_formed

__all__ = ["Correctness", "Detector", "Format", "Reasoning"]


@dataclass(frozen=True)
class Correctness:
    """1 for a right answer, or a picture that shows exactly what it should; else 0."""

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        """As `Reward`."""
        return [float(right(completion)) for completion in completions]


def right(completion: Completion) -> bool:
    """Whether a completion is right."""
    about = completion.asked.about
    if isinstance(about, Caption):
        raise InputError(f"correctness cannot judge a picture of {about.text!r}, of which only the words are known; take clip")
    if isinstance(about, CHECKED):
        return judge(about, pixels(completion))
    if about.verify(completion.answer):
        return True
    if not (isinstance(about, Known) and about.formula):
        return False
    if multiprocessing.current_process().daemon:  # a process that is ended itself, and may start none
        return bool(same_formula([(about.answer, completion.answer)])[0])
    return not FORMULAS(about.answer, completion.answer)


FORMULAS = Formulas()
"""Starts its process at the first answer that needs it; it ends with the program."""


@dataclass(frozen=True)
class Format:
    """1 for ``<think> reasoning </think> answer``, each tag once and neither part empty; else 0."""

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        """As `Reward`."""
        return [float(well_formed(completion.written)) for completion in completions]


@dataclass(frozen=True)
class Reasoning:
    """Share, 0 to 1, of the reasoning about a nano problem or question that is right; 1 where evaluation calls every step right.

    A process reward: `Correctness` sees the answer alone, and lets the reasoning about pictures get worse.
    """

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        """As `Reward`. Raises InputError for a prompt whose right reasoning is not known."""
        return [self.one(completion) for completion in completions]

    def one(self, completion: Completion) -> float:
        """Of one completion."""
        about = completion.asked.about
        if not isinstance(about, (Problem, Question)):
            raise InputError(f"reasoning cannot judge what {completion.asked.words!r} asks for; take correctness or format")
        _, thought = split_thinking(completion.written)
        right = check_steps(thought, about) if isinstance(about, Problem) else check_reasoning(thought, about)
        return 1.0 if right else min(0.99, shared_statements(thought, about.reasoning))


@dataclass(frozen=True)
class Detector:
    """Share, 0 to 1, of what a drawn picture should show that the detector finds; 1 exactly where evaluation calls it right."""

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        """As `Reward`. Raises InputError for a completion that is no picture."""
        return [self.one(completion) for completion in completions]

    def one(self, completion: Completion) -> float:
        """Of one completion."""
        about = completion.asked.about
        if not isinstance(about, CHECKED):
            raise InputError(f"detector cannot judge what {completion.asked.words!r} asks for; take correctness or clip")
        return grade(about, pixels(completion))


def pixels(completion: Completion) -> np.ndarray:
    """The drawn picture, uint8 (H, W, 3)."""
    if completion.drawn is None:
        raise InputError(f"completion of {completion.asked.words!r} has no picture; give what was drawn")
    return np.asarray(completion.drawn.convert("RGB"))
