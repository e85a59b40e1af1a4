"""Registry of rewards by name, for recipes and the command line.

Every module of this package that defines ``REWARD`` adds one, under the class's ``name``: a new reward is one file here. A
function elsewhere needs no registration; its name is "package.module:function".
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType

from mmada.errors import InputError, unknown_name
from mmada.io.isolation import Isolation
from mmada.rewards.combined import RewardSum, WeightedReward
from mmada.rewards.reward import Reward

__all__ = ["check_name", "is_model", "reward_of", "reward_sum_of", "rewards"]


@cache
def rewards() -> Mapping[str, Callable[..., Reward]]:
    """The rewards of this package: name -> class."""
    package = __name__.rpartition(".")[0]
    names = [info.name for info in pkgutil.iter_modules(importlib.import_module(package).__path__)]
    found = [getattr(importlib.import_module(f"{package}.{name}"), "REWARD", None) for name in names]
    return MappingProxyType({reward.name: reward for reward in found if reward is not None})


def is_model(name: str) -> bool:
    """Whether a reward is a model, constructed from a source and a device."""
    return name in rewards() and "source" in inspect.signature(rewards()[name]).parameters


def check_name(name: str) -> None:
    """Raise InputError for a name that is neither in `rewards` nor of the form "package.module:function"."""
    if ":" not in name and name not in rewards():
        raise unknown_name("reward", name, [*rewards(), "package.module:function"])


def reward_of(name: str, models: Mapping[str, str] | None = None, device: str = "cpu") -> Reward:
    """A reward by name, or "package.module:function". Raises InputError if there is none.

    ``models``: reward -> folder, hub id or file of its model, in place of the default; ``device``: device of such models.
    """
    check_name(name)
    if ":" not in name:
        source = (models or {}).get(name)
        if is_model(name):
            return rewards()[name](device=device) if source is None else rewards()[name](source, device)
        return rewards()[name]()
    module, _, attribute = name.partition(":")
    try:
        found: Reward = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # importing runs the module's own code, which may raise anything
        raise InputError(
            f"reward {name!r} cannot be imported ({type(error).__name__}: {error}); give package.module:function"
        ) from error
    return found


def reward_sum_of(
    weights: Mapping[str, float],
    *,
    timeout: float,
    isolation: Isolation = "thread",
    models: Mapping[str, str] | None = None,
    device: str = "cpu",
) -> RewardSum:
    """The weighted sum of rewards by name; ``models`` and ``device`` as in `reward_of`."""
    terms = [
        WeightedReward(n, reward_of(n, models, device), weight, timeout=timeout, isolation=isolation)
        for n, weight in weights.items()
    ]
    return RewardSum(terms)
