"""Product of 8-bit integers on a CPU, by oneDNN (AMX, VNNI): activations with one scale a row, weights with one an output.

Activations are unsigned bytes around 128. With signed ones, oneDNN falls back to a kernel a hundred times slower on CPUs that
have VNNI but no AMX; what the 128 adds to an output is taken away again by a bias.

Shapes: M rows, K inputs, N outputs, multiples of `BLOCK`. Weights lie in blocks of `BLOCK` outputs, in the order in which oneDNN
reads them: (N / 64, K / 4, 64, 4).
"""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass
from functools import cache
from weakref import WeakValueDictionary

import torch
from torch import Tensor

__all__ = ["BLOCK", "MIDDLE", "QuantizedRows", "blocked", "fast_product", "padded", "product", "scratch", "template", "unblocked"]

BLOCK = 64
"""Rows and columns of a block of weights in oneDNN's layout."""
MIDDLE = 128
"""The byte of an activation of 0."""


@dataclass(frozen=True)
class QuantizedRows:
    """Activations, x = scale * (value - 128): ``value_MK`` uint8, and ``scale_M1``, which has the dtype of x and no rounding
    error."""

    value_MK: Tensor
    scale_M1: Tensor

    @staticmethod
    def of(x_MK: Tensor) -> QuantizedRows:
        """Quantise each row to 128 - 127 .. 128 + 127, so many rows at a time that they stay in the cache."""
        # Over 126: the scale is rounded to the dtype of x, and must not become too small for the largest value.
        scale_M1 = x_MK.abs().amax(1, keepdim=True).mul_(1 / 126).clamp_(min=torch.finfo(x_MK.dtype).tiny)
        inverse_M1 = 1 / scale_M1.float()
        rows = max(1, 2**20 // x_MK.shape[1])
        if len(x_MK) <= rows:
            return QuantizedRows(bytes_of(x_MK, inverse_M1), scale_M1)
        value_MK = torch.empty_like(x_MK, dtype=torch.uint8)
        for x_mK, value_mK, inverse_m1 in zip(*(torch.split(x, rows) for x in (x_MK, value_MK, inverse_M1)), strict=True):
            value_mK.copy_(bytes_of(x_mK, inverse_m1))
        return QuantizedRows(value_MK, scale_M1)

    def __getitem__(self, rows: Tensor) -> QuantizedRows:
        return QuantizedRows(self.value_MK[rows], self.scale_M1[rows])

    def dequantized(self) -> Tensor:
        """Activations (M, K) in their dtype."""
        return (self.value_MK.to(self.scale_M1.dtype) - MIDDLE) * self.scale_M1


def bytes_of(x_MK: Tensor, inverse_M1: Tensor) -> Tensor:
    """Rows times their inverse scales as bytes around 128."""
    return x_MK.to(torch.float32, copy=True).mul_(inverse_M1).round_().add_(MIDDLE).to(torch.uint8)


def padded(size: int) -> int:
    """The next multiple of `BLOCK`."""
    return -(-size // BLOCK) * BLOCK


def blocked(weight_NK: Tensor) -> Tensor:
    """int8 weights (N, K), of whole blocks, in oneDNN's order (N / 64, K / 4, 64, 4)."""
    words = weight_NK.view(torch.int32).view(-1, BLOCK, weight_NK.shape[1] // 4).transpose(1, 2).contiguous()
    return words.view(torch.int8).view(*words.shape, 4)


def unblocked(blocks: Tensor) -> Tensor:
    """The inverse of `blocked`: int8 weights (N, K)."""
    return blocks.transpose(1, 2).flatten(2).flatten(0, 1)


def product(value_MK: Tensor, opaque: Tensor, scale_N: Tensor, bias_N: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 activations times prepacked int8 weights, with a scale and a bias by output channel."""
    zero_N = torch.zeros(len(scale_N), dtype=torch.int64)
    found: Tensor = torch.ops.onednn.qlinear_pointwise(
        value_MK, 1.0, 0, opaque, scale_N, zero_N, bias_N, 1.0, 0, dtype, "none", [], ""
    )
    return found


ALIVE: WeakValueDictionary[tuple[int, int], Tensor] = WeakValueDictionary()
"""Prepacked weights by shape. oneDNN packs slowly: a clone of any others of the shape has the same layout, and is overwritten."""


def template(outer: int, inner: int) -> tuple[Tensor, Tensor]:
    """New prepacked weights of a shape, and their memory as blocks (N / 64, K / 4, 64, 4)."""
    like = ALIVE.get((outer, inner))
    if like is None:
        like = torch.ops.onednn.qlinear_prepack(torch.zeros(outer, inner, dtype=torch.int8), None)
        opaque = ALIVE[outer, inner] = like
    else:
        opaque = like.clone()
    memory = (ctypes.c_int8 * (outer * inner)).from_address(torch.ops.mkldnn.data_ptr(opaque))
    return opaque, torch.frombuffer(memory, dtype=torch.int8).view(outer // BLOCK, inner // 4, BLOCK, 4)


class Scratch(threading.local):
    """Memory of each thread for unpacked weights, by shape."""

    def __init__(self) -> None:
        self.by_shape: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}


SCRATCH = Scratch()


def scratch(outer: int, inner: int) -> tuple[Tensor, Tensor]:
    """`template` of a shape, one a thread."""
    if (outer, inner) not in SCRATCH.by_shape:
        SCRATCH.by_shape[outer, inner] = template(outer, inner)
    return SCRATCH.by_shape[outer, inner]


@cache
def fast_product() -> bool:
    """Whether this CPU and this torch multiply int8 exactly, from weights in the order of `blocked`.

    Tried out, not looked up: CPUs without VNNI saturate sums of two products, and layouts differ by CPU.
    """
    generator = torch.Generator().manual_seed(0)
    weight_NK = torch.randint(-127, 128, (128, 256), dtype=torch.int8, generator=generator)
    value_MK = torch.randint(1, 256, (5, 256), dtype=torch.uint8, generator=generator)
    weight_NK[0], value_MK[0] = 127, 255
    bias_N = weight_NK.float().sum(1) * -MIDDLE
    try:
        opaque, memory = template(128, 256)
        packed: Tensor = torch.ops.onednn.qlinear_prepack(weight_NK, None)
        raw = (ctypes.c_int8 * memory.numel()).from_address(torch.ops.mkldnn.data_ptr(packed))
        if not torch.equal(torch.frombuffer(raw, dtype=torch.int8), blocked(weight_NK).flatten()):
            return False
        memory.copy_(blocked(weight_NK))
        found_MN = product(value_MK, opaque, torch.ones(128), bias_N, torch.float32)
    except (AttributeError, RuntimeError, NotImplementedError):  # this torch or this CPU has no such product
        return False
    return torch.equal(found_MN.double(), (value_MK.double() - MIDDLE) @ weight_NK.double().T)
