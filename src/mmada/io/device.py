"""Device selection."""

from __future__ import annotations

import torch

from mmada.errors import InputError, quote

__all__ = ["chosen_device", "quick_in_bfloat16"]


def chosen_device(name: str | torch.device = "auto") -> torch.device:
    """The device called ``name``; ``"auto"`` is the first GPU where there is one. Raises InputError for one that is not there."""
    if isinstance(name, str) and name == "auto":
        here = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(here)
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ValueError) as error:
        raise InputError(f"device {quote(name)} is not available on this machine; choose auto, cpu, cuda or mps") from error
    return device


def quick_in_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` multiplies matrices in bfloat16 faster than in float32.

    NVIDIA's GPUs do that have it in hardware, and CPUs with tiles for it (AMX). Other CPUs convert: there it takes longer.
    Apple's GPUs were not measured.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}  # not in torch 2.9
        return bool(found.get("amx_bf16"))
    return False
