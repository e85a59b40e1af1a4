"""Noise schedules: the mask ratio as a function of time.

``ratio(t)`` falls from 1 at t = 0 (everything masked) to 0 at t = 1, in the direction of parallel image decoding (paper section
3.2; MaskGIT). Training draws t uniformly and masks ``ratio(t)`` of the positions.

With alpha = 1 - ratio, the share of clean positions, the likelihood bound weighs the cross-entropy at time t by
alpha'(t) / (1 - alpha(t)) = ``rate(t) / ratio(t)`` (MDLM, arXiv 2406.07524, eq. 10); for the linear schedule that is the 1/t of
eq. 1, whose time is the mask ratio itself.
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

    def rate(self, t: Tensor) -> Tensor:
        """Speed at which the mask ratio falls, -d ratio / dt, at least 0; same shape."""
        ...


@dataclass(frozen=True)
class Cosine:
    """cos(pi t / 2): the released choice for images."""

    def ratio(self, t: Tensor) -> Tensor:
        """As `Schedule.ratio`."""
        return torch.cos(t * (math.pi / 2)).clamp(0.0, 1.0)

    def rate(self, t: Tensor) -> Tensor:
        """As `Schedule.rate`."""
        return math.pi / 2 * torch.sin(t * (math.pi / 2))


@dataclass(frozen=True)
class Linear:
    """1 - t: the schedule of eq. 1."""

    def ratio(self, t: Tensor) -> Tensor:
        """As `Schedule.ratio`."""
        return (1.0 - t).clamp(0.0, 1.0)

    def rate(self, t: Tensor) -> Tensor:
        """As `Schedule.rate`."""
        return torch.ones_like(t)


@dataclass(frozen=True)
class Power:
    """1 - t**exponent."""

    exponent: float = 2.0

    def __post_init__(self) -> None:
        if not self.exponent > 0:
            raise InputError(f"exponent of the power schedule must be above 0, got {self.exponent}")

    def ratio(self, t: Tensor) -> Tensor:
        """As `Schedule.ratio`."""
        return (1.0 - t**self.exponent).clamp(0.0, 1.0)

    def rate(self, t: Tensor) -> Tensor:
        """As `Schedule.rate`."""
        # Below an exponent of 1 the rate is infinite at t = 0; uniform times practically never fall below 1e-9.
        return self.exponent * t.clamp(min=1e-9) ** (self.exponent - 1)


@dataclass(frozen=True)
class Sigmoid:
    """A sigmoid between ``start`` and ``end``, rescaled to run from 1 to 0; a small ``tau`` makes it steeper."""

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0

    def __post_init__(self) -> None:
        if not self.end > self.start:
            raise InputError(f"end of the sigmoid schedule must be above its start {self.start}, got {self.end}")
        if not self.tau > 0:
            raise InputError(f"tau of the sigmoid schedule must be above 0, got {self.tau}")

    def ratio(self, t: Tensor) -> Tensor:
        """As `Schedule.ratio`."""
        low, high, here = self.values(t)
        return ((high - here) / (high - low)).clamp(0.0, 1.0)

    def rate(self, t: Tensor) -> Tensor:
        """As `Schedule.rate`."""
        low, high, here = self.values(t)
        return here * (1 - here) * ((self.end - self.start) / self.tau) / (high - low)

    def values(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The sigmoid at both ends and at times ``t``."""
        low = torch.sigmoid(torch.tensor(self.start / self.tau, dtype=t.dtype))
        high = torch.sigmoid(torch.tensor(self.end / self.tau, dtype=t.dtype))
        return low, high, torch.sigmoid((t * (self.end - self.start) + self.start) / self.tau)


SCHEDULES: dict[str, Schedule] = {
    "cosine": Cosine(),
    "linear": Linear(),
    "square": Power(2.0),
    "root": Power(0.5),
    "sigmoid": Sigmoid(),
}
"""Name -> schedule. In decoding, cosine and square unmask few positions at first and many at the end, linear the same number
in every step, root many at first and few at the end, sigmoid most in the middle."""
