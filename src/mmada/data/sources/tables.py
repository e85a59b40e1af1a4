"""Tables: rows of a file with random access, whatever its format.

A table lists its rows once (where each begins, and a hash that identifies it) and reads one when it is asked for, so that a set
larger than the memory can be sampled. A row that cannot be read raises `UnusableRow`; a file that cannot be read, InputError.
"""

from __future__ import annotations

import bisect
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mmada.data.dataset import UnusableRow
from mmada.errors import InputError, quote, system_reason

__all__ = ["MAX_ROW", "Hashes", "Joined", "Row", "Table", "hash_of", "numbered_hashes", "read_at", "scanned"]

Row = Mapping[str, Any]
Hashes = np.ndarray[Any, np.dtype[np.uint64]]
MAX_ROW = 64 * 2**20
"""Largest row that is read, in bytes."""


class Table(Protocol):
    """Rows of one file or folder."""

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where the pictures that rows name are looked for by default."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Row: ...

    def key(self, index: int) -> str:
        """What identifies a row, the same wherever the file lies and whatever rows are added."""
        ...

    def hashes(self) -> Hashes:
        """A hash of every row's key, uniform over 64 bits."""
        ...

    def scan(self, fields: Collection[str]) -> Iterator[Row | UnusableRow]:
        """Every row in order, of which at least ``fields`` are there; in place of one that cannot be read, why."""
        ...

    def where(self, index: int) -> str:
        """Where a row stands, for messages: "rows.jsonl, row 12"."""
        ...


def scanned(table: Table, fields: Collection[str]) -> Iterator[Row | UnusableRow]:
    """`Table.scan` row by row."""
    for index in range(len(table)):
        try:
            yield table[index]
        except UnusableRow as error:
            yield error


def hash_of(key: str | bytes) -> int:
    """64 bits of a key."""
    data = key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def numbered_hashes(name: str, count: int) -> Hashes:
    """Hashes of the rows 0 .. count - 1 of a file (splitmix64 of the number, started from the name)."""
    with np.errstate(over="ignore"):
        z = np.uint64(hash_of(name)) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(z ^ (z >> np.uint64(31)), np.uint64)


def read_at(path: Path, start: int, size: int) -> bytes:
    """Bytes of a file. It is opened for each call: thousands of shards would use up the file numbers of a process."""
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            data = file.read(size)
            while len(data) < size:  # one read returns at most 2 GiB
                more = file.read(size - len(data))
                if not more:
                    raise UnusableRow("file is cut short", str(path))
                data += more
            return data
    except OSError as error:
        raise InputError(f"file {quote(path)} cannot be read ({system_reason(error)}); was it moved?") from error


@dataclass(frozen=True)
class Joined:
    """Several tables as one."""

    tables: Sequence[Table]
    ends: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ends", tuple(accumulate(map(len, self.tables))))

    @property
    def folders(self) -> tuple[Path, ...]:
        """As `Table`."""
        return tuple(dict.fromkeys(folder for table in self.tables for folder in table.folders))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def at(self, index: int) -> tuple[Table, int]:
        """The table of a row, and its number there."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect.bisect_right(self.ends, index)
        return self.tables[number], index - (self.ends[number - 1] if number else 0)

    def __getitem__(self, index: int) -> Row:
        table, inside = self.at(index)
        return table[inside]

    def key(self, index: int) -> str:
        """As `Table`."""
        table, inside = self.at(index)
        return table.key(inside)

    def where(self, index: int) -> str:
        """As `Table`."""
        table, inside = self.at(index)
        return table.where(inside)

    def hashes(self) -> Hashes:
        """As `Table`."""
        return np.concatenate([table.hashes() for table in self.tables]) if self.tables else np.zeros(0, np.uint64)

    def scan(self, fields: Collection[str]) -> Iterator[Row | UnusableRow]:
        """As `Table`."""
        for table in self.tables:
            yield from table.scan(fields)
