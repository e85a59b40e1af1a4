"""Offset index: where each row of a text file begins, how long it is, and a hash of it; kept on the disk for large files."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from mmada.data.sources.tables import MAX_ROW, hash_of
from mmada.errors import InputError, quote, system_reason
from mmada.io.atomic import atomic_file
from mmada.io.fingerprint import fingerprint

__all__ = ["INDEX", "Entries", "Index", "cache_folder", "cached_arrays", "csv_entries", "indexed", "line_entries"]

INDEX = np.dtype([("start", np.int64), ("size", np.int64), ("hash", np.uint64)])
Index = np.ndarray[Any, np.dtype[np.void]]
Entries = Iterator[Index]
"""Parts of an index, in order."""
CACHED_FROM = 32 * 2**20
"""Size of a file from which its index is kept on the disk."""
CHUNK = 16 * 2**20
MAX_QUOTED = 2**20
"""Bytes of the longest record of a .csv that goes over several lines."""
VERSION = 1


def cache_folder() -> Path:
    """Where indexes are kept: ``$MMADA_CACHE``, else ``mmada`` in the user's folder of caches."""
    own = os.environ.get("MMADA_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmada"


def indexed(path: Path, kind: str, entries: Callable[[], Entries]) -> Index:
    """The index of a file: made by ``entries``, or read from the cache while the file has the same size and time.

    That of a large file is mapped from the disk; only the entries in use are in memory. Raises InputError.
    """
    try:
        status = path.stat()
        if status.st_size < CACHED_FROM:
            parts = list(entries())
            return np.concatenate(parts) if parts else np.zeros(0, INDEX)
        kept = kept_at(path, kind, status).with_suffix(".bin")
        with suppress(OSError, ValueError):
            return mapped(kept)
        with suppress(OSError):  # the disk may be full or read-only: then the index lives as long as this process
            kept.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(kept) as part:
                write(part, entries())
            return mapped(kept)
        with tempfile.TemporaryDirectory() as folder:  # the mapping outlives the name
            write(temporary := Path(folder) / "index.bin", entries())
            return mapped(temporary)
    except OSError as error:
        raise InputError(f"file {quote(path)} cannot be read ({system_reason(error)}); check the path") from error


def kept_at(path: Path, kind: str, status: os.stat_result) -> Path:
    """Where the index of a file is kept, without a suffix."""
    name = fingerprint(VERSION, kind, str(path.resolve()), status.st_size, status.st_mtime_ns)[:24]
    return cache_folder() / "index" / name


def cached_arrays(
    path: Path, kind: str, make: Callable[[], Mapping[str, np.ndarray[Any, Any]]]
) -> dict[str, np.ndarray[Any, Any]]:
    """Arrays that describe a file: made, or read from the cache while the file has the same size and time. Raises InputError."""
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"file {quote(path)} cannot be read ({system_reason(error)}); check the path") from error
    if status.st_size < CACHED_FROM:
        return dict(make())
    kept = kept_at(path, kind, status).with_suffix(".npz")
    with suppress(OSError, ValueError, KeyError, zipfile.BadZipFile), np.load(kept, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}
    made = dict(make())
    with suppress(OSError):  # the disk may be full or read-only
        kept.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(kept) as part:
            np.savez(part, **made)  # type: ignore[arg-type]
    return made


def write(path: Path, entries: Entries) -> None:
    """Write an index part by part."""
    with path.open("wb") as file:
        for part in entries:
            part.tofile(file)


def mapped(path: Path) -> Index:
    """An index on the disk. Raises OSError and ValueError for one that is missing or damaged."""
    if path.stat().st_size == 0:
        return np.zeros(0, INDEX)
    return np.memmap(path, INDEX, "r")


def line_entries(path: Path) -> Entries:
    """The lines of a text file that are not blank, without their line ends."""
    with path.open("rb") as file:
        start, rest = 0, b""
        while data := file.read(CHUNK):
            data = rest + data
            ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
            if len(ends):
                begins = np.concatenate([[0], ends[:-1] + 1])
                yield lines_of(data, begins, ends, start)
                cut = int(ends[-1]) + 1
                start, rest = start + cut, data[cut:]
            else:
                rest = data
            if len(rest) > MAX_ROW:  # a line without an end; what is known of it is its start
                yield np.array([(start, len(rest), 0)], INDEX)
                skipped = len(rest) + skip_line(file)
                start, rest = start + skipped, b""
        if rest:
            yield lines_of(rest, np.zeros(1, np.int64), np.array([len(rest)]), start)


def skip_line(file: Any) -> int:
    """Read on to the next line; returns how many bytes that was."""
    skipped = 0
    while data := file.readline(CHUNK):
        skipped += len(data)
        if data.endswith(b"\n"):
            break
    return skipped


def lines_of(data: bytes, begins: np.ndarray[Any, Any], ends: np.ndarray[Any, Any], start: int) -> Index:
    """The entries of lines within ``data``, which begins at byte ``start`` of the file."""
    found = []
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        line = data[begin:end]
        if not line.isspace() and line:
            found.append((start + begin, end - begin, hash_of(line.rstrip(b"\r"))))
    return np.array(found, INDEX)


def csv_entries(path: Path) -> Entries:
    """The records of a .csv, the header included: lines, joined where a quoted field goes over several.

    A record ends with the line at which the number of quotes is even. A quote that is not closed within `MAX_QUOTED` bytes is a
    slip of its line, which is then a record alone, so that it does not swallow the good ones behind it.
    """
    with path.open("rb") as file:
        found: list[tuple[int, int, int]] = []
        waiting: deque[bytes] = deque()  # lines that were read once as the inside of a quote
        at = 0
        while first := next_line(file, waiting):
            record, size, quotes = [first], len(first), first.count(b'"')
            while quotes % 2 and size <= MAX_QUOTED and (line := next_line(file, waiting)):
                record.append(line)
                size += len(line)
                quotes += line.count(b'"')
            if quotes % 2:
                waiting.extendleft(reversed(record[1:]))
                record, size = record[:1], len(first)
            text = b"".join(record).rstrip(b"\r\n")
            if text:
                found.append((at, len(text), hash_of(text)))
            at += size
            if len(found) >= 100_000:
                yield np.array(found, INDEX)
                found = []
        yield np.array(found, INDEX)


def next_line(file: IO[bytes], waiting: deque[bytes]) -> bytes:
    """The next line, empty at the end of the file."""
    return waiting.popleft() if waiting else file.readline()
