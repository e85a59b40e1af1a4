"""Which table a file is: by its kind, or guessed from its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

from mmada.data.reasoning import EXAMPLES
from mmada.data.sources.archives import TarTable
from mmada.data.sources.folders import FolderTable
from mmada.data.sources.parquet import ParquetTable
from mmada.data.sources.tables import Joined, Table
from mmada.data.sources.text_tables import CsvTable, JsonTable, LinesTable, TextFiles
from mmada.errors import InputError, quote
from mmada.io.documents import check_not_pointer

__all__ = ["KINDS", "Kind", "open_tables"]

Kind = Literal["jsonl", "json", "csv", "parquet", "tar", "lines", "texts", "folder"]
KINDS: tuple[str, ...] = get_args(Kind)
BY_SUFFIX: dict[str, Kind] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".tar": "tar",
    ".txt": "lines",
}  # fmt: skip
PACKED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".gz", ".bz2", ".xz", ".zst", ".zip")
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet", EXAMPLES)
"""Tables of a folder with pictures, as Hugging Face's image folders and `mmada collect` have them; the first one is read."""


def open_tables(files: Sequence[tuple[str, Path]], kind: Kind | None, what: str, rows: str = "", texts: bool = False) -> Table:
    """One table of all ``files``, listed as (name, path).

    ``kind``: None: by the suffix of each. ``rows``: the list of a .json that holds the rows. ``texts``: a .txt is a row, not one
    a line. Raises InputError for a file that no table reads, with the fix.
    """
    if kind == "texts" or (kind is None and texts and all(path.suffix.lower() == ".txt" for _, path in files)):
        return TextFiles(tuple(files))
    tables = [open_table(path, name, kind or guessed(path, what), what, rows) for name, path in files]
    return tables[0] if len(tables) == 1 else Joined(tables)


def guessed(path: Path, what: str) -> Kind:
    """The kind of a file by its name. Raises InputError."""
    if path.is_dir():
        return "folder"
    name = path.name.lower()
    if packed := next((one for one in PACKED if name.endswith(one)), None):
        again = " and pack them again as a plain .tar" if "tar" in packed or packed == ".tgz" else ""
        raise InputError(f"{what} {quote(path)} is compressed, so its rows cannot be read in any order; unpack its files{again}")
    if path.suffix.lower() not in BY_SUFFIX:
        raise InputError(f"{what} {quote(path)} is of an unknown kind; say which one with kind: {', '.join(KINDS)}")
    return BY_SUFFIX[path.suffix.lower()]


def open_table(path: Path, name: str, kind: Kind, what: str, rows: str) -> Table:
    """The table of one file or folder."""
    if path.is_dir() != (kind == "folder"):
        there, wanted = ("a folder", "a file") if path.is_dir() else ("a file", "a folder")
        raise InputError(f"{what} {quote(path)} is {there}, and kind {kind} is read from {wanted}; correct the path or the kind")
    if kind == "folder":
        tables = [path / one for one in METADATA if (path / one).is_file()]
        if tables:
            return open_table(tables[0], name, guessed(tables[0], what), what, rows)
        return FolderTable.open(path)
    check_not_pointer(path, what)
    if rows and kind != "json":
        raise InputError(f"{what} {quote(path)} is {kind}, and rows names a list in a .json; leave rows out")
    if kind == "json":
        return JsonTable.open(path, name, rows)
    readers: dict[Kind, Callable[[Path, str], Table]] = {
        "jsonl": LinesTable.open,
        "lines": lambda file, shown: LinesTable.open(file, shown, plain=True),
        "csv": CsvTable.open,
        "parquet": ParquetTable.open,
        "tar": TarTable.open,
    }
    return readers[kind](path, name)
