"""Logs in JSONL files: a line for each row, which a kill may cut off."""

from __future__ import annotations

import json
from pathlib import Path

from mmada.errors import InputError, quote, system_reason

__all__ = ["read_log"]


def read_log(path: Path, key: str = "step") -> list[dict[str, float]]:
    """The rows of a JSONL log, numbered by ``key``; a last line that a kill cut off, which has no line end, is left out.

    Raises InputError for any other line that is not a row of a log, naming it.
    """
    try:
        data = path.read_bytes() if path.is_file() else b""
    except OSError as error:
        raise InputError(f"log {quote(path)} cannot be read ({system_reason(error)}); check its permissions") from error
    lines = data.splitlines()
    cut = bool(lines) and not data.endswith(b"\n")
    rows: list[dict[str, float]] = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and type(row.get(key)) is int:
            rows.append(row)
        elif number < len(lines) or not cut:
            raise InputError(
                f"line {number} of the log {quote(path)} is damaged; restore it, empty the file to continue without it, or give "
                f"another folder"
            )
    return rows
