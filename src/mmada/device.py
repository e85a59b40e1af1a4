"""Where a model computes."""

from __future__ import annotations

import torch

from mmada.errors import InputError

__all__ = ["chosen_device"]


def chosen_device(name: str | torch.device = "auto") -> torch.device:
    """The device called ``name``; ``"auto"`` is the first GPU where there is one. Raises InputError for one that is not there."""
    if isinstance(name, str) and name == "auto":
        here = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(here)
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise InputError(f"device {str(name)!r} is not to be had here; choose auto, cpu, cuda or mps") from error
    return device
