"""Keyed permutation: a random order of any number of things, without a table.

A Feistel network of six rounds permutes the numbers of an even count of bits; walking along its cycles until a number is below n
makes it a permutation of n (Black and Rogaway 2002). Any position of the order is computed alone: no memory, the same on every
machine, and a run that resumes at step s needs nothing but s.
"""

from __future__ import annotations

import hashlib
import operator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, SupportsIndex, overload

import numpy as np

from mmada.errors import check_whole

__all__ = ["Permutation", "hashed"]

ROUNDS = 6
FIRST, SECOND = 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53  # the multipliers of MurmurHash3's finaliser
WORD = 2**64 - 1
Whole = np.ndarray[Any, np.dtype[np.int64]]


def hashed(*parts: int | str) -> int:
    """64 bits that depend on all parts and their order; the same in every process (unlike ``hash``)."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Permutation:
    """A permutation of ``range(n)`` that ``seed`` chooses: ``permutation[i]`` for a number or an array of numbers."""

    seed: int
    n: int

    def __post_init__(self) -> None:
        check_whole("n", self.n, 1, 2**62)

    def __len__(self) -> int:
        return self.n

    @cached_property
    def keys(self) -> tuple[int, ...]:
        """A key a round."""
        return tuple(hashed("permutation", self.seed, number) for number in range(ROUNDS))

    @cached_property
    def half(self) -> int:
        """Bits of half a block: the smallest count whose blocks hold ``n`` numbers."""
        return max(1, ((self.n - 1).bit_length() + 1) // 2)

    @overload
    def __getitem__(self, i: Whole, /) -> Whole: ...  # type: ignore[overload-overlap]
    @overload
    def __getitem__(self, i: SupportsIndex, /) -> int: ...
    def __getitem__(self, i: SupportsIndex | Whole, /) -> int | Whole:
        if isinstance(i, np.ndarray):
            return self._many(i)
        index = operator.index(i)
        if not 0 <= index < self.n:
            raise IndexError(f"position {index} of a permutation of {self.n}")
        found = self._one(index)
        while found >= self.n:
            found = self._one(found)
        return found

    def _one(self, x: int) -> int:
        """The network, on one number."""
        mask = (1 << self.half) - 1
        left, right = x >> self.half, x & mask
        for key in self.keys:
            y = ((right ^ key) * FIRST) & WORD
            y = ((y ^ (y >> 29)) * SECOND) & WORD
            left, right = right, left ^ ((y ^ (y >> 32)) & mask)
        return (left << self.half) | right

    def _many(self, positions: Whole) -> Whole:
        """The same on many at once; those that are not yet below ``n`` walk on."""
        if positions.size and (int(positions.min()) < 0 or int(positions.max()) >= self.n):
            raise IndexError(f"positions {positions.min()} to {positions.max()} of a permutation of {self.n}")
        found = self._network(positions.ravel().astype(np.uint64))
        waiting = np.flatnonzero(found >= self.n)
        while waiting.size:
            found[waiting] = walked = self._network(found[waiting])
            waiting = waiting[walked >= self.n]
        return found.astype(np.int64).reshape(positions.shape)

    def _network(self, x: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
        half, mask = np.uint64(self.half), np.uint64((1 << self.half) - 1)
        left, right = x >> half, x & mask
        for key in self.keys:  # products of arrays wrap around without a warning
            y = (right ^ np.uint64(key)) * np.uint64(FIRST)
            y = (y ^ (y >> np.uint64(29))) * np.uint64(SECOND)
            left, right = right, left ^ ((y ^ (y >> np.uint64(32))) & mask)
        return (left << half) | right
