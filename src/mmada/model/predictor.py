"""What every network of the house does: predict logits at query positions, by the packed forward pass of decoding.

Shapes: B rows, L positions, D width, N query positions, V vocabulary slice.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from mmada.model.float_product import multiplied
from mmada.model.inference import ForwardLayout, forward
from mmada.model.kv_cache import KVCache
from mmada.model.quantized_linear import QuantizedLinear, use_quantized_layers

__all__ = ["Predictor", "Prepared"]


class Predictor(nn.Module):
    """Base of the networks: tokens to logits. Implements the `Denoiser` protocol by `predict`.

    A network has a backbone ``model`` (embedding, layers, last norm, rotary embedding) and a ``lm_head`` that is not tied to
    the embedding, with tensors named as in `transformers`' Llama.
    """

    if TYPE_CHECKING:
        model: Any
        lm_head: Any
        config: Any

        @property
        def device(self) -> torch.device:
            """Where the weights are."""

        @property
        def dtype(self) -> torch.dtype:
            """Type of the weights."""

    def head(self, vocab: range) -> Tensor:
        """The head's rows (V, D) for a contiguous range of token ids."""
        if hasattr(self.lm_head, "rows"):  # with an adapter
            return cast(Tensor, self.lm_head.rows(vocab.start, vocab.stop))
        return cast(Tensor, self.lm_head.weight)[vocab.start : vocab.stop]

    def logits(self, hidden_ND: Tensor, vocab: range) -> Tensor:
        """Logits (N, V) of hidden states: float32 on a GPU, whose kernel reads that, else in the dtype of the weights."""
        if isinstance(self.lm_head, QuantizedLinear):
            return self.lm_head.columns(hidden_ND, vocab)
        logits_NV = multiplied(hidden_ND, self.head(vocab))
        return logits_NV.float() if logits_NV.is_cuda else logits_NV

    def quantize_as_read(self, kind: str) -> None:
        """Give an empty network quantised layers, "int8" or "int4", which take the stored weights as these are read."""
        use_quantized_layers(self, kind)
        self.record_quantisation(kind)

    def record_quantisation(self, kind: str) -> None:
        """Write into the configuration that the weights are quantised."""
        self.config.quantisation = kind

    def kv_cache(self, rows: int) -> KVCache:
        """An empty KV cache for a batch of ``rows``, for `predict`."""
        return KVCache(rows)

    @torch.no_grad()
    def predict(
        self,
        tokens_BL: Tensor,
        *,
        query_BL: Tensor,
        vocab: range,
        valid_BL: Tensor | None = None,
        recompute_BL: Tensor | None = None,
        cache: KVCache | None = None,
        verify_BL: Tensor | None = None,
        mask: int = 0,
    ) -> Tensor:
        """Return logits (N, V), as `logits` gives them, at the positions of ``query_BL``, over the token ids of ``vocab``, on the
        tokens' device.

        ``recompute_BL``, ``cache``, ``verify_BL``, ``mask``: as in `mmada.model.inference.forward`, which runs it; verification
        tokens come after the query positions.
        """
        here, there = self.device, tokens_BL.device
        recompute_BL = None if cache is None else recompute_BL
        marks = [None if x is None else x.to(here) for x in (valid_BL, recompute_BL, verify_BL)]
        layout = ForwardLayout.of(self.model, query_BL.to(here), *marks)
        hidden_ND = forward(self.model, tokens_BL.to(here), layout, cache=cache, mask=mask)
        return self.logits(hidden_ND, vocab).to(there)

    def prepared(self, *, query_BL: Tensor, vocab: range, valid_BL: Tensor | None = None) -> Prepared:
        """Return `predict` as a function of the tokens alone: all host-side metadata is computed now."""
        here = self.device
        valid_BL = None if valid_BL is None else valid_BL.to(here)
        return Prepared(self, ForwardLayout.of(self.model, query_BL.to(here), valid_BL), vocab)


@dataclass(frozen=True)
class Prepared:
    """A forward pass of ``network`` with a fixed layout and vocabulary slice; it never synchronises with the device."""

    network: Predictor
    layout: ForwardLayout
    vocab: range

    @torch.no_grad()
    def __call__(self, tokens_BL: Tensor) -> Tensor:
        """Logits (N, V), as `Predictor.predict`."""
        hidden_ND = forward(self.network.model, tokens_BL.to(self.layout.flat_T.device), self.layout)
        return self.network.logits(hidden_ND, self.vocab).to(tokens_BL.device)

    @property
    def shape(self) -> Hashable:
        """Key of equal shapes: passes with one key differ only in the values of their tensors."""
        return self.layout.packing.recomputed_B, self.layout.query_B, self.vocab

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Tensors in which passes of one shape differ."""
        return (self.layout.flat_T, self.layout.query_Q, *self.layout.rotary)

    def copied(self) -> Prepared:
        """Return the same pass with tensors of its own."""
        flat_T, query_Q, cos, sin = (x.clone() for x in self.tensors)
        return replace(self, layout=replace(self.layout, flat_T=flat_T, query_Q=query_Q, rotary=(cos, sin)))
