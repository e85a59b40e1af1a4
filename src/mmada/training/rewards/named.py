"""Rewards by name, as recipes and the command line give them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Literal

from mmada.errors import InputError, unknown_name
from mmada.training.rewards.clip import Clip
from mmada.training.rewards.completion import Reward
from mmada.training.rewards.judge import Judge, Term
from mmada.training.rewards.verified import Correctness, Detector, Format

__all__ = ["REWARDS", "judge_of", "reward_of"]

REWARDS: dict[str, Callable[[], Reward]] = {
    "correctness": Correctness,
    "format": Format,
    "detector": Detector,
    "clip": Clip,
}


def reward_of(name: str) -> Reward:
    """A reward of `REWARDS`, or "package.module:function". Raises InputError for what is neither."""
    if ":" not in name:
        if name not in REWARDS:
            raise unknown_name("reward", name, [*REWARDS, "package.module:function"])
        return REWARDS[name]()
    module, _, attribute = name.partition(":")
    try:
        found: Reward = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"reward {name!r} cannot be imported ({error}); give package.module:function") from error
    return found


def judge_of(weights: Mapping[str, float], *, timeout: float, where: Literal["thread", "process"]) -> Judge:
    """The weighted sum of rewards by name."""
    return Judge([Term(name, reward_of(name), weight, timeout=timeout, where=where) for name, weight in weights.items()])
