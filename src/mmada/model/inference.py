"""The forward pass of decoding: only what the answer needs, on rows without their padding.

The valid places of all rows stand end to end as one packed run of T tokens, so padding costs nothing and every row attends to
itself alone. In the last layer only the places asked for have queries, an attention output and an MLP. With a `KVCache`, only
``fresh`` places run at all and attend to the keys and values that the others left there before.

Equal to `MMaDAModel.hidden` at the places asked for (tests); training runs that one.

Shapes: B rows, L positions, T fresh places, N places asked for, D width, H heads, G key-value heads, S valid places of a row, E
head size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["ForwardLayout", "JoinedKVCache", "KVCache", "forward"]


class KVCache:
    """Keys and values of every valid place of B rows, layer by layer; filled by the first pass of a row."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.layers: list[tuple[Tensor, Tensor]] = []
        self.at: Tensor | None = None
        self.drifts: list[Tensor] = []

    @property
    def drift(self) -> Tensor:
        """How far the values computed anew in a row's last pass are from those kept, (rows,): the mean of 1 - cosine in the last
        layer, 0 after a pass over everything."""
        return self.drifts[0] if self.drifts else torch.zeros(self.rows)

    def only(self, rows: Tensor) -> KVCache:
        """The same cache for a pass that has only these rows of the batch."""
        view = KVCache(self.rows)
        every = torch.equal(rows, torch.arange(self.rows, device=rows.device))
        view.layers, view.drifts, view.at = self.layers, self.drifts, None if every else rows
        return view

    def write(self, layer: int, key_TGE: Tensor, value_TGE: Tensor, packing: Packing) -> Rows:
        """Keep keys and values of the fresh places in a layer; returns those of all places of the rows."""
        if layer == len(self.layers):
            shape = (self.rows, packing.longest, *key_TGE.shape[1:])
            self.layers.append((key_TGE.new_zeros(shape), value_TGE.new_zeros(shape)))
        keys, values = self.layers[layer]
        if (missing := packing.longest - keys.shape[1]) > 0:  # a longer row comes in late
            keys, values = (F.pad(x, (0, 0, 0, 0, 0, missing)) for x in (keys, values))
            self.layers[layer] = (keys, values)
        rows = packing.row_T if self.at is None else self.at.to(packing.row_T.device)[packing.row_T]
        if layer == len(self.layers) - 1:
            self.measure(values[rows, packing.slot_T], value_TGE, packing)
        keys[rows, packing.slot_T], values[rows, packing.slot_T] = key_TGE, value_TGE
        return CachedRows(keys, values, packing.valid_B, self.at)

    def measure(self, old_TGE: Tensor, new_TGE: Tensor, packing: Packing) -> None:
        """Take down the drift of the rows of a pass."""
        drift_T = (1 - F.cosine_similarity(old_TGE.flatten(1), new_TGE.flatten(1), dim=-1)).float()
        fresh_B, valid_B = (torch.tensor(n, device=drift_T.device) for n in (packing.fresh_B, packing.valid_B))
        drift_B = torch.zeros(len(fresh_B), device=drift_T.device).index_add_(0, packing.row_T, drift_T) / fresh_B.clamp(min=1)
        drift_B = torch.where(fresh_B < valid_B, drift_B, 0.0)
        if not self.drifts:
            self.drifts.append(drift_B.new_zeros(self.rows))
        self.drifts[0][slice(None) if self.at is None else self.at.to(drift_B.device)] = drift_B


class JoinedKVCache(KVCache):
    """Several memories as one, for a pass that joins batches: ``parts`` are the memories with their numbers of rows."""

    def __init__(self, parts: Sequence[tuple[KVCache, int]]) -> None:
        super().__init__(sum(rows for _, rows in parts))
        self.parts = parts

    def write(self, layer: int, key_TGE: Tensor, value_TGE: Tensor, packing: Packing) -> Rows:
        """As `KVCache.write`."""
        found: list[Rows] = []
        start = 0
        for memory, rows in self.parts:
            mine_T = (packing.row_T >= start) & (packing.row_T < start + rows)
            span = slice(start, start + rows)
            part = Packing(packing.row_T[mine_T] - start, packing.slot_T[mine_T], packing.fresh_B[span], packing.valid_B[span])
            found.append(memory.write(layer, key_TGE[mine_T], value_TGE[mine_T], part))
            start += rows
        return JoinedRows(found)


@dataclass(frozen=True)
class Packing:
    """Where the fresh places of rows stand: ``row_T`` their row, ``slot_T`` their number among the row's valid places.

    ``fresh_B``, ``valid_B``: fresh and valid places of each row.
    """

    row_T: Tensor
    slot_T: Tensor
    fresh_B: tuple[int, ...]
    valid_B: tuple[int, ...]

    @staticmethod
    def of(valid_BL: Tensor, recompute_BL: Tensor) -> Packing:
        """The packing of ``recompute_BL``, a part of ``valid_BL``."""
        slot_BL = valid_BL.cumsum(1) - 1
        row_T = recompute_BL.nonzero()[:, 0]
        return Packing(row_T, slot_BL[recompute_BL], tuple(recompute_BL.sum(1).tolist()), tuple(valid_BL.sum(1).tolist()))

    @property
    def longest(self) -> int:
        """Valid places of the longest row."""
        return max(self.valid_B)


@dataclass(frozen=True)
class VerificationTokens:
    """Masks that stand beside decided places, to ask what the model would say there: each sees the whole row but the place it
    stands for, and itself; nothing sees it (draft-verify decoding). Shapes: M shadows, ``count_B`` of them a row, at position
    ``position_M`` and number ``slot_M`` among the row's valid places."""

    position_M: Tensor
    slot_M: Tensor
    count_B: tuple[int, ...]

    @staticmethod
    def of(valid_BL: Tensor, verify_BL: Tensor) -> VerificationTokens:
        """One shadow a place of ``verify_BL``."""
        position_BL = torch.arange(valid_BL.shape[1], device=valid_BL.device).expand_as(valid_BL)
        slot_BL = valid_BL.cumsum(1) - 1
        return VerificationTokens(position_BL[verify_BL], slot_BL[verify_BL], tuple(verify_BL.sum(1).tolist()))


@dataclass(frozen=True)
class ForwardLayout:
    """Which places a pass runs and which it answers for: all that it needs to know on the host, so that the pass itself, over any
    tokens in this layout, waits for nothing.

    ``flat_T``: the fresh places as numbers among the B x L. ``turn``: rotation (cos, sin) of fresh places and shadows.
    ``asked_Q``: those of them that have queries in the last layer, ``asked_B`` fresh ones a row. ``ends``: where rows of so many
    places each begin and end, end to end; on a GPU only, for `ragged`.
    """

    packing: Packing
    shadows: VerificationTokens
    flat_T: Tensor
    turn: tuple[Tensor, Tensor]
    asked_Q: Tensor
    asked_B: tuple[int, ...]
    ends: Mapping[tuple[int, ...], Tensor]

    @staticmethod
    @torch.no_grad()
    def of(
        model: Any,
        query_BL: Tensor,
        valid_BL: Tensor | None = None,
        recompute_BL: Tensor | None = None,
        verify_BL: Tensor | None = None,
    ) -> ForwardLayout:
        """The layout for a `LlamaModel` that runs ``recompute_BL`` of the valid places (None is all) and answers for
        ``query_BL``, a
        part of them, and for a shadow at each of ``verify_BL``."""
        valid_BL = torch.ones_like(query_BL) if valid_BL is None else valid_BL
        recompute_BL = valid_BL if recompute_BL is None else recompute_BL & valid_BL
        packing = Packing.of(valid_BL, recompute_BL)
        shadows = VerificationTokens.of(valid_BL, torch.zeros_like(query_BL) if verify_BL is None else verify_BL)
        flat_T = recompute_BL.flatten().nonzero()[:, 0]
        position_T = torch.cat((flat_T % query_BL.shape[1], shadows.position_M))
        cos_1TE, sin_1TE = model.rotary_emb(model.embed_tokens.weight, position_T[None])
        asked_T = torch.cat((query_BL.flatten()[flat_T], torch.ones_like(shadows.slot_M, dtype=torch.bool)))
        asked_B = tuple(query_BL.sum(1).tolist())
        counts = {packing.fresh_B, packing.valid_B, asked_B} if query_BL.is_cuda else set()
        ends = {n: torch.tensor([0, *accumulate(n)], dtype=torch.int32, device=query_BL.device) for n in counts}
        turn = (cos_1TE[0, :, None], sin_1TE[0, :, None])
        return ForwardLayout(packing, shadows, flat_T, turn, asked_T.nonzero()[:, 0], asked_B, ends)


@torch.no_grad()
def forward(model: Any, tokens_BL: Tensor, layout: ForwardLayout, *, cache: KVCache | None = None, mask: int = 0) -> Tensor:
    """Hidden states (N + M, D) after the last norm: of the places that ``layout`` asks for, then of its shadows, row-major.

    ``model``: a `LlamaModel`. A layout that runs fewer than all places needs a ``cache`` that has seen every row once. ``mask``:
    the token of the shadows.
    """
    tokens_T = torch.cat((tokens_BL.flatten()[layout.flat_T], torch.full_like(layout.shadows.slot_M, mask)))
    x_TD = model.embed_tokens(tokens_T)
    layers = model.layers[: model.config.num_hidden_layers]
    attention = Attention(layout, cache)
    for number, layer in enumerate(layers):
        normed_TD = layer.input_layernorm(x_TD)
        if number < len(layers) - 1:
            x_TD = x_TD + attention.attend(layer.self_attn, number, normed_TD)
        else:
            x_TD = x_TD[layout.asked_Q] + attention.attend(layer.self_attn, number, normed_TD, last=True)
        x_TD = x_TD + gated(layer.mlp, layer.post_attention_layernorm(x_TD))
    return cast(Tensor, model.norm(x_TD))


@dataclass(frozen=True)
class Attention:
    """Self-attention of packed rows."""

    layout: ForwardLayout
    cache: KVCache | None

    def attend(self, layer: Any, number: int, normed_TD: Tensor, last: bool = False) -> Tensor:
        """What attention layer ``number`` adds: at every fresh place and shadow, in the ``last`` layer at those asked for."""
        size, own = layer.head_dim, len(self.layout.packing.slot_T)
        cos, sin = self.layout.turn
        key_TGE = rotated(layer.k_proj(normed_TD).unflatten(-1, (-1, size)), cos, sin)
        value_TGE = layer.v_proj(normed_TD).unflatten(-1, (-1, size))
        if last:
            normed_TD, cos, sin = (x[self.layout.asked_Q] for x in (normed_TD, cos, sin))
        query_QHE = rotated(layer.q_proj(normed_TD).unflatten(-1, (-1, size)), cos, sin)
        asked = len(query_QHE) - len(self.layout.shadows.slot_M)
        rows = self.rows(number, key_TGE[:own], value_TGE[:own])
        queries = self.layout.asked_B if last else self.layout.packing.fresh_B
        outputs = [rows.attention(query_QHE[:asked], queries, self.layout.ends)]
        if asked < len(query_QHE):
            outputs.append(self.shadowed(query_QHE[asked:], key_TGE[own:], value_TGE[own:], rows))
        return cast(Tensor, layer.o_proj(torch.cat(outputs).flatten(1)))

    def rows(self, number: int, key_TGE: Tensor, value_TGE: Tensor) -> Rows:
        """What the queries of each row attend to."""
        if self.cache is None:
            return PackedRows(key_TGE, value_TGE, self.layout.packing.fresh_B)
        return self.cache.write(number, key_TGE, value_TGE, self.layout.packing)

    def shadowed(self, query_MHE: Tensor, key_MGE: Tensor, value_MGE: Tensor, rows: Rows) -> Tensor:
        """Attention (M, H, E) of the shadows."""
        parts, start = [], 0
        shadows = self.layout.shadows
        for row, count in enumerate(shadows.count_B):
            if count:
                mine = slice(start, start + count)
                key_SGE, value_SGE = rows.row(row)
                slot_m = shadows.slot_M[mine, None]
                others = torch.arange(len(key_SGE), device=slot_m.device)[None] != slot_m
                seen = torch.cat((others, torch.eye(count, dtype=torch.bool, device=slot_m.device)), dim=1)
                key, value = torch.cat((key_SGE, key_MGE[mine])), torch.cat((value_SGE, value_MGE[mine]))
                parts.append(sdpa(query_MHE[None, mine], key[None], value[None], seen)[0])
                start += count
        return torch.cat(parts)


class Rows(ABC):
    """Keys and values by row."""

    lengths: Sequence[int]

    @abstractmethod
    def row(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values (S, G, E) of a row."""

    @abstractmethod
    def alike(self) -> tuple[Tensor, Tensor]:
        """Keys and values (B, S, G, E) of all rows, which have one length."""

    def end_to_end(self) -> tuple[Tensor, Tensor]:
        """Keys and values (T, G, E) of all rows, one after another."""
        keys, values = zip(*(self.row(i) for i in range(len(self.lengths))), strict=True)
        return torch.cat(keys), torch.cat(values)

    def attention(self, query_QHE: Tensor, queries: Sequence[int], ends: Mapping[tuple[int, ...], Tensor]) -> Tensor:
        """Attention (Q, H, E) of each row, which has ``queries`` of them, to itself: as one product where all rows are alike,
        else as one of ragged rows where there is a kernel for it (``ends``: as in `ForwardLayout`), else row by row."""
        if len(set(zip(queries, self.lengths, strict=True))) == 1:
            return sdpa(query_QHE.view(len(queries), -1, *query_QHE.shape[1:]), *self.alike()).flatten(0, 1)
        if query_QHE.is_cuda and query_QHE.dtype in (torch.float16, torch.bfloat16) and find_spec("torch.nn.attention.varlen"):
            return ragged(query_QHE, *self.end_to_end(), queries, self.lengths, ends)
        split = enumerate(torch.split(query_QHE, list(queries)))
        return torch.cat([sdpa(query[None], *(x[None] for x in self.row(i)))[0] for i, query in split if len(query)])


class PackedRows(Rows):
    """Rows that stand end to end."""

    def __init__(self, key_TGE: Tensor, value_TGE: Tensor, lengths: Sequence[int]) -> None:
        self.both: tuple[Tensor, Tensor] = (key_TGE, value_TGE)
        self.lengths = lengths

    def row(self, index: int) -> tuple[Tensor, Tensor]:
        """As `Rows.row`."""
        start = sum(self.lengths[:index])
        key, value = (x[start : start + self.lengths[index]] for x in self.both)
        return key, value

    def alike(self) -> tuple[Tensor, Tensor]:
        """As `Rows.alike`."""
        key, value = (x.view(len(self.lengths), -1, *x.shape[1:]) for x in self.both)
        return key, value

    def end_to_end(self) -> tuple[Tensor, Tensor]:
        """As `Rows.end_to_end`."""
        return self.both


class CachedRows(Rows):
    """Rows of a memory; ``at``: their numbers in it, None is as they come."""

    def __init__(self, keys: Tensor, values: Tensor, lengths: Sequence[int], at: Tensor | None) -> None:
        self.both, self.lengths, self.at = (keys, values), lengths, at

    def row(self, index: int) -> tuple[Tensor, Tensor]:
        """As `Rows.row`."""
        at = index if self.at is None else int(self.at[index])
        key, value = (x[at, : self.lengths[index]] for x in self.both)
        return key, value

    def alike(self) -> tuple[Tensor, Tensor]:
        """As `Rows.alike`."""
        at = slice(len(self.lengths)) if self.at is None else self.at
        key, value = (x[at, : self.lengths[0]] for x in self.both)
        return key, value


class JoinedRows(Rows):
    """Rows of several memories, one after another."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self.parts, self.lengths = parts, [n for part in parts for n in part.lengths]

    def row(self, index: int) -> tuple[Tensor, Tensor]:
        """As `Rows.row`."""
        for part in self.parts:
            if index < len(part.lengths):
                return part.row(index)
            index -= len(part.lengths)
        raise IndexError(index)

    def alike(self) -> tuple[Tensor, Tensor]:
        """As `Rows.alike`."""
        both = [part.alike() for part in self.parts]
        return torch.cat([key for key, _ in both]), torch.cat([value for _, value in both])


def gated(mlp: Any, normed_TD: Tensor) -> Tensor:
    """A gated MLP, in place: fresh memory for the wide activations costs a CPU more than the arithmetic on them."""
    gate_TF = F.silu(mlp.gate_proj(normed_TD), inplace=True)
    return cast(Tensor, mlp.down_proj(gate_TF.mul_(mlp.up_proj(normed_TD))))


def rotated(x_THE: Tensor, cos_T1E: Tensor, sin_T1E: Tensor) -> Tensor:
    """Rotary position embedding of half-split heads."""
    half = x_THE.shape[-1] // 2
    turned_THE = x_THE * cos_T1E
    turned_THE[..., :half].addcmul_(x_THE[..., half:], sin_T1E[..., :half], value=-1)
    turned_THE[..., half:].addcmul_(x_THE[..., :half], sin_T1E[..., half:])
    return turned_THE


def ragged(
    query_QHE: Tensor,
    key_TGE: Tensor,
    value_TGE: Tensor,
    queries: Sequence[int],
    lengths: Sequence[int],
    ends: Mapping[tuple[int, ...], Tensor],
) -> Tensor:
    """Attention (Q, H, E) of rows of any lengths in one kernel (flash attention, CUDA, 16 bits)."""
    from torch.nn.attention.varlen import varlen_attn

    ends_Q, ends_T = ends[tuple(queries)], ends[tuple(lengths)]
    shared = query_QHE.shape[1] != key_TGE.shape[1]
    found = varlen_attn(query_QHE, key_TGE, value_TGE, ends_Q, ends_T, max(queries), max(lengths), enable_gqa=shared)
    return cast(Tensor, found)


def sdpa(query_BQHE: Tensor, key_BSGE: Tensor, value_BSGE: Tensor, seen_QS: Tensor | None = None) -> Tensor:
    """Attention (B, Q, H, E), to everything or to what ``seen_QS`` lets each query see."""
    q, k, v = (x.transpose(1, 2) for x in (query_BQHE, key_BSGE, value_BSGE))
    return F.scaled_dot_product_attention(q, k, v, seen_QS, enable_gqa=q.shape[1] != k.shape[1]).transpose(1, 2)
