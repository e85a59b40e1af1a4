"""Image codes that share what they have in common: while training, a code's embedding is its own row plus one row a bit.

Lookup-free codes are sums of bits, and codes that differ in one bit decode to pictures that look alike. Plain embeddings must
meet every code often before they know it; with shared rows one code teaches its neighbours (figures in docs/log.md). The sum is
an ordinary embedding, and only that is ever written.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mmada.model.mmada import MMaDAModel

__all__ = ["plain_state", "share_code_bits"]

EMBEDDING = "model.embed_tokens.weight"


class CodeBits(nn.Module):
    """Adds to the rows of ``columns`` (2 ** n codes) the rows of their bits; V vocabulary, D width, n bits."""

    bits_Cn: Tensor

    def __init__(self, columns: range, width: int, std: float) -> None:
        super().__init__()
        self.columns = columns
        count = (len(columns) - 1).bit_length()
        bits_Cn = (torch.arange(len(columns))[:, None] >> torch.arange(count)) & 1
        self.register_buffer("bits_Cn", bits_Cn.float() * 2 - 1, persistent=False)
        self.rows_nD = nn.Parameter(torch.randn(count, width) * std)

    def forward(self, weight_VD: Tensor) -> Tensor:
        """The plain embedding (V, D)."""
        around = (0, 0, self.columns.start, weight_VD.shape[0] - self.columns.stop)
        return weight_VD + nn.functional.pad(self.bits_Cn @ self.rows_nD, around)


def share_code_bits(model: MMaDAModel, columns: range, *, std: float) -> None:
    """Train ``model`` with shared rows for the image codes ``columns``; they start random with ``std``, 0 for a model that has
    learnt its rows already."""
    embedding = model.get_input_embeddings()
    parametrize.register_parametrization(embedding, "weight", CodeBits(columns, cast(Tensor, embedding.weight).shape[1], std))


def plain_state(model: MMaDAModel) -> dict[str, Tensor]:
    """The state of the model as it is written and loaded: one row a token, whatever it was trained with."""
    embedding = model.get_input_embeddings()
    state = {k: v for k, v in model.state_dict().items() if ".parametrizations." not in k}
    return {**state, EMBEDDING: cast(Tensor, embedding.weight).detach()}
