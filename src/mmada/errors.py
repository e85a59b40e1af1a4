"""The one error for bad input: one clear sentence that names the field, the value and the mend; and checks that raise it."""

import math
import operator
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
    "check_choice",
    "check_folder",
    "check_is_folder",
    "check_number",
    "check_text",
    "check_whole",
    "make_folder",
    "unknown_name",
]

MAX_ROWS = 2**20
"""Most rows that a vocabulary is widened to."""
MAX_SEED = 2**63 - 1
"""Largest seed that torch's generators take."""
MAX_STEPS = 10_000
"""Most denoising steps of a plan; steps beyond one a token do nothing."""


class InputError(ValueError):
    """Bad input from a person: a field, its value, and how to mend it, in one sentence.

    The command line prints it and exits with status 2; in Python it is a ``ValueError``.
    """


def unknown_name(field: str, value: str, known: Iterable[str]) -> InputError:
    """The error for a name that is none of ``known``: it suggests the nearest one, or lists them all."""
    names = sorted(known)
    near = get_close_matches(value.lower(), names, n=1, cutoff=0.5)
    mend = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}."
    return InputError(f"{field} '{value}' is unknown; {mend}")


def check_whole(field: str, value: object, least: int, most: int | None = None) -> int:
    """``value`` as an int of at least ``least`` (and at most ``most``). Raises `InputError`, for bool and 2.0 too."""
    span = f"at least {least}" if most is None else f"{least} to {most}"
    whole = operator.index(value) if isinstance(value, SupportsIndex) and not isinstance(value, bool) else None
    if whole is None or whole < least or (most is not None and whole > most):
        raise InputError(f"{field} must be a whole number of {span}, got {value!r}")
    return whole


def check_number(field: str, value: object, least: float = 0.0, most: float = sys.float_info.max) -> float:
    """``value`` as a finite float of at least ``least`` (and at most ``most``). Raises `InputError`."""
    span = f"at least {least:g}" if most == sys.float_info.max else f"{least:g} to {most:g}"
    if isinstance(value, (bool, str, bytes)) or not isinstance(value, SupportsFloat):
        raise InputError(f"{field} must be a number of {span}, got {value!r}")
    try:
        number = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        number = math.inf
    if not least <= number <= most:
        kind = "finite number" if math.isinf(number) else "number"
        raise InputError(f"{field} must be a {kind} of {span}, got {value!r}")
    return number


def check_text(field: str, value: object, *, empty: bool = False) -> None:
    """Raise `InputError` for what is no text, for broken Unicode, and for blank text unless ``empty`` is allowed."""
    if not isinstance(value, str):
        raise InputError(f"{field} is a {type(value).__name__}; give text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{field} {value!a} is not valid text; give it in UTF-8") from error
    if not empty and not value.strip():
        raise InputError(f"{field} is empty; give some text")


def check_folder(field: str, path: Path) -> None:
    """Raise `InputError` where a folder is to be written and something else is there, or nothing can be."""
    try:
        taken = path.exists() and not path.is_dir()
    except OSError as error:
        raise InputError(f"{field} '{str(path)[:60]}' cannot be a folder ({error.strerror}); give another") from error
    if taken:
        raise InputError(f"{field} '{path}' is a file; give a folder")


def check_is_folder(field: str, path: Path) -> None:
    """Raise `InputError` for what is to be read from and is no folder."""
    if not path.is_dir():
        raise InputError(f"{field} '{path}' is no folder; check the path")


def make_folder(field: str, path: Path) -> None:
    """Make a folder with those above it. Raises `InputError` where that cannot be done."""
    check_folder(field, path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{field} '{path}' cannot be written ({error.strerror}); give another folder") from error


def check_choice(field: str, value: object, choices: Iterable[str]) -> None:
    """Raise `InputError` for what is none of ``choices``."""
    known = tuple(choices)
    if value not in known:
        raise InputError(f"{field} must be one of {', '.join(known)}, got {value!r}")
