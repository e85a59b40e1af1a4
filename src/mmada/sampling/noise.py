"""Noise that is a function of (seed, step, place, column): what else is computed beside a place cannot change its noise, nor can
the device. A batch, a cache and a guess ahead draw what a single plain run draws.

Shapes: N places, V columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gumbel", "mixed"]

GOLDEN = 0x9E3779B97F4A7C15 - 2**64
FACTORS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def mixed(key: Tensor, number: int | Tensor) -> Tensor:
    """A key (any shape, int64) for ``number`` (broadcast) below another: SplitMix64, in wrapping arithmetic."""
    x = key + (number + 1) * GOLDEN if isinstance(number, Tensor) else key + wrapped((number + 1) * GOLDEN)
    for shift, factor in zip((30, 27), FACTORS, strict=True):
        x = (x ^ ((x >> shift) & (2 ** (64 - shift) - 1))) * factor
    return x ^ ((x >> 31) & (2**33 - 1))


def wrapped(number: int) -> int:
    """A whole number as 64 signed bits."""
    return (number + 2**63) % 2**64 - 2**63


def gumbel(key_N: Tensor, width: int) -> Tensor:
    """Standard Gumbel noise (N, width), float64, one row a key."""
    bits_NV = mixed(key_N[:, None], torch.arange(width, device=key_N.device))
    uniform_NV = ((bits_NV >> 12) & (2**52 - 1)).double().add_(0.5).mul_(2.0**-52)  # never 0 or 1
    return uniform_NV.log_().neg_().log_().neg_()
