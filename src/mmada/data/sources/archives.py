"""A .tar in WebDataset's layout as a table: neighbouring members of one key are a row, their suffixes its fields.

    000001.jpg, 000001.txt, 000001.json    a row: jpg (bytes), txt (text), json (object), __key__ "000001"

The headers are read once and where each member lies is noted, so that rows are read in any order. Compressed archives cannot be.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmada.data.dataset import UnusableRow
from mmada.data.sources.folders import LazyRow, member_value
from mmada.data.sources.offsets import cached_arrays
from mmada.data.sources.pictures import SUFFIXES
from mmada.data.sources.tables import MAX_ROW, Hashes, Row, hash_of, read_at, scanned
from mmada.errors import InputError, quote, system_reason

__all__ = ["TarTable"]

Array = np.ndarray[Any, Any]
MAGIC = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}
"""First bytes of compressed files."""


@dataclass(frozen=True)
class TarTable:
    """Samples of an archive, of ``parts``:

    - ``keys``: the bytes of all keys end to end, ``ends``: where each ends.
    - ``first``: the number of the first member of each sample, and one more.
    - ``spans``: (first byte, size) of each member, ``kinds``: the number of its suffix in ``suffixes``, which are lines.
    """

    path: Path
    name: str
    parts: Mapping[str, Array] = field(repr=False)
    suffixes: tuple[str, ...]

    @staticmethod
    def open(path: Path, name: str) -> TarTable:
        """List the members of an archive. Raises InputError for one that is compressed or damaged."""
        check_seekable(path)
        parts = cached_arrays(path, "tar", lambda: listed(path))
        return TarTable(path, name, parts, tuple(parts["suffixes"].tobytes().decode().split("\n")))

    @property
    def folders(self) -> tuple[Path, ...]:
        """As `Table`."""
        return (self.path.parent, self.path.parent / "images")

    def __len__(self) -> int:
        return len(self.parts["ends"])

    def __getitem__(self, index: int) -> Row:
        first, spans, kinds = (self.parts[name] for name in ("first", "spans", "kinds"))
        row: dict[str, Any] = {"__key__": self.key(index)}
        for member in range(int(first[index]), int(first[index + 1])):
            suffix = self.suffixes[int(kinds[member])]
            row[suffix] = read = self.reader(suffix, *spans[member].tolist())
            if f".{suffix}" in SUFFIXES:
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
        ends = self.parts["ends"]
        start = int(ends[index - 1]) if index else 0
        return self.parts["keys"][start : int(ends[index])].tobytes().decode("utf-8", "surrogateescape")

    def hashes(self) -> Hashes:
        """As `Table`."""
        return self.parts["hashes"]

    def where(self, index: int) -> str:
        """As `Table`."""
        return f"{self.name}, {self.key(index)}"

    def scan(self, fields: Collection[str]) -> Iterator[Row | UnusableRow]:
        """As `Table`; what is not asked for is not read."""
        return scanned(self, fields)


def listed(path: Path) -> dict[str, Array]:
    """The parts of a table. Raises InputError for an archive that is damaged."""
    keys, first, spans, kinds = list[bytes](), list[int](), list[tuple[int, int]](), list[int]()
    numbers, seen, last = dict[str, int](), set[str](), ""
    for name, start, size in members(path):
        key, suffix = key_of(name)
        if not suffix:
            continue
        if not keys or key != last or suffix in seen:
            keys.append(key.encode("utf-8", "surrogateescape"))
            first.append(len(spans))
            seen, last = set(), key
        seen.add(suffix)
        spans.append((start, size))
        kinds.append(numbers.setdefault(suffix.replace("\n", " "), len(numbers)))
    return {
        "keys": np.frombuffer(b"".join(keys), np.uint8),
        "ends": np.cumsum([len(key) for key in keys], dtype=np.int64),
        "hashes": np.array([hash_of(key) for key in keys], np.uint64),
        "first": np.array([*first, len(spans)], np.int64),
        "spans": np.array(spans, np.int64).reshape(-1, 2),
        "kinds": np.array(kinds, np.int32),
        "suffixes": np.frombuffer("\n".join(numbers).encode("utf-8", "replace"), np.uint8),
    }


def members(path: Path) -> Iterator[tuple[str, int, int]]:
    """(name, first byte, size) of every file in an archive. Raises InputError."""
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isfile() and member.issparse():
                    raise InputError(f"file {quote(path)} has sparse members; pack it again without --sparse")
                if member.isfile():
                    yield member.name, member.offset_data, member.size
                archive.members = []  # type: ignore[attr-defined]  # it would keep every header
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"file {quote(path)} is not a whole .tar ({error}); get a new copy of it") from error
    except OSError as error:
        raise InputError(f"file {quote(path)} cannot be read ({system_reason(error)}); check the path") from error


def key_of(member: str) -> tuple[str, str]:
    """(key, suffix) of a member's name: the suffix is what follows the first point of the last part, in lower case."""
    folder, slash, name = member.removeprefix("./").rpartition("/")
    if name.startswith("."):
        return "", ""
    stem, _, suffix = name.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()


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
