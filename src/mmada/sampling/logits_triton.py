"""One Triton kernel over rows of logits: draw a column, or its log-odds against all others. Twins in
`mmada.sampling.logits_ops`.

Every program reads one row in runs of `BLOCK` columns and keeps a few numbers, so nothing of the size of the logits is
written. The noise is that of `logits_ops.gumbel`, computed where it is needed.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["draw", "odds"]

BLOCK = 2048
GOLDEN: Any = tl.constexpr(0x9E3779B97F4A7C15)
FIRST: Any = tl.constexpr(0xBF58476D1CE4E5B9)
SECOND: Any = tl.constexpr(0x94D049BB133111EB)


@triton.jit
def noise(key, column):  # type: ignore[no-untyped-def]
    """Gumbel noise of columns under a key, as `logits_ops.gumbel`."""
    x = key.to(tl.uint64) + (column + 1).to(tl.uint64) * GOLDEN
    x = (x ^ (x >> 30)) * FIRST
    x = (x ^ (x >> 27)) * SECOND
    x = x ^ (x >> 31)
    uniform = ((x >> 12).to(tl.float64) + 0.5) * 2.220446049250313e-16
    return -tl.log(-tl.log(uniform))


@triton.jit  # type: ignore[untyped-decorator]
def row(logits, stride, keys, chosen, odds, temperature, width, DRAW: tl.constexpr, SPAN: tl.constexpr):  # type: ignore[no-untyped-def]
    """With ``DRAW``: chosen[n] = argmax(logits[n] + temperature * noise). Else odds[n] = log-odds of column chosen[n]."""
    n = tl.program_id(0)
    start_of_row = logits + n.to(tl.int64) * stride
    if DRAW:
        key = tl.load(keys + n)
        heat = tl.load(temperature)
        best = tl.full((), float("-inf"), tl.float64)
        where = tl.full((), 0, tl.int64)
        for start in range(0, width, SPAN):
            column = start + tl.arange(0, SPAN)
            z = tl.load(start_of_row + column, mask=column < width, other=float("-inf")).to(tl.float64)
            z = z + heat * noise(key, column)
            most = tl.max(z, 0)
            first = start + tl.argmax(z, 0)
            where = tl.where(most > best, first.to(tl.int64), where)
            best = tl.maximum(best, most)
        tl.store(chosen + n, where)
    else:
        pick = tl.load(chosen + n)
        high = tl.full((), float("-inf"), tl.float32)
        mass = tl.full((), 0.0, tl.float32)
        for start in range(0, width, SPAN):
            column = start + tl.arange(0, SPAN)
            z = tl.load(start_of_row + column, mask=column < width, other=float("-inf")).to(tl.float32)
            z = tl.where(column == pick, float("-inf"), z)
            higher = tl.maximum(high, tl.max(z, 0))
            base = tl.where(higher == float("-inf"), 0.0, higher)
            mass = mass * tl.exp(high - base) + tl.sum(tl.exp(z - base), 0)
            high = higher
        top = tl.load(start_of_row + pick).to(tl.float32)
        tl.store(odds + n, top - (tl.log(mass) + tl.where(high == float("-inf"), 0.0, high)))


def run(logits_NV: Tensor, key_N: Tensor, chosen_N: Tensor, odds_N: Tensor, temperature: float, *, draw: bool) -> None:
    """Launch one program a row; ``chosen_N`` or ``odds_N`` is written."""
    logits_NV = logits_NV if logits_NV.stride(1) == 1 else logits_NV.contiguous()
    heat = torch.full((), temperature, dtype=torch.float64, device=logits_NV.device)  # no copy from the host, which would wait
    if len(logits_NV):
        row[(len(logits_NV),)](
            logits_NV, logits_NV.stride(0), key_N, chosen_N, odds_N, heat, logits_NV.shape[1], DRAW=draw, SPAN=BLOCK
        )


def draw(logits_NV: Tensor, key_N: Tensor, temperature: float) -> Tensor:
    """As `logits_ops.gumbel_argmax`."""
    chosen_N = torch.empty(len(logits_NV), dtype=torch.int64, device=logits_NV.device)
    run(logits_NV, key_N.contiguous(), chosen_N, logits_NV, temperature, draw=True)
    return chosen_N


def odds(logits_NV: Tensor, chosen_N: Tensor) -> Tensor:
    """As `logits_ops.log_odds`, float32."""
    odds_N = torch.empty(len(logits_NV), dtype=torch.float32, device=logits_NV.device)
    run(logits_NV, chosen_N, chosen_N.contiguous(), odds_N, 0.0, draw=False)
    return odds_N
