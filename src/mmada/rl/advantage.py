"""Group-relative advantages: the reward of a completion compared with those of the other completions of its prompt.

Shapes: B rows, P prompts, G completions per prompt, in consecutive rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mmada.errors import InputError, check_number, check_whole

__all__ = ["Advantage", "CentredReward", "LeaveOneOut", "ZScore", "advantages"]


class Advantage(Protocol):
    """A rule that turns the rewards of a group into advantages."""

    def of(self, centred_PG: Tensor) -> Tensor:
        """Advantages from rewards minus the mean of their group, float64 (P, G)."""
        ...


@dataclass(frozen=True)
class ZScore:
    """(r - mean) / (std + epsilon), eq. 15. ``correction``: 0 divides the variance by G, 1 (usual in code) by G - 1."""

    epsilon: float = 1e-4
    correction: int = 0

    def __post_init__(self) -> None:
        check_number("epsilon of the z-score", self.epsilon, 0)
        check_whole("correction of the z-score", self.correction, 0, 1)

    def of(self, centred_PG: Tensor) -> Tensor:
        """As `Advantage.of`."""
        count = max(1, centred_PG.shape[1] - self.correction)
        spread_P1 = (centred_PG.square().sum(1, keepdim=True) / count).sqrt() + self.epsilon
        return torch.where(spread_P1 > 0, centred_PG / spread_P1.clamp(min=1e-300), 0.0)


@dataclass(frozen=True)
class CentredReward:
    """r - mean (d1, SPG)."""

    def of(self, centred_PG: Tensor) -> Tensor:
        """As `Advantage.of`."""
        return centred_PG


@dataclass(frozen=True)
class LeaveOneOut:
    """r minus the mean of the others, which is G / (G - 1) times `CentredReward` (coupled-GRPO, ESPO)."""

    def of(self, centred_PG: Tensor) -> Tensor:
        """As `Advantage.of`."""
        group = centred_PG.shape[1]
        return centred_PG * group / max(1, group - 1)


def advantages(choice: Advantage, reward_B: Tensor, *, group: int) -> Tensor:
    """Advantages (B,) float32 from finite rewards (B,). A group of equal rewards gives exactly 0, never NaN.

    Raises InputError if ``group`` does not divide B or a reward is not finite.
    """
    if check_whole("group", group, 1) and len(reward_B) % group:
        raise InputError(f"group must divide the {len(reward_B)} rewards, got {group}")
    if not bool(reward_B.isfinite().all()):
        raise InputError(f"rewards must be finite numbers, got {reward_B.tolist()}; fix the reward function")
    reward_PG = reward_B.double().view(-1, group)
    equal_P1 = reward_PG.amax(1, keepdim=True) == reward_PG.amin(1, keepdim=True)
    centred_PG = torch.where(equal_P1, 0.0, reward_PG - reward_PG.mean(1, keepdim=True))
    return choice.of(centred_PG).float().view(-1)
