"""Logs in JSONL files: a line for each row, which a kill may cut off."""

from __future__ import annotations

import json
from pathlib import Path

from mmada.errors import InputError

__all__ = ["read_log"]


def read_log(path: Path, key: str = "step") -> list[dict[str, float]]:
    """The rows of a JSONL log, numbered by ``key``; a last line that a kill cut off is left out.

    Raises InputError for any other line that is not a row of a log, naming it.
    """
    lines = path.read_bytes().splitlines() if path.is_file() else []
    rows: list[dict[str, float]] = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and isinstance(row.get(key), int):
            rows.append(row)
        elif number < len(lines):
            raise InputError(f"line {number} of the log {path} is damaged; remove that line to continue, or give another folder")
    return rows
