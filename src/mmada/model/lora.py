"""LoRA: settings, and the layers that train two thin matrices beside each frozen one. Files of adapters: `mmada.model.adapters`.

`Low-Rank Adaptation <https://arxiv.org/abs/2106.09685>`_ trains, for a matrix W, the product of two thin matrices that is added
to it; W stays frozen. The thin ones are float32 whatever the type of W: bfloat16 would round small updates away.

Shapes: D in, E out, r rank, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmada.errors import check_flag, check_number, check_whole
from mmada.model.mmada import MMaDAModel

__all__ = ["Lora", "LoraEmbedding", "LoraLinear", "adapters_off", "add_lora", "check_lora", "lora_layers"]

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Matrices of a block that get adapters: all."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Adapters for every matrix of the blocks; all other weights are frozen.

    ``rank``: width of the two thin matrices, 0 for no adapters. What they add is scaled by ``alpha / rank``. ``dropout`` acts on
    their input. ``embeddings``: adapters for the embedding and the head too, with which a model learns new pictures and words
    much faster, at little more memory.
    """

    rank: int = 0
    alpha: int = 32
    dropout: float = 0.0
    embeddings: bool = True

    def __post_init__(self) -> None:
        check_whole("lora.rank", self.rank, 0)
        check_whole("lora.alpha", self.alpha, 1)
        check_number("lora.dropout", self.dropout, 0, 1)
        check_flag("lora.embeddings", self.embeddings)

    @property
    def scale(self) -> float:
        """Factor of what the adapters add."""
        return self.alpha / self.rank


class LoraLinear(nn.Linear):
    """A frozen linear layer plus its adapter: W x + scale B A x, with A (r, D) and B (E, r)."""

    def __init__(self, layer: nn.Linear, lora: Lora) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.lora, self.on = lora, True
        self.lora_A = nn.Parameter(layer.weight.new_empty(lora.rank, layer.in_features, dtype=torch.float32))
        self.lora_B = nn.Parameter(layer.weight.new_zeros(layer.out_features, lora.rank, dtype=torch.float32))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """The output of both."""
        base = F.linear(x, self.weight, self.bias)
        if not self.on:
            return base
        x = F.dropout(x, self.lora.dropout, self.training)
        added = F.linear(F.linear(x.to(self.lora_A.dtype), self.lora_A), self.lora_B)
        return base + (self.lora.scale * added).to(base.dtype)

    def rows(self, first: int, last: int) -> Tensor:
        """Rows of the whole matrix (last - first, D), as `mmada.model.mmada.MMaDAModel.head` gives them."""
        weight = self.weight[first:last]
        return weight + (self.lora.scale * (self.lora_B[first:last] @ self.lora_A)).to(weight.dtype) if self.on else weight

    def delta(self) -> Tensor:
        """What the adapter adds to the weight, float32 (E, D)."""
        return self.lora.scale * (self.lora_B @ self.lora_A)


class LoraEmbedding(nn.Embedding):
    """A frozen embedding plus its adapter: the row of a token plus scale (B A)^T, with A (r, V) and B (D, r)."""

    def __init__(self, layer: nn.Embedding, lora: Lora) -> None:
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = layer.num_embeddings, layer.embedding_dim
        self.padding_idx, self.max_norm, self.norm_type = layer.padding_idx, layer.max_norm, layer.norm_type
        self.scale_grad_by_freq, self.sparse, self.weight = layer.scale_grad_by_freq, layer.sparse, layer.weight
        self.lora, self.on = lora, True
        self.lora_embedding_A = nn.Parameter(layer.weight.new_zeros(lora.rank, layer.num_embeddings, dtype=torch.float32))
        self.lora_embedding_B = nn.Parameter(layer.weight.new_empty(layer.embedding_dim, lora.rank, dtype=torch.float32))
        nn.init.normal_(self.lora_embedding_B, std=1 / math.sqrt(lora.rank))

    def forward(self, input: Tensor) -> Tensor:
        """The rows of both."""
        base = super().forward(input)
        if not self.on:
            return base
        added = F.linear(F.embedding(input, self.lora_embedding_A.T), self.lora_embedding_B)
        return base + (self.lora.scale * added).to(base.dtype)

    def delta(self) -> Tensor:
        """What the adapter adds to the weight, float32 (V, D)."""
        return self.lora.scale * (self.lora_embedding_B @ self.lora_embedding_A).T


LoraLayer = LoraLinear | LoraEmbedding


def check_lora(config: Any, lora: Lora) -> None:
    """Raise InputError for a rank above the model's width, which no matrix of it has."""
    check_whole("lora.rank", lora.rank, 1, min(config.hidden_size, config.intermediate_size))


def add_lora(model: MMaDAModel, lora: Lora) -> None:
    """Freeze the model and add trainable adapters, which change nothing at first. Raises InputError as `check_lora`."""
    check_lora(model.config, lora)
    model.requires_grad_(False)
    for name, layer in list(model.named_modules()):
        above, _, last = name.rpartition(".")
        if last in TARGETS and isinstance(layer, nn.Linear):
            setattr(model.get_submodule(above), last, LoraLinear(layer, lora))
    if lora.embeddings:
        model.model.embed_tokens = LoraEmbedding(model.model.embed_tokens, lora)
        model.lm_head = LoraLinear(model.lm_head, lora)


def lora_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """The layers with adapters, by name."""
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, (LoraLinear, LoraEmbedding))}
    return cast(dict[str, LoraLayer], found)


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """The model without its adapters inside the ``with`` block."""
    layers = [layer for layer in lora_layers(model).values() if layer.on]
    for layer in layers:
        layer.on = False
    try:
        yield
    finally:
        for layer in layers:
            layer.on = True
