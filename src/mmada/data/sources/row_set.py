"""A set of rows: its table, what a row means, and which examples are in which split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np

from mmada.data.dataset import Example, UnusableRow
from mmada.data.mixture import MAX_BAD, SPLITS, Split, Tally
from mmada.data.reasoning import ReasoningExample
from mmada.data.sources.fields import Field, as_text
from mmada.data.sources.joins import Lookup
from mmada.data.sources.reasons import Reason
from mmada.data.sources.splits import SplitRule, named_number, numbers_of
from mmada.data.sources.tables import Hashes, Row, Table, hash_of
from mmada.data.sources.uses import Place, Use
from mmada.data.sources.where import Where
from mmada.errors import InputError, check_choice

__all__ = ["Choice", "RowDataset", "RowPrompts", "RowSet"]


Made = TypeVar("Made")


@dataclass(frozen=True)
class Choice:
    """Which rows are used, and how they are identified and split."""

    where: Where | None = None
    id: Field | None = None
    split: SplitRule = "train"
    split_field: Field | None = None

    @property
    def reads_rows(self) -> bool:
        """Whether every row has to be read before the first example."""
        return self.where is not None or self.id is not None or self.split_field is not None

    @property
    def names(self) -> frozenset[str]:
        """The fields that are read for it."""
        found = frozenset[str]() if self.where is None else self.where.names
        return found | frozenset(n for one in (self.id, self.split_field) if one is not None for n in one.names)


@dataclass(frozen=True)
class RowSet:
    """A named set, as a YAML file describes it; it fills `mmada.data.mixture.SourceSet`.

    ``index``: by split, the numbers of its rows; ``tally`` counts the rows that were read and those that cannot be used.
    """

    name: str
    use: str
    table: Table
    meaning: Use
    folders: tuple[Path, ...] = ()
    replace: Mapping[str, str] = field(default_factory=dict)
    lookup: Lookup | None = None
    choice: Choice = field(default_factory=Choice)
    tasks: tuple[str, ...] = ()
    max_bad: float = MAX_BAD
    tally: Tally = field(default_factory=Tally)
    index: Mapping[str, np.ndarray[Any, Any]] = field(init=False, repr=False)
    left_out: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        kept, splits = self.assigned()
        index = {name: np.flatnonzero(kept & (splits == number)) for number, name in enumerate(SPLITS)}
        object.__setattr__(self, "index", index)
        lost = {"where": int((~kept).sum()), "split": int((kept & (splits < 0)).sum())}
        object.__setattr__(self, "left_out", {reason: count for reason, count in lost.items() if count})
        if not self.rows and self.left_out:
            fields = ", ".join(sorted(self.choice.names))
            said = " and ".join(self.left_out)
            raise InputError(
                f"{said} of set {self.name!r} keeps none of {len(self.table)} rows; check what it says of the fields {fields}"
            )

    @property
    def rows(self) -> int:
        """Rows that are in some split."""
        return sum(map(len, self.index.values()))

    def assigned(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """(whether each row is used, the number of its split)."""
        kept, hashes, named = self.chosen()
        return kept, numbers_of(self.choice.split, hashes, named, f"set {self.name!r}")

    def chosen(self) -> tuple[np.ndarray[Any, Any], Hashes, np.ndarray[Any, Any] | None]:
        """(whether each row is used, the hash of its id, the split that it names). Rows that cannot be read are kept: counted."""
        count = len(self.table)
        kept = np.ones(count, np.bool_)
        if not self.choice.reads_rows:
            return kept, self.table.hashes(), None
        hashes = self.table.hashes().copy()
        named = np.zeros(count, np.int8) if self.choice.split_field else None
        for number, row in enumerate(self.joined()):
            if isinstance(row, UnusableRow):
                continue
            try:
                if self.choice.where is not None and not self.choice.where.holds(row):
                    kept[number] = False
                    continue
                if self.choice.id is not None:
                    hashes[number] = hash_of(self.id_of(row))
                if self.choice.split_field is not None and named is not None:
                    named[number] = named_number(self.choice.split_field.value(row))
            except UnusableRow:
                continue  # said again, and counted, when the row is asked for
        return kept, hashes, named

    def joined(self) -> Iterator[Row | UnusableRow]:
        """Every row with the fields that choose among them, those of a join too."""
        names = self.choice.names | (self.lookup.needs if self.lookup else frozenset())
        for row in self.table.scan(names):
            if self.lookup is None or isinstance(row, UnusableRow):
                yield row
                continue
            try:
                yield self.lookup.attached(row)
            except UnusableRow as error:
                yield error

    def id_of(self, row: Row) -> str:
        """The id that a row gives itself. Raises UnusableRow where it has none."""
        assert self.choice.id is not None
        found = as_text(self.choice.id.value(row), "id")
        if not found:
            raise UnusableRow("no id")
        return found

    def row(self, number: int) -> Row:
        """A row of the table, joined. Raises UnusableRow."""
        row = self.table[number]
        return row if self.lookup is None else self.lookup.attached(row)

    def field_names(self) -> tuple[str, ...]:
        """The fields of the first row that can be read: what a description may name."""
        for number in range(min(len(self.table), 64)):
            with suppress(UnusableRow):
                return tuple(map(str, self.row(number)))
        return ()

    def place(self, number: int) -> Place:
        """A row with what is needed to read it."""
        row = self.row(number)
        if self.choice.where is not None:
            self.choice.where.holds(row)  # raises where it cannot be answered for this row
        key = self.id_of(row) if self.choice.id is not None else self.table.key(number)
        return Place(row, key, self.folders, self.replace)

    def example(self, number: int, part: int) -> Example:
        """An example of a row, counted. Raises UnusableRow."""
        return self.counted(number, lambda: self.meaning.example(self.place(number), part))

    def prompt(self, number: int) -> ReasoningExample:
        """The prompt of a row, counted. Raises UnusableRow."""
        meaning = self.meaning
        if not isinstance(meaning, Reason):
            raise InputError(f"set {self.name!r} is of use {self.use}; only a set of use prompts has prompts")
        return self.counted(number, lambda: meaning.prompt(self.place(number)))

    def counted(self, number: int, make: Callable[[], Made]) -> Made:
        """What is made of a row, counted as good or bad. Raises UnusableRow."""
        try:
            made = make()
        except UnusableRow as error:
            self.tally.bad(number, error.reason)
            raise UnusableRow(error.reason, error.where or self.table.where(number)) from error
        except InputError as error:  # an example of nothing
            self.tally.bad(number, str(error))
            raise UnusableRow(str(error), self.table.where(number)) from error
        self.tally.good(number)
        return made

    def split(self, name: Split) -> RowDataset:
        """The examples of a split."""
        check_choice("split", name, SPLITS)
        return RowDataset(self, self.index[name])

    def prompts(self, name: Split) -> Sequence[ReasoningExample]:
        """The prompts of a split, for a set of prompts."""
        check_choice("split", name, SPLITS)
        return RowPrompts(self, self.index[name])

    def id(self, split: Split, index: int) -> str:
        """What identifies the row of an example: its own id, its key in an archive or folder, or a hash of its text."""
        number = int(self.index[split][index // self.meaning.parts])
        if self.choice.id is not None:
            with suppress(UnusableRow):  # a row without an id is counted when it is read
                return self.id_of(self.row(number))
        return self.table.key(number)

    def fields(self, split: Split, index: int) -> Row:
        """The fields of the row that an example comes from. Raises UnusableRow."""
        return self.row(int(self.index[split][index // self.meaning.parts]))


@dataclass(frozen=True)
class RowDataset:
    """The examples of some rows, the parts of each one after another."""

    set: RowSet
    numbers: np.ndarray[Any, Any] = field(repr=False)

    def __len__(self) -> int:
        return len(self.numbers) * self.set.meaning.parts

    def __getitem__(self, index: int) -> Example:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        row, part = divmod(index % len(self), self.set.meaning.parts)
        return self.set.example(int(self.numbers[row]), part)


@dataclass(frozen=True)
class RowPrompts(Sequence[ReasoningExample]):
    """The prompts of some rows."""

    set: RowSet
    numbers: np.ndarray[Any, Any] = field(repr=False)

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> ReasoningExample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ReasoningExample]: ...
    def __getitem__(self, index: int | slice) -> ReasoningExample | Sequence[ReasoningExample]:
        if isinstance(index, slice):
            return RowPrompts(self.set, self.numbers[index])
        return self.set.prompt(int(self.numbers[index]))
