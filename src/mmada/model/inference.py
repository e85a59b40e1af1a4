"""The packed forward pass of decoding: only what the query positions need, on rows without their padding.

The valid positions of all rows stand end to end as one run of T tokens, so padding costs nothing and every row attends to itself
alone. In the last layer only the query positions have queries, an attention output and an MLP. With a `KVCache`, only the
recomputed positions run at all and attend to the keys and values that earlier passes left for the others.

Equal to `MMaDAModel.hidden` at the query positions (tests); training runs that one.

Shapes: B rows, L positions, T recomputed positions, M verification tokens, N query positions, Q of both together, D width,
H heads, G key-value heads, E head size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from mmada.model.attention import PackedRows, Packing, Rows, rotated, sdpa
from mmada.model.kv_cache import KVCache
from mmada.model.quantized_linear import quantized_once

__all__ = ["ForwardLayout", "VerificationTokens", "forward"]


@dataclass(frozen=True)
class VerificationTokens:
    """Extra mask tokens at decided positions, which ask what the model would predict there (draft-verify decoding, WINO).

    Each attends to itself and to its whole row except the position it verifies; nothing attends to it. Shapes: M tokens,
    ``count_B`` of them in each row, for position ``position_M``, which is number ``slot_M`` of the row's valid positions.
    """

    position_M: Tensor
    slot_M: Tensor
    count_B: tuple[int, ...]

    @staticmethod
    def of(valid_BL: Tensor, verify_BL: Tensor) -> VerificationTokens:
        """Make one token for each position of ``verify_BL``."""
        position_BL = torch.arange(valid_BL.shape[1], device=valid_BL.device).expand_as(valid_BL)
        slot_BL = valid_BL.cumsum(1) - 1
        return VerificationTokens(position_BL[verify_BL], slot_BL[verify_BL], tuple(verify_BL.sum(1).tolist()))


@dataclass(frozen=True)
class ForwardLayout:
    """Which positions a forward pass runs and which it returns: all host-side metadata, so that the pass itself, over any
    tokens in this layout, never synchronises with the device.

    ``flat_T``: the recomputed positions as indices into B x L. ``rotary``: cos and sin of their rotary embedding and of that of
    the verification tokens. ``query_Q``: indices, into those two together, of what has a query in the last layer; ``query_B``:
    number of query positions of each row. ``offsets``: cumulative lengths of packed rows by their lengths; on a GPU only, for
    `ragged`.
    """

    packing: Packing
    verification: VerificationTokens
    flat_T: Tensor
    rotary: tuple[Tensor, Tensor]
    query_Q: Tensor
    query_B: tuple[int, ...]
    offsets: Mapping[tuple[int, ...], Tensor]

    @staticmethod
    @torch.no_grad()
    def of(
        model: Any,
        query_BL: Tensor,
        valid_BL: Tensor | None = None,
        recompute_BL: Tensor | None = None,
        verify_BL: Tensor | None = None,
    ) -> ForwardLayout:
        """Make the layout for a `LlamaModel` that runs ``recompute_BL`` of the valid positions (None is all) and returns
        ``query_BL``, a part of them, and a verification token for each position of ``verify_BL``."""
        valid_BL = torch.ones_like(query_BL) if valid_BL is None else valid_BL
        recompute_BL = valid_BL if recompute_BL is None else recompute_BL & valid_BL
        packing = Packing.of(valid_BL, recompute_BL)
        verification = VerificationTokens.of(valid_BL, torch.zeros_like(query_BL) if verify_BL is None else verify_BL)
        flat_T = recompute_BL.flatten().nonzero()[:, 0]
        position_T = torch.cat((flat_T % query_BL.shape[1], verification.position_M))
        cos_1TE, sin_1TE = model.rotary_emb(model.embed_tokens.weight, position_T[None])
        query_T = torch.cat((query_BL.flatten()[flat_T], torch.ones_like(verification.slot_M, dtype=torch.bool)))
        query_B = tuple(query_BL.sum(1).tolist())
        counts = {packing.recomputed_B, packing.valid_B, query_B} if query_BL.is_cuda else set()
        offsets = {n: torch.tensor([0, *accumulate(n)], dtype=torch.int32, device=query_BL.device) for n in counts}
        rotary = (cos_1TE[0, :, None], sin_1TE[0, :, None])
        return ForwardLayout(packing, verification, flat_T, rotary, query_T.nonzero()[:, 0], query_B, offsets)


@torch.no_grad()
def forward(model: Any, tokens_BL: Tensor, layout: ForwardLayout, *, cache: KVCache | None = None, mask: int = 0) -> Tensor:
    """Return hidden states (N + M, D) after the last norm: of the query positions, then of the verification tokens, row-major.

    ``model``: a `LlamaModel`. A layout that recomputes fewer than all positions needs a ``cache`` that has seen every row once.
    ``mask``: the id of the verification tokens.
    """
    tokens_T = torch.cat((tokens_BL.flatten()[layout.flat_T], torch.full_like(layout.verification.slot_M, mask)))
    x_TD = model.embed_tokens(tokens_T)
    layers = model.layers[: model.config.num_hidden_layers]
    attention = Attention(layout, cache)
    for number, layer in enumerate(layers):
        normed_TD = quantized_once(layer.self_attn.q_proj, layer.input_layernorm(x_TD))
        if number < len(layers) - 1:
            x_TD = x_TD + attention.attend(layer.self_attn, number, normed_TD)
        else:
            x_TD = x_TD[layout.query_Q] + attention.attend(layer.self_attn, number, normed_TD, last=True)
        x_TD = x_TD + gated(layer.mlp, layer.post_attention_layernorm(x_TD))
    return cast(Tensor, model.norm(x_TD))


@dataclass(frozen=True)
class Attention:
    """Self-attention of packed rows."""

    layout: ForwardLayout
    cache: KVCache | None

    def attend(self, layer: Any, number: int, normed_TD: Any, last: bool = False) -> Tensor:
        """Output of attention layer ``number`` at every recomputed position and verification token; in the ``last`` layer at the
        query positions only. The input: a tensor, or `QuantizedRows`."""
        size, own = layer.head_dim, len(self.layout.packing.slot_T)
        cos, sin = self.layout.rotary
        key_TGE = rotated(layer.k_proj(normed_TD).unflatten(-1, (-1, size)), cos, sin)
        value_TGE = layer.v_proj(normed_TD).unflatten(-1, (-1, size))
        if last:
            normed_TD, cos, sin = (x[self.layout.query_Q] for x in (normed_TD, cos, sin))
        query_QHE = rotated(layer.q_proj(normed_TD).unflatten(-1, (-1, size)), cos, sin)
        count = len(query_QHE) - len(self.layout.verification.slot_M)
        rows = self.rows(number, key_TGE[:own], value_TGE[:own])
        queries = self.layout.query_B if last else self.layout.packing.recomputed_B
        outputs = [rows.attention(query_QHE[:count], queries, self.layout.offsets)]
        if count < len(query_QHE):
            outputs.append(self.verified(query_QHE[count:], key_TGE[own:], value_TGE[own:], rows))
        return cast(Tensor, layer.o_proj(torch.cat(outputs).flatten(1)))

    def rows(self, number: int, key_TGE: Tensor, value_TGE: Tensor) -> Rows:
        """Keys and values that the queries of each row attend to."""
        if self.cache is None:
            return PackedRows(key_TGE, value_TGE, self.layout.packing.recomputed_B)
        return self.cache.write(number, key_TGE, value_TGE, self.layout.packing)

    def verified(self, query_MHE: Tensor, key_MGE: Tensor, value_MGE: Tensor, rows: Rows) -> Tensor:
        """Attention (M, H, E) of the verification tokens."""
        parts, start = [], 0
        verification = self.layout.verification
        for row, number in enumerate(verification.count_B):
            if number:
                mine = slice(start, start + number)
                key_SGE, value_SGE = rows.row(row)
                slot_m = verification.slot_M[mine, None]
                others = torch.arange(len(key_SGE), device=slot_m.device)[None] != slot_m
                seen = torch.cat((others, torch.eye(number, dtype=torch.bool, device=slot_m.device)), dim=1)
                key, value = torch.cat((key_SGE, key_MGE[mine])), torch.cat((value_SGE, value_MGE[mine]))
                parts.append(sdpa(query_MHE[None, mine], key[None], value[None], seen)[0])
                start += number
        return torch.cat(parts)


def gated(mlp: Any, normed_TD: Any) -> Tensor:
    """Gated MLP, in place: on a CPU, allocating memory for the wide activations costs more than the arithmetic on them."""
    normed_TD = quantized_once(mlp.gate_proj, normed_TD)
    gate_TF = F.silu(mlp.gate_proj(normed_TD), inplace=True)
    return cast(Tensor, mlp.down_proj(gate_TF.mul_(mlp.up_proj(normed_TD))))
