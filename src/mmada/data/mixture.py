"""Mixture: named sets of examples with their weights and splits, as `mmada.data.load` reads them from a YAML file.

    mixture = load("data.yaml")
    for name, dataset in mixture.split("train").items(): ...

What cannot be used is counted by reason, never dropped silently: a `Dataset` raises `UnusableRow`, and ``mixture.rejected`` has
the reasons so far. `Mixture.check_rejected` stops a run whose first rows show that a set is not what its description says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from mmada.data.dataset import Dataset
from mmada.data.reasoning import ReasoningExample
from mmada.errors import InputError, check_choice

__all__ = ["FIRST_ROWS", "MAX_BAD", "SPLITS", "By", "Mixture", "SourceSet", "Split", "Tally"]

Split = Literal["train", "validation", "test"]
By = Literal["examples", "tokens"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
FIRST_ROWS = 10_000
"""Rows of a set by which it is judged whether too many are bad."""
MAX_BAD = 0.02
_REMEMBERED = 1_000_000
"""Bad rows that are told apart; beyond them a row that is read again is counted again."""


@dataclass
class Tally:
    """Which rows of a set were read, and why those that cannot be used cannot.

    A row counts once, however often it is read. ``first``: what the first `FIRST_ROWS` different rows were, which decide.
    """

    reasons: Counter[str] = field(default_factory=Counter)
    _first: dict[int, bool] = field(default_factory=dict)
    _bad: set[int] = field(default_factory=set)

    def good(self, row: int) -> None:
        """Count a row that was read."""
        if len(self._first) < FIRST_ROWS:
            self._first.setdefault(row, False)

    def bad(self, row: int, reason: str) -> None:
        """Count a row that cannot be used."""
        if row in self._bad:
            return
        if len(self._bad) < _REMEMBERED:
            self._bad.add(row)
        self.reasons[reason] += 1
        if row in self._first or len(self._first) < FIRST_ROWS:
            self._first[row] = True

    @property
    def tried(self) -> int:
        """How many different rows decide so far, at most `FIRST_ROWS`."""
        return len(self._first)

    @property
    def first_bad(self) -> int:
        """How many of them are bad."""
        return sum(self._first.values())


class SourceSet(Protocol):
    """A named set of examples, from sources or from shards."""

    @property
    def name(self) -> str: ...

    @property
    def use(self) -> str: ...

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks of its prompts ("math", "vision", "image"); empty for sets that are not prompts."""
        ...

    @property
    def tally(self) -> Tally: ...

    @property
    def max_bad(self) -> float: ...

    @property
    def rows(self) -> int: ...

    def split(self, name: Split) -> Dataset:
        """The examples of a split."""
        ...

    def id(self, split: Split, index: int) -> str:
        """A stable id of the row that an example comes from."""
        ...

    def prompts(self, name: Split) -> Sequence[ReasoningExample]:
        """The prompts of a split, for sets of prompts; ``[i]`` raises `UnusableRow` as a data set does."""
        ...


@dataclass(frozen=True)
class Mixture:
    """Sets by name, their weights, and whether these are shares of examples or of tokens."""

    sets: Mapping[str, SourceSet]
    weights: Mapping[str, float]
    by: By = "examples"

    def split(self, name: Split) -> dict[str, Dataset]:
        """The sets that have examples in a split. Sets of prompts, which have no answer to learn, are not among them."""
        check_choice("split", name, SPLITS)
        found = {key: one.split(name) for key, one in self.sets.items() if one.use != "prompts"}
        return {key: dataset for key, dataset in found.items() if len(dataset)}

    def prompts(self, name: Split) -> dict[str, Sequence[ReasoningExample]]:
        """The sets of prompts that have some in a split."""
        check_choice("split", name, SPLITS)
        found = {key: one.prompts(name) for key, one in self.sets.items() if one.use == "prompts"}
        return {key: prompts for key, prompts in found.items() if len(prompts)}

    @property
    def rejected(self) -> dict[str, Counter[str]]:
        """Why rows could not be used so far, by set."""
        return {name: Counter(one.tally.reasons) for name, one in self.sets.items()}

    def check_rejected(self) -> None:
        """Raise InputError where more than ``max_bad`` of the first `FIRST_ROWS` rows of a set are bad, with the reasons.

        It raises as soon as the limit is passed, whatever the rows to come are.
        """
        for name, one in self.sets.items():
            first = min(FIRST_ROWS, one.rows)
            bad = one.tally.first_bad
            if bad > one.max_bad * first:
                reasons = ", ".join(f"{reason} {count}" for reason, count in one.tally.reasons.most_common())
                raise InputError(
                    f"set {name!r} has {bad} bad rows among its first {one.tally.tried}, more than {one.max_bad:.3g} of {first} "
                    f"({reasons}); fix its description or its rows, or raise max_bad"
                )
