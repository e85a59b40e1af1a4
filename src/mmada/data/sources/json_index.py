"""Index of a JSON file that may be larger than the memory: one pass notes where each element of its list lies.

The file is decoded in pieces as Latin-1, in which a character is a byte, so that positions in the text are positions in the file;
what the strings hold is read as UTF-8 when a row is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from mmada.data.sources.offsets import INDEX, Entries, Index, indexed
from mmada.data.sources.tables import MAX_ROW, hash_of
from mmada.errors import InputError, quote

__all__ = ["json_index"]

CHUNK = 4 * 2**20
DECODE = json.JSONDecoder().raw_decode
SPACE = " \t\r\n"
BOM = b"\xef\xbb\xbf"
MOST_LISTS = 16
"""Lists of objects within an object up to which each may be the rows; with more, its members are."""


def json_index(path: Path, rows: str) -> tuple[Index, bool]:
    """The rows of a .json, and whether they are members of an object.

    Rows are the elements of the list at the top; of the list ``rows`` in the object at the top, or of its only list; or, where an
    object has none or many, its members. Raises InputError for a file that is not JSON, or has no list of that name.
    """
    index = indexed(path, f"json:{rows}", lambda: entries(path, rows))
    return index[1:], bool(index["start"][0])


def entries(path: Path, rows: str) -> Entries:
    """The index with one entry before it, whose start says whether the rows are members."""
    with path.open("rb") as file:
        scanner = Scanner(file, path)
        first = scanner.peek()
        if first == "[":
            yield header(keyed=False)
            yield from scanner.elements()
        elif first == "{":
            keyed, parts = object_rows(scanner, rows, path)
            yield header(keyed=keyed)
            yield from parts
        else:
            scanner.fail("it does not begin with a list or an object")
        if scanner.peek():
            scanner.fail("something follows its end")


def header(*, keyed: bool) -> Index:
    """The entry that says what the others are."""
    return np.array([(keyed, 0, 0)], INDEX)


def object_rows(scanner: Scanner, rows: str, path: Path) -> tuple[bool, list[Index]]:
    """(whether they are its members, the rows) of an object at the top of a file."""
    members: list[tuple[int, int, int]] = []
    lists: dict[str, list[Index]] = {}
    scanner.take("{")
    while scanner.peek() != "}":
        if members:
            scanner.take(",")
            scanner.peek()
        begin = scanner.here
        name, _, _ = scanner.value()
        scanner.take(":")
        if scanner.peek() == "[" and len(lists) < MOST_LISTS:
            found = list(scanner.elements())
            if scanner.objects:
                lists[str(name)] = found
        else:
            scanner.value()
        members.append((begin, scanner.here - begin, hash_of(str(name).encode("latin-1"))))
    scanner.take("}")
    if rows and rows not in lists:
        known = ", ".join(lists) or "none"
        raise InputError(f"file {quote(path)} has no list {quote(rows)}; its lists are: {known}")
    if rows or len(lists) == 1:
        return False, lists[rows or next(iter(lists))]
    if 1 < len(lists) < MOST_LISTS:
        first = next(iter(lists))
        raise InputError(
            f"file {quote(path)} has the lists {', '.join(lists)}; say which one holds the rows, as in rows: {first}"
        )
    return True, [np.array(members, INDEX)]


class Scanner:
    """A reader of JSON values one after another, of which it holds only a piece at a time."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self.file, self.path = file, path
        self.text = ""
        self.at = 0
        self.objects = False
        start = file.read(len(BOM))
        self.base = len(BOM) if start == BOM else 0
        file.seek(self.base)

    @property
    def here(self) -> int:
        """The byte that is read next."""
        return self.base + self.at

    def fail(self, reason: str) -> NoReturn:
        """Raise InputError."""
        raise InputError(f"file {quote(self.path)} is not whole JSON near byte {self.here} ({reason}); get a whole copy of it")

    def more(self) -> bool:
        """Read on, as much again as is held; False at the end of the file."""
        if self.at:
            self.base += self.at
            self.text, self.at = self.text[self.at :], 0
        data = self.file.read(max(CHUNK, len(self.text)))
        self.text += data.decode("latin-1")
        return bool(data)

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in SPACE:
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def take(self, sign: str) -> None:
        """Read over a sign. Raises InputError for another one."""
        found = self.peek()
        if found != sign:
            self.fail(f"{quote(found)} where {quote(sign)} should be" if found else "it ends too early")
        self.at += 1

    def value(self) -> tuple[Any, int, int]:
        """(a value with its texts as Latin-1, its first byte, the byte behind it)."""
        self.peek()
        while True:
            try:
                found, end = DECODE(self.text, self.at)
            except RecursionError:
                self.fail("it is nested too deeply")
            except ValueError:
                found, end = None, -1
                if len(self.text) - self.at > 2 * MAX_ROW:
                    self.fail("a value is damaged or too large")
            if 0 <= end < len(self.text):
                break
            size = end - self.at  # `more` moves the text so that it begins here
            if not self.more():
                if end < 0:
                    self.fail("a value is damaged or cut short")
                end = self.at + size
                break  # a number at the end of what was read might have gone on, but the file ends
        begin = self.here
        self.at = end
        return found, begin, self.here

    def elements(self) -> Iterator[Index]:
        """The elements of a list, some at a time; `objects` says afterwards whether the first one was an object."""
        found: list[tuple[int, int, int]] = []
        self.take("[")
        first, self.objects = True, False
        while self.peek() != "]":
            if not first:
                self.take(",")
            value, begin, end = self.value()
            self.objects = self.objects if not first else isinstance(value, dict)
            first = False
            data = self.text[self.at - (end - begin) : self.at].encode("latin-1")
            found.append((begin, end - begin, hash_of(data)))
            if len(found) >= 65_536:
                yield np.array(found, INDEX)
                found = []
        self.take("]")
        yield np.array(found, INDEX)
