"""Fields of a row: dotted paths, the first one that is there, templates, and values as text.

conversations.0.value     a path into the row: names of fields and numbers of list elements
[json.recaption, txt]     the first of these that is there and not blank
"{instruction}\\n{input}"  a template; "{{" is a brace
"=What is this?"          a fixed text
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

from mmada.data.dataset import UnusableRow
from mmada.data.row_fields import kind_of
from mmada.data.sources.tables import Row
from mmada.errors import InputError, quote

__all__ = ["Field", "Names", "as_text", "is_blank", "parse_field", "replaced", "value_at"]

Names = str | Sequence[str]


def value_at(row: Any, path: str) -> Any:
    """The value at a dotted path, None where there is none. A name that has dots itself is found as it stands."""
    if isinstance(row, Mapping):
        if path in row:
            return row[path]
        for cut in range(len(path) - 1, 0, -1):
            if path[cut] == "." and path[:cut] in row:
                return value_at(row[path[:cut]], path[cut + 1 :])
        return None
    if isinstance(row, (list, tuple)):
        head, _, rest = path.partition(".")
        if head.lstrip("-").isdecimal() and -len(row) <= int(head) < len(row):
            inside = row[int(head)]
            return value_at(inside, rest) if rest else inside
    return None


def is_blank(value: Any) -> bool:
    """Whether a value stands for nothing: None, NaN (how tables write it), blank text, an empty list."""
    if isinstance(value, str):
        return not value.strip()
    if value is None or (isinstance(value, (list, tuple, bytes)) and not value):
        return True
    return bool(isinstance(value, float) and value != value)


def as_text(value: Any, what: str) -> str:
    """A value as text without spaces around it; empty for a blank one. Raises UnusableRow for other kinds and broken Unicode."""
    if is_blank(value):
        return ""
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UnusableRow(f"{what} is not UTF-8") from error
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise UnusableRow(f"{what} is {kind_of(value)}, not text")
    text = str(value).strip()
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can escape half a character, which no tokenizer takes
        raise UnusableRow("text is not valid Unicode") from error
    return text


@dataclass(frozen=True)
class Field:
    """What a set says of a field. ``names``: fields that it reads; one of ``choices`` gives the value."""

    choices: tuple[Callable[[Row], Any], ...]
    names: frozenset[str]

    def value(self, row: Row) -> Any:
        """The first value that is not blank, None where there is none."""
        for choice in self.choices:
            if not is_blank(found := choice(row)):
                return found
        return None

    def text(self, row: Row, what: str, replace: Mapping[str, str]) -> str:
        """The value as text, empty where there is none."""
        return replaced(as_text(self.value(row), what), replace)


def replaced(text: str, pairs: Mapping[str, str]) -> str:
    """A text with each of ``pairs`` put in the place of what it replaces."""
    for old, new in pairs.items():
        text = text.replace(old, new)
    return text.strip()


def parse_field(given: Names, what: str) -> Field:
    """Read the description of a field. Raises InputError for a template that is none."""
    choices, names = [], set[str]()
    for one in [given] if isinstance(given, str) else given:
        if one.startswith("="):
            choices.append(fixed(one[1:]))
        elif "{" in one or "}" in one:
            parts = template_parts(one, what)
            names |= {name for _, name in parts if name}
            choices.append(filled(parts))
        else:
            names.add(one)
            choices.append(at_path(one))
    return Field(tuple(choices), frozenset(names))


def fixed(text: str) -> Callable[[Row], Any]:
    """The same text for every row."""
    return lambda row: text


def at_path(path: str) -> Callable[[Row], Any]:
    """The value at a path."""
    return lambda row: value_at(row, path)


def template_parts(template: str, what: str) -> list[tuple[str, str]]:
    """(text, field behind it) pieces of a template."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise InputError(f"{what} {quote(template)} is not a template ({error}); write fields as {{name}}") from error
    for _, name, form, conversion in parts:
        if name is not None and (not name or form or conversion):
            raise InputError(f"{what} {quote(template)} is not a template; write fields as {{name}}, and a brace as {{{{")
    return [(text, name or "") for text, name, _, _ in parts]


def filled(parts: Sequence[tuple[str, str]]) -> Callable[[Row], Any]:
    """A template with the fields of a row; blank where none of its fields is there."""

    def fill(row: Row) -> str | None:
        values = [as_text(value_at(row, name), name) if name else "" for _, name in parts]
        if any(name for _, name in parts) and not any(values):
            return None
        return "".join(text + value for (text, _), value in zip(parts, values, strict=True)).strip()

    return fill
