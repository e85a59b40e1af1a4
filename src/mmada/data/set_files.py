"""Files of public sets: their rows in order, and their prompts, which must not be trained on where they are a test set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mmada.data.dataset import UnusableRow
from mmada.data.public_sets import READERS, turns, with_input, without_order
from mmada.data.row_fields import MARKER, Row
from mmada.data.sources.opening import open_tables
from mmada.data.sources.text_tables import NOT_AN_OBJECT, JsonTable
from mmada.errors import InputError
from mmada.io.documents import read_lines

__all__ = ["prompts_in", "rows"]

KINDS = (".jsonl", ".json", ".parquet")


def rows(path: Path) -> Iterator[Row]:
    """The rows of a .jsonl, .json or .parquet file; of a JSON object, those of its only list.

    Raises InputError for a file that is missing, damaged or of another kind, and where parquet cannot be read here.
    """
    if not path.is_file():
        raise InputError(f"source file '{path}' does not exist; check the path")
    if path.suffix.lower() not in KINDS:
        raise InputError(f"source file '{path}' should end in .jsonl, .json or .parquet")
    table = open_tables([(path.name, path)], None, "source file")
    if isinstance(table, JsonTable) and table.keyed:
        raise InputError(f"source file '{path}' should hold one list of examples; give such a file")
    for number in range(len(table)):
        try:
            yield dict(table[number])
        except UnusableRow as error:
            if error.reason == NOT_AN_OBJECT:
                yield {}  # a row of another layout, as whoever reads its fields will say
                continue
            raise InputError(f"source file '{path}': {error.reason} (row {number + 1}); get a whole copy of it") from error


def prompts_in(path: Path) -> Iterator[str]:
    """The prompts of any of these files, or the lines of a .txt: what must not be trained on.

    A row gives its prompt as it stands there and as the readers make it. What they change in it is changed also where the row
    lacks an answer, so that no reader takes it.
    """
    if path.suffix.lower() == ".txt":
        if not path.is_file():
            raise InputError(f"file '{path}' does not exist; check the path")
        yield from (line.rstrip("\r\n") for line in read_lines(path, "file"))
        return
    for row in rows(path):
        try:
            names = ("question", "problem", "prompt", "instruction")
            found = [str(row[name]).strip() for name in names if isinstance(row.get(name), (str, int, float)) and row[name]]
            found = found or [turns(row, "conversations", "messages")[0]]
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"file '{path}' has a row without question, problem, prompt or conversations; name one so"
            ) from error
        shown = [MARKER.sub("", text).strip() for text in found]
        forms = [form for text in shown for form in (text, without_order(text), with_input(text, row))]
        yield from dict.fromkeys((*forms, *read_prompts(row)))


def read_prompts(row: Row) -> Iterator[str]:
    """The prompt of a row as each reader that accepts it gives it."""
    for reader in READERS.values():
        with suppress(ValueError, TypeError, AttributeError, KeyError):
            yield reader(row).prompt
