"""The protocol of rewards: any function from completions to numbers, with optional attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mmada.errors import InputError
from mmada.tasks.task import Completion, Task

__all__ = ["Reward", "is_optional", "misfit", "part_of_score"]


class Reward(Protocol):
    """Scores completions. Any function of this form is a reward.

    An object may also have:

    - ``fits(task) -> str``: why it cannot judge completions of a task, in a few words after "it"; empty if it can. A plain
      function fits every task.
    - ``prepare()``: read its model. Called once before training begins, without a time limit.
    - ``optional = True``: for tasks that it does not fit it is left out with a warning, instead of raising InputError.
    """

    def __call__(self, completions: Sequence[Completion]) -> Sequence[float]:
        """One number for each completion; NaN where it cannot be judged. `RewardSum` reports exceptions and NaN."""
        ...


def misfit(reward: Reward, task: Task) -> str:
    """Why a reward cannot judge a task; empty if it can."""
    fits = getattr(reward, "fits", None)
    return "" if fits is None else str(fits(task))


def is_optional(reward: Reward) -> bool:
    """Whether a reward is left out for tasks that it does not fit, instead of raising InputError."""
    return hasattr(reward, "optional") and bool(reward.optional)


def part_of_score(completion: Completion, name: str) -> float:
    """A part of the score that the task gives a completion. Raises InputError if the task has no such part."""
    task = completion.prompt.task
    if name not in task.scores:
        raise InputError(
            f"{name} cannot judge {completion.prompt.text!r}, a prompt of {task.name}; use {or_others(sorted(task.scores))}"
        )
    score = task.score(completion)
    return score.correct if name == "correct" else score.parts[name]


def or_others(scores: Sequence[str]) -> str:
    """Names of the rewards that use these parts of a score, for a message."""
    return " or ".join({"correct": "correctness"}.get(name, name) for name in scores) or "a reward that needs no right answer"
