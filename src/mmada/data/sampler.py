"""The sampler of a mixture: (seed, step) to the examples and the packed rows of a step, without state.

    sampler = MixtureSampler({"photos": photos, "chats": chats}, {"photos": 0.7, "chats": 0.3}, seed=0)
    blocks = RowBlocks(sampler, Formatter(prompter), examples=64, blocks=8, length=1280)
    batch = blocks.batch(step)                    # or blocks.batch(step, rank, ranks): the rows of one process

The examples of a run stand in one endless line of slots; step s of a batch of N takes the slots from s N on. Which set a slot
belongs to, and which of its rows, is computed from the slot's number alone, so any step can be made by anyone: the same examples
at any number of workers and processes, and after a resume at any step.

- Sets: the line is cut in windows. In each a set has its share of the slots, rounded such that its total over all windows never
  strays by more than one (the largest set takes what is left), and a keyed permutation says where they stand.
- Rows: a set's slots are numbered; an epoch of them visits each row once, in the order of a permutation keyed by seed, name of
  the set and epoch. Adding a set does not change the order in the others.
- A row that cannot be used is counted by its reason, and the same place of another permutation takes its slot.
- Blocks: a batch is a fixed number of blocks, each packed alone from its own examples, so it does not depend on how many
  processes share the blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from mmada.canvas import Canvas
from mmada.data.dataset import Dataset, Example, Formatter, UnusableRow, check_mixture
from mmada.data.packing import Batch, join, pack_all
from mmada.data.permutation import Permutation, Whole, hashed
from mmada.errors import InputError, check_whole

__all__ = ["BatchedDataset", "MixtureSampler", "RowBlocks", "Slot", "example_shares", "mean_tokens", "reasons_table", "rows_of"]

Made = TypeVar("Made")
WINDOW = 4096
UNIT = 2**40
"""Shares are whole multiples of 1 / UNIT, so that counts are exact at any number of slots."""
PATIENCE = 1000
"""Rows that may be unusable in turn before a set is given up."""


class Slot(NamedTuple):
    """A place in the line of examples: of which set, and the how manieth of that set."""

    name: str
    number: int


@runtime_checkable
class BatchedDataset(Dataset, Protocol):
    """A data set that makes several examples at once faster than one by one."""

    def many(self, rows: Sequence[int]) -> list[Example | UnusableRow]:
        """The examples of rows, or why one cannot be used."""
        ...


def rows_of(dataset: Dataset, rows: Sequence[int]) -> list[Example | UnusableRow]:
    """The examples of some rows, or why one cannot be used."""
    if isinstance(dataset, BatchedDataset):
        return dataset.many(rows)
    found: list[Example | UnusableRow] = []
    for row in rows:
        try:
            found.append(dataset[row])
        except UnusableRow as unusable:
            found.append(unusable)
    return found


@lru_cache(maxsize=4096)
def order(n: int, *key: int | str) -> Permutation:
    """The permutation of ``n`` that a key chooses."""
    return Permutation(hashed(*key), n)


@lru_cache(maxsize=64)
def layout(seed: int, window: int, counts: tuple[int, ...]) -> tuple[Whole, Whole]:
    """Of each slot of a window: the number of its set, and how many of the same set stand before it in the window."""
    size = sum(counts)
    sets = np.repeat(np.arange(len(counts)), counts)[order(size, seed, "window", window)[np.arange(size)]]
    earlier = np.empty(size, np.int64)
    for number, count in enumerate(counts):
        earlier[sets == number] = np.arange(count)
    return sets, earlier


@dataclass(frozen=True)
class MixtureSampler:
    """The endless line of examples of a mixture.

    ``weights``: shares of the examples, by set (`example_shares` turns shares of tokens into these); a set without a weight above
    0 is left out. ``unusable``: the rows that turned out to be unusable so far and why, by set.
    """

    datasets: Mapping[str, Dataset]
    weights: Mapping[str, float]
    seed: int = 0
    unusable: dict[str, dict[int, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_mixture(self.weights, self.datasets)
        for name in self.shares:
            if not len(self.datasets[name]):
                raise InputError(f"data {name!r} has no rows; give it some, or leave it out of the mixture")

    @cached_property
    def shares(self) -> dict[str, int]:
        """The share of each set, in units; the largest takes what rounding leaves."""
        names = sorted(name for name, weight in self.weights.items() if weight > 0)
        whole = sum(self.weights[name] for name in names)
        units = {name: int(UNIT * (self.weights[name] / whole)) for name in names}
        units[max(names, key=units.__getitem__)] += UNIT - sum(units.values())
        return units

    @property
    def rejected(self) -> dict[str, Counter[str]]:
        """How many rows could not be used so far, by set and reason."""
        return {name: Counter(reasons.values()) for name, reasons in self.unusable.items()}

    def counts(self, window: int) -> dict[str, int]:
        """Slots of each set before a window."""
        largest = max(self.shares, key=self.shares.__getitem__)
        slots = window * self.window
        found = {name: (slots * share + UNIT // 2) // UNIT for name, share in self.shares.items()}
        found[largest] = slots - sum(count for name, count in found.items() if name != largest)
        return found

    @cached_property
    def window(self) -> int:
        """Slots of a window: so many that the largest set never lacks room for what rounding gives to the others."""
        return max(WINDOW, len(self.shares) ** 2)

    def slot(self, index: int) -> Slot:
        """The set and the number in it that a slot of the line has."""
        window, place = divmod(index, self.window)
        before, after = self.counts(window), self.counts(window + 1)
        sets, earlier = layout(self.seed, window, tuple(after[name] - before[name] for name in self.shares))
        name = list(self.shares)[sets[place]]
        return Slot(name, before[name] + int(earlier[place]))

    def row(self, slot: Slot, attempt: int = 0) -> int:
        """The row of a slot; ``attempt`` > 0: the one that takes its place when ``attempt`` others could not be used."""
        size = len(self.datasets[slot.name])
        epoch, place = divmod(slot.number, size)
        return order(size, self.seed, "rows", slot.name, epoch, attempt)[place]

    def take(self, first: int, count: int, make: Callable[[Example], Made]) -> list[Made]:
        """What ``make`` makes of the examples of ``count`` slots from ``first`` on; it may raise `UnusableRow` too.

        Raises InputError where a set has no usable row in a thousand.
        """
        slots = [self.slot(index) for index in range(first, first + count)]
        found: list[Made | None] = [None] * count
        waiting = list(range(count))
        for attempt in range(PATIENCE):
            by_set: dict[str, list[int]] = {}
            for place in waiting:
                by_set.setdefault(slots[place].name, []).append(place)
            for name, places in by_set.items():
                rows = [self.row(slots[place], attempt) for place in places]
                for place, made in zip(places, self._made(name, rows, make), strict=True):
                    found[place] = made
            waiting = [place for place in waiting if found[place] is None]
            if not waiting:
                return [made for made in found if made is not None]
        name = slots[waiting[0]].name
        raise InputError(
            f"data {name!r} has no usable row among {PATIENCE} ({reasons_table(self.rejected.get(name, {}))}); fix it"
        )

    def _made(self, name: str, rows: Sequence[int], make: Callable[[Example], Made]) -> list[Made | None]:
        """What is made of some rows of a set, None for those that cannot be used, which are remembered with their reasons."""
        known = self.unusable.setdefault(name, {})
        fresh = [row for row in rows if row not in known]
        found: dict[int, Made] = {}
        for row, example in zip(fresh, rows_of(self.datasets[name], fresh), strict=True):
            try:
                if isinstance(example, UnusableRow):
                    raise example
                found[row] = make(example)
            except UnusableRow as unusable:
                known[row] = unusable.reason
        return [found.get(row) for row in rows]


@dataclass(frozen=True)
class RowBlocks:
    """Batches of ``examples`` examples in ``blocks`` row blocks; rows have at most ``length`` positions."""

    sampler: MixtureSampler
    formatter: Formatter
    examples: int
    blocks: int
    length: int

    def __post_init__(self) -> None:
        check_whole("length", self.length, 1)
        check_whole("examples", self.examples, 1)
        check_whole("blocks", self.blocks, 1, self.examples)

    def canvas(self, example: Example) -> Canvas:
        """The canvas of an example that fits a row. Raises `UnusableRow` for any other."""
        return self.formatter.whole_canvas(example, self.length)

    def block(self, step: int, number: int) -> Batch:
        """One block of a step, packed from its own examples alone."""
        start, end = (i * self.examples // self.blocks for i in (number, number + 1))
        canvases = self.sampler.take(step * self.examples + start, end - start, self.canvas)
        return pack_all(canvases, length=self.length)

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> Batch:
        """The blocks of a step that process ``rank`` of ``ranks`` computes; those of all processes in turn are the batch.

        Raises InputError where ``ranks`` does not divide the number of blocks.
        """
        if self.blocks % ranks:
            fitting = ", ".join(str(n) for n in range(1, self.blocks + 1) if self.blocks % n == 0)
            raise InputError(f"{ranks} processes cannot share {self.blocks} row blocks evenly; choose from {fitting} processes")
        share = self.blocks // ranks
        return join([self.block(step, number) for number in range(rank * share, (rank + 1) * share)])


def mean_tokens(dataset: Dataset, tokens: Callable[[Example], int], probes: int = 64) -> float:
    """Mean tokens of an example, from ``probes`` rows spread evenly over the set; unusable ones are passed over."""
    spread = np.unique(np.linspace(0, len(dataset) - 1, min(probes, len(dataset))).astype(int)).tolist()
    sizes: list[int] = []
    for example in rows_of(dataset, spread):
        try:
            if not isinstance(example, UnusableRow):
                sizes.append(tokens(example))
        except UnusableRow:
            continue
    return float(np.mean(sizes)) if sizes else 1.0


def example_shares(weights: Mapping[str, float], means: Mapping[str, float]) -> dict[str, float]:
    """Weights of examples under which ``weights`` are shares of tokens, given the mean tokens of an example of each set."""
    return {name: weight / max(1.0, means[name]) if weight else 0.0 for name, weight in weights.items()}


def reasons_table(rejected: Mapping[str, int]) -> str:
    """Reasons and counts in a line, the most frequent first."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(rejected.items(), key=lambda one: (-one[1], one[0])))
