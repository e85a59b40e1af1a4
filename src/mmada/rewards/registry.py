"""Rewards by name, as recipes and the command line give them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Literal

from mmada.errors import InputError, unknown_name
from mmada.rewards.clip_score import ClipScore
from mmada.rewards.combined import RewardSum, WeightedReward
from mmada.rewards.completion import Reward
from mmada.rewards.image_reward import ImageReward
from mmada.rewards.verified import Correctness, Detector, Format, Reasoning

__all__ = ["REWARDS", "UNFIT", "check_name", "reward_of", "reward_sum_of"]

MODELS: dict[str, type[ClipScore] | type[ImageReward]] = {"clip": ClipScore, "image_reward": ImageReward}
"""Rewards that are models, made from a source and a device."""
REWARDS: dict[str, Callable[[], Reward]] = {
    "correctness": Correctness,
    "format": Format,
    "reasoning": Reasoning,
    "detector": Detector,
    **MODELS,
}

UNFIT: dict[str, frozenset[str]] = {
    "math": frozenset({"detector", "image_reward", "clip"}),
    "vision": frozenset({"detector", "image_reward"}),  # clip compares an answer with the picture that is asked about
    "image": frozenset({"format", "reasoning"}),
}
"""Task -> rewards that can judge nothing of it."""


def check_name(name: str) -> None:
    """Raises InputError for what neither is a reward of `REWARDS` nor looks like "package.module:function"."""
    if ":" not in name and name not in REWARDS:
        raise unknown_name("reward", name, [*REWARDS, "package.module:function"])


def reward_of(name: str, models: Mapping[str, str] | None = None, device: str = "cpu") -> Reward:
    """A reward of `REWARDS`, or "package.module:function". Raises InputError for what is neither.

    ``models``: reward -> folder, hub id or file of its model, in place of its own; ``device``: where such models run.
    """
    check_name(name)
    if ":" not in name:
        source = (models or {}).get(name)
        if name in MODELS:
            return MODELS[name](device=device) if source is None else MODELS[name](source, device)
        return REWARDS[name]()
    module, _, attribute = name.partition(":")
    try:
        found: Reward = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # whatever the module does
        raise InputError(
            f"reward {name!r} cannot be imported ({type(error).__name__}: {error}); give package.module:function"
        ) from error
    return found


def reward_sum_of(
    weights: Mapping[str, float],
    *,
    timeout: float,
    where: Literal["thread", "process"],
    models: Mapping[str, str] | None = None,
    device: str = "cpu",
) -> RewardSum:
    """The weighted sum of rewards by name; ``models`` and ``device`` as in `reward_of`."""
    terms = [
        WeightedReward(n, reward_of(n, models, device), weight, timeout=timeout, where=where) for n, weight in weights.items()
    ]
    return RewardSum(terms)
