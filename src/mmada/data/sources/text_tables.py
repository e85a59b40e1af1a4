"""Tables of text files: a JSON object a line, a record a line, a text a line, or a text a file."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmada.data.dataset import UnusableRow
from mmada.data.sources.json_index import json_index
from mmada.data.sources.offsets import Index, csv_entries, indexed, line_entries
from mmada.data.sources.tables import MAX_ROW, Hashes, Row, hash_of, read_at, scanned
from mmada.errors import InputError, quote

__all__ = ["NOT_AN_OBJECT", "CsvTable", "JsonTable", "LinesTable", "OffsetTable", "TextFiles", "decoded", "object_of"]


ROWS_AT_ONCE = 65_536
BYTES_AT_ONCE = 16 * 2**20
NOT_AN_OBJECT = "row is not an object"


def decoded(data: bytes, what: str = "text") -> str:
    """Bytes as text, without a byte-order mark. Wrong bytes are not replaced: a model would learn the replacements."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnusableRow(f"{what} is not UTF-8") from error


def object_of(text: str | bytes) -> Any:
    """A JSON value. Raises UnusableRow for what is none."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise UnusableRow("JSON is nested too deeply") from error
    except ValueError as error:
        raise UnusableRow("row is not JSON") from error


@dataclass(frozen=True)
class OffsetTable:
    """Rows of a file by an index of offsets. ``name``: the file's name as its pattern has it."""

    path: Path
    name: str
    index: Index = field(repr=False)

    @property
    def folders(self) -> tuple[Path, ...]:
        """As `Table`."""
        return (self.path.parent, self.path.parent / "images")

    def __len__(self) -> int:
        return len(self.index)

    def data(self, index: int) -> bytes:
        """The bytes of a row."""
        start, size, _ = self.index[index].item()
        if size > MAX_ROW:
            raise UnusableRow(f"row is over {MAX_ROW // 2**20} MiB")
        return read_at(self.path, start, size)

    def parse(self, data: bytes) -> Row:
        """The row of some bytes. Raises UnusableRow."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> Row:
        return self.parse(self.data(index))

    def key(self, index: int) -> str:
        """A hash of the row's text: equal rows have equal keys, and adding or removing others changes none."""
        return f"{self.index['hash'][index]:016x}"

    def hashes(self) -> Hashes:
        """As `Table`."""
        return np.ascontiguousarray(self.index["hash"])

    def where(self, index: int) -> str:
        """As `Table`."""
        return f"{self.name}, row {index + 1}"

    def scan(self, fields: Collection[str]) -> Iterator[Row | UnusableRow]:
        """As `Table`; the file is read in pieces of many rows."""
        first = 0
        while first < len(self):
            part = self.index[first : first + ROWS_AT_ONCE]
            begins, sizes = part["start"], part["size"]
            within = begins + sizes - begins[0] <= BYTES_AT_ONCE
            count = max(1, len(part) if within.all() else int(np.argmin(within)))
            piece = (
                read_at(self.path, int(begins[0]), int(begins[count - 1] + sizes[count - 1] - begins[0])) if count > 1 else b""
            )
            for number in range(count):
                start = int(begins[number] - begins[0])
                try:
                    yield self.parse(piece[start : start + int(sizes[number])]) if count > 1 else self[first]
                except UnusableRow as error:
                    yield error
            first += count


@dataclass(frozen=True)
class LinesTable(OffsetTable):
    """A .jsonl (an object a line), or a .txt (a text a line) where ``plain``."""

    plain: bool = False

    @staticmethod
    def open(path: Path, name: str, *, plain: bool = False) -> LinesTable:
        """List the rows of a file."""
        return LinesTable(path, name, indexed(path, "lines", lambda: line_entries(path)), plain)

    def parse(self, data: bytes) -> Row:
        """As `OffsetTable`."""
        text = decoded(data.rstrip(b"\r"), "row")
        if self.plain:
            return {"text": text}
        return checked_object(object_of(text))


def checked_object(value: Any) -> Row:
    """A row, which has to be an object."""
    if not isinstance(value, dict):
        raise UnusableRow(NOT_AN_OBJECT)
    return value


@dataclass(frozen=True)
class JsonTable(OffsetTable):
    """The elements of a list in a .json, or the members of an object; ``keyed``: members, whose name is ``__key__``."""

    keyed: bool = False

    @staticmethod
    def open(path: Path, name: str, rows: str = "") -> JsonTable:
        """List the rows of a file; ``rows`` names the list in an object that has several."""
        index, keyed = json_index(path, rows)
        return JsonTable(path, name, index, keyed)

    def parse(self, data: bytes) -> Row:
        """As `OffsetTable`."""
        text = decoded(data, "row")
        if not self.keyed:
            return checked_object(object_of(text))
        ((key, value),) = object_of(f"{{{text}}}").items()
        return {"__key__": key, **(value if isinstance(value, dict) else {"value": value})}


@dataclass(frozen=True)
class CsvTable(OffsetTable):
    """The records of a .csv or .tsv whose first line names the columns; every value is text."""

    columns: tuple[str, ...] = ()
    delimiter: str = ","

    @staticmethod
    def open(path: Path, name: str) -> CsvTable:
        """List the rows of a file. Raises InputError for one without a header."""
        index = indexed(path, "csv", lambda: csv_entries(path))
        if not len(index):
            raise InputError(f"file {quote(path)} is empty; its first line should name the columns")
        try:
            header = decoded(read_at(path, *index[0].item()[:2]), "header")
        except UnusableRow as error:
            raise InputError(f"file {quote(path)} is not UTF-8 in line 1; save it as UTF-8") from error
        delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t|", key=header.count)
        columns = tuple(next(csv.reader([header], delimiter=delimiter), []))
        twice = [column for column, count in Counter(columns).items() if count > 1]
        if twice:
            raise InputError(f"file {quote(path)} has two columns named {quote(twice[0])}; give each its own name")
        return CsvTable(path, name, index[1:], columns, delimiter)

    def parse(self, data: bytes) -> Row:
        """As `OffsetTable`."""
        text = decoded(data, "row")
        try:
            (values,) = csv.reader([text], delimiter=self.delimiter, strict=True)
        except (csv.Error, ValueError) as error:
            raise UnusableRow("row is not CSV") from error
        if len(values) != len(self.columns):
            raise UnusableRow("row has another number of columns than the header")
        return dict(zip(self.columns, values, strict=True))


@dataclass(frozen=True)
class TextFiles:
    """Text files, each a row: ``text``, and ``__key__``, its name without the suffix."""

    files: tuple[tuple[str, Path], ...]

    @property
    def folders(self) -> tuple[Path, ...]:
        """As `Table`."""
        return tuple({path.parent: None for _, path in self.files})

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Row:
        _, path = self.files[index]
        if path.stat().st_size > MAX_ROW:
            raise UnusableRow(f"row is over {MAX_ROW // 2**20} MiB")
        return {"__key__": path.stem, "text": decoded(read_at(path, 0, path.stat().st_size))}

    def key(self, index: int) -> str:
        """As `Table`."""
        return self.files[index][0]

    def hashes(self) -> Hashes:
        """As `Table`."""
        return np.array([hash_of(name) for name, _ in self.files], np.uint64)

    def where(self, index: int) -> str:
        """As `Table`."""
        return self.files[index][0]

    def scan(self, fields: Collection[str]) -> Iterator[Row | UnusableRow]:
        """Names need not be read, so that a join by name reads only the texts that it finds."""
        if set(fields) <= {"__key__"}:
            return iter([{"__key__": path.stem} for _, path in self.files])
        return scanned(self, fields)
