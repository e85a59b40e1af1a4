"""Settings of recipes: override fields by dotted name, describe them, and write them as YAML.

`override(config, {"plan.steps": "100"})` returns a checked copy of a frozen dataclass; the error for an unknown name suggests
the nearest one, the error for a wrong value says what is expected.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from mmada.errors import InputError

__all__ = ["FieldDoc", "describe_fields", "dumped", "override", "plain", "text_of"]

Config = TypeVar("Config")


def override(config: Config, values: Mapping[str, str]) -> Config:
    """A copy of a frozen dataclass with fields set by dotted name; values are read as YAML.

    A mapping given for a nested dataclass sets the fields that it names. All are set before they are checked against each other,
    so their order does not matter, except that a nested field is set after its parent. Raises InputError for an unknown field or
    a value of the wrong type or range.
    """
    return with_fields(config, {tuple(name.split(".")): text for name, text in values.items()})


def with_fields(config: Config, values: Mapping[tuple[str, ...], str], above: tuple[str, ...] = ()) -> Config:
    """Replace fields at any depth; ``above``: dotted path of ``config``."""
    changed: dict[str, Any] = {}
    parts: dict[str, dict[tuple[str, ...], str]] = {}
    for path, text in values.items():
        full = ".".join((*above, *path))
        if not dataclasses.is_dataclass(config) or isinstance(config, type):
            given = f", as in {above[-1]}={{{path[0]}: ...}}" if isinstance(config, Mapping) else ""
            raise InputError(f"setting {full!r} goes too deep: {above[-1]!r} is one value; set {'.'.join(above)!r} itself{given}")
        names = [f.name for f in dataclasses.fields(config)]
        if path[0] not in names:
            near = difflib.get_close_matches(path[0], names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(names)}"
            raise InputError(f"setting {full!r} is unknown; {hint}")
        if len(path) > 1:
            parts.setdefault(path[0], {})[path[1:]] = text
        elif dataclasses.is_dataclass(getattr(config, path[0])) and isinstance(given := parsed(full, text), dict):
            inside = {tuple(str(name).split(".")): text_of(value) for name, value in given.items()}
            parts[path[0]] = inside | parts.get(path[0], {})
        elif (named := named_settings(getattr(config, path[0]), text)) is not None:
            changed[path[0]] = named
        else:
            changed[path[0]] = checked(full, get_type_hints(type(config))[path[0]], text)
    for head, inner in parts.items():
        changed[head] = with_fields(changed.get(head, getattr(config, head)), inner, (*above, head))
    return dataclasses.replace(config, **changed) if changed else config  # type: ignore[type-var]


def named_settings(before: Any, name: str) -> Any:
    """The settings that a class of settings knows by a name, as in ``losses=paper``; None for anything else."""
    name = name.strip()
    return getattr(type(before), name)() if name in getattr(type(before), "NAMES", ()) else None


def parsed(full: str, text: str) -> Any:
    """Text read as YAML. Raises InputError."""
    try:
        return yaml.safe_load(text)
    except RecursionError as error:
        raise InputError(f"setting {full!r} cannot be '{text[:40]}...': it is nested too deep; give a simpler value") from error
    except (ValueError, yaml.YAMLError) as error:  # 2020-13-45 looks like a date to YAML but is not one
        raise InputError(f"setting {full!r} cannot be {text!r}: it is not valid YAML; quote text that has signs in it") from error


def checked(full: str, kind: Any, text: str) -> Any:
    """A YAML value validated as the type of a field; unknown keys are rejected."""
    from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

    given = parsed(full, text)
    strict = None if dataclasses.is_dataclass(kind) else ConfigDict(extra="forbid")  # reject unknown keys of nested dataclasses
    try:
        return TypeAdapter(plain_part(kind), config=strict).validate_python(given)
    except PydanticSchemaGenerationError as error:  # a class that cannot be given as text
        name = getattr(kind, "__name__", kind)
        raise InputError(f"setting {full!r} cannot be given as text: it is a {name}; give it in Python") from error
    except ValidationError as error:
        problem, path = nearest_error([(one["loc"], one["type"], one["msg"]) for one in error.errors()], given)
        at = f" (at {path})" if path else ""
        raise InputError(f"setting {full!r} cannot be {text.strip()!r}: {problem}{at}") from error


def nearest_error(errors: Sequence[tuple[tuple[int | str, ...], str, str]], given: Any) -> tuple[str, str]:
    """The problem with a value and its dotted path, from pydantic's errors (location, kind, message).

    A union reports an error for each of its types. Only the deepest ones count: for a mapping, the error that it is not a text
    is not informative.
    """
    first = path_in(errors[0][0], given).split(".")[0]
    near = [one for one in errors if path_in(one[0], given).split(".")[0] == first]
    depth = max(len(location) for location, _, _ in near)
    near = [one for one in near if len(one[0]) == depth]
    location, kind, _ = near[0]
    path = path_in(location, given)
    if kind == "missing":
        return f"{location[-1]} is missing; give it", path
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{location[-1]} is not a field of it; correct the name or leave it out", path
    return f"it should be {' or '.join(dict.fromkeys(reason(kind, message) for _, kind, message in near))}", path


def path_in(location: Sequence[int | str], given: Any) -> str:
    """Dotted path of an error within a value, without the names of types that pydantic adds."""
    found = []
    for part in location:
        inside = part in given if isinstance(given, dict) else isinstance(given, list) and part in range(len(given))
        if inside:
            found.append(str(part))
            given = given[part]
    return ".".join(found)


def plain_part(kind: Any) -> Any:
    """A union without the protocol classes, which text cannot express; other types unchanged."""
    if get_origin(kind) not in (Union, UnionType):
        return kind
    plain_kinds = [one for one in get_args(kind) if not (isinstance(one, type) and getattr(one, "_is_protocol", False))]
    return Union[tuple(plain_kinds)] if plain_kinds else kind  # noqa: UP007


NAMED = "names with values, as in {name: value}"
EXPECTED = {"tuple_type": "a list, as in [a, b]", "dataclass_type": NAMED, "dict_type": NAMED, "mapping_type": NAMED}
"""Expected values in terms of YAML, by type of error."""


def reason(kind: str, message: str) -> str:
    """The expected value, for a message."""
    return EXPECTED.get(kind, message.removeprefix("Input should be ").partition(", unable to")[0])


def text_of(value: Any) -> str:
    """A plain value as `override` reads it. Raises yaml.YAMLError for another."""
    text: str = yaml.safe_dump(value, sort_keys=False)
    return text.removesuffix("...\n").strip()


def dumped(config: Any) -> str:
    """A dataclass as YAML, for the record of a run."""
    text: str = yaml.safe_dump(plain(config), sort_keys=False)
    return text


def plain(value: Any) -> Any:
    """Dataclasses and tuples as plain YAML values; a choice without fields by its class name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return fields or type(value).__name__
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    return value


@dataclass(frozen=True)
class FieldDoc:
    """A field that `override` can set: its dotted name, its type, its value as YAML, and its line of documentation."""

    name: str
    type: str
    default: str
    doc: str


def describe_fields(config: Any, above: str = "") -> Iterator[FieldDoc]:
    """Every field of a frozen dataclass in order; a nested dataclass is followed by its own fields."""
    docs = field_docs(type(config))
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{above}{field.name}"
        annotation = field.type if isinstance(field.type, str) else inspect.formatannotation(field.type)
        kind = re.sub(r"\b[\w.<>]+\.(?=\w)", "", annotation)  # drop module prefixes
        if dataclasses.is_dataclass(value) and dataclasses.fields(value):
            yield FieldDoc(name, kind, f"({type(value).__name__})", docs.get(field.name, ""))
            yield from describe_fields(value, f"{name}.")
        else:
            yield FieldDoc(name, kind, one_line(value), docs.get(field.name, ""))


def one_line(value: Any) -> str:
    """A value as YAML on one line, or its Python repr where YAML cannot express it."""
    try:
        text: str = yaml.safe_dump(plain(value), sort_keys=False, default_flow_style=True, width=10**6)
    except yaml.YAMLError:
        return repr(value)
    return text.removesuffix("\n").removesuffix("\n...")


def field_docs(kind: type[Any]) -> dict[str, str]:
    """Documentation by field, parsed from the docstrings of a class and its bases: "``steps``, ``seed``: ..."."""
    named = r"``\w+``(?:, ``\w+``)*(?: and ``\w+``)?:"
    docs: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        text = " ".join((owner.__doc__ or "").replace("\n\n", " \0 ").split())
        for match in re.finditer(rf"({named}) (.*?)(?= {named}| \0|$)", text):
            docs |= dict.fromkeys(re.findall(r"\w+", match[1]), match[2].strip().rstrip(";."))
    return docs
