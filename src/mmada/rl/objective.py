"""The parts of the objective after the likelihood: ratio, clip, KL and aggregation (eq. 5, eq. 16).

A *unit* has one probability ratio: a token, or a whole completion. Tensors of units are (B, U), U = L or 1.

    ratio         TokenRatio()  SequenceRatio()  NoRatio()
    clip          RatioClip(low, high), or None
    KL            Kl(weight, estimator, target, reduce)
    aggregation   PerSample(over)  PerToken(over)

Shapes: K views, B rows, L positions, U units a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import Literal, Protocol

import torch
from torch import Tensor

from mmada.errors import check_choice, check_number
from mmada.rl.likelihood import Likelihood
from mmada.rl.masked_views import MaskedViews

__all__ = [
    "Aggregation",
    "Gain",
    "Kl",
    "NoRatio",
    "PerSample",
    "PerToken",
    "Ratio",
    "RatioClip",
    "SequenceRatio",
    "TokenRatio",
    "Units",
]

LIMIT = 20.0
"""Largest |ln ratio| that is exponentiated. Beyond it a ratio is constant (its gradient would end in inf * 0), and the k3
estimator continues as the straight line of its slope there, so that its gradient still points to the reference."""


@dataclass(frozen=True)
class Units:
    """Log-probabilities per unit: ``log_BU`` in nats, ``scored_BU`` True where estimated, ``size_BU`` positions per unit."""

    log_BU: Tensor
    scored_BU: Tensor
    size_BU: Tensor


@dataclass(frozen=True)
class Gain:
    """The surrogate objective of each unit before the KL, its ratio, and whether the clip was active."""

    value_BU: Tensor
    ratio_BU: Tensor
    clipped_BU: Tensor


@dataclass(frozen=True)
class RatioClip:
    """The clip range [1 - low, 1 + high] of the ratio (epsilon of PPO, one for each side)."""

    low: float = 0.2
    high: float = 0.2

    def __post_init__(self) -> None:
        check_number("low of the clip", self.low, 0, 1)
        check_number("high of the clip", self.high, 0)


class Ratio(Protocol):
    """The level at which policy and old policy are compared: tokens or completions."""

    def units(self, likelihood: Likelihood, log_KBL: Tensor, views: MaskedViews, length_B: Tensor, advantage_B: Tensor) -> Units:
        """The units of this level."""
        ...

    def gain(self, units: Units, old_BU: Tensor, advantage_B: Tensor, clip: RatioClip | None) -> Gain:
        """The surrogate of each unit; ``old_BU`` are the log-probabilities of the old policy, without gradient."""
        ...


@dataclass(frozen=True)
class TokenRatio:
    """pi(o_t) / pi_old(o_t) of every scored token (eq. 5)."""

    def units(self, likelihood: Likelihood, log_KBL: Tensor, views: MaskedViews, length_B: Tensor, advantage_B: Tensor) -> Units:
        """As `Ratio.units`."""
        log_BL = likelihood.tokens(log_KBL, views)
        return Units(log_BL, views.scored_KBL.any(0), torch.ones_like(log_BL))

    def gain(self, units: Units, old_BU: Tensor, advantage_B: Tensor, clip: RatioClip | None) -> Gain:
        """As `Ratio.gain`."""
        return clipped_gain(units, old_BU, advantage_B, clip)


@dataclass(frozen=True)
class SequenceRatio:
    """exp((ln p - ln p_old) / length) of the completion: the ratio of GSPO and ESPO, and with `MeanField` that of eq. 4."""

    def units(self, likelihood: Likelihood, log_KBL: Tensor, views: MaskedViews, length_B: Tensor, advantage_B: Tensor) -> Units:
        """As `Ratio.units`."""
        return row_units(likelihood, log_KBL, views, length_B, advantage_B)

    def gain(self, units: Units, old_BU: Tensor, advantage_B: Tensor, clip: RatioClip | None) -> Gain:
        """As `Ratio.gain`."""
        return clipped_gain(units, old_BU, advantage_B, clip)


@dataclass(frozen=True)
class NoRatio:
    """A ln p / length of the completion: the plain policy gradient (SPG)."""

    def units(self, likelihood: Likelihood, log_KBL: Tensor, views: MaskedViews, length_B: Tensor, advantage_B: Tensor) -> Units:
        """As `Ratio.units`."""
        return row_units(likelihood, log_KBL, views, length_B, advantage_B)

    def gain(self, units: Units, old_BU: Tensor, advantage_B: Tensor, clip: RatioClip | None) -> Gain:
        """As `Ratio.gain`; the ratio is 1 and nothing is clipped."""
        value_BU = advantage_B[:, None] * units.log_BU / units.size_BU
        return Gain(value_BU, torch.ones_like(value_BU), torch.zeros_like(units.scored_BU))


@dataclass(frozen=True)
class Kl:
    """``weight`` (beta of eq. 5) times an estimate of KL(policy || target) from d = ln p - ln p_target of each unit.

    ``estimator``: k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d, which is linear in d below -20: its slope there, -e^20, is
    finite. One such token still dominates an update after gradient clipping; choose k2 if the policy may move far. ``target``:
    the reference, or the old policy. ``reduce``: "mean" averages over positions as the objective does, "sum" adds up the units
    of a completion, then averages over completions.
    """

    weight: float = 0.0
    estimator: Literal["k1", "k2", "k3"] = "k3"
    target: Literal["reference", "old"] = "reference"
    reduce: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        check_number("weight of the KL", self.weight, 0)
        check_choice("estimator of the KL", self.estimator, ("k1", "k2", "k3"))
        check_choice("target of the KL", self.target, ("reference", "old"))
        check_choice("reduce of the KL", self.reduce, ("mean", "sum"))

    def of(self, units: Units, target_BU: Tensor) -> Tensor:
        """The KL per completion position (B, U)."""
        d_BU = units.log_BU - target_BU
        if self.estimator == "k1":
            return d_BU / units.size_BU
        if self.estimator == "k2":
            return d_BU.square() / 2 / units.size_BU
        near_BU, beyond_BU = d_BU.clamp(min=-LIMIT), torch.relu(-LIMIT - d_BU)
        return ((-near_BU).exp() - 1 + near_BU + (exp(LIMIT) - 1) * beyond_BU) / units.size_BU


class Aggregation(Protocol):
    """The weights of units in the mean."""

    def weights(self, units: Units, length_B: Tensor) -> Tensor:
        """Weights (B, U) of the units; ``length_B`` are the lengths of the completions."""
        ...


@dataclass(frozen=True)
class PerSample:
    """The mean over the tokens of a completion, then over completions (eq. 5, eq. 16).

    ``over``: a token's share is 1 / |o_i| ("positions", as eq. 5 prints it) or 1 / the number of scored positions ("masked",
    eq. 4).
    """

    over: Literal["positions", "masked"] = "positions"

    def __post_init__(self) -> None:
        check_choice("over of the aggregation", self.over, ("positions", "masked"))

    def weights(self, units: Units, length_B: Tensor) -> Tensor:
        """As `Aggregation.weights`; a completion without scored positions counts as one with value 0."""
        size_BU = units.size_BU * units.scored_BU
        count_B = length_B if self.over == "positions" else size_BU.sum(1)
        return size_BU / count_B.clamp(min=1)[:, None] / max(1, len(length_B))


@dataclass(frozen=True)
class PerToken:
    """The mean over all tokens of the batch, so that long completions weigh more (d1, DAPO). ``over``: as `PerSample`.

    `PolicyLearner` leaves out groups of equal rewards, so they are not in the mean; the released code of d1 and SPG counts them.
    """

    over: Literal["positions", "masked"] = "masked"

    def __post_init__(self) -> None:
        check_choice("over of the aggregation", self.over, ("positions", "masked"))

    def weights(self, units: Units, length_B: Tensor) -> Tensor:
        """As `Aggregation.weights`."""
        size_BU = units.size_BU * units.scored_BU
        return size_BU / (length_B.sum() if self.over == "positions" else size_BU.sum()).clamp(min=1)


def row_units(likelihood: Likelihood, log_KBL: Tensor, views: MaskedViews, length_B: Tensor, advantage_B: Tensor) -> Units:
    """One unit a completion."""
    log_B = likelihood.rows(log_KBL, views, length_B, advantage_B)
    return Units(log_B[:, None], views.scored_KBL.any(2).any(0)[:, None], length_B.clamp(min=1)[:, None])


def clipped_gain(units: Units, old_BU: Tensor, advantage_B: Tensor, clip: RatioClip | None) -> Gain:
    """min(r A, clip(r) A) with r = exp((ln p - ln p_old) / size)."""
    ratio_BU = ((units.log_BU - old_BU) / units.size_BU).clamp(-LIMIT, LIMIT).exp()
    free_BU = ratio_BU * advantage_B[:, None]
    if clip is None:
        return Gain(free_BU, ratio_BU, torch.zeros_like(units.scored_BU))
    clipped_BU = ratio_BU.clamp(1 - clip.low, 1 + clip.high) * advantage_B[:, None]
    return Gain(torch.minimum(free_BU, clipped_BU), ratio_BU, clipped_BU < free_BU)
