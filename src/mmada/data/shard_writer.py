"""Writing of shards: the examples of a range of rows as files, the same bytes however often it is interrupted.

A unit of work is a range of rows of a split of a set; what it writes depends on that range and the settings alone. Pictures are
encoded in batches that begin with a shard, so that work which is done again meets the same batches, and gives the same codes to
the last bit.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from mmada.data.dataset import Dataset, UnusableRow
from mmada.data.encoded import Grid, encode_examples
from mmada.data.sampler import rows_of
from mmada.data.shard_files import FILES, ShardEntry, Splits
from mmada.data.shard_rows import Record, RowFormat
from mmada.io.atomic import atomic_folder
from mmada.io.images import ImageSource

__all__ = ["ShardLimits", "Unit", "units_of", "write_shards"]

Judge = Callable[[str, int, Counter[str]], None]


@dataclass(frozen=True)
class ShardLimits:
    """``rows``: rows of a unit, and so the most that one shard has; ``bytes``: size at which a shard ends early; ``batch``: rows
    that are read and encoded at once."""

    rows: int = 16_384
    bytes: int = 4 * 10**9
    batch: int = 32


@dataclass(frozen=True)
class Unit:
    """Rows ``first`` to ``last`` of a split of a set, the ``number``-th in the order of names."""

    set: str
    number: int
    split: Splits
    first: int
    last: int

    def folder(self, first: int) -> str:
        """Name of the shard that begins with a row."""
        name = re.sub(r"[^0-9A-Za-z_]+", "_", self.set)[:40]
        return f"{self.number:03d}-{name}-{self.split}-{first:010d}"


def units_of(name: str, number: int, split: Splits, rows: int, done: Sequence[ShardEntry], size: int) -> Iterator[Unit]:
    """The units of a split that are not ``done``: ranges of ``size`` rows, the ends of those that were begun."""
    for start in range(0, rows, size):
        end = min(start + size, rows)
        first = max((one.last for one in done if start <= one.first < end), default=start)
        if first < end:
            yield Unit(name, number, split, first, end)


def write_shards(
    unit: Unit,
    dataset: Dataset,
    id_of: Callable[[int], str],
    codes: Callable[[Sequence[ImageSource]], list[Grid | UnusableRow]],
    out: Path,
    format: RowFormat,
    limits: ShardLimits,
    judge: Judge = lambda name, rows, rejected: None,
) -> Iterator[ShardEntry]:
    """Write the shards of a unit in ``out``, and yield the entry of each when it is there.

    ``id_of``: the id of a row; ``codes``: encodes pictures; ``judge`` is told after every batch how many rows of which set were
    read and why some were rejected, and may raise.
    """
    first = unit.first
    while first < unit.last:
        row = first
        name = unit.folder(first)
        with atomic_folder(out / name) as folder, ShardWriter(folder, format) as writer:
            while row < unit.last and writer.size < limits.bytes:
                rows = range(row, min(row + limits.batch, unit.last))
                rejected = Counter[str]()
                for index, example in zip(rows, encode_examples(rows_of(dataset, rows), codes), strict=True):
                    try:
                        if isinstance(example, UnusableRow):
                            raise example
                        writer.add(format.record(example, id_of(index)))
                    except UnusableRow as unusable:
                        rejected[unusable.reason] += 1
                writer.rejected += rejected
                judge(unit.set, len(rows), rejected)
                row = rows.stop
        yield ShardEntry(
            folder=name, set=unit.set, split=unit.split, first=first, last=row, rows=writer.rows, tokens=writer.tokens,
            rejected=dict(sorted(writer.rejected.items())), bytes=writer.bytes, sha256=writer.sums,
        )  # fmt: skip
        first = row


@dataclass
class ShardWriter:
    """The files of one shard, which are closed and summed up at the end of the block."""

    folder: Path
    format: RowFormat
    rejected: Counter[str] = field(default_factory=Counter)
    bytes: dict[str, int] = field(default_factory=dict)
    sums: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> ShardWriter:
        self.files: dict[str, IO[bytes]] = {name: (self.folder / name).open("wb", 2**20) for name in FILES[:3]}
        self.digests = {name: hashlib.sha256() for name in FILES[:3]}
        self.index: list[tuple[int, int, int, int]] = [(0, 0, 0, 0)]
        return self

    @property
    def rows(self) -> int:
        """Rows that were added."""
        return len(self.index) - 1

    @property
    def tokens(self) -> int:
        """Their tokens."""
        return self.index[-1][3]

    @property
    def size(self) -> int:
        """Bytes so far."""
        codes, text, meta, _ = self.index[-1]
        return codes * self.format.code_type.itemsize + text * 4 + meta

    def add(self, record: Record) -> None:
        """Append a row."""
        for name, data in zip(FILES[:3], (record.codes.tobytes(), record.text.tobytes(), record.meta), strict=True):
            self.files[name].write(data)
            self.digests[name].update(data)
        codes, text, meta, tokens = self.index[-1]
        self.index.append((codes + len(record.codes), text + len(record.text), meta + len(record.meta), tokens + record.tokens))

    def __exit__(self, kind: Any, *_: object) -> None:
        for file in self.files.values():
            file.close()
        if kind is not None:
            return
        path = self.folder / "index.npy"
        np.save(path, np.asarray(self.index, "<i8"))
        self.sums = {name: digest.hexdigest() for name, digest in self.digests.items()}
        self.sums["index.npy"] = hashlib.sha256(path.read_bytes()).hexdigest()
        self.bytes = {name: (self.folder / name).stat().st_size for name in FILES}
