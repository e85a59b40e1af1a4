"""The one error for bad input: one clear sentence that names the field, the value and the mend."""

import math
import operator
from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["InputError", "check_number", "check_whole", "unknown_name"]


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
    try:
        whole = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        whole = None
    if whole is None or isinstance(value, bool) or whole < least or (most is not None and whole > most):
        raise InputError(f"{field} must be a whole number of {span}, got {value!r}")
    return whole


def check_number(field: str, value: object, least: float = 0.0) -> float:
    """``value`` as a finite float of at least ``least``. Raises `InputError`."""
    if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
        raise InputError(f"{field} must be a number of at least {least:g}, got {value!r}")
    number = float(value)
    if not least <= number < math.inf:
        raise InputError(f"{field} must be a number of at least {least:g}, got {value!r}")
    return number
