"""Operations on rows of logits: a Gumbel-max draw, and the log-odds of the chosen token.

On a GPU one Triton kernel reads a row and writes nothing of its size; the torch version is its twin, and runs elsewhere.

Shapes: N positions, V columns.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["argmax", "gumbel", "gumbel_argmax", "log_odds", "mixed", "wrapped"]

SCRATCH = 2**21
"""Logits that `log_odds` reads at once on a CPU: as many as its caches hold."""
PART = 512
"""Columns whose largest logit `argmax` finds at once."""
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
FACTORS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def mixed(key: Tensor, number: int | Tensor) -> Tensor:
    """A key (any shape, int64) for ``number`` (broadcast) below another: SplitMix64, in wrapping arithmetic."""
    x = key + (number + 1) * GOLDEN if isinstance(number, Tensor) else key + wrapped((number + 1) * GOLDEN)
    for shift, factor in zip((30, 27), FACTORS, strict=True):
        x = (x ^ ((x >> shift) & (2 ** (64 - shift) - 1))) * factor
    return x ^ ((x >> 31) & (2**33 - 1))


def wrapped(number: int) -> int:
    """An integer as 64 signed bits."""
    return (number + 2**63) % 2**64 - 2**63


def gumbel(key_N: Tensor, width: int) -> Tensor:
    """Standard Gumbel noise (N, width), float64, one row a key."""
    bits_NV = mixed(key_N[:, None], torch.arange(width, device=key_N.device))
    uniform_NV = ((bits_NV >> 12) & (2**52 - 1)).double().add_(0.5).mul_(2.0**-52)  # never 0 or 1
    return uniform_NV.log_().neg_().log_().neg_()


def argmax(logits_NV: Tensor) -> Tensor:
    """Column (N,) of the largest logit; of equal ones the first.

    On a CPU the largest of each part of a row is found first, by a reduction that is ten times faster than torch's argmax.
    """
    width = logits_NV.shape[1]
    if logits_NV.device.type != "cpu" or width < 2 * PART or not len(logits_NV):
        return logits_NV.argmax(-1)
    whole = width - width % PART
    most_NP = logits_NV[:, :whole].reshape(len(logits_NV), -1, PART).amax(2)
    if whole < width:
        most_NP = torch.cat((most_NP, logits_NV[:, whole:].amax(1, keepdim=True)), 1)
    column_NC = most_NP.argmax(1, keepdim=True) * PART + torch.arange(PART)
    column_NC.clamp_(max=width - 1)  # the last part is shorter
    at_N1 = logits_NV.gather(1, column_NC).argmax(1, keepdim=True)
    found: Tensor = column_NC.gather(1, at_N1)[:, 0]
    return found


def gumbel_argmax(logits_NV: Tensor, key_N: Tensor, temperature: float) -> Tensor:
    """Columns (N,) drawn from softmax(logits / temperature), as argmax(logits + temperature * Gumbel) in float64."""
    if logits_NV.is_cuda and (kernel := triton_kernel()) is not None:
        return kernel.draw(logits_NV, key_N, temperature)  # type: ignore[no-any-return]
    return gumbel_argmax_twin(logits_NV, key_N, temperature)


def gumbel_argmax_twin(logits_NV: Tensor, key_N: Tensor, temperature: float) -> Tensor:
    """`gumbel_argmax` in torch."""
    return (logits_NV.double() + temperature * gumbel(key_N, logits_NV.shape[1])).argmax(-1)


def log_odds(logits_NV: Tensor, chosen_N: Tensor) -> Tensor:
    """log(p / (1 - p)) of the chosen columns, (N,).

    It orders positions as p does but does not saturate: in float32 many p are exactly 1, their odds differ.
    """
    if logits_NV.is_cuda and logits_NV.dtype == torch.float32 and (kernel := triton_kernel()) is not None:
        return kernel.odds(logits_NV, chosen_N)  # type: ignore[no-any-return]
    return log_odds_twin(logits_NV, chosen_N)


def log_odds_twin(logits_NV: Tensor, chosen_N: Tensor) -> Tensor:
    """`log_odds` in torch. The other columns are added up in scratch memory, on a CPU for a few rows at a time: several times
    faster there than one large copy."""
    chosen_N1 = chosen_N[:, None]
    rows = max(1, SCRATCH // logits_NV.shape[1]) if logits_NV.device.type == "cpu" else max(1, len(logits_NV))
    wide = torch.promote_types(logits_NV.dtype, torch.float32)  # 16 bits could not hold the sum
    scratch_rV = logits_NV.new_empty(min(rows, len(logits_NV)), logits_NV.shape[1], dtype=wide)
    rest = []
    for part_rV, chosen_r1 in zip(torch.split(logits_NV, rows), torch.split(chosen_N1, rows), strict=True):
        other_rV = scratch_rV[: len(part_rV)].copy_(part_rV).scatter_(1, chosen_r1, float("-inf"))
        most_r1 = other_rV.amax(1, keepdim=True).clamp(min=torch.finfo(wide).min)
        rest.append(other_rV.sub_(most_r1).exp_().sum(1).log_() + most_r1[:, 0])
    return logits_NV.gather(1, chosen_N1)[:, 0] - torch.cat(rest)


@cache
def triton_kernel() -> Any:
    """The module of the Triton kernel, None without Triton."""
    try:
        from mmada.sampling import logits_triton as found
    except ImportError:
        return None
    return found
