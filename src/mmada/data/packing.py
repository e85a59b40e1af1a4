"""Packing: examples of any length laid end to end in rows of one fixed length, without padding between them.

A fixed shape keeps compiled code fixed; segments keep packed examples apart (attention looks only inside a segment, positions
restart in each).

Shapes: B rows, L positions, S examples (numbered 1..S; 0 marks the unused end of a row).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mmada.canvas import MODALITIES, Canvas, Modality
from mmada.errors import InputError

__all__ = ["Batch", "pack"]


@dataclass(frozen=True)
class Batch:
    """Packed training examples; the fields of a canvas plus where each example lies."""

    tokens_BL: Tensor
    editable_BL: Tensor
    modality_BL: Tensor
    segment_BL: Tensor
    position_BL: Tensor
    examples: int

    def positions(self, modality: Modality) -> Tensor:
        """Editable positions of a modality, bool (B, L)."""
        return self.editable_BL & (self.modality_BL == MODALITIES.index(modality))

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(
            self.tokens_BL.to(device),
            self.editable_BL.to(device),
            self.modality_BL.to(device),
            self.segment_BL.to(device),
            self.position_BL.to(device),
            self.examples,
        )


def pack(examples: Iterator[Canvas], *, rows: int, length: int, patience: int = 12) -> Batch:
    """Fill ``rows`` rows of ``length`` positions, first fit, until ``patience`` examples in turn found no room.

    Raises InputError if an example alone is longer than a row.
    """
    used = [0] * rows
    tokens = torch.zeros(rows, length, dtype=torch.long)
    editable = torch.zeros(rows, length, dtype=torch.bool)
    modality = torch.zeros(rows, length, dtype=torch.int8)
    segment = torch.zeros(rows, length, dtype=torch.long)
    position = torch.zeros(rows, length, dtype=torch.long)
    count = misses = first = 0
    for canvas in examples:
        size = canvas.length
        if size > length:
            raise InputError(f"an example of {size} tokens does not fit a row of {length}; raise the recipe's row_length")
        row = next((i for i in range(first, rows) if used[i] + size <= length), None)
        if row is None:
            misses += 1
            if misses >= patience:
                break
            continue
        while first < rows and length - used[first] < length // 10:  # rows with no room worth looking at
            first += 1
        at = slice(used[row], used[row] + size)
        count += 1
        tokens[row, at] = canvas.tokens_BL[0]
        editable[row, at] = canvas.editable_BL[0]
        modality[row, at] = canvas.modality_BL[0]
        segment[row, at] = count
        position[row, at] = torch.arange(size)
        used[row] += size
    return Batch(tokens, editable, modality, segment, position, count)
