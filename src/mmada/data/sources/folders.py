"""A folder of pictures as a table: side-car files of the same name are fields, and so is the folder that a picture lies in.

sub/a.jpg, sub/a.txt, sub/a.json    a row: image (the picture), txt, json, __key__ "sub/a", name "a", label "sub"
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmada.data.dataset import UnusableRow
from mmada.data.sources.pictures import SUFFIXES
from mmada.data.sources.tables import MAX_ROW, Hashes, Row, hash_of, scanned
from mmada.data.sources.text_tables import decoded, object_of
from mmada.errors import InputError, quote

__all__ = ["TEXTS", "FolderTable", "LazyRow", "files_below", "member_value"]

TEXTS = ("txt", "text", "caption", "cls", "label")
"""Suffixes of files whose content is text."""


def member_value(suffix: str, data: bytes) -> Any:
    """What a file of a sample holds: text, a JSON value, or bytes."""
    last = suffix.rpartition(".")[2].lower()
    if last in TEXTS:
        return decoded(data, "label" if last in ("cls", "label") else "caption").strip()
    if last == "json":
        return object_of(decoded(data, "JSON"))
    return data


class LazyRow(Mapping[str, Any]):
    """A row whose values are read when they are asked for."""

    def __init__(self, known: Mapping[str, Any]) -> None:
        self.known = dict(known)

    def __getitem__(self, name: str) -> Any:
        value = self.known[name]
        if callable(value):
            value = self.known[name] = value()
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self.known)

    def __len__(self) -> int:
        return len(self.known)

    def __contains__(self, name: object) -> bool:
        return name in self.known


def files_below(folder: Path) -> Iterator[str]:
    """Every file below a folder, relative to it, sorted; hidden ones left out."""
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        inside = Path(where).relative_to(folder).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        yield from (prefix + file for file in sorted(files) if not file.startswith("."))


@dataclass(frozen=True)
class FolderTable:
    """Pictures of a folder and those below it, with their side-cars. ``rows``: (key, suffix of the picture, other suffixes)."""

    path: Path
    rows: tuple[tuple[str, str, tuple[str, ...]], ...]

    @staticmethod
    def open(path: Path) -> FolderTable:
        """List a folder. Raises InputError for one without pictures."""
        found: dict[str, list[str]] = {}
        for file in files_below(path):
            folder, slash, name = file.rpartition("/")
            stem, dot, suffix = name.rpartition(".")
            if dot and stem:
                found.setdefault(f"{folder}{slash}{stem}", []).append(suffix)
        rows = []
        for key, suffixes in found.items():
            pictures = [one for one in suffixes if f".{one.lower()}" in SUFFIXES]
            others = tuple(one for one in suffixes if one not in pictures)
            rows += [(key, picture, others) for picture in pictures]
        if not rows:
            raise InputError(f"folder {quote(path)} has no pictures ({', '.join(SUFFIXES)}); check the path")
        return FolderTable(path, tuple(rows))

    @property
    def folders(self) -> tuple[Path, ...]:
        """As `Table`."""
        return (self.path,)

    @property
    def labels(self) -> list[str]:
        """The names of the folders that pictures lie in, sorted: the order of the classes."""
        return sorted({label_of(key) for key, _, _ in self.rows})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        key, picture, others = self.rows[index]
        row: dict[str, Any] = {"__key__": key, "name": key.rpartition("/")[2], "label": label_of(key)}
        row["image"] = row[picture.lower()] = self.path / f"{key}.{picture}"
        return LazyRow(row | {other.lower(): self.reader(f"{key}.{other}", other) for other in others})

    def reader(self, file: str, suffix: str) -> Any:
        """A function that reads a side-car."""

        def read() -> Any:
            path = self.path / file
            try:
                if path.stat().st_size > MAX_ROW:
                    raise UnusableRow(f"row is over {MAX_ROW // 2**20} MiB")
                return member_value(suffix, path.read_bytes())
            except OSError as error:
                raise UnusableRow("side-car file cannot be read") from error

        return read

    def key(self, index: int) -> str:
        """As `Table`: the path without its suffix, or with it where pictures differ in nothing else."""
        return self.rows[index][0]

    def hashes(self) -> Hashes:
        """As `Table`."""
        return np.array([hash_of(key) for key, _, _ in self.rows], np.uint64)

    def where(self, index: int) -> str:
        """As `Table`."""
        return f"{self.rows[index][0]}.{self.rows[index][1]}"

    def scan(self, fields: Collection[str]) -> Iterator[Row | UnusableRow]:
        """As `Table`."""
        return scanned(self, fields)


def label_of(key: str) -> str:
    """The name of the folder that a picture lies in; empty at the top."""
    return key.rpartition("/")[0].rpartition("/")[2]
