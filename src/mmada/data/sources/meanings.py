"""From the description of a set to the use that reads its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmada.data.public_sets import MATHEMATICS
from mmada.data.row_fields import PICTURE_FIELDS
from mmada.data.sources.classes import Classes, class_names
from mmada.data.sources.fields import Field, parse_field
from mmada.data.sources.folders import FolderTable
from mmada.data.sources.grammar import (
    ChatSpec,
    ClassSpec,
    EditSpec,
    OneOrMore,
    PairSpec,
    PromptsSpec,
    ReasonSpec,
    SetSpec,
    TextSpec,
)
from mmada.data.sources.parquet import ParquetTable
from mmada.data.sources.pictures import SUFFIXES
from mmada.data.sources.reasons import Fields, Reason
from mmada.data.sources.tables import Joined, Row, Table
from mmada.data.sources.uses import Chat, Edit, Pair, Part, Text, Use
from mmada.errors import InputError

__all__ = ["meaning_of", "tasks_of"]

IMAGES = [*PICTURE_FIELDS, "file_name", "filename", "img_path", *(one[1:] for one in SUFFIXES)]
CAPTIONS = ["caption", "captions", "text", "txt", "description", "prompt", "json.caption"]
PROMPTS = ["prompt", "question", "problem", "instruction", "text"]
THOUGHTS = ["thinking", "reasoning", "thought"]
ANSWERS = ["answer", "response", "output", "solution"]
GOLDS = ["gold", "gold_answer", "answer", "solution"]
TURNS = ["messages", "conversations", "conversation"]
Head = Sequence[Row]


def meaning_of(name: str, spec: SetSpec, base: Path, table: Table, head: Head, what: str) -> Use:
    """The use of a set. ``head``: its first rows, which show how many captions a row has. Raises InputError."""
    makers: dict[type[SetSpec], Callable[[], Use]] = {
        TextSpec: lambda: Text(field_of(spec, "text", what)),
        PairSpec: lambda: pair(spec, head, what),  # type: ignore[arg-type]
        ClassSpec: lambda: classes(spec, base, table, what),  # type: ignore[arg-type]
        ChatSpec: lambda: chat(spec, what),  # type: ignore[arg-type]
        EditSpec: lambda: Edit(
            field_of(spec, "source", what), field_of(spec, "instruction", what), field_of(spec, "target", what)
        ),
        ReasonSpec: lambda: reason(name, spec, head, what),  # type: ignore[arg-type]
        PromptsSpec: lambda: prompts(name, spec, head, what),  # type: ignore[arg-type]
    }
    return makers[type(spec)]()


def field_of(spec: SetSpec, key: str, what: str, default: OneOrMore | None = None) -> Field:
    """A field that a set describes, or the usual names of it."""
    given = getattr(spec, key)
    chosen = given if given is not None else default
    assert chosen is not None
    return parse_field(chosen, f"{key} of {what}")


def maybe(spec: SetSpec, key: str, what: str, default: OneOrMore | None = None) -> Field | None:
    """A field that a set may describe."""
    given = getattr(spec, key)
    chosen = given if given is not None else default
    return None if chosen is None else parse_field(chosen, f"{key} of {what}")


def ways_of(ways: str, thought: object) -> tuple[Part, ...]:
    """The examples of one caption; a thought before drawing is learned in an example of its own."""
    draw: tuple[Part, ...] = ("draw",) if thought is None else ("thought", "image")
    found: dict[str, tuple[Part, ...]] = {"draw": draw, "describe": ("describe",), "both": (*draw, "describe")}
    return found[ways]


def listed(given: OneOrMore) -> tuple[str, ...]:
    """One or several texts as a tuple."""
    return (given,) if isinstance(given, str) else tuple(given)


def pair(spec: PairSpec, head: Head, what: str) -> Pair:
    """Pictures with captions."""
    if spec.caption is not None and spec.captions:
        raise InputError(f"{what} has both caption and captions; give captions for several fields, each of which is one")
    image = field_of(spec, "image", what, IMAGES)
    if spec.captions:
        captions = tuple(parse_field(one, f"captions of {what}") for one in spec.captions)
    else:
        captions = (field_of(spec, "caption", what, CAPTIONS),)
    counts = [sum(count_of(one, row) for one in captions) for row in head]
    return Pair(
        image,
        captions,
        ways_of(spec.ways, spec.thought),
        listed(spec.question),
        maybe(spec, "thought", what),
        max([1, *counts]),
    )


def count_of(one: Field, row: Row) -> int:
    """How many captions a field of a row has."""
    try:
        value = one.value(row)
    except ValueError:  # a row that cannot be used says nothing
        return 0
    return len(value) if isinstance(value, (list, tuple)) else int(value is not None)


def classes(spec: ClassSpec, base: Path, table: Table, what: str) -> Classes:
    """Pictures with a class. Without ``names``, those of a parquet file's schema; a folder's classes are its own names."""
    label = field_of(spec, "label", what)
    given: Any = spec.names
    parts = table.tables if isinstance(table, Joined) else [table]
    if given is None and isinstance(parts[0], ParquetTable):
        given = next((names for column, names in parts[0].labels.items() if column in label.names), None)
    names = class_names(given, base, f"names of {what}")
    if names.order and not names.by_label and isinstance(table, FolderTable):  # by number: folders in the order of their names
        if len(table.labels) != len(names.order):  # more would give folders the names of others
            sizes = f"{len(names.order)} for {len(table.labels)} folders"
            raise InputError(f"names of {what} are {sizes}; give one for each, or an object of folder and name")
        names = class_names(dict(zip(table.labels, names.order, strict=True)), base, what)
    return Classes(
        Pair(
            field_of(spec, "image", what, IMAGES),
            (parse_field(spec.caption, f"caption of {what}"),),
            ways_of(spec.ways, None),
            listed(spec.question),
        ),
        label,
        names,
    )


def chat(spec: ChatSpec, what: str) -> Chat:
    """Conversations."""
    if (spec.user is None) != (spec.assistant is None):
        missing = "user" if spec.user is None else "assistant"
        raise InputError(f"{what} has no {missing}; give user and assistant together, or turns")
    if spec.user is not None and spec.turns is not None:
        raise InputError(f"{what} has both turns and user; give one of them")
    turns = None if spec.user is not None else field_of(spec, "turns", what, TURNS)
    image = field_of(spec, "image", what, ["images", *IMAGES])
    user, assistant, system = (maybe(spec, key, what) for key in ("user", "assistant", "system"))
    return Chat(image, turns, user, assistant, system, spec.reasoning)


def check_reader(spec: ReasonSpec, keys: Sequence[str], what: str) -> None:
    """Raise InputError for fields beside a reader, which knows its own."""
    given = next((key for key in keys if getattr(spec, key) is not None), None)
    if spec.reader is not None and given is not None:
        raise InputError(f"{what} has both reader and {given}; a reader knows the fields of its set, so leave one out")


def fields_of(name: str, spec: ReasonSpec, golds: list[str] | None, what: str) -> Fields:
    """The fields of a set without a reader."""
    return Fields(
        name,
        field_of(spec, "prompt", what, PROMPTS),
        None if golds else maybe(spec, "thinking", what, THOUGHTS),
        None if golds else maybe(spec, "answer", what, ANSWERS),
        maybe(spec, "gold", what, golds) if golds else None,
        maybe(spec, "image", what, IMAGES),
        parse_field("task", what),
    )


def reason(name: str, spec: ReasonSpec, head: Head, what: str) -> Reason:
    """Reasoning and answers."""
    check_reader(spec, ("prompt", "thinking", "answer", "image"), what)
    if spec.reader is not None:
        return Reason(spec.reader)
    parts = 2 if any(row.get("task") == "image" for row in head) else 1
    return Reason(given=fields_of(name, spec, None, what), parts=parts)


def prompts(name: str, spec: PromptsSpec, head: Head, what: str) -> Reason:
    """Prompts with gold answers."""
    check_reader(spec, ("prompt", "gold", "image"), what)
    if spec.reader is not None:
        return Reason(spec.reader, task=spec.task)
    return Reason(given=fields_of(name, spec, GOLDS, what), task=spec.task)


def tasks_of(spec: SetSpec, meaning: Use) -> tuple[str, ...]:
    """The tasks of a set of prompts; empty for others."""
    if not isinstance(spec, PromptsSpec):
        return ()
    if spec.task is not None:
        return (spec.task,)
    if spec.reader is not None:
        return ("math",) if spec.reader in MATHEMATICS else ("vision",)
    return ("math", "vision", "image")
