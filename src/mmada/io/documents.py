"""Text, JSON and YAML that users give: read with a limit on size and depth, and every kind of damage is one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mmada.errors import InputError, quote, system_reason

__all__ = ["check_not_pointer", "parse_json", "parse_yaml", "read_fields", "read_json", "read_lines", "read_yaml"]

MAX_BYTES = 256 * 2**20
"""Largest document that is read whole; tokenizer.json of the released models has 9 MB."""
_KINDS = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false", type(None): "null"}
_POINTER = b"version https://git-lfs.github.com/spec/"


def check_not_pointer(path: Path, what: str) -> None:
    """Raise InputError for a git-lfs pointer: the text of three lines that a clone without git-lfs has for a large file."""
    try:
        if not path.is_file():  # a pipe would wait for its writer
            return
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
    except OSError:  # said by whoever reads it
        return
    if start == _POINTER:
        raise InputError(f"{what} {quote(path)} is a git-lfs pointer, not the file; run git lfs pull in its folder")


def read_json(path: Path, what: str, fix: str = "get the file again") -> Any:
    """Read a JSON file; ``what`` is what the error calls it.

    Raises InputError: missing, not readable, a git-lfs pointer, too large, not UTF-8, not JSON, or nested too deeply.
    """
    return parse_json(_text(path, what, fix), f"{what} {quote(path)}", fix)


def read_fields(path: Path, what: str, fix: str = "get the file again") -> dict[str, Any]:
    """`read_json` for a file that holds one object. Raises InputError for any other value."""
    value = read_json(path, what, fix)
    if not isinstance(value, dict):
        raise InputError(f"{what} {quote(path)} is damaged (it holds {_KINDS[type(value)]}, not an object of fields); {fix}")
    return value


def read_yaml(path: Path, what: str, fix: str = "fix the file") -> Any:
    """Read a YAML file, as `read_json`."""
    return parse_yaml(_text(path, what, fix), f"{what} {quote(path)}", fix)


def read_lines(path: Path, what: str) -> Iterator[str]:
    """The lines of a text file in UTF-8, with or without a byte-order mark, with their line ends.

    Wrong bytes are refused, not replaced: a model would learn the replacement characters. Raises InputError that names the line.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(f"{what} {quote(path)} is not UTF-8 in line {number}; save it as UTF-8") from error


def parse_json(text: str | bytes, what: str, fix: str = "fix it") -> Any:
    """Parse JSON text. Raises InputError that begins with ``what`` and ends with ``fix``."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise InputError(f"{what} is nested too deeply; {fix}") from error
    except ValueError as error:
        raise InputError(f"{what} is damaged (not JSON: {_short(error)}); {fix}") from error


class _Loader(yaml.SafeLoader):
    """The safe loader, which makes no objects; a key given twice is an error, as the first value would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping. Raises YAMLError."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if twice := next((key for i, key in enumerate(keys) if key in keys[:i]), None):
            raise yaml.YAMLError(f"line {node.start_mark.line + 1} has the key '{twice}' twice")
        return super().construct_mapping(node, deep)


def parse_yaml(text: str | bytes, what: str, fix: str = "fix it") -> Any:
    """Parse YAML text without making objects of it. Raises InputError as `parse_json`, and for a key given twice."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise InputError(f"{what} is nested too deeply; {fix}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{what} is not valid YAML ({_short(error)}); {fix}") from error


def _text(path: Path, what: str, fix: str) -> str:
    """The text of a file of a user."""
    check_not_pointer(path, what)
    try:
        if path.is_dir():
            raise InputError(f"{what} {quote(path)} is a folder, not a file; {fix}")
        if path.exists() and not path.is_file():
            raise InputError(f"{what} {quote(path)} is a pipe or a device, not a file; {fix}")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise InputError(f"{what} {quote(path)} has {size} bytes, more than the {MAX_BYTES} that are read; {fix}")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{what} {quote(path)} does not exist; check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{what} {quote(path)} is damaged (not UTF-8 text); {fix}") from error
    except OSError as error:
        raise InputError(f"{what} {quote(path)} cannot be read ({system_reason(error)}); check the path") from error


def _short(error: Exception) -> str:
    """The reason of a parser on one line."""
    reason = " ".join(str(error).split())
    return reason if len(reason) <= 160 else reason[:157] + "..."
