"""Linear layers with int8 and int4 weights on a CPU, by oneDNN's product of 8-bit integers (AMX, VNNI).

Activations are quantised as they come, one scale a row; weights have one scale an output channel. int4 weights are groups of
`GROUP` on a coarser grid within the int8 one: w = scale * (q * multiplier + offset), q in 0..15, all integers, so unpacking into
int8 is exact and cheap, and the product is the same as int8's. Where a CPU or torch lacks the product, weights are converted
back a few rows at a time and multiplied as floats: the slow twin, which the tests hold the fast path against.

Shapes: M rows, K inputs, N outputs; K and N are padded to multiples of `BLOCK`. Weights lie in blocks of `BLOCK` outputs, in the
order in which oneDNN reads them: (N / 64, K / 4, 64, 4).
"""

from __future__ import annotations

import ctypes
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "Int4Linear",
    "Int8Linear",
    "QuantizedLinear",
    "QuantizedRows",
    "fast_product",
    "quantize_layers",
    "quantized_once",
    "use_quantized_layers",
]

BLOCK = 64
"""Rows and columns of a block of weights in oneDNN's layout."""
GROUP = 32
"""int4 weights that share a multiplier and an offset."""
PART = 2**23
"""Weights that are unpacked, or converted back, at once: what a CPU's caches hold."""
NIBBLES, SIGN = 0x0F0F0F0F, 0x80808080 - 2**32


@dataclass(frozen=True)
class QuantizedRows:
    """Activations as int8, x = scale * value: ``value_MK`` and ``scale_M1``, which has the dtype of x and no rounding error."""

    value_MK: Tensor
    scale_M1: Tensor

    @staticmethod
    def of(x_MK: Tensor) -> QuantizedRows:
        """Quantise each row to -127..127, so many rows at a time that they stay in the cache."""
        # Over 126: the scale is rounded to the dtype of x, and must not become too small for the largest value.
        scale_M1 = x_MK.abs().amax(1, keepdim=True).mul_(1 / 126).clamp_(min=torch.finfo(x_MK.dtype).tiny)
        inverse_M1 = 1 / scale_M1.float()
        rows = max(1, 2**20 // x_MK.shape[1])
        if len(x_MK) <= rows:
            return QuantizedRows(x_MK.to(torch.float32, copy=True).mul_(inverse_M1).round_().to(torch.int8), scale_M1)
        value_MK = torch.empty_like(x_MK, dtype=torch.int8)
        for x_mK, value_mK, inverse_m1 in zip(*(torch.split(x, rows) for x in (x_MK, value_MK, inverse_M1)), strict=True):
            value_mK.copy_(x_mK.to(torch.float32, copy=True).mul_(inverse_m1).round_())
        return QuantizedRows(value_MK, scale_M1)

    def __getitem__(self, rows: Tensor) -> QuantizedRows:
        return QuantizedRows(self.value_MK[rows], self.scale_M1[rows])

    def dequantized(self) -> Tensor:
        """Activations (M, K) in their dtype."""
        return self.value_MK.to(self.scale_M1.dtype) * self.scale_M1


def quantized_once(layer: nn.Module, x_TD: Any) -> Any:
    """Input of several layers such as ``layer``: quantised once where they are quantised, else as it is."""
    return layer.inputs(x_TD) if isinstance(layer, QuantizedLinear) else x_TD


class QuantizedLinear(nn.Module, ABC):
    """A linear layer without bias whose weights are quantised; made empty, filled by `take`.

    ``stored``: the names of its tensors, in which it is saved and loaded.
    """

    stored: ClassVar[tuple[str, ...]]

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.inner, self.outer = padded(in_features), padded(out_features)
        self.fast = fast_product()
        for name, shape, dtype in self.shapes():
            self.register_buffer(name, torch.empty(shape, dtype=dtype, device="meta"))

    @abstractmethod
    def shapes(self) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
        """Names, shapes and dtypes of the tensors."""

    @abstractmethod
    def quantize(self, weight_NK: Tensor) -> None:
        """Fill the tensors from float weights."""

    @abstractmethod
    def unpacked(self, first: int, count: int) -> Tensor:
        """int8 weights (count, K / 4, 64, 4) of blocks from ``first`` on."""

    @abstractmethod
    def products(self, value_MK: Tensor, vocab: range, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        """Products with the weights, scaled by channel: (first output, (M, outputs)), the parts in which ``vocab`` has any."""

    def take(self, name: str, value: Tensor) -> None:
        """Fill a tensor; ``name`` "weight": quantise float weights (N, K) into all of them."""
        if name == "weight":
            self.quantize(value)
        else:
            self._buffers[name] = value.clone()

    def inputs(self, x_MK: Tensor) -> Tensor | QuantizedRows:
        """The input as `columns` multiplies it."""
        return QuantizedRows.of(x_MK) if self.fast else x_MK

    def forward(self, x: Tensor | QuantizedRows) -> Tensor:
        """Return x times the weights, in the dtype of x (any leading shape)."""
        if isinstance(x, QuantizedRows) or x.ndim == 2:
            return self.columns(x, range(self.out_features))
        return self.columns(x.flatten(0, -2), range(self.out_features)).view(*x.shape[:-1], -1)

    def columns(self, x: Tensor | QuantizedRows, vocab: range) -> Tensor:
        """Return the outputs ``vocab`` (M, V) for rows ``x``."""
        if not isinstance(x, QuantizedRows):
            x = self.inputs(x)
        if not isinstance(x, QuantizedRows):
            return self.by_floats(x, vocab)
        value_MK = F.pad(x.value_MK, (0, self.inner - self.in_features)) if self.inner > self.in_features else x.value_MK
        if not len(value_MK):
            return x.scale_M1.new_zeros(0, len(vocab))
        parts = [
            part_MN[:, max(vocab.start - first, 0) : vocab.stop - first]
            for first, part_MN in self.products(value_MK, vocab, x.scale_M1.dtype)
        ]
        found_MV = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return found_MV.mul_(x.scale_M1) if len(parts) > 1 or found_MV.is_contiguous() else found_MV * x.scale_M1

    def by_floats(self, x_MK: Tensor, vocab: range) -> Tensor:
        """`columns` by converting weights back to floats, a few blocks at a time: weight-only quantisation."""
        step = max(1, PART // (self.inner * BLOCK))
        first, last = vocab.start // BLOCK, -(-vocab.stop // BLOCK)
        parts = [F.linear(x_MK, self.dequantized(at, min(step, last - at)).to(x_MK.dtype)) for at in range(first, last, step)]
        return torch.cat(parts, 1)[:, vocab.start - first * BLOCK : vocab.stop - first * BLOCK]

    def dequantized(self, first: int = 0, count: int | None = None) -> Tensor:
        """Weights (N, K) as float32, of all or of some blocks of outputs."""
        count = self.outer // BLOCK - first if count is None else count
        scale_N = cast(Tensor, self.scale)[first * BLOCK : (first + count) * BLOCK]
        weight_NK = unblocked(self.unpacked(first, count))[: len(scale_N), : self.in_features]
        return weight_NK.float() * scale_N[:, None]

    def extra_repr(self) -> str:
        """Return the sizes, for printing."""
        return f"in_features={self.in_features}, out_features={self.out_features}, fast={self.fast}"


class Int8Linear(QuantizedLinear):
    """int8 weights, one scale an output channel. ``blocks``: in oneDNN's order, whose own memory they are where it is used."""

    stored = ("blocks", "scale")

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.prepacked: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def shapes(self) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
        """As `QuantizedLinear.shapes`."""
        blocks = (self.outer // BLOCK, self.inner // 4, BLOCK, 4)
        return [("blocks", blocks, torch.int8), ("scale", (self.out_features,), torch.float32)]

    def quantize(self, weight_NK: Tensor) -> None:
        """As `QuantizedLinear.quantize`, straight into the memory where the blocks stay."""
        blocks, scale_N = self.room(), torch.empty(self.out_features)
        value_nK = torch.zeros(BLOCK, self.inner, dtype=torch.int8)
        for number, (scaled_nK, scale_n) in enumerate(scaled(weight_NK)):
            scale_N[number * BLOCK :][: len(scale_n)] = scale_n
            value_nK[len(scale_n) :] = 0
            value_nK[: len(scale_n), : self.in_features] = scaled_nK.round_()
            blocks[number] = blocked(value_nK)[0]
        self._buffers["scale"] = scale_N

    def take(self, name: str, value: Tensor) -> None:
        """As `QuantizedLinear.take`."""
        if name == "blocks":
            self.room().copy_(value)
        else:
            super().take(name, value)

    def room(self) -> Tensor:
        """Memory for the blocks, new where there is none yet: oneDNN's, where that multiplies."""
        if (0, self.outer // BLOCK) in self.prepacked:
            return self.all_blocks()
        if not self.fast:
            self._buffers["blocks"] = torch.empty(self.outer // BLOCK, self.inner // 4, BLOCK, 4, dtype=torch.int8)
            return cast(Tensor, self.blocks)
        self._buffers["blocks"] = None
        self.prepacked[0, self.outer // BLOCK] = found = template(self.outer, self.inner)
        return found[1]

    def packed(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Prepacked weights of blocks ``first`` to ``last``, with their memory: copied when they are first asked for."""
        if (first, last) not in self.prepacked:
            self.prepacked[first, last] = found = template((last - first) * BLOCK, self.inner)
            found[1].copy_(self.all_blocks()[first:last])
        return self.prepacked[first, last]

    def unpacked(self, first: int, count: int) -> Tensor:
        """As `QuantizedLinear.unpacked`."""
        return self.all_blocks()[first : first + count]

    def all_blocks(self) -> Tensor:
        """The weights (N / 64, K / 4, 64, 4)."""
        whole = self.prepacked.get((0, self.outer // BLOCK))
        return cast(Tensor, self.blocks) if whole is None else whole[1]

    def products(self, value_MK: Tensor, vocab: range, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        """As `QuantizedLinear.products`. A small part of a vocabulary has weights of its own, as oneDNN cannot slice."""
        if not self.prepacked:  # filled by other means than `take`
            blocks = cast(Tensor, self.blocks)
            self.room().copy_(blocks)
        first, last = vocab.start // BLOCK, -(-vocab.stop // BLOCK)
        if 2 * (last - first) * BLOCK > self.outer:
            first, last = 0, self.outer // BLOCK
        opaque, memory = self.packed(first, last)
        yield (
            first * BLOCK,
            product(value_MK, opaque, channels(cast(Tensor, self.scale), first * BLOCK, len(memory) * BLOCK), dtype),
        )

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}blocks"] = self.all_blocks()


class Int4Linear(QuantizedLinear):
    """int4 weights in groups of `GROUP` inputs; see the head of this file.

    ``nibbles`` int32 (N / 64, K / 64, 8, 64): of each 64 inputs the first group in the low halves of the bytes and the second in
    the high ones. ``multiplier``, ``offset`` uint8 (N / 64, K / 64, 2, 64): the offset plus 128. ``scale`` (N,).
    """

    stored = ("nibbles", "multiplier", "offset", "scale")

    def shapes(self) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
        """As `QuantizedLinear.shapes`."""
        outer, inner = self.outer // BLOCK, self.inner // BLOCK
        return [
            ("nibbles", (outer, inner, 8, BLOCK), torch.int32),
            ("multiplier", (outer, inner, 2, BLOCK), torch.uint8),
            ("offset", (outer, inner, 2, BLOCK), torch.uint8),
            ("scale", (self.out_features,), torch.float32),
        ]

    def quantize(self, weight_NK: Tensor) -> None:
        """As `QuantizedLinear.quantize`."""
        found = {name: torch.zeros(shape, dtype=dtype) for name, shape, dtype in self.shapes()}
        for number, (scaled_nK, scale_n) in enumerate(scaled(weight_NK)):
            found["scale"][number * BLOCK :][: len(scale_n)] = scale_n
            wide_nK = F.pad(scaled_nK, (0, self.inner - self.in_features, 0, BLOCK - len(scaled_nK)))
            level_ngG, multiplier_ng, offset_ng = grid_of_groups(wide_nK.view(len(wide_nK), -1, GROUP))
            words = blocked(level_ngG.flatten(1).to(torch.int8)).view(torch.int32)[0, :, :, 0]
            low, high = words.view(-1, 2, 8, BLOCK).unbind(1)
            found["nibbles"][number] = low | high << 4
            found["multiplier"][number] = multiplier_ng.T.reshape(-1, 2, BLOCK)
            found["offset"][number] = offset_ng.T.reshape(-1, 2, BLOCK)
        self._buffers.update(found)

    def unpack_into(self, blocks: Tensor, first: int) -> None:
        """Write int8 weights of blocks from ``first`` on, four to a word: bytes q * m + offset never overflow into the next."""
        words = blocks.view(torch.int32).view(len(blocks), -1, 2, 8, BLOCK)
        span = slice(first, first + len(blocks))
        nibbles, high = cast(Tensor, self.nibbles)[span], words[:, :, 1]
        torch.bitwise_and(nibbles, NIBBLES, out=words[:, :, 0])
        torch.bitwise_right_shift(nibbles, 4, out=high)
        high.bitwise_and_(NIBBLES)
        multiplier = cast(Tensor, self.multiplier)[span, :, :, None].to(torch.int32)
        offset = cast(Tensor, self.offset)[span, :, :, None].to(torch.int32).mul_(0x01010101)
        torch.addcmul(offset, words, multiplier, out=words)
        words.bitwise_xor_(SIGN)  # the offset holds 128 more than it is

    def unpacked(self, first: int, count: int) -> Tensor:
        """As `QuantizedLinear.unpacked`."""
        blocks = torch.empty(count, self.inner // 4, BLOCK, 4, dtype=torch.int8)
        self.unpack_into(blocks, first)
        return blocks

    def products(self, value_MK: Tensor, vocab: range, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        """As `QuantizedLinear.products`. Each part is unpacked into one scratch memory and multiplied from there."""
        step = max(1, PART // (self.inner * BLOCK))
        last = -(-vocab.stop // BLOCK)
        for first in range(vocab.start // BLOCK, last, step):
            count = min(step, last - first)
            opaque, memory = scratch(count * BLOCK, self.inner)
            self.unpack_into(memory, first)
            scale_N = channels(cast(Tensor, self.scale), first * BLOCK, count * BLOCK)
            yield first * BLOCK, product(value_MK, opaque, scale_N, dtype)


LAYERS: dict[str, type[QuantizedLinear]] = {"int8": Int8Linear, "int4": Int4Linear}
"""Layers by the name of their type."""


def linears(model: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    """(owner, attribute, layer) of every linear layer."""
    return [
        (owner, name, layer)
        for owner in list(model.modules())
        for name, layer in list(owner.named_children())
        if isinstance(layer, nn.Linear)
    ]


def use_quantized_layers(model: nn.Module, kind: str) -> None:
    """Replace the linear layers of a model by empty quantised ones."""
    for owner, name, layer in linears(model):
        setattr(owner, name, LAYERS[kind](layer.in_features, layer.out_features))


@torch.no_grad()
def quantize_layers(model: nn.Module, kind: str) -> None:
    """Quantise the linear layers of a model on a CPU, in place, one after another."""
    for owner, name, layer in linears(model):
        quantized = LAYERS[kind](layer.in_features, layer.out_features)
        quantized.take("weight", layer.weight)
        setattr(owner, name, quantized)


def padded(size: int) -> int:
    """The next multiple of `BLOCK`."""
    return -(-size // BLOCK) * BLOCK


def scaled(weight_NK: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield `BLOCK` rows of weights on a grid of -127..127, not yet rounded, with their scales (n,), float32.

    All in one scratch memory: on a CPU, new memory for each block would cost more than the arithmetic.
    """
    scratch_nK = torch.empty(BLOCK, weight_NK.shape[1])
    for weight_nK in torch.split(weight_NK, BLOCK):
        scale_n = weight_nK.abs().amax(1).float().div_(127).clamp_(min=1e-12)
        wide_nK = scratch_nK[: len(weight_nK)].copy_(weight_nK)
        yield wide_nK.mul_(scale_n.reciprocal()[:, None]), scale_n


def grid_of_groups(wide_ngG: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(levels 0..15, multipliers (n, g), offsets + 128 (n, g)) for weights on the int8 grid: of the two multipliers next to a
    fifteenth of the range of a group, the one with the smaller error."""
    low_ng1, high_ng1 = wide_ngG.aminmax(dim=2, keepdim=True)
    best: list[Tensor] = []
    for rounded in (torch.floor, torch.ceil):
        multiplier_ng1 = rounded((high_ng1 - low_ng1) / 15).clamp_(1, 17)
        offset_ng1 = ((low_ng1 + high_ng1 - 15 * multiplier_ng1) / 2 + 128).round_()
        offset_ng1 = torch.minimum(offset_ng1.clamp_(min=0), 255 - 15 * multiplier_ng1)
        level_ngG = ((wide_ngG - (offset_ng1 - 128)) / multiplier_ng1).round_().clamp_(0, 15)
        error_ng1 = (level_ngG * multiplier_ng1 + (offset_ng1 - 128) - wide_ngG).square_().sum(2, keepdim=True)
        found = [error_ng1, level_ngG, multiplier_ng1, offset_ng1]
        best = [torch.where(error_ng1 < best[0], new, old) for new, old in zip(found, best, strict=True)] if best else found
    _, level_ngG, multiplier_ng1, offset_ng1 = best
    return level_ngG, multiplier_ng1[..., 0].to(torch.uint8), offset_ng1[..., 0].to(torch.uint8)


def blocked(weight_NK: Tensor) -> Tensor:
    """int8 weights (N, K), of whole blocks, in oneDNN's order (N / 64, K / 4, 64, 4)."""
    words = weight_NK.view(torch.int32).view(-1, BLOCK, weight_NK.shape[1] // 4).transpose(1, 2).contiguous()
    return words.view(torch.int8).view(*words.shape, 4)


def unblocked(blocks: Tensor) -> Tensor:
    """The inverse of `blocked`: int8 weights (N, K)."""
    return blocks.transpose(1, 2).flatten(2).flatten(0, 1)


def channels(scale_N: Tensor, first: int, count: int) -> Tensor:
    """Scales of some outputs; those of the padding are 1."""
    part_N = scale_N[first : first + count]
    return part_N if len(part_N) == count else F.pad(part_N, (0, count - len(part_N)), value=1.0)


def product(value_MK: Tensor, opaque: Tensor, scale_N: Tensor, dtype: torch.dtype) -> Tensor:
    """int8 activations times prepacked int8 weights, scaled by output channel."""
    zero_N = torch.zeros(len(scale_N), dtype=torch.int64)
    found: Tensor = torch.ops.onednn.qlinear_pointwise(
        value_MK, 1.0, 0, opaque, scale_N, zero_N, None, 1.0, 0, dtype, "none", [], ""
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
    weight_NK, value_MK = (torch.randint(-127, 128, (n, 256), dtype=torch.int8, generator=generator) for n in (128, 5))
    weight_NK[0], value_MK[0] = 127, 127
    try:
        opaque, memory = template(128, 256)
        packed: Tensor = torch.ops.onednn.qlinear_prepack(weight_NK, None)
        raw = (ctypes.c_int8 * memory.numel()).from_address(torch.ops.mkldnn.data_ptr(packed))
        if not torch.equal(torch.frombuffer(raw, dtype=torch.int8), blocked(weight_NK).flatten()):
            return False
        memory.copy_(blocked(weight_NK))
        found_MN = product(value_MK, opaque, torch.ones(128), torch.float32)
    except (AttributeError, RuntimeError, NotImplementedError):  # this torch or this CPU has no such product
        return False
    return torch.equal(found_MN.double(), value_MK.double() @ weight_NK.double().T)
