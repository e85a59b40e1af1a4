"""Noise schedules: the mask ratio as a function of time.

``ratio(t)`` falls from 1 at t = 0 (everything masked) to 0 at t = 1, as in parallel image decoding (paper section 3.2; MaskGIT).
Training draws t uniformly and masks ``ratio(t)`` of the places.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mmada.errors import InputError

__all__ = ["SCHEDULES", "Cosine", "Linear", "Power", "Schedule", "Sigmoid"]


class Schedule(Protocol):
    """A noise schedule."""

    def ratio(self, t: Tensor) -> Tensor:
        """Mask ratio in [0, 1] at times ``t`` in [0, 1]; same shape."""
        ...


@dataclass(frozen=True)
class Cosine:
    """cos(pi t / 2): the released choice for pictures."""

    def ratio(self, t: Tensor) -> Tensor:
        """Mask ratio at ``t``."""
        return torch.cos(t * (math.pi / 2)).clamp(0.0, 1.0)


@dataclass(frozen=True)
class Linear:
    """1 - t: the schedule of eq. 1, where time is the mask ratio itself."""

    def ratio(self, t: Tensor) -> Tensor:
        """Mask ratio at ``t``."""
        return (1.0 - t).clamp(0.0, 1.0)


@dataclass(frozen=True)
class Power:
    """1 - t**exponent."""

    exponent: float = 2.0

    def __post_init__(self) -> None:
        if not self.exponent > 0:
            raise InputError(f"exponent of the power schedule must be above 0, got {self.exponent}")

    def ratio(self, t: Tensor) -> Tensor:
        """Mask ratio at ``t``."""
        return (1.0 - t**self.exponent).clamp(0.0, 1.0)


@dataclass(frozen=True)
class Sigmoid:
    """A sigmoid between ``start`` and ``end``, rescaled to run from 1 to 0; ``tau`` sharpens it."""

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0

    def __post_init__(self) -> None:
        if not self.end > self.start:
            raise InputError(f"end of the sigmoid schedule must be above its start {self.start}, got {self.end}")
        if not self.tau > 0:
            raise InputError(f"tau of the sigmoid schedule must be above 0, got {self.tau}")

    def ratio(self, t: Tensor) -> Tensor:
        """Mask ratio at ``t``."""
        low = torch.sigmoid(torch.tensor(self.start / self.tau, dtype=t.dtype))
        high = torch.sigmoid(torch.tensor(self.end / self.tau, dtype=t.dtype))
        here = torch.sigmoid((t * (self.end - self.start) + self.start) / self.tau)
        return ((high - here) / (high - low)).clamp(0.0, 1.0)


SCHEDULES: dict[str, Schedule] = {
    "cosine": Cosine(),
    "linear": Linear(),
    "square": Power(2.0),
    "root": Power(0.5),
    "sigmoid": Sigmoid(),
}
"""Name -> schedule. Cosine and square decide little at first and much at last, linear the same all the time, root much at first
and little at last, sigmoid most in the middle."""
