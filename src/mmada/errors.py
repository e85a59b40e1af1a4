"""Input errors and the checks that raise them.

Every error of bad input is one sentence that names the field, the value and the fix. Values are shortened and escaped by
`quote`, so a file name of thousands of characters or a NUL byte cannot break a terminal or a log.
"""

import errno
import math
import operator
import os
import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import SupportsFloat, SupportsIndex

__all__ = [
    "MAX_ROWS",
    "MAX_SEED",
    "MAX_STEPS",
    "InputError",
    "check_callable",
    "check_choice",
    "check_flag",
    "check_folder",
    "check_instance",
    "check_is_folder",
    "check_number",
    "check_path",
    "check_text",
    "check_whole",
    "kind_of",
    "make_folder",
    "quote",
    "system_reason",
    "unknown_name",
    "with_article",
]

MAX_ROWS = 2**20
"""Largest number of rows that an embedding is resized to."""
MAX_SEED = 2**63 - 1
"""Largest seed that torch's generators accept."""
MAX_STEPS = 10_000
"""Largest number of denoising steps; more steps than tokens do nothing."""
_MAX_NAME = 255
_MAX_PATH = 4095
_REASONS = {
    errno.ENOENT: "no such file or folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.ELOOP: "it is a loop of symbolic links",
    errno.ENAMETOOLONG: "its name is too long",
    errno.EISDIR: "it is a folder",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
}


class InputError(ValueError):
    """Bad input from a user: the field, its value and the fix, in one sentence.

    The command line prints it and exits with status 2; in Python it is a ``ValueError``.
    """


def quote(value: object, limit: int = 80) -> str:
    """Return ``value`` as messages show it: quoted, on one line, control characters escaped, a long one without its middle."""
    if isinstance(value, (str, os.PathLike)):
        text = os.fsdecode(value)
        limit = limit if isinstance(value, str) else max(limit, 240)  # people need the whole of a usual path
        if len(text) > limit:
            text = f"{text[: limit // 2]}...{text[-limit // 4 :]}"
        shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
        return f"'{shown}'"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    try:
        shown = " ".join(repr(value).split())
    except Exception:  # a repr of the user's own class may fail
        shown = kind_of(value)
    if re.search(r" at 0x[0-9a-f]+>", shown):  # an address says nothing
        shown = kind_of(value)
    return shown if len(shown) <= limit else f"{shown[: limit // 2]}...{shown[-limit // 4 :]}"


def kind_of(value: object) -> str:
    """Say in words of which type a value is: "a list", "an object", "None"."""
    return "None" if value is None else with_article(type(value).__name__)


def with_article(name: str) -> str:
    """A name with "a" or "an" before it."""
    return f"{'an' if name[0].lower() in 'aeio' else 'a'} {name}"


def unknown_name(field: str, value: str, known: Iterable[str]) -> InputError:
    """Make the error for a name that is not among ``known``: it suggests the nearest one, or lists them all."""
    names = sorted(known)
    near = get_close_matches(value.lower(), names, n=1, cutoff=0.5)
    fix = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}."
    return InputError(f"{field} {quote(value)} is unknown; {fix}")


def check_whole(field: str, value: object, minimum: int, maximum: int | None = None) -> int:
    """Return ``value`` as an int between ``minimum`` and ``maximum``. Raises `InputError`, also for bool and 2.0."""
    span = f"at least {minimum}" if maximum is None else f"{minimum} to {maximum}"
    whole = None
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        try:
            whole = operator.index(value)
        except (TypeError, ValueError, RuntimeError):  # an array or a tensor of more than one number, or of floats
            whole = None
    if whole is None or whole < minimum or (maximum is not None and whole > maximum):
        raise InputError(f"{field} must be a whole number of {span}, got {quote(value)}")
    return whole


def check_number(field: str, value: object, minimum: float = 0.0, maximum: float = sys.float_info.max) -> float:
    """Return ``value`` as a finite float between ``minimum`` and ``maximum``. Raises `InputError`."""
    span = f"at least {minimum:g}" if maximum == sys.float_info.max else f"{minimum:g} to {maximum:g}"
    if isinstance(value, (bool, str, bytes)) or not isinstance(value, SupportsFloat):
        raise InputError(f"{field} must be a number of {span}, got {quote(value)}")
    try:
        number = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        number = math.inf
    except (TypeError, ValueError, RuntimeError) as error:  # an array or a tensor of more than one number
        raise InputError(f"{field} must be a number of {span}, got {quote(value)}") from error
    if not minimum <= number <= maximum:
        kind = "finite number" if math.isinf(number) else "number"
        raise InputError(f"{field} must be a {kind} of {span}, got {quote(value)}")
    return number


def check_flag(field: str, value: object) -> bool:
    """Return ``value`` if it is True or False. Raises `InputError` for everything else, also 0, 1 and "no"."""
    if not isinstance(value, bool):
        raise InputError(f"{field} must be True or False, got {quote(value)}")
    return value


def check_callable(field: str, value: object) -> None:
    """Raise `InputError` unless ``value`` can be called."""
    if not callable(value):
        raise InputError(f"{field} is {kind_of(value)}; give a function")


def check_instance(field: str, value: object, kind: type | tuple[type, ...], wanted: str) -> None:
    """Raise `InputError` unless ``value`` is of a ``kind``; ``wanted`` says in words what to give, such as "a folder"."""
    if not isinstance(value, kind):
        raise InputError(f"{field} is {kind_of(value)}; give {wanted}")


def check_text(field: str, value: object, *, empty: bool = False) -> None:
    """Raise `InputError` unless ``value`` is valid Unicode text; blank text is refused unless ``empty`` is set."""
    if not isinstance(value, str):
        raise InputError(f"{field} is {kind_of(value)}; give text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{field} {quote(value)} is not valid text; give it in UTF-8") from error
    if not empty and not value.strip():
        raise InputError(f"{field} is empty; give some text")


def check_choice(field: str, value: object, choices: Iterable[str]) -> None:
    """Raise `InputError` unless ``value`` is one of ``choices``."""
    known = tuple(choices)
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{field} must be one of {', '.join(known)}, got {quote(value)}")


def check_path(field: str, value: object) -> Path:
    """Return ``value`` as a path that a file system can hold; whether anything is there is not looked at.

    Raises `InputError` for another type, an empty path (which would be the current folder), NUL characters, text that cannot
    be encoded, and names longer than any file system takes.
    """
    if not isinstance(value, (str, os.PathLike)) or not isinstance(text := os.fspath(value), str):
        raise InputError(f"{field} is {kind_of(value)}; give a path")
    if not text.strip():
        raise InputError(f"{field} is empty; give a path, '.' for the current folder")
    if "\0" in text:
        raise InputError(f"{field} {quote(text)} has a NUL character, which no path may hold; leave it out")
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError as error:
        raise InputError(f"{field} {quote(text)} is not valid text; give a path in UTF-8") from error
    longest = max(len(os.fsencode(part)) for part in text.split(os.sep))
    if longest > _MAX_NAME or len(encoded) > _MAX_PATH:
        said = f"a name of {longest}" if longest > _MAX_NAME else f"a path of {len(encoded)}"
        raise InputError(f"{field} {quote(text)} is {said} bytes, above the limit of file systems; give a shorter one")
    return Path(text)


def system_reason(error: Exception) -> str:
    """Say in words why the system refused a file, without "[Errno 2]" or the path."""
    if isinstance(error, OSError):
        return _REASONS.get(error.errno or 0) or error.strerror or type(error).__name__
    return "its path is not usable" if isinstance(error, ValueError) else type(error).__name__


def check_folder(field: str, path: object) -> Path:
    """Return ``path`` if a folder can be there. Raises `InputError` where a file is in the way or the path is not usable."""
    folder = check_path(field, path)
    try:
        status = _status(folder)
    except OSError as error:
        raise InputError(f"{field} {quote(folder)} cannot be a folder ({system_reason(error)}); give another") from error
    if status is not None and not folder.is_dir():
        raise InputError(f"{field} {quote(folder)} is a file; give a folder")
    return folder


def check_is_folder(field: str, path: object) -> Path:
    """Return ``path`` if it is a folder to read from. Raises `InputError`."""
    folder = check_path(field, path)
    try:
        status = _status(folder)
    except OSError as error:
        raise InputError(f"{field} {quote(folder)} cannot be read ({system_reason(error)}); check the path") from error
    if status is None:
        raise InputError(f"{field} {quote(folder)} does not exist; check the path")
    if not folder.is_dir():
        raise InputError(f"{field} {quote(folder)} is not a folder; check the path")
    return folder


def make_folder(field: str, path: object) -> Path:
    """Make a folder with its parents and return it. Raises `InputError` where that is not possible."""
    folder = check_folder(field, path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{field} {quote(folder)} cannot be written ({system_reason(error)}); give another folder") from error
    return folder


def _status(path: Path) -> os.stat_result | None:
    """The status of what a path leads to, None where there is nothing. Raises OSError for loops of links and files on the way."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None
