"""Linear layers with int8 and int4 weights on a CPU, by oneDNN's product of 8-bit integers (AMX, VNNI).

Activations are quantised as they come, one scale a row (`mmada.model.int8_product`); weights have one scale an output channel.
int4 weights are groups of
`GROUP` on a coarser grid within the int8 one: w = scale * (q * multiplier + offset), q in 0..15, all integers, so unpacking into
int8 is exact and cheap, and the product is the same as int8's. Where a CPU or torch lacks the product, weights are converted
back a few rows at a time and multiplied as floats: the slow twin, which the tests hold the fast path against.

Shapes: M rows, K inputs, N outputs; K and N are padded to multiples of `BLOCK`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmada.model.int8_product import (
    BLOCK,
    MIDDLE,
    QuantizedRows,
    blocked,
    fast_product,
    padded,
    product,
    scratch,
    template,
    unblocked,
)

__all__ = [
    "LAYERS",
    "Int4Linear",
    "Int8Linear",
    "QuantizedLinear",
    "quantize_layers",
    "quantized_once",
    "use_quantized_layers",
]

GROUP = 32
"""int4 weights that share a multiplier and an offset."""
PART = 2**23
"""Weights that are unpacked, or converted back, at once: what a CPU's caches hold."""
NIBBLES, SIGN = 0x0F0F0F0F, 0x80808080 - 2**32


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
        self.bias_N: Tensor | None = None
        for name, shape, dtype in self.shapes():
            self.register_buffer(name, torch.empty(shape, dtype=dtype, device="meta"))

    @abstractmethod
    def shapes(self) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
        """Names, shapes and dtypes of the tensors."""

    def weights_of(self, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Scale and bias, float32, of the product's outputs in ``count`` blocks from ``first`` on; those of padding are 1 and 0.

        The bias takes away what the weights make of the 128 that every activation has too much.
        """
        if self.bias_N is None:
            self.bias_N = cast(Tensor, self.total) * cast(Tensor, self.scale) * -MIDDLE
        outputs, width = slice(first * BLOCK, (first + count) * BLOCK), count * BLOCK
        scale_N, bias_N = cast(Tensor, self.scale)[outputs], self.bias_N[outputs]
        if len(scale_N) == width:
            return scale_N, bias_N
        return F.pad(scale_N, (0, width - len(scale_N)), value=1.0), F.pad(bias_N, (0, width - len(bias_N)))

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
        self.bias_N = None
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
        value_MK = x.value_MK
        if self.inner > self.in_features:  # by activations of 0, as int4 weights of the padding need not be 0
            value_MK = F.pad(value_MK, (0, self.inner - self.in_features), value=MIDDLE)
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

    stored = ("blocks", "scale", "total")

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.prepacked: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def shapes(self) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
        """As `QuantizedLinear.shapes`."""
        blocks = (self.outer // BLOCK, self.inner // 4, BLOCK, 4)
        outputs = (self.out_features,)
        return [("blocks", blocks, torch.int8), ("scale", outputs, torch.float32), ("total", outputs, torch.int32)]

    def quantize(self, weight_NK: Tensor) -> None:
        """As `QuantizedLinear.quantize`, straight into the memory where the blocks stay."""
        blocks, scale_N, total_N = self.room(), torch.empty(self.out_features), torch.empty(self.out_features, dtype=torch.int32)
        value_nK = torch.zeros(BLOCK, self.inner, dtype=torch.int8)
        for number, (scaled_nK, scale_n) in enumerate(scaled(weight_NK)):
            scale_N[number * BLOCK :][: len(scale_n)] = scale_n
            value_nK[len(scale_n) :] = 0
            value_nK[: len(scale_n), : self.in_features] = scaled_nK.round_()
            blocks[number] = blocked(value_nK)[0]
            total_N[number * BLOCK :][: len(scale_n)] = scaled_nK.sum(1)  # rounded just now, so that the sum is exact
        self._buffers |= {"scale": scale_N, "total": total_N}

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
        opaque, _ = self.packed(first, last)
        yield first * BLOCK, product(value_MK, opaque, *self.weights_of(first, last - first), dtype)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}blocks"] = self.all_blocks()


class Int4Linear(QuantizedLinear):
    """int4 weights in groups of `GROUP` inputs; see the head of this file.

    ``nibbles`` int32 (N / 64, K / 64, 8, 64): of each 64 inputs the first group in the low halves of the bytes and the second in
    the high ones. ``multiplier``, ``offset`` uint8 (N / 64, K / 64, 2, 64): the offset plus 128. ``scale`` (N,).
    """

    stored = ("nibbles", "multiplier", "offset", "scale", "total")

    def shapes(self) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
        """As `QuantizedLinear.shapes`."""
        outer, inner = self.outer // BLOCK, self.inner // BLOCK
        return [
            ("nibbles", (outer, inner, 8, BLOCK), torch.int32),
            ("multiplier", (outer, inner, 2, BLOCK), torch.uint8),
            ("offset", (outer, inner, 2, BLOCK), torch.uint8),
            ("scale", (self.out_features,), torch.float32),
            ("total", (self.out_features,), torch.int32),
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
            value_ngG = level_ngG * multiplier_ng[..., None] + (offset_ng[..., None].float() - 128)
            found["total"][number * BLOCK :][: len(scale_n)] = value_ngG.flatten(1)[: len(scale_n)].sum(1)
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
            yield first * BLOCK, product(value_MK, opaque, *self.weights_of(first, count), dtype)


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
