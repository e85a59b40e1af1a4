"""A .tar in WebDataset's layout as a table: neighbouring members of one key are a row, their suffixes its fields.

    000001.jpg, 000001.txt, 000001.json    a row: jpg (bytes), txt (text), json (object), __key__ "000001"

The headers are read once and where each member lies is noted, so that rows are read in any order. Compressed archives cannot be.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmada.data.dataset import UnusableRow
from mmada.data.sources.folders import LazyRow, member_value
from mmada.data.sources.pictures import SUFFIXES
from mmada.data.sources.tables import MAX_ROW, Hashes, Row, hash_of, read_at, scanned
from mmada.errors import InputError, quote, system_reason

__all__ = ["TarTable"]

MAGIC = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


@dataclass(frozen=True)
class TarTable:
    """Samples of an archive. ``keys`` end with a NUL each in one text; sample i has the members from ``first[i]`` on."""

    path: Path
    name: str
    keys: tuple[str, ...] = field(repr=False)
    first: np.ndarray[Any, Any] = field(repr=False)
    spans: np.ndarray[Any, Any] = field(repr=False)
    kinds: np.ndarray[Any, Any] = field(repr=False)
    suffixes: tuple[str, ...]

    @staticmethod
    def open(path: Path, name: str) -> TarTable:
        """List the members of an archive. Raises InputError for one that is compressed or damaged."""
        check_seekable(path)
        keys: list[str] = []
        first: list[int] = []
        spans: list[tuple[int, int]] = []
        kinds: list[int] = []
        numbers: dict[str, int] = {}
        seen: set[str] = set()
        try:
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    key, suffix = key_of(member.name)
                    if not member.isfile() or not suffix:
                        continue
                    if not keys or key != keys[-1] or suffix in seen:
                        keys.append(key)
                        first.append(len(spans))
                        seen = set()
                    seen.add(suffix)
                    spans.append((member.offset_data, member.size))
                    kinds.append(numbers.setdefault(suffix, len(numbers)))
                    archive.members = []  # type: ignore[attr-defined]  # it would keep every header
        except (tarfile.TarError, EOFError) as error:
            raise InputError(f"file {quote(path)} is not a whole .tar ({error}); get a new copy of it") from error
        except OSError as error:
            raise InputError(f"file {quote(path)} cannot be read ({system_reason(error)}); check the path") from error
        return TarTable(
            path,
            name,
            tuple(keys),
            np.array([*first, len(spans)], np.int64),
            np.array(spans, np.int64).reshape(-1, 2),
            np.array(kinds, np.int32),
            tuple(numbers),
        )

    @property
    def folders(self) -> tuple[Path, ...]:
        """As `Table`."""
        return (self.path.parent, self.path.parent / "images")

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Row:
        row: dict[str, Any] = {"__key__": self.keys[index]}
        for member in range(int(self.first[index]), int(self.first[index + 1])):
            suffix = self.suffixes[int(self.kinds[member])]
            row[suffix] = read = self.reader(suffix, *self.spans[member].tolist())
            if f".{suffix.lower()}" in SUFFIXES:
                row.setdefault("image", read)
        return LazyRow(row)

    def reader(self, suffix: str, start: int, size: int) -> Callable[[], Any]:
        """A function that reads a member."""

        def read() -> Any:
            if size > MAX_ROW:
                raise UnusableRow(f"row is over {MAX_ROW // 2**20} MiB")
            return member_value(suffix, read_at(self.path, start, size))

        return read

    def key(self, index: int) -> str:
        """As `Table`."""
        return self.keys[index]

    def hashes(self) -> Hashes:
        """As `Table`."""
        return np.array([hash_of(key) for key in self.keys], np.uint64)

    def where(self, index: int) -> str:
        """As `Table`."""
        return f"{self.name}, {self.keys[index]}"

    def scan(self, fields: Collection[str]) -> Iterator[Row | UnusableRow]:
        """As `Table`; what is not asked for is not read."""
        return scanned(self, fields)


def key_of(member: str) -> tuple[str, str]:
    """(key, suffix) of a member's name: the suffix is what follows the first point of the last part."""
    folder, slash, name = member.removeprefix("./").rpartition("/")
    if name.startswith("."):
        return "", ""
    stem, _, suffix = name.partition(".")
    return f"{folder}{slash}{stem}", suffix


def check_seekable(path: Path) -> None:
    """Raise InputError for a compressed archive."""
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as error:
        raise InputError(f"file {quote(path)} cannot be read ({system_reason(error)}); check the path") from error
    if start in MAGIC:
        raise InputError(
            f"file {quote(path)} is compressed ({MAGIC[start]}), so its rows cannot be read in any order; unpack it and pack it "
            f"again as a plain .tar"
        )
