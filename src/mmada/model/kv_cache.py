"""KV caches: keys and values that later forward passes over the same rows attend to without computing them again.

In a bidirectional model cached keys and values go stale, as every position sees every other: `mmada.sampling.kv_reuse` decides
which positions are recomputed in each pass, and `KVCache.drift` measures how stale the others are.

Shapes: B rows, T recomputed positions, G key-value heads, E head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mmada.model.attention import CachedRows, JoinedRows, Packing, Rows

__all__ = ["JoinedKVCache", "KVCache"]


class KVCache:
    """Keys and values of every valid position of B rows, layer by layer; filled by the first forward pass over a row.

    ``row_index``: the rows of the cache that a pass is over, in its order; None is all of them.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.layers: list[tuple[Tensor, Tensor]] = []
        self.row_index: Tensor | None = None
        self.drifts: list[Tensor] = []

    @property
    def drift(self) -> Tensor:
        """Drift (rows,) of each row: the mean of 1 - cosine between the values that its last pass recomputed in the last layer
        and those cached before; 0 after a pass over every position."""
        return self.drifts[0] if self.drifts else torch.zeros(self.rows)

    def only(self, rows: Tensor) -> KVCache:
        """Return a view of the cache for a pass over only these rows of the batch."""
        view = KVCache(self.rows)
        every = torch.equal(rows, torch.arange(self.rows, device=rows.device))
        view.layers, view.drifts, view.row_index = self.layers, self.drifts, None if every else rows
        return view

    def write(self, layer: int, key_TGE: Tensor, value_TGE: Tensor, packing: Packing) -> Rows:
        """Store the keys and values of the recomputed positions in a layer; returns those of all positions of the rows."""
        if layer == len(self.layers):
            shape = (self.rows, packing.longest, *key_TGE.shape[1:])
            self.layers.append((key_TGE.new_zeros(shape), value_TGE.new_zeros(shape)))
        keys, values = self.layers[layer]
        if (missing := packing.longest - keys.shape[1]) > 0:  # a longer row comes in late
            keys, values = (F.pad(x, (0, 0, 0, 0, 0, missing)) for x in (keys, values))
            self.layers[layer] = (keys, values)
        rows = packing.row_T if self.row_index is None else self.row_index.to(packing.row_T.device)[packing.row_T]
        if layer == len(self.layers) - 1:
            self.measure(values[rows, packing.slot_T], value_TGE, packing)
        keys[rows, packing.slot_T], values[rows, packing.slot_T] = key_TGE, value_TGE
        return CachedRows(keys, values, packing.valid_B, self.row_index)

    def measure(self, old_TGE: Tensor, new_TGE: Tensor, packing: Packing) -> None:
        """Store the drift of the rows of a pass."""
        drift_T = (1 - F.cosine_similarity(old_TGE.flatten(1), new_TGE.flatten(1), dim=-1)).float()
        recomputed_B, valid_B = (torch.tensor(n, device=drift_T.device) for n in (packing.recomputed_B, packing.valid_B))
        sum_B = torch.zeros(len(recomputed_B), device=drift_T.device).index_add_(0, packing.row_T, drift_T)
        drift_B = sum_B / recomputed_B.clamp(min=1)
        drift_B = torch.where(recomputed_B < valid_B, drift_B, 0.0)
        if not self.drifts:
            self.drifts.append(drift_B.new_zeros(self.rows))
        self.drifts[0][slice(None) if self.row_index is None else self.row_index.to(drift_B.device)] = drift_B


class JoinedKVCache(KVCache):
    """Several caches as one, for a forward pass over joined batches; ``parts``: each cache with its number of rows."""

    def __init__(self, parts: Sequence[tuple[KVCache, int]]) -> None:
        super().__init__(sum(rows for _, rows in parts))
        self.parts = parts

    def write(self, layer: int, key_TGE: Tensor, value_TGE: Tensor, packing: Packing) -> Rows:
        """As `KVCache.write`."""
        found: list[Rows] = []
        start = 0
        for cache, rows in self.parts:
            mine_T = (packing.row_T >= start) & (packing.row_T < start + rows)
            span = slice(start, start + rows)
            row_T, slot_T = packing.row_T[mine_T] - start, packing.slot_T[mine_T]
            part = Packing(row_T, slot_T, packing.recomputed_B[span], packing.valid_B[span])
            found.append(cache.write(layer, key_TGE[mine_T], value_TGE[mine_T], part))
            start += rows
        return JoinedRows(found)
