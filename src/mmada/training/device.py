"""Where a run computes."""

from __future__ import annotations

import torch

from mmada.errors import InputError

__all__ = ["chosen_device"]


def chosen_device(name: str) -> torch.device:
    """The device called ``name``; ``"auto"`` is the first GPU where there is one. Raises InputError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} is not to be had here; choose auto, cpu, cuda or mps") from error
    return device
