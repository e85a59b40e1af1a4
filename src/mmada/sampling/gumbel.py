"""Counter-based Gumbel noise: a function of (seed, step, position, column), drawn the same in any batch and on any device.

A batch, a cache and a speculative step draw what a single plain run draws.

Shapes: N positions, V columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

import torch
from torch import Tensor

from mmada.sampling import logits_ops
from mmada.sampling.logits_ops import gumbel, mixed, wrapped

__all__ = ["GumbelNoise", "KeyedGumbel", "key_of", "row_generators"]


GumbelNoise = Callable[[int], Tensor]
"""Width w -> standard Gumbel noise (N, w) float64 for the positions of one step; every call draws anew."""


class KeyedGumbel:
    """`GumbelNoise` from one key a position, int64 (N,)."""

    def __init__(self, key_N: Tensor) -> None:
        self.key_N = key_N
        self.calls = count()

    @staticmethod
    def of(key_B: Tensor, moment: tuple[int, ...], row_N: Tensor, position_N: Tensor) -> KeyedGumbel:
        """Noise of positions ``position_N`` at a moment (phase, block, step), in rows ``row_N`` of those with keys ``key_B``."""
        for number in moment:
            key_B = mixed(key_B, number)
        return KeyedGumbel(mixed(key_B[row_N], position_N))

    def __call__(self, width: int) -> Tensor:
        """Noise (N, width)."""
        return gumbel(mixed(self.key_N, next(self.calls)), width)

    def sample(self, logits_NV: Tensor, temperature: float) -> Tensor:
        """Columns (N,) drawn from softmax(logits / temperature)."""
        return logits_ops.gumbel_argmax(logits_NV, mixed(self.key_N, next(self.calls)), temperature)


def row_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator a row, so that a row's noise depends on its seed alone; `denoise` takes one number from each.

    On the CPU, so that a seed means the same on every device.
    """
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def key_of(generator: torch.Generator) -> int:
    """The next number of a generator mixed with all 64 bits of its seed, of which its own stream uses only 32."""
    drawn = torch.randint(2**62, (1,), generator=generator, device=generator.device)
    return int(mixed(drawn.cpu(), torch.tensor(wrapped(generator.initial_seed()))))
