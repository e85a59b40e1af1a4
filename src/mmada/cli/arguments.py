"""Argument parsing: a command is a frozen dataclass whose fields say how they are read from the command line.

`argument`, `option`, `flag` and `switch` declare a field together with its help text; `parse_command` fills the dataclass from
words. The grammar is argparse's. Values are read here instead of by argparse, so that every error is one sentence that names the
option, the value and what would be right. An option that was not given keeps its default, and no word stands for "not given".
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, NoReturn, TypeVar

from mmada.errors import InputError, check_choice, check_number, check_path, check_text, check_whole, quote

__all__ = [
    "FASTER",
    "FOLDER",
    "NUMBER",
    "PATH",
    "TEXT",
    "Kind",
    "argument",
    "choice",
    "flag",
    "number",
    "option",
    "option_name",
    "options_of",
    "parse_command",
    "parser_of",
    "path",
    "size",
    "switch",
    "text",
    "whole",
]

Command = TypeVar("Command")
Many = Literal["one", "list", "repeat"]
FIELD = "argument"
"""Key of a field's `OptionSpec` in its metadata."""
FASTER = "faster decoding"
GROUPS = ("options", FASTER, "model")
"""Groups of the help page, in order: what is special to a command comes first."""


@dataclass(frozen=True)
class Kind:
    """A kind of value: its placeholder in the help, and how to read it.

    ``read`` takes the option's name and one word, and raises InputError for a word that is not of the kind.
    """

    metavar: str
    read: Callable[[str, str], Any]


@dataclass(frozen=True)
class OptionSpec:
    """One field as an argument or option of the command line.

    ``many``: "one" value, a "list" of values after one option, or an option to "repeat". ``names``: further spellings. ``shown``:
    the default as the help says it. ``on_off``: None for an option with a value, else its words are --name (and --no-name).
    """

    help: str
    kind: Kind
    positional: bool = False
    group: str = "options"
    many: Many = "one"
    names: tuple[str, ...] = ()
    shown: str = ""
    on_off: Literal["on", "both"] | None = None


def argument(help: str, kind: Kind, default: Any = dataclasses.MISSING, *, many: Many = "one", shown: str = "") -> Any:
    """A positional argument; without a default it must be given."""
    spec = OptionSpec(help, kind, positional=True, many=many, shown=shown)
    return dataclasses.field(default=default, metadata={FIELD: spec})


def option(
    help: str,
    kind: Kind,
    default: Any = dataclasses.MISSING,
    *,
    group: str = "options",
    many: Many = "one",
    names: tuple[str, ...] = (),
    shown: str = "",
) -> Any:
    """An option with a value. ``shown`` says what happens without it where the default itself says nothing."""
    spec = OptionSpec(help, kind, group=group, many=many, names=names, shown=shown)
    return dataclasses.field(default=default, metadata={FIELD: spec})


def flag(help: str, *, group: str = "options") -> Any:
    """An option without a value: False, or True where it is given."""
    return dataclasses.field(default=False, metadata={FIELD: OptionSpec(help, TEXT, group=group, on_off="on")})


def switch(help: str, *, shown: str) -> Any:
    """A pair ``--name`` and ``--no-name``: None where neither is given, which ``shown`` explains; the last one counts."""
    return dataclasses.field(default=None, metadata={FIELD: OptionSpec(help, TEXT, shown=shown, on_off="both")})


def whole(minimum: int = 0, maximum: int | None = None) -> Kind:
    """Whole numbers of a range."""

    def read(name: str, word: str) -> int:
        # int() would take "1_000" and digits of other scripts too, and refuses more than 4,300 digits.
        value: object = int(word) if re.fullmatch(r"[+-]?[0-9]{1,4000}", word) else word
        return check_whole(name, value, minimum, maximum)

    return Kind("N", read)


def number(minimum: float = 0.0) -> Kind:
    """Finite numbers of at least ``minimum``."""

    def read(name: str, word: str) -> float:
        try:
            value: object = word if "_" in word else float(word)
        except ValueError:
            value = word
        return check_number(name, value, minimum)

    return Kind("X", read)


def text(metavar: str = "TEXT", *, empty: bool = False) -> Kind:
    """Text, which may be blank only where ``empty``."""

    def read(name: str, word: str) -> str:
        check_text(name, word, empty=empty)
        return word

    return Kind(metavar, read)


def path(metavar: str) -> Kind:
    """Paths that a file system can hold; whether the file is there is checked by who uses it."""
    return Kind(metavar, check_path)


def choice(*names: str) -> Kind:
    """One of a few words."""

    def read(name: str, word: str) -> str:
        check_choice(name, word, names)
        return word

    return Kind("|".join(names), read)


def size() -> Kind:
    """Width and height in pixels, as (width, height)."""

    def read(name: str, word: str) -> tuple[int, int]:
        match = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", word)
        if match is None:
            raise InputError(f"{name} {quote(word)} is not a size in pixels; write it as WIDTHxHEIGHT, such as 512x256")
        return int(match[1]), int(match[2])

    return Kind("WxH", read)


TEXT = text()
"""Text that is not blank."""
NUMBER = number()
"""A finite number of at least 0."""
PATH = path("FILE")
"""A file."""
FOLDER = path("FOLDER")
"""A folder."""


def options_of(command: type[Any]) -> dict[str, OptionSpec]:
    """Field -> how it is read; those that a class declares itself come before those of the classes that it extends."""
    specs = {field.name: field.metadata[FIELD] for field in dataclasses.fields(command)}
    order = [name for kind in command.__mro__ for name in inspect.get_annotations(kind) if name in specs]
    return {name: specs[name] for name in dict.fromkeys(order)}


def defaults_of(command: type[Any]) -> dict[str, object]:
    """Field -> its default, ``dataclasses.MISSING`` where it must be given."""
    return {field.name: field.default for field in dataclasses.fields(command)}


def option_name(field: str) -> str:
    """``per_prompt`` as ``--per-prompt``."""
    return "--" + field.replace("_", "-")


def parse_command(name: str, command: type[Command], words: Sequence[str]) -> Command:
    """Fill a command's fields. Raises InputError for what is wrong or missing; ``--help`` prints the help and exits with 0."""
    parser = parser_of(name, command)
    specs = options_of(command)
    defaults = defaults_of(command)
    for word in words[: words.index("--")] if "--" in words else words:
        if re.fullmatch(r"--[\w-]+=--", word):  # which argparse reads as no value
            raise InputError(f"{word.partition('=')[0]} cannot be '--'; give another value")
    given, extra = parser.parse_known_intermixed_args(list(words))
    if extra:
        raise unknown_option(extra[0], name, specs)
    values: dict[str, Any] = {}
    for field, spec in specs.items():
        word = getattr(given, field)
        shown = field if spec.positional else option_name(field)
        if word is None or word == []:  # not given
            if defaults[field] is dataclasses.MISSING:
                raise InputError(f"{shown} is missing; give {spec.kind.metavar}, see mmada {name} --help")
            continue
        if spec.on_off is not None:
            values[field] = word
        elif spec.many == "one":
            values[field] = spec.kind.read(shown, word)
        else:
            values[field] = tuple(spec.kind.read(shown, one) for one in word)
    return command(**values)


def unknown_option(word: str, command: str, specs: dict[str, OptionSpec]) -> InputError:
    """The error for a word that no option or argument takes."""
    name = word.partition("=")[0]
    if not name.startswith("-"):
        return InputError(
            f"{quote(word)} is one argument too many; quote text that has spaces in it, or see mmada {command} --help"
        )
    near = get_close_matches(name.lower(), list(spellings(specs)), 1, 0.6)
    hint = f"did you mean {near[0]}?" if near else f"see mmada {command} --help"
    return InputError(f"option {quote(name)} is unknown; {hint}")


def spellings(specs: dict[str, OptionSpec]) -> Iterator[str]:
    """Every word that names an option."""
    for field, spec in specs.items():
        if not spec.positional:
            yield option_name(field)
            yield from spec.names
            if spec.on_off == "both":
                yield "--no-" + option_name(field)[2:]
    yield "--help"


class _Parser(argparse.ArgumentParser):
    """Raises InputError where argparse prints its usage and exits."""

    def error(self, message: str) -> NoReturn:
        if without_value := re.match(r"argument (?:-\w/)?(--[\w-]+)\S*: expected", message):
            raise InputError(f"{without_value[1]} has no value; give it one, or leave it out")
        raise InputError(f"{message.removeprefix('argument ').rstrip('.')}; see {self.prog} --help")


def parser_of(name: str, command: type[Any]) -> argparse.ArgumentParser:
    """The argparse parser of a command, which takes every value as text."""
    paragraphs = re.split(r"\n\s*\n", command.__doc__ or "")
    about = "\n\n".join(textwrap.fill(" ".join(one.split()), help_width()) for one in paragraphs)
    parser = _Parser(
        prog=f"mmada {name}",
        usage=usage(name, command),
        description=about,
        allow_abbrev=False,
        add_help=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=26, width=help_width()),
    )
    specs, defaults = options_of(command), defaults_of(command)
    positional = parser.add_argument_group("arguments") if any(spec.positional for spec in specs.values()) else parser
    groups = {group: parser.add_argument_group(group) for group in GROUPS if any(spec.group == group for spec in specs.values())}
    for field, spec in specs.items():
        default = defaults[field]
        help = with_default(spec, default).replace("%", "%%")
        if spec.positional:
            nargs = "*" if spec.many == "list" else "?"  # what is missing is told after what is unknown
            positional.add_argument(field, metavar=spec.kind.metavar, nargs=nargs, help=help, default=None)
            continue
        names = sorted([option_name(field), *spec.names], key=lambda one: one.startswith("--"))
        arguments: dict[str, Any] = {"dest": field, "help": help, "default": None}
        if spec.on_off is not None:
            arguments["action"] = argparse.BooleanOptionalAction if spec.on_off == "both" else "store_true"
        else:
            arguments |= {"metavar": spec.kind.metavar}
            arguments |= {"nargs": "+"} if spec.many == "list" else {"action": "append"} if spec.many == "repeat" else {}
        groups[spec.group].add_argument(*names, **arguments)
    last = groups.get("options") or parser
    last.add_argument("-h", "--help", action="help", help="Show this help and stop.")
    return parser


def usage(name: str, command: type[Any]) -> str:
    """The usage line: arguments and what must be given; the help lists the rest."""
    words = ["mmada", name]
    for field, default in defaults_of(command).items():
        spec = options_of(command)[field]
        word = spec.kind.metavar + (" ..." if spec.many == "list" else "")
        if spec.positional:
            words.append(f"[{word}]" if default is not dataclasses.MISSING else word)
        elif default is dataclasses.MISSING:
            words.append(f"{option_name(field)} {word}")
    return " ".join([*words, "[options]"]).replace("%", "%%")


def help_width() -> int:
    """Columns of the help: those of the terminal, at most 110."""
    return max(60, min(shutil.get_terminal_size().columns, 110))


def with_default(spec: OptionSpec, default: object) -> str:
    """The help text with the default behind it; flags and what must be given have none."""
    notes = ["repeatable"] if spec.many == "repeat" else []
    if spec.shown:
        notes.append(f"default: {spec.shown}")
    elif spec.on_off is None and default not in (None, dataclasses.MISSING, ()) and default != "":
        notes.append(f"default: {default}")
    return f"{spec.help} ({'; '.join(notes)})" if notes else spec.help
