"""Splits: which rows are held out, by a hash of each row's id, so that a row never moves when others come or go."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmada.data.mixture import SPLITS, Split
from mmada.data.sources.grammar import Shares, SplitField
from mmada.data.sources.tables import Hashes
from mmada.errors import InputError

__all__ = ["SMALL", "SplitRule", "numbers_of"]

SMALL = 200
"""Rows below which nothing is held out of a set unless its file says so: a few pictures are all needed for training."""
SplitRule = Split | Shares | SplitField
Numbers = np.ndarray[Any, np.dtype[np.int8]]
NAMES = {"train": 0, "training": 0, "validation": 1, "valid": 1, "val": 1, "dev": 1, "test": 2}


def numbers_of(rule: SplitRule, hashes: Hashes, named: np.ndarray[Any, Any] | None, what: str) -> Numbers:
    """The split of every row as its number in `SPLITS`, -1 for rows of none.

    With shares, the lowest hashes are the test split and the highest the validation split, so that either share can be raised
    without moving a row out of the split in which it is.
    """
    if isinstance(rule, str):
        return np.full(len(hashes), SPLITS.index(rule), np.int8)
    if isinstance(rule, SplitField):
        assert named is not None
        return named
    if rule.validation + rule.test >= 1:
        raise InputError(f"split of {what} holds out {rule.validation} and {rule.test}, which leaves nothing; lower them")
    found = np.zeros(len(hashes), np.int8)
    share = hashes / 2.0**64
    found[share >= 1 - rule.validation] = 1
    found[share < rule.test] = 2
    return found


def named_number(value: Any) -> int:
    """The number of the split that a field names, -1 where it names none."""
    return NAMES.get(value.strip().lower(), -1) if isinstance(value, str) else -1
