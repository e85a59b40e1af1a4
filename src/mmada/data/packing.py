"""Packing: examples of any length laid end to end in rows of one fixed length, without padding between them.

Segments keep packed examples apart (attention looks only inside a segment, positions restart in each), so pictures of several
sizes share a batch and no padding is built inside a row. `pack` fills rows of a fixed shape, which keeps compiled code fixed;
`pack_all` lays out a given list of examples, all of them.

Shapes: B rows, L positions, S examples (numbered 1..S; 0 marks the unused end of a row).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmada.canvas import MODALITIES, Canvas, Modality
from mmada.errors import InputError

__all__ = ["Batch", "join", "pack", "pack_all"]


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
    batch = empty(rows, length)
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
        count += 1
        place(batch, canvas, row, used[row], count)
        used[row] += size
    return replace(batch, examples=count)


def pack_all(examples: Sequence[Canvas], *, length: int) -> Batch:
    """All of the examples, in few rows of at most ``length`` positions: the longest first, each in the fullest row that holds it.

    Rows are cut at the end of the longest. Examples keep their numbers (1..S in the order given). Raises InputError if one is
    longer than a row.
    """
    sizes = [canvas.length for canvas in examples]
    if sizes and max(sizes) > length:
        raise InputError(f"an example of {max(sizes)} tokens does not fit a row of {length}; raise the recipe's row_length")
    rooms: list[tuple[int, int]] = []  # (room left, row), sorted
    rows: list[list[int]] = []
    for number in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        at = bisect_left(rooms, (sizes[number], -1))
        room, row = rooms.pop(at) if at < len(rooms) else (length, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(number)
        insort(rooms, (room - sizes[number], row))
    width = length - min((room for room, _ in rooms), default=length)
    batch = empty(len(rows), width, len(examples))
    for row, numbers in enumerate(rows):
        used = 0
        for number in numbers:
            place(batch, examples[number], row, used, number + 1)
            used += sizes[number]
    return batch


def join(batches: Sequence[Batch]) -> Batch:
    """One batch of the rows of several, in their order; examples are numbered on."""
    width = max((batch.tokens_BL.shape[1] for batch in batches), default=0)
    joined = empty(sum(len(batch.tokens_BL) for batch in batches), width, sum(batch.examples for batch in batches))
    row = before = 0
    for batch in batches:
        at = slice(row, row + len(batch.tokens_BL)), slice(0, batch.tokens_BL.shape[1])
        joined.tokens_BL[at], joined.editable_BL[at], joined.modality_BL[at] = (
            batch.tokens_BL,
            batch.editable_BL,
            batch.modality_BL,
        )
        joined.segment_BL[at] = torch.where(batch.segment_BL > 0, batch.segment_BL + before, 0)
        joined.position_BL[at] = batch.position_BL
        row, before = row + len(batch.tokens_BL), before + batch.examples
    return joined


def empty(rows: int, length: int, examples: int = 0) -> Batch:
    """A batch with nothing in its rows."""
    return Batch(
        tokens_BL=torch.zeros(rows, length, dtype=torch.long),
        editable_BL=torch.zeros(rows, length, dtype=torch.bool),
        modality_BL=torch.zeros(rows, length, dtype=torch.int8),
        segment_BL=torch.zeros(rows, length, dtype=torch.long),
        position_BL=torch.zeros(rows, length, dtype=torch.long),
        examples=examples,
    )


def place(batch: Batch, canvas: Canvas, row: int, start: int, number: int) -> None:
    """Write an example into a row from a position on."""
    at = slice(start, start + canvas.length)
    batch.tokens_BL[row, at] = canvas.tokens_BL[0]
    batch.editable_BL[row, at] = canvas.editable_BL[0]
    batch.modality_BL[row, at] = canvas.modality_BL[0]
    batch.segment_BL[row, at] = number
    batch.position_BL[row, at] = torch.arange(canvas.length)
