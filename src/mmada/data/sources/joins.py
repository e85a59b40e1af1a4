"""Joins: rows of other files, found by a key. Only a hash of each key is kept in memory, 16 bytes a row."""

from __future__ import annotations

from collections import ChainMap
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmada.data.dataset import UnusableRow
from mmada.data.sources.fields import Field, as_text, parse_field
from mmada.data.sources.tables import Row, Table, hash_of
from mmada.errors import InputError

__all__ = ["Lookup"]


@dataclass(frozen=True)
class Lookup:
    """Rows of ``table`` by their ``key``; ``by``: the field of the rows to join that holds the same."""

    table: Table
    key: Field
    by: Field
    hashes: np.ndarray[Any, Any] = field(repr=False)
    numbers: np.ndarray[Any, Any] = field(repr=False)

    @staticmethod
    def of(table: Table, key: str, by: str, what: str) -> Lookup:
        """List the keys of a table. Raises InputError where no row has one."""
        theirs, found, numbers = parse_field(key, what), list[int](), list[int]()
        for number, row in enumerate(table.scan({key})):
            if not isinstance(row, UnusableRow) and (text := key_text(theirs, row)):
                found.append(hash_of(text))
                numbers.append(number)
        if not found:
            raise InputError(f"{what} finds no field '{key}' in any row; name the field of its rows that holds the key")
        hashes = np.array(found, np.uint64)
        order = np.argsort(hashes, kind="stable")
        return Lookup(table, theirs, parse_field(by, what), hashes[order], np.array(numbers, np.int64)[order])

    @property
    def needs(self) -> frozenset[str]:
        """The fields of the rows to join that are read."""
        return self.by.names

    def attached(self, row: Row) -> Row:
        """The row with what belongs to it as ``join``. Raises UnusableRow where nothing does."""
        wanted = key_text(self.by, row)
        if not wanted:
            raise UnusableRow("no key to join by")
        hashed = np.uint64(hash_of(wanted))
        at = int(np.searchsorted(self.hashes, hashed))
        while at < len(self.hashes) and self.hashes[at] == hashed:
            other = self.table[int(self.numbers[at])]
            if key_text(self.key, other) == wanted:
                return ChainMap({"join": other}, row)  # type: ignore[arg-type]
            at += 1
        raise UnusableRow("nothing to join")


def key_text(by: Field, row: Row) -> str:
    """A key as text, empty where there is none."""
    try:
        return as_text(by.value(row), "key")
    except UnusableRow:
        return ""
