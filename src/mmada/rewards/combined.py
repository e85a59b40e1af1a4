"""Rewards added up, in batches; one that fails is reported and leaves its completion without a total, never with 0 for it.

    judge = RewardSum([WeightedReward("correctness", Correctness(), 2.0), WeightedReward("format", Format(), 0.5)])
    scores = judge(completions)     # scores.total_B is NaN where a term failed; scores.failures say which, and why

Shapes: B completions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmada.errors import InputError, check_choice, check_number, check_text, check_whole
from mmada.rewards.completion import Completion, Reward
from mmada.rewards.isolation import OwnProcess, OwnThread, TimedOut, Worker

__all__ = ["TOTAL", "Failure", "RewardSum", "Scores", "WeightedReward"]

TOTAL = "total"
LARGEST = 1e30
"""Largest reward: squares of it are finite, and float32 holds it."""
Kind = Literal["raised", "not finite", "too large", "timed out", "wrong count"]


@dataclass(frozen=True)
class WeightedReward:
    """``weight`` x one reward, asked for ``batch`` completions at a time and at most ``timeout`` seconds each time.

    ``where``: it runs in a "thread" of this process, or in a "process" of its own, which can be ended when it hangs.
    """

    name: str
    reward: Reward
    weight: float = 1.0
    batch: int = 64
    timeout: float = 60.0
    where: Literal["thread", "process"] = "thread"

    def __post_init__(self) -> None:
        check_text("name of a reward", self.name)
        if not callable(self.reward):
            raise InputError(f"reward {self.name} is {self.reward!r}, which cannot be called; give a function of completions")
        if not math.isfinite(self.weight):
            raise InputError(f"weight of the reward {self.name} must be a finite number, got {self.weight}")
        check_whole(f"batch of the reward {self.name}", self.batch, 1)
        if check_number(f"timeout of the reward {self.name}", self.timeout, 0, 86_400) == 0:
            raise InputError(f"timeout of the reward {self.name} must be above 0 seconds, got {self.timeout}")
        check_choice(f"where of the reward {self.name}", self.where, ("thread", "process"))


@dataclass(frozen=True)
class Failure:
    """A term that gave no number for the completion at ``index``: it "raised", was "not finite" or "too large", "timed out", or
    gave the "wrong count" of numbers. The term `TOTAL` is their weighted sum: all gave numbers, and these add up to none."""

    term: str
    index: int
    kind: Kind
    words: str = ""


@dataclass(frozen=True)
class Scores:
    """``total_B``: float64, NaN where a term failed. ``terms``: what each term gave, before its weight, NaN where it failed."""

    total_B: Tensor
    terms: dict[str, list[float]]
    failures: tuple[Failure, ...]


def unfit(values: Sequence[float]) -> Iterator[tuple[int, Kind]]:
    """Where values are no numbers to learn from, and why."""
    for index, value in enumerate(values):
        if not math.isfinite(value):
            yield index, "not finite"
        elif abs(value) > LARGEST:
            yield index, "too large"


def worker_of(term: WeightedReward) -> Worker:
    """Where a term is asked."""
    try:
        return OwnProcess(term.reward) if term.where == "process" else OwnThread(term.reward)
    except InputError as error:
        raise InputError(f"reward {term.name}: {error}") from error


class RewardSum:
    """A weighted sum of rewards."""

    def __init__(self, terms: Sequence[WeightedReward]) -> None:
        names = [term.name for term in terms]
        if not names or len(set(names)) < len(names):
            raise InputError(f"rewards must have at least one term and names of their own, got {names}")
        self.terms = tuple(terms)
        self.workers = {term.name: worker_of(term) for term in terms}

    def __call__(self, completions: Sequence[Completion]) -> Scores:
        """RewardSum completions. Raises nothing that a reward raises."""
        total_B = torch.zeros(len(completions), dtype=torch.float64)
        given: dict[str, list[float]] = {}
        failures: list[Failure] = []
        for term in self.terms:
            values: list[float] = []
            for start in range(0, len(completions), term.batch):
                part = completions[start : start + term.batch]
                rewards, failed = self.asked(term, part)
                failures += [Failure(term.name, start + f.index, f.kind, f.words) for f in failed]
                values += rewards
            given[term.name] = values
            total_B += term.weight * torch.tensor(values, dtype=torch.float64)
        known = {failure.index for failure in failures}
        totals = total_B.tolist()
        failures += [Failure(TOTAL, i, kind, str(totals[i])) for i, kind in unfit(totals) if i not in known]
        for failure in failures:
            totals[failure.index] = math.nan
        return Scores(torch.tensor(totals, dtype=torch.float64), given, tuple(failures))

    def prepare(self) -> None:
        """Read the models of rewards that have one, which may take longer than a time-out. Raises InputError where that fails."""
        for term in self.terms:
            try:
                self.workers[term.name].prepare()
            except InputError as error:
                raise InputError(f"reward {term.name}: {error}") from error

    def asked(self, term: WeightedReward, part: Sequence[Completion]) -> tuple[list[float], list[Failure]]:
        """One batch of one term: numbers, NaN where it failed, and why. A batch that raises is asked again one by one."""
        try:
            values = self.workers[term.name].run(part, term.timeout)
        except TimedOut:
            return self.none(term, part, "timed out", f"{term.timeout:g} s")
        except Exception as error:
            if len(part) == 1:
                return self.none(term, part, "raised", f"{type(error).__name__}: {error}")
            singles = [self.asked(term, [completion]) for completion in part]
            failures = [Failure(f.term, i, f.kind, f.words) for i, (_, found) in enumerate(singles) for f in found]
            return [values[0] for values, _ in singles], failures
        if len(values) != len(part):
            return self.none(term, part, "wrong count", f"{len(values)} for {len(part)}")
        bad = [Failure(term.name, i, kind, str(values[i])) for i, kind in unfit(values)]
        out = {failure.index for failure in bad}
        return [math.nan if i in out else value for i, value in enumerate(values)], bad

    def none(self, term: WeightedReward, part: Sequence[Completion], kind: Kind, words: str) -> tuple[list[float], list[Failure]]:
        """No number for a whole batch."""
        return [math.nan] * len(part), [Failure(term.name, i, kind, words) for i in range(len(part))]

    def close(self) -> None:
        """End the processes."""
        for worker in self.workers.values():
            worker.close()

    def __enter__(self) -> RewardSum:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
