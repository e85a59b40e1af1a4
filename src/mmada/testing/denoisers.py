"""Denoisers (`mmada.canvas.Denoiser`) whose predictions can be worked out by hand.

Shapes: B rows, L positions, N query positions, V vocabulary slice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Mixer", "Oracle", "Unigram"]


@dataclass
class Oracle:
    """Knows the right token of each position of a row by the row's first token.

    ``answers[token]``: the right tokens of the row that begins with ``token``. ``certainty``: the logit of the right token at
    each position; all others have 0. ``queries`` records every call: (rows, query positions, vocabulary slice).
    """

    answers: Mapping[int, Sequence[int]]
    certainty: Sequence[float]
    queries: list[tuple[int, int, range]] = field(default_factory=list)

    def predict(self, tokens_BL: Tensor, *, query_BL: Tensor, vocab: range, valid_BL: Tensor | None = None) -> Tensor:
        """As `mmada.canvas.Denoiser.predict`."""
        self.queries.append((len(tokens_BL), int(query_BL.sum()), vocab))
        logits_BLV = torch.zeros(*tokens_BL.shape, len(vocab))
        for row, name in enumerate(tokens_BL[:, 0].tolist()):
            for position, answer in enumerate(self.answers[name]):
                if answer in vocab:
                    logits_BLV[row, position, answer - vocab.start] = self.certainty[position]
        return logits_BLV[query_BL]


@dataclass
class Mixer:
    """Logits that depend on every valid token of the row and on the position, and on nothing else: a stand-in for a network."""

    def predict(self, tokens_BL: Tensor, *, query_BL: Tensor, vocab: range, valid_BL: Tensor | None = None) -> Tensor:
        """As `mmada.canvas.Denoiser.predict`."""
        valid_BL = torch.ones_like(query_BL) if valid_BL is None else valid_BL
        position_L = torch.arange(tokens_BL.shape[1], dtype=torch.float64)
        state_B = ((tokens_BL + 1) * (position_L + 1).sqrt() * valid_BL).sum(1)
        column_V = torch.arange(vocab.start, vocab.stop, dtype=torch.float64)
        phase_BLV = state_B[:, None, None] + (position_L[None, :, None] + 1) * column_V
        return (3 * torch.sin(phase_BLV)).float()[query_BL]


class Unigram:
    """Knows only how frequent tokens are, so that likelihoods are products of their probabilities (V,)."""

    def __init__(self, probability_V: Tensor) -> None:
        self.log_V = probability_V.log()

    def predict(self, tokens_BL: Tensor, *, query_BL: Tensor, vocab: range, valid_BL: Tensor | None = None) -> Tensor:
        """As `mmada.canvas.Denoiser.predict`."""
        return self.log_V[vocab.start : vocab.stop].expand(int(query_BL.sum()), -1)
