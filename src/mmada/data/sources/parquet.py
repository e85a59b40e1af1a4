"""A .parquet as a table: columns that a set does not read stay on the disk; the row groups in use are kept for neighbours."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmada.data.dataset import UnusableRow
from mmada.data.sources.tables import Hashes, Row, numbered_hashes
from mmada.errors import InputError, quote

__all__ = ["ParquetTable", "columns_for"]

GROUPS = 2
"""Row groups that are kept decoded, for each file; a set in random order is better built into shards."""
ALL: tuple[str, ...] = ()


def opened(path: Path) -> Any:
    """The file, as pyarrow reads it. Raises InputError."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise InputError(f"file {quote(path)} needs pyarrow; install it with: pip install 'mmada[parquet]'") from error
    try:
        return parquet.ParquetFile(path)
    except Exception as error:  # pyarrow fails in as many ways as a file can be damaged
        raise damaged(path) from error


def damaged(path: Path) -> InputError:
    """The error for a file that cannot be read."""
    return InputError(f"file {quote(path)} is not a whole parquet file; get a new copy of it")


def columns_for(fields: Collection[str], columns: Collection[str]) -> list[str]:
    """The columns that hold ``fields``, which are dotted paths."""
    return [one for one in columns if any(path == one or path.startswith(f"{one}.") for path in fields)]


@dataclass
class ParquetTable:
    """Rows of a parquet file. ``wanted``: the columns that are read, all where empty; ``groups``: first row of each row group."""

    path: Path
    name: str
    groups: np.ndarray[Any, Any] = field(repr=False)
    columns: tuple[str, ...]
    labels: dict[str, list[str]]
    wanted: tuple[str, ...] = ALL
    _kept: OrderedDict[int, Any] = field(default_factory=OrderedDict, repr=False, compare=False)

    @staticmethod
    def open(path: Path, name: str) -> ParquetTable:
        """Read the footer of a file. Raises InputError."""
        with opened(path) as file:
            try:
                return ParquetTable.of(path, name, file)
            except Exception as error:  # as in `opened`
                raise damaged(path) from error

    @staticmethod
    def of(path: Path, name: str, file: Any) -> ParquetTable:
        """The table of an opened file."""
        counts = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        if min(counts, default=0) < 0 or sum(counts) != file.metadata.num_rows:
            raise ValueError("the footer contradicts itself")
        schema = file.schema_arrow
        columns, labels = tuple(schema.names), label_names(schema.metadata or {})
        return ParquetTable(path, name, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), columns, labels)

    def read_only(self, fields: Collection[str]) -> None:
        """Leave columns that hold none of ``fields`` unread."""
        self.wanted = tuple(columns_for(fields, self.columns))
        self._kept.clear()

    @property
    def folders(self) -> tuple[Path, ...]:
        """As `Table`."""
        return (self.path.parent, self.path.parent / "images", self.path.parent.parent / "images")

    def __len__(self) -> int:
        return int(self.groups[-1])

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(index)
        group = int(np.searchsorted(self.groups, index, "right")) - 1
        if group not in self._kept:
            self._kept[group] = self.read_group(group, self.wanted or None)
            if len(self._kept) > GROUPS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(group)
        return row_of(self._kept[group], index - int(self.groups[group]))

    def read_group(self, group: int, columns: Collection[str] | None) -> Any:
        """A row group. Raises UnusableRow where it is damaged."""
        with opened(self.path) as file:
            try:
                return file.read_row_group(group, columns=None if columns is None else list(columns), use_threads=False)
            except Exception as error:  # as in `opened`
                raise UnusableRow("row group of the parquet file is damaged") from error

    def key(self, index: int) -> str:
        """As `Table`: the file's name and the row's number."""
        return f"{self.name}#{index}"

    def hashes(self) -> Hashes:
        """As `Table`."""
        return numbered_hashes(self.name, len(self))

    def where(self, index: int) -> str:
        """As `Table`."""
        return f"{self.name}, row {index + 1}"

    def scan(self, fields: Collection[str]) -> Iterator[Row | UnusableRow]:
        """As `Table`; only the columns of ``fields`` are read."""
        columns = columns_for(fields, self.columns)
        for group in range(len(self.groups) - 1):
            count = int(self.groups[group + 1] - self.groups[group])
            if not columns:
                yield from ({} for _ in range(count))
                continue
            try:
                table = self.read_group(group, columns)
            except UnusableRow as error:
                yield from (error for _ in range(count))
                continue
            for index in range(count):
                try:
                    yield row_of(table, index)
                except UnusableRow as error:
                    yield error

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": OrderedDict()}


def row_of(table: Any, index: int) -> Row:
    """A row of a row group as Python values."""
    try:
        row: Row = table.slice(index, 1).to_pylist()[0]
    except Exception as error:  # text that is not UTF-8, dates that Python cannot hold, fewer rows than the file says
        raise UnusableRow("row of the parquet file cannot be read") from error
    return row


def label_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Column -> names of its numbered classes, as Hugging Face's data sets note them in the schema."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        found = {name: one.get("names") for name, one in features.items() if isinstance(one, dict)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
    return {name: names for name, names in found.items() if isinstance(names, list) and all(isinstance(n, str) for n in names)}
