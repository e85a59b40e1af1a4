"""The choices of a sampler, one small frozen object each.

    how many places a step commits     UniformSchedule(steps)  MaskSchedule(schedule, steps)
    which of them                      LowConfidence()  MarginConfidence()  RandomRemasking()  GumbelConfidence(...)
    how a token is drawn               Greedy()  Temperature(temperature)
    how strongly the prompt guides     Guidance(scale)
    where it works                     SingleBlock()  Blocks(block)
    when a row ends                    StopAtEos(ids)

Shapes: B rows, L positions, N masked places of the region that is worked on, V vocabulary vocab.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Literal, Protocol

import torch
from torch import Tensor

from mmada.diffusion.schedule import Schedule
from mmada.errors import InputError, check_number, check_whole
from mmada.sampling.gumbel import GumbelNoise, KeyedGumbel
from mmada.sampling.logits_ops import log_odds

__all__ = [
    "BlockSchedule",
    "Blocks",
    "Greedy",
    "Guidance",
    "GumbelConfidence",
    "LowConfidence",
    "MarginConfidence",
    "MaskSchedule",
    "RandomRemasking",
    "RemaskingStrategy",
    "SingleBlock",
    "StopAtEos",
    "Temperature",
    "TokenSampler",
    "UniformSchedule",
    "UnmaskingSchedule",
]


class UnmaskingSchedule(Protocol):
    """How many places each step commits."""

    @property
    def steps(self) -> int:
        """Steps in one region."""
        ...

    def commits(self, unknown_B: Tensor, masked_B: Tensor, step: int) -> Tensor:
        """Positions to commit at ``step`` (0-based), int64 (B,).

        ``unknown_B``: masked places of the region before its first step; ``masked_B``: those still masked.
        """
        ...


class RemaskingStrategy(Protocol):
    """Which places a step commits: those with the highest scores."""

    def score(self, logits_NV: Tensor, chosen_N: Tensor, noise: GumbelNoise, step: int, steps: int) -> Tensor:
        """Scores (N,) of the vocab ``chosen_N`` of ``logits_NV`` at ``step`` (0-based) of ``steps``."""
        ...


class TokenSampler(Protocol):
    """How a token is drawn from its logits."""

    def choose(self, logits_NV: Tensor, noise: GumbelNoise) -> Tensor:
        """Column indices (N,) int64."""
        ...


class BlockSchedule(Protocol):
    """Where sampling works: a partition of the unknown places, worked on one part after another."""

    def part(self, rank_BL: Tensor) -> Tensor:
        """Part (from 0) of the places that have rank ``rank_BL`` (from 0) among a row's unknown places."""
        ...


# How many


@dataclass(frozen=True)
class UniformSchedule:
    """The unknown places split evenly over the steps, the remainder on the first (released text sampler)."""

    steps: int

    def __post_init__(self) -> None:
        _check_steps(self.steps)

    def commits(self, unknown_B: Tensor, masked_B: Tensor, step: int) -> Tensor:
        """As `UnmaskingSchedule.commits`."""
        return unknown_B // self.steps + (step < unknown_B % self.steps)


@dataclass(frozen=True)
class MaskSchedule:
    """A noise schedule says how many places stay masked (MaskGIT; the released image sampler).

    After step k of S: ``floor(unknown * ratio((k + 1) / S))``, yet at least one place is committed and at
    least one stays masked until the last step, which commits the rest. ``unknown`` are the places that were
    masked at the start, so that a partly known picture is not slowed down by what it knows.
    """

    schedule: Schedule
    steps: int

    def __post_init__(self) -> None:
        _check_steps(self.steps)

    def commits(self, unknown_B: Tensor, masked_B: Tensor, step: int) -> Tensor:
        """As `UnmaskingSchedule.commits`."""
        if step == self.steps - 1:
            return masked_B
        left_B = (unknown_B.float() * self.ratios[step]).floor().long().clamp(min=1)
        return masked_B - torch.minimum(left_B, (masked_B - 1).clamp(min=0))

    @cached_property
    def ratios(self) -> tuple[float, ...]:
        """Share that stays masked after each step. In float32, as the released sampler: cos(pi / 3) is then just below 1/2, and
        one place more is committed."""
        return tuple(float(self.schedule.ratio(torch.tensor((step + 1) / self.steps))) for step in range(self.steps))


# Which


@dataclass(frozen=True)
class LowConfidence:
    """Low-confidence remasking: places whose token the model finds most probable are committed first."""

    def score(self, logits_NV: Tensor, chosen_N: Tensor, noise: GumbelNoise, step: int, steps: int) -> Tensor:
        """As `RemaskingStrategy.score`: the log-odds of the token, without temperature."""
        return log_odds(logits_NV, chosen_N)


@dataclass(frozen=True)
class MarginConfidence:
    """Positions with the widest gap between the two most probable tokens are committed first."""

    def score(self, logits_NV: Tensor, chosen_N: Tensor, noise: GumbelNoise, step: int, steps: int) -> Tensor:
        """As `RemaskingStrategy.score`: p(first) - p(second), in float64."""
        top_N2 = logits_NV.double().softmax(-1).topk(2, dim=-1).values
        return top_N2[:, 0] - top_N2[:, 1]


@dataclass(frozen=True)
class RandomRemasking:
    """Positions are committed in random order."""

    def score(self, logits_NV: Tensor, chosen_N: Tensor, noise: GumbelNoise, step: int, steps: int) -> Tensor:
        """As `RemaskingStrategy.score`: noise alone."""
        return noise(1)[:, 0]


@dataclass(frozen=True)
class GumbelConfidence:
    """Log-probability plus annealed Gumbel noise: the released image order.

    ``temperature``: noise before the first step. ``annealing``: "linear" multiplies it by 1 - r at progress r
    = (k + 1) / S; "compounding" multiplies it by 1 - r at every step on top of all steps before, as the
    released sampler does (for S = 15: 0.933, 0.809, 0.647, 0.475, ...), so the noise dies out early.
    """

    temperature: float = 1.0
    annealing: Literal["linear", "compounding"] = "linear"

    def __post_init__(self) -> None:
        _check_nonnegative("temperature of the order", self.temperature)
        if self.annealing not in ("linear", "compounding"):
            raise InputError(f"annealing {self.annealing!r} is unknown; use 'linear' or 'compounding'")

    def at(self, step: int, steps: int) -> float:
        """GumbelNoise temperature at ``step`` (0-based) of ``steps``."""
        if self.annealing == "linear":
            return self.temperature * (1 - (step + 1) / steps)
        return self.temperature * prod(1 - (k + 1) / steps for k in range(step + 1))

    def score(self, logits_NV: Tensor, chosen_N: Tensor, noise: GumbelNoise, step: int, steps: int) -> Tensor:
        """As `RemaskingStrategy.score`."""
        log_p_N = torch.nn.functional.logsigmoid(log_odds(logits_NV, chosen_N).double())
        temperature = self.at(step, steps)
        return log_p_N + temperature * noise(1)[:, 0] if temperature > 0 else log_p_N


# How


@dataclass(frozen=True)
class Greedy:
    """The most probable token."""

    def choose(self, logits_NV: Tensor, noise: GumbelNoise) -> Tensor:
        """As `TokenSampler.choose`."""
        return logits_NV.argmax(-1)


@dataclass(frozen=True)
class Temperature:
    """A token drawn from softmax(logits / temperature).

    Drawn as argmax(logits + temperature * Gumbel), which is the released text form and the same law as the
    multinomial draw of the released image sampler (there temperature is 1). In float64: float32 noise would
    cut off rare tokens.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        _check_nonnegative("temperature", self.temperature)
        if self.temperature == 0:
            raise InputError("temperature 0 draws nothing at random; use Greedy()")

    def choose(self, logits_NV: Tensor, noise: GumbelNoise) -> Tensor:
        """As `TokenSampler.choose`."""
        if isinstance(noise, KeyedGumbel):
            return noise.drawn(logits_NV, self.temperature)
        return (logits_NV.double() + self.temperature * noise(logits_NV.shape[1])).argmax(-1)


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: ``(1 + scale) * conditional - scale * unconditional`` logits; 0 is off."""

    scale: float = 0.0

    def __post_init__(self) -> None:
        _check_nonnegative("guidance", self.scale)

    def combine(self, conditional_NV: Tensor, unconditional_NV: Tensor) -> Tensor:
        """Guided logits, same shape."""
        return conditional_NV + self.scale * (conditional_NV - unconditional_NV)


# Where, and until when


@dataclass(frozen=True)
class SingleBlock:
    """All unknown places at once."""

    def part(self, rank_BL: Tensor) -> Tensor:
        """As `BlockSchedule.part`: 0 everywhere."""
        return torch.zeros_like(rank_BL)


@dataclass(frozen=True)
class Blocks:
    """Semi-autoregressive: unknown places in runs of ``block``, left to right; the last may be shorter."""

    block: int

    def __post_init__(self) -> None:
        check_whole("block", self.block, 1)

    def part(self, rank_BL: Tensor) -> Tensor:
        """As `BlockSchedule.part`."""
        return rank_BL // self.block


@dataclass(frozen=True)
class StopAtEos:
    """A row ends as soon as one of ``ids`` is decided and nothing is masked before it; what follows is filled with end-of-text
    tokens. Exact for the text up to its end: decided tokens never change."""

    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.ids:
            raise InputError("ids of StopAtEos must name at least one token, got none")

    def ended(self, tokens_BL: Tensor, inside_BL: Tensor, masked_BL: Tensor) -> Tensor:
        """Rows (B,) bool with an end token at one of the places ``inside_BL`` and none of ``masked_BL`` before it."""
        # One by one: a tensor of the ids would have to be copied to the device, which waits for it.
        ends_BL = torch.stack([tokens_BL == number for number in self.ids]).any(0) & inside_BL
        return (ends_BL & (masked_BL.cumsum(1) == 0)).any(1)


def _check_steps(steps: int) -> None:
    check_whole("steps", steps, 1)


def _check_nonnegative(name: str, value: float) -> None:
    check_number(name, value)
