"""Devices and dtypes by name."""

from __future__ import annotations

import torch

from mmada.errors import InputError, quote, unknown_name

__all__ = ["DTYPES", "bf16_is_fast", "chosen_device", "chosen_dtype"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Dtypes of weights: the ones that released models have and every device computes in."""


def chosen_device(name: str | torch.device = "auto") -> torch.device:
    """Return the device called ``name``; ``"auto"`` is the first GPU if there is one.

    Raises InputError for one that is not available on this machine, and for "meta", which holds no numbers.
    """
    if isinstance(name, str) and name == "auto":
        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(found)
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ValueError) as error:
        raise InputError(f"device {_shown(name)} is not available on this machine; choose auto, cpu, cuda or mps") from error
    if device.type == "meta":
        raise InputError("device 'meta' holds no numbers, so nothing can be computed there; choose auto, cpu, cuda or mps")
    return device


def chosen_dtype(name: object, field: str = "dtype") -> torch.dtype:
    """Return the dtype called ``name``, a word or the dtype itself. Raises InputError for what is none of `DTYPES`."""
    if isinstance(name, str):
        if (word := name.removeprefix("torch.")) in DTYPES:
            return DTYPES[word]
        raise unknown_name(field, name, DTYPES)
    if isinstance(name, torch.dtype) and name in DTYPES.values():
        return name
    shown = str(name) if isinstance(name, torch.dtype) else quote(name)
    raise InputError(f"{field} must be one of {', '.join(DTYPES)}, got {shown}")


def bf16_is_fast(device: torch.device) -> bool:
    """Whether ``device`` multiplies matrices faster in bfloat16 than in float32.

    NVIDIA GPUs with hardware for it do, and CPUs with AMX tiles; other CPUs convert, which takes longer. Apple's GPUs were not
    measured.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}  # not in torch 2.9
        return bool(found.get("amx_bf16"))
    return False


def _shown(name: object) -> str:
    return quote(str(name)) if isinstance(name, (str, torch.device)) else quote(name)
