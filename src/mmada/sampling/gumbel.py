"""GumbelNoise that is a function of (seed, step, place, column): what else is computed beside a place cannot change its noise,
nor can
the device. A batch, a cache and a guess ahead draw what a single plain run draws.

Shapes: N places, V vocab.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from torch import Tensor

from mmada.sampling import logits_ops as rows
from mmada.sampling.logits_ops import gumbel, mixed

__all__ = ["GumbelNoise", "KeyedGumbel"]


GumbelNoise = Callable[[int], Tensor]
"""Width w -> standard Gumbel noise (N, w) float64 for the places of one step; every call draws anew."""


class KeyedGumbel:
    """`GumbelNoise` from one key a place, int64 (N,)."""

    def __init__(self, key_N: Tensor) -> None:
        self.key_N = key_N
        self.calls = count()

    @staticmethod
    def of(key_B: Tensor, moment: tuple[int, ...], row_N: Tensor, place_N: Tensor) -> KeyedGumbel:
        """Of places ``place_N`` at a moment, in the rows ``row_N`` of those that have the keys ``key_B``."""
        for number in moment:
            key_B = mixed(key_B, number)
        return KeyedGumbel(mixed(key_B[row_N], place_N))

    def __call__(self, width: int) -> Tensor:
        """GumbelNoise (N, width)."""
        return gumbel(mixed(self.key_N, next(self.calls)), width)

    def drawn(self, logits_NV: Tensor, temperature: float) -> Tensor:
        """Columns (N,) drawn from softmax(logits / temperature)."""
        return rows.drawn(logits_NV, mixed(self.key_N, next(self.calls)), temperature)
