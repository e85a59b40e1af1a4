"""The one error for bad input: one clear sentence that names the field, the value and the mend."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["InputError", "unknown_name"]


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
