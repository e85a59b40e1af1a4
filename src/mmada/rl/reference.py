"""The reference policy: a frozen copy of the weights, or the same weights with their LoRA adapters off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from typing import Any, Protocol, cast

from torch import nn

from mmada.errors import InputError
from mmada.model.lora import adapters_off, lora_layers
from mmada.rl.likelihood import Scorer

__all__ = ["AdaptersOff", "FrozenCopy", "Reference"]


class Reference(Protocol):
    """A source of reference log-probabilities."""

    def scorer(self) -> AbstractContextManager[Scorer]:
        """The reference, usable inside a ``with`` block; afterwards the policy is unchanged."""
        ...


class FrozenCopy:
    """A frozen copy of the current weights: doubles the memory for weights, and works with any policy."""

    def __init__(self, model: nn.Module) -> None:
        self.model = deepcopy(model).eval().requires_grad_(False)

    def refresh(self, model: nn.Module) -> None:
        """Copy the current weights of ``model``; d1 does so every 64 updates."""
        self.model.load_state_dict(model.state_dict())

    @contextmanager
    def scorer(self) -> Iterator[Scorer]:
        """As `Reference.scorer`."""
        yield cast(Scorer, self.model)


class AdaptersOff:
    """The base model of a LoRA policy, with the adapters disabled: needs no memory of its own.

    ``model``: `MMaDAModel` after `add_lora` or peft's ``add_adapter``, or a ``peft.PeftModel`` around it. Raises InputError if it
    has no adapters.
    """

    def __init__(self, model: Any) -> None:
        if not hasattr(model, "peft_config") and not lora_layers(model):
            raise InputError(f"model {type(model).__name__} has no adapters to disable; add some or use FrozenCopy")
        self.model = model

    @contextmanager
    def scorer(self) -> Iterator[Scorer]:
        """As `Reference.scorer`."""
        if lora_layers(self.model):
            with adapters_off(self.model):
                yield cast(Scorer, self.model)
            return
        if hasattr(self.model, "disable_adapter"):
            with self.model.disable_adapter():
                yield cast(Scorer, self.model)
            return
        self.model.disable_adapters()
        try:
            yield cast(Scorer, self.model)
        finally:
            self.model.enable_adapters()
