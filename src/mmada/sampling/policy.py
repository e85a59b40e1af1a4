"""Sampling choices, one small frozen object each.

    how many positions a step unmasks   UniformSchedule(steps)  MaskSchedule(schedule, steps)
    which of them (remasking strategy)  LowConfidence()  MarginConfidence()  RandomRemasking()  GumbelConfidence(...)
    how a token is drawn                Greedy()  Temperature(temperature)
    guidance scale                      Guidance(scale)
    in which order (blocks)             SingleBlock()  Blocks(block)
    when a row ends                     StopAtEos(ids)

Shapes: B rows, L positions, N masked positions of the block at work, V vocabulary slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Literal, Protocol

import torch
from torch import Tensor

from mmada.diffusion.schedule import Schedule
from mmada.errors import InputError, check_choice, check_number, check_whole
from mmada.sampling.gumbel import GumbelNoise, KeyedGumbel
from mmada.sampling.logits_ops import argmax, log_odds

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
    """Number of positions that each step unmasks."""

    @property
    def steps(self) -> int:
        """Steps of one block."""
        ...

    def num_unmasked(self, unknown_B: Tensor, masked_B: Tensor, step: int) -> Tensor:
        """Positions to unmask at ``step`` (from 0), int64 (B,).

        ``unknown_B``: masked positions of the block before its first step; ``masked_B``: those still masked.
        """
        ...


class RemaskingStrategy(Protocol):
    """Order of unmasking: of all predicted positions, those with the highest scores keep their token; the rest is remasked."""

    def score(self, logits_NV: Tensor, token_N: Tensor, noise: GumbelNoise, step: int, steps: int) -> Tensor:
        """Scores (N,) of the columns ``token_N`` of ``logits_NV`` at ``step`` (from 0) of ``steps``."""
        ...


class TokenSampler(Protocol):
    """Draw of a token from its logits."""

    def sample(self, logits_NV: Tensor, noise: GumbelNoise) -> Tensor:
        """Columns (N,) int64."""
        ...


class BlockSchedule(Protocol):
    """Partition of the unknown positions into blocks, decoded one after another."""

    def block(self, rank_BL: Tensor) -> Tensor:
        """Block (from 0) of the positions that have rank ``rank_BL`` (from 0) among a row's unknown positions."""
        ...


# How many


@dataclass(frozen=True)
class UniformSchedule:
    """The same number of positions each step, the remainder on the first steps (released text sampler)."""

    steps: int

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, 1)

    def num_unmasked(self, unknown_B: Tensor, masked_B: Tensor, step: int) -> Tensor:
        """As `UnmaskingSchedule.num_unmasked`."""
        return unknown_B // self.steps + (step < unknown_B % self.steps)


@dataclass(frozen=True)
class MaskSchedule:
    """A noise schedule says how many positions stay masked (MaskGIT; the released image sampler).

    After step k of S: ``floor(unknown * ratio((k + 1) / S))``, but at least one position is unmasked each step and at least one
    stays masked until the last step, which unmasks the rest. ``unknown`` counts the positions that were masked at the start, so
    that a partly known picture is not slowed down by what is known.
    """

    schedule: Schedule
    steps: int

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, 1)

    def num_unmasked(self, unknown_B: Tensor, masked_B: Tensor, step: int) -> Tensor:
        """As `UnmaskingSchedule.num_unmasked`."""
        if step == self.steps - 1:
            return masked_B
        left_B = (unknown_B.float() * self.ratios[step]).floor().long().clamp(min=1)
        return masked_B - torch.minimum(left_B, (masked_B - 1).clamp(min=0))

    @cached_property
    def ratios(self) -> tuple[float, ...]:
        """Mask ratio after each step. In float32, as the released sampler has it: cos(pi / 3) is then just below 1/2, and one
        position more is unmasked."""
        return tuple(float(self.schedule.ratio(torch.tensor((step + 1) / self.steps))) for step in range(self.steps))


# Which


@dataclass(frozen=True)
class LowConfidence:
    """Low-confidence remasking: the most probable tokens are kept, the others are remasked (LLaDA)."""

    def score(self, logits_NV: Tensor, token_N: Tensor, noise: GumbelNoise, step: int, steps: int) -> Tensor:
        """As `RemaskingStrategy.score`: the log-odds of the token, without temperature."""
        return log_odds(logits_NV, token_N)


@dataclass(frozen=True)
class MarginConfidence:
    """Positions with the widest gap between their two most probable tokens are unmasked first."""

    def score(self, logits_NV: Tensor, token_N: Tensor, noise: GumbelNoise, step: int, steps: int) -> Tensor:
        """As `RemaskingStrategy.score`: p(first) - p(second), in float64."""
        top_N2 = logits_NV.double().softmax(-1).topk(2, dim=-1).values
        return top_N2[:, 0] - top_N2[:, 1]


@dataclass(frozen=True)
class RandomRemasking:
    """Positions are unmasked in random order."""

    def score(self, logits_NV: Tensor, token_N: Tensor, noise: GumbelNoise, step: int, steps: int) -> Tensor:
        """As `RemaskingStrategy.score`: noise alone."""
        return noise(1)[:, 0]


@dataclass(frozen=True)
class GumbelConfidence:
    """Log-probability plus annealed Gumbel noise: the image order of MaskGIT and of the released sampler.

    ``temperature``: noise before the first step. ``annealing``: "linear" multiplies it by 1 - r at progress r = (k + 1) / S;
    "compounding" multiplies it by 1 - r at every step on top of all steps before, as the released sampler does (for S = 15:
    0.933, 0.809, 0.647, 0.475, ...), so that the noise dies out early.
    """

    temperature: float = 1.0
    annealing: Literal["linear", "compounding"] = "linear"

    def __post_init__(self) -> None:
        check_number("temperature of the order", self.temperature)
        check_choice("annealing", self.annealing, ("linear", "compounding"))

    def at(self, step: int, steps: int) -> float:
        """Noise temperature at ``step`` (from 0) of ``steps``."""
        if self.annealing == "linear":
            return self.temperature * (1 - (step + 1) / steps)
        return self.temperature * prod(1 - (k + 1) / steps for k in range(step + 1))

    def score(self, logits_NV: Tensor, token_N: Tensor, noise: GumbelNoise, step: int, steps: int) -> Tensor:
        """As `RemaskingStrategy.score`."""
        log_p_N = torch.nn.functional.logsigmoid(log_odds(logits_NV, token_N).double())
        temperature = self.at(step, steps)
        return log_p_N + temperature * noise(1)[:, 0] if temperature > 0 else log_p_N


# How


@dataclass(frozen=True)
class Greedy:
    """The most probable token."""

    def sample(self, logits_NV: Tensor, noise: GumbelNoise) -> Tensor:
        """As `TokenSampler.sample`."""
        return argmax(logits_NV)


@dataclass(frozen=True)
class Temperature:
    """A token drawn from softmax(logits / temperature).

    Drawn as argmax(logits + temperature * Gumbel noise), which is the released text form and has the distribution of the
    multinomial draw of the released image sampler (where the temperature is 1). In float64: float32 noise would cut off rare
    tokens.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if check_number("temperature", self.temperature) == 0:
            raise InputError("temperature 0 draws nothing at random; use Greedy()")

    def sample(self, logits_NV: Tensor, noise: GumbelNoise) -> Tensor:
        """As `TokenSampler.sample`."""
        if isinstance(noise, KeyedGumbel):
            return noise.sample(logits_NV, self.temperature)
        return (logits_NV.double() + self.temperature * noise(logits_NV.shape[1])).argmax(-1)


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: ``(1 + scale) * conditional - scale * unconditional`` logits; 0 is off."""

    scale: float = 0.0

    def __post_init__(self) -> None:
        check_number("guidance", self.scale)

    def combine(self, conditional_NV: Tensor, unconditional_NV: Tensor) -> Tensor:
        """Guided logits, same shape."""
        return conditional_NV + self.scale * (conditional_NV - unconditional_NV)


# In which order, and until when


@dataclass(frozen=True)
class SingleBlock:
    """All unknown positions at once."""

    def block(self, rank_BL: Tensor) -> Tensor:
        """As `BlockSchedule.block`: 0 everywhere."""
        return torch.zeros_like(rank_BL)


@dataclass(frozen=True)
class Blocks:
    """Semi-autoregressive decoding: unknown positions in blocks of ``size``, left to right; the last may be shorter."""

    size: int

    def __post_init__(self) -> None:
        check_whole("block", self.size, 1)

    def block(self, rank_BL: Tensor) -> Tensor:
        """As `BlockSchedule.block`."""
        return rank_BL // self.size


@dataclass(frozen=True)
class StopAtEos:
    """A row ends when one of ``ids`` is decided and nothing before it is masked; the rest is filled with end-of-text tokens.

    Exact for the text up to its end: decided tokens never change.
    """

    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.ids:
            raise InputError("ids of StopAtEos must name at least one token, got none")

    def ended(self, tokens_BL: Tensor, inside_BL: Tensor, masked_BL: Tensor) -> Tensor:
        """Rows (B,) bool with an end token at one of the positions ``inside_BL`` and none of ``masked_BL`` before it."""
        # One comparison an id: a tensor of the ids would have to be copied to the device, which synchronises.
        ends_BL = torch.stack([tokens_BL == number for number in self.ids]).any(0) & inside_BL
        return (ends_BL & (masked_BL.cumsum(1) == 0)).any(1)
