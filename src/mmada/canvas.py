"""Canvases: rows of tokens, some of them masked; the data type that all parts of the project share.

Every task of the paper is one operation on a canvas: *fill in the masks*. Tokenizers build it, the forward process masks it, the
model predicts it, sampling completes it, and training computes a loss on it.

Shapes: B rows, L positions, N query positions, V size of the vocabulary slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

__all__ = [
    "IMAGE",
    "MODALITIES",
    "TEXT",
    "CachingDenoiser",
    "Canvas",
    "Denoiser",
    "DenoiserCache",
    "Modality",
    "Segment",
    "Trajectory",
]

Modality = Literal["text", "image"]
MODALITIES: tuple[Modality, ...] = ("text", "image")
"""Modalities by their number in `Canvas.modality_BL`."""
TEXT, IMAGE = range(len(MODALITIES))


@dataclass(frozen=True)
class Canvas:
    """A batch of rows; a single row is a batch of one.

    ``tokens_BL``: int64 ids; unknown positions hold the mask id.
    ``editable_BL``: bool; positions that sampling may fill and training may mask; all others are context and never change.
    ``valid_BL``: bool; False on padding, which nothing attends to: at the right end of shorter rows, or where a format has it.
    ``modality_BL``: int8; `TEXT` or `IMAGE`: the vocabulary range of the token at a position.
    """

    tokens_BL: Tensor
    editable_BL: Tensor
    valid_BL: Tensor
    modality_BL: Tensor

    def __post_init__(self) -> None:
        shapes = {tuple(t.shape) for t in (self.tokens_BL, self.editable_BL, self.valid_BL, self.modality_BL)}
        if len(shapes) != 1 or self.tokens_BL.ndim != 2:
            raise ValueError(f"the four tensors of a canvas must share one (B, L) shape, got {sorted(shapes)}")

    @property
    def rows(self) -> int:
        """Number of rows B."""
        return int(self.tokens_BL.shape[0])

    @property
    def length(self) -> int:
        """Positions a row, padding included."""
        return int(self.tokens_BL.shape[1])

    def row(self, index: int) -> Canvas:
        """One row as a canvas of its own, the padding at its right end cut off."""
        length = int(self.valid_BL[index].nonzero().max()) + 1
        cut = (slice(index, index + 1), slice(0, length))
        return Canvas(self.tokens_BL[cut], self.editable_BL[cut], self.valid_BL[cut], self.modality_BL[cut])

    def part(self, rows: slice) -> Canvas:
        """Some rows, with their padding."""
        return Canvas(self.tokens_BL[rows], self.editable_BL[rows], self.valid_BL[rows], self.modality_BL[rows])

    def positions(self, modality: Modality) -> Tensor:
        """Editable positions of a modality, bool (B, L)."""
        return self.editable_BL & self.valid_BL & (self.modality_BL == MODALITIES.index(modality))

    def repeat(self, times: int) -> Canvas:
        """Each row ``times`` times, equal rows next to each other."""
        return Canvas(*(t.repeat_interleave(times, 0) for t in self.tensors))

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four tensors in the order of the fields."""
        return self.tokens_BL, self.editable_BL, self.valid_BL, self.modality_BL

    def with_tokens(self, tokens_BL: Tensor) -> Canvas:
        """The same canvas with other tokens."""
        return replace(self, tokens_BL=tokens_BL)

    def to(self, device: torch.device | str) -> Canvas:
        """The same canvas on another device."""
        return Canvas(*(t.to(device) for t in (self.tokens_BL, self.editable_BL, self.valid_BL, self.modality_BL)))

    @staticmethod
    def stack(canvases: Sequence[Canvas]) -> Canvas:
        """One batch from several canvases, the shorter rows padded at the right with invalid positions."""
        if not canvases:
            raise ValueError("a canvas needs at least one row to stack")
        length = max(c.length for c in canvases)

        def pad(t: Tensor) -> Tensor:
            return torch.nn.functional.pad(t, (0, length - t.shape[1]))

        return Canvas(
            torch.cat([pad(c.tokens_BL) for c in canvases]),
            torch.cat([pad(c.editable_BL) for c in canvases]),
            torch.cat([pad(c.valid_BL) for c in canvases]),
            torch.cat([pad(c.modality_BL) for c in canvases]),
        )

    @staticmethod
    def join(pieces: Sequence[Segment]) -> Canvas:
        """One row from segments laid end to end."""
        tokens = torch.cat([torch.as_tensor(p.tokens, dtype=torch.long) for p in pieces])
        editable = torch.cat([torch.as_tensor(p.editable).expand(len(p.tokens)) for p in pieces])
        # No repeat_interleave: for such small tensors, starting its threads costs more than everything else here.
        modality = torch.cat([torch.full((len(p.tokens),), MODALITIES.index(p.modality), dtype=torch.int8) for p in pieces])
        valid = torch.cat([torch.full((len(p.tokens),), p.valid) for p in pieces])
        return Canvas(tokens[None], editable[None], valid[None], modality[None])


@dataclass(frozen=True)
class Trajectory:
    """A canvas with the step at which each of its positions was decided.

    ``decided_BL``: int64, from 1; 0 for context and for positions that are still masked.
    """

    canvas: Canvas
    decided_BL: Tensor


@dataclass(frozen=True, eq=False)
class Segment:
    """A run of tokens of one modality.

    ``editable``: whether they may be filled, for all of them or, as a bool tensor, for each. ``valid`` False: nothing attends to
    them.
    """

    tokens: Sequence[int] | Tensor
    editable: bool | Tensor = False
    modality: Modality = "text"
    valid: bool = True


class Denoiser(Protocol):
    """The model interface of sampling: logits over a slice of the vocabulary, at the query positions only."""

    def predict(self, tokens_BL: Tensor, *, query_BL: Tensor, vocab: range, valid_BL: Tensor | None = None) -> Tensor:
        """Logits (N, V), float32 or a 16-bit float: N = ``query_BL.sum()`` positions in row-major order, V = ``len(vocab)``.

        ``vocab`` is a contiguous range of token ids; column j of the result is token ``vocab.start + j``.
        """
        ...


class DenoiserCache(Protocol):
    """Keys and values that a model reuses from earlier forward passes over a batch."""

    @property
    def drift(self) -> Tensor:
        """Value drift: 1 - cosine of the values recomputed in the last pass and the cached ones, one number per row."""
        ...

    def only(self, rows: Tensor) -> DenoiserCache:
        """A view of the cache for a forward pass over these rows of the batch, in this order."""
        ...


class CachingDenoiser(Denoiser, Protocol):
    """A denoiser that can leave positions out of a forward pass and use their cached keys and values."""

    def kv_cache(self, rows: int) -> DenoiserCache:
        """An empty KV cache for a batch."""
        ...
