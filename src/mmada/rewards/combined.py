"""Weighted sum of rewards, computed in batches.

A reward that fails is reported, and its completion has no total; a failure never counts as 0.

    reward = RewardSum([WeightedReward("correctness", Correctness(), 2.0), WeightedReward("format", Format(), 0.5)])
    scores = reward(completions)     # scores.total_B is NaN where a term failed; scores.failures has which one, and why

Shapes: B completions.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmada.errors import InputError, check_choice, check_number, check_text, check_whole
from mmada.io.isolation import ISOLATION, Isolation, TimedOut, Worker, isolated
from mmada.rewards.reward import Reward
from mmada.tasks.task import Completion

__all__ = ["TOTAL", "Failure", "RewardSum", "Scores", "WeightedReward"]

TOTAL = "total"
LARGEST = 1e30
"""Largest reward: its square is finite, and it fits float32."""
Kind = Literal["raised", "not finite", "too large", "timed out", "wrong count"]


@dataclass(frozen=True)
class WeightedReward:
    """One reward with its weight, called with ``batch`` completions at a time, with ``timeout`` seconds per call.

    ``isolation``: run it in a "thread" of this process, or in a "process" of its own, which can be killed if it hangs.
    """

    name: str
    reward: Reward
    weight: float = 1.0
    batch: int = 64
    timeout: float = 60.0
    isolation: Isolation = "thread"

    def __post_init__(self) -> None:
        check_text("name of a reward", self.name)
        if not callable(self.reward):
            raise InputError(f"reward {self.name} is {self.reward!r}, which is not callable; give a function of completions")
        if isinstance(self.reward, type):
            raise InputError(f"reward {self.name} is a class; give a function of completions, or an instance with __call__")
        check_signature(self.name, self.reward)
        if not math.isfinite(self.weight):
            raise InputError(f"weight of the reward {self.name} must be a finite number, got {self.weight}")
        check_whole(f"batch of the reward {self.name}", self.batch, 1)
        if check_number(f"timeout of the reward {self.name}", self.timeout, 0, 86_400) == 0:
            raise InputError(f"timeout of the reward {self.name} must be above 0 seconds, got {self.timeout}")
        check_choice(f"isolation of the reward {self.name}", self.isolation, ISOLATION)


def check_signature(name: str, reward: Reward) -> None:
    """Raise InputError for a function that cannot be called with the completions alone, before any are made."""
    try:
        inspect.signature(reward).bind([])
    except TypeError as error:
        raise InputError(
            f"reward {name} cannot be called with a list of completions ({error}); write it as a function of that alone"
        ) from error
    except ValueError:  # written in C, without a signature
        pass


@dataclass(frozen=True)
class Failure:
    """A missing reward: ``term`` gave no usable number for the completion at ``index``.

    ``kind``: it "raised", was "not finite" or "too large", "timed out", or returned the "wrong count" of numbers. The term
    `TOTAL` is the weighted sum itself: every term was finite, but not the sum.
    """

    term: str
    index: int
    kind: Kind
    detail: str = ""


@dataclass(frozen=True)
class Scores:
    """Rewards of a batch: ``total_B`` float64, and in ``terms`` the unweighted values of each term; NaN where a term failed."""

    total_B: Tensor
    terms: dict[str, list[float]]
    failures: tuple[Failure, ...]


def unusable(values: Sequence[float]) -> Iterator[tuple[int, Kind]]:
    """Indices of values that cannot be used, and why."""
    for index, value in enumerate(values):
        if not math.isfinite(value):
            yield index, "not finite"
        elif abs(value) > LARGEST:
            yield index, "too large"


def worker_of(term: WeightedReward) -> Worker:
    """The worker that runs a term."""
    try:
        return isolated(term.reward, term.isolation)
    except InputError as error:
        raise InputError(f"reward {term.name}: {error}") from error


class RewardSum:
    """A weighted sum of rewards."""

    def __init__(self, terms: Sequence[WeightedReward]) -> None:
        names = [term.name for term in terms]
        if not names or len(set(names)) < len(names):
            raise InputError(f"rewards must have at least one term and different names, got {names}")
        self.terms = tuple(terms)
        self.workers = {term.name: worker_of(term) for term in terms}

    def __call__(self, completions: Sequence[Completion]) -> Scores:
        """Score completions. Exceptions of a reward are reported in the scores, not raised."""
        total_B = torch.zeros(len(completions), dtype=torch.float64)
        terms: dict[str, list[float]] = {}
        failures: list[Failure] = []
        for term in self.terms:
            values: list[float] = []
            for start in range(0, len(completions), term.batch):
                part = completions[start : start + term.batch]
                rewards, failed = self.evaluate(term, part)
                failures += [Failure(term.name, start + f.index, f.kind, f.detail) for f in failed]
                values += rewards
            terms[term.name] = values
            total_B += term.weight * torch.tensor(values, dtype=torch.float64)
        known = {failure.index for failure in failures}
        totals = total_B.tolist()
        failures += [Failure(TOTAL, i, kind, str(totals[i])) for i, kind in unusable(totals) if i not in known]
        for failure in failures:
            totals[failure.index] = math.nan
        return Scores(torch.tensor(totals, dtype=torch.float64), terms, tuple(failures))

    def prepare(self) -> None:
        """Read the models of rewards that have one, without a time limit. Raises InputError if that fails."""
        for term in self.terms:
            try:
                self.workers[term.name].prepare()
            except InputError as error:
                raise InputError(f"reward {term.name}: {error}") from error

    def evaluate(self, term: WeightedReward, part: Sequence[Completion]) -> tuple[list[float], list[Failure]]:
        """Values (NaN for a failure) and failures of a term on a batch; after an exception completions are retried singly."""
        try:
            values = self.workers[term.name].run(part, term.timeout)
        except TimedOut:
            return self.failed(term, part, "timed out", f"{term.timeout:g} s")
        except Exception as error:
            if len(part) == 1:
                return self.failed(term, part, "raised", f"{type(error).__name__}: {error}")
            singles = [self.evaluate(term, [completion]) for completion in part]
            failures = [Failure(f.term, i, f.kind, f.detail) for i, (_, found) in enumerate(singles) for f in found]
            return [values[0] for values, _ in singles], failures
        if len(values) != len(part):
            return self.failed(term, part, "wrong count", f"{len(values)} for {len(part)}")
        bad = [Failure(term.name, i, kind, str(values[i])) for i, kind in unusable(values)]
        out = {failure.index for failure in bad}
        return [math.nan if i in out else value for i, value in enumerate(values)], bad

    def failed(
        self, term: WeightedReward, part: Sequence[Completion], kind: Kind, detail: str
    ) -> tuple[list[float], list[Failure]]:
        """NaN and a failure for every completion of a batch."""
        return [math.nan] * len(part), [Failure(term.name, i, kind, detail) for i in range(len(part))]

    def close(self) -> None:
        """Stop the worker processes."""
        for worker in self.workers.values():
            worker.close()

    def __enter__(self) -> RewardSum:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
