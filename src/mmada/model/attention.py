"""Attention of packed rows: which positions stand where, the keys and values of each row, and the kernels.

The valid positions of all rows stand end to end as one run of T tokens. Keys and values come from the same pass (`PackedRows`) or
from a KV cache (`CachedRows`, `JoinedRows`); queries are those of the recomputed positions.

Shapes: B rows, L positions, T recomputed positions, Q queries, S valid positions of a row, H heads, G key-value heads, E head
size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["CachedRows", "JoinedRows", "PackedRows", "Packing", "Rows", "rotated", "sdpa"]


@dataclass(frozen=True)
class Packing:
    """Order of the recomputed positions in the packed run: ``row_T`` their row, ``slot_T`` their index among its valid positions.

    ``recomputed_B``, ``valid_B``: numbers of recomputed and of valid positions of each row.
    """

    row_T: Tensor
    slot_T: Tensor
    recomputed_B: tuple[int, ...]
    valid_B: tuple[int, ...]

    @staticmethod
    def of(valid_BL: Tensor, recompute_BL: Tensor) -> Packing:
        """Pack the positions of ``recompute_BL``, a part of ``valid_BL``."""
        slot_BL = valid_BL.cumsum(1) - 1
        row_T = recompute_BL.nonzero()[:, 0]
        return Packing(row_T, slot_BL[recompute_BL], tuple(recompute_BL.sum(1).tolist()), tuple(valid_BL.sum(1).tolist()))

    @property
    def longest(self) -> int:
        """Number of valid positions of the longest row."""
        return max(self.valid_B)


class Rows(ABC):
    """Keys and values of rows, wherever they are stored; ``lengths``: valid positions of each."""

    lengths: Sequence[int]

    @abstractmethod
    def row(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values (S, G, E) of one row."""

    @abstractmethod
    def stacked(self) -> tuple[Tensor, Tensor]:
        """Keys and values (B, S, G, E) of all rows, which must have one length."""

    def end_to_end(self) -> tuple[Tensor, Tensor]:
        """Keys and values (T, G, E) of all rows, one after another."""
        keys, values = zip(*(self.row(i) for i in range(len(self.lengths))), strict=True)
        return torch.cat(keys), torch.cat(values)

    def attention(self, query_QHE: Tensor, queries: Sequence[int], offsets: Mapping[tuple[int, ...], Tensor]) -> Tensor:
        """Attention (Q, H, E) of each row to itself; ``queries``: number of queries of each row.

        One batched product where all rows have the same lengths, else one kernel for ragged rows where there is one (``offsets``:
        as in `ForwardLayout`), else row by row.
        """
        if len(set(zip(queries, self.lengths, strict=True))) == 1:
            return sdpa(query_QHE.view(len(queries), -1, *query_QHE.shape[1:]), *self.stacked()).flatten(0, 1)
        if query_QHE.is_cuda and query_QHE.dtype in (torch.float16, torch.bfloat16) and find_spec("torch.nn.attention.varlen"):
            return ragged(query_QHE, *self.end_to_end(), queries, self.lengths, offsets)
        split = enumerate(torch.split(query_QHE, list(queries)))
        return torch.cat([sdpa(query[None], *(x[None] for x in self.row(i)))[0] for i, query in split if len(query)])


class PackedRows(Rows):
    """Rows of this pass, end to end."""

    def __init__(self, key_TGE: Tensor, value_TGE: Tensor, lengths: Sequence[int]) -> None:
        self.both: tuple[Tensor, Tensor] = (key_TGE, value_TGE)
        self.lengths = lengths

    def row(self, index: int) -> tuple[Tensor, Tensor]:
        """As `Rows.row`."""
        start = sum(self.lengths[:index])
        key, value = (x[start : start + self.lengths[index]] for x in self.both)
        return key, value

    def stacked(self) -> tuple[Tensor, Tensor]:
        """As `Rows.stacked`."""
        key, value = (x.view(len(self.lengths), -1, *x.shape[1:]) for x in self.both)
        return key, value

    def end_to_end(self) -> tuple[Tensor, Tensor]:
        """As `Rows.end_to_end`."""
        return self.both


class CachedRows(Rows):
    """Rows of a KV cache; ``row_index``: which of its rows, None is the first ones in order."""

    def __init__(self, keys: Tensor, values: Tensor, lengths: Sequence[int], row_index: Tensor | None) -> None:
        self.both, self.lengths, self.row_index = (keys, values), lengths, row_index

    def row(self, index: int) -> tuple[Tensor, Tensor]:
        """As `Rows.row`."""
        at = index if self.row_index is None else int(self.row_index[index])
        key, value = (x[at, : self.lengths[index]] for x in self.both)
        return key, value

    def stacked(self) -> tuple[Tensor, Tensor]:
        """As `Rows.stacked`."""
        at = slice(len(self.lengths)) if self.row_index is None else self.row_index
        key, value = (x[at, : self.lengths[0]] for x in self.both)
        return key, value


class JoinedRows(Rows):
    """Rows of several caches, one after another."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self.parts, self.lengths = parts, [n for part in parts for n in part.lengths]

    def row(self, index: int) -> tuple[Tensor, Tensor]:
        """As `Rows.row`."""
        for part in self.parts:
            if index < len(part.lengths):
                return part.row(index)
            index -= len(part.lengths)
        raise IndexError(index)

    def stacked(self) -> tuple[Tensor, Tensor]:
        """As `Rows.stacked`."""
        both = [part.stacked() for part in self.parts]
        return torch.cat([key for key, _ in both]), torch.cat([value for _, value in both])


def rotated(x_THE: Tensor, cos_T1E: Tensor, sin_T1E: Tensor) -> Tensor:
    """Rotary position embedding of half-split heads (rotate-half form)."""
    half = x_THE.shape[-1] // 2
    rotated_THE = x_THE * cos_T1E
    rotated_THE[..., :half].addcmul_(x_THE[..., half:], sin_T1E[..., :half], value=-1)
    rotated_THE[..., half:].addcmul_(x_THE[..., :half], sin_T1E[..., half:])
    return rotated_THE


def ragged(
    query_QHE: Tensor,
    key_TGE: Tensor,
    value_TGE: Tensor,
    queries: Sequence[int],
    lengths: Sequence[int],
    offsets: Mapping[tuple[int, ...], Tensor],
) -> Tensor:
    """Attention (Q, H, E) of rows of different lengths in one kernel (flash attention; CUDA, 16 bits)."""
    from torch.nn.attention.varlen import varlen_attn

    offsets_Q, offsets_T = offsets[tuple(queries)], offsets[tuple(lengths)]
    shared = query_QHE.shape[1] != key_TGE.shape[1]
    found = varlen_attn(query_QHE, key_TGE, value_TGE, offsets_Q, offsets_T, max(queries), max(lengths), enable_gqa=shared)
    return cast(Tensor, found)


def sdpa(query_BQHE: Tensor, key_BSGE: Tensor, value_BSGE: Tensor, seen_QS: Tensor | None = None) -> Tensor:
    """Attention (B, Q, H, E), to every position or to those of ``seen_QS`` (bool)."""
    q, k, v = (x.transpose(1, 2) for x in (query_BQHE, key_BSGE, value_BSGE))
    return F.scaled_dot_product_attention(q, k, v, seen_QS, enable_gqa=q.shape[1] != k.shape[1]).transpose(1, 2)
