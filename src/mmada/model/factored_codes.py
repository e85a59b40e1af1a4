"""Image codes that share what they have in common: while training, a code's row is its own plus one row a bit.

Lookup-free codes are sums of bits, and codes that differ in one bit decode to pictures that look alike. Plain rows must meet
every code often before they know it; with shared rows one code teaches its neighbours. In the head, the rows that codes have to
themselves are kept small by weight decay, so that a code is mostly predicted bit by bit: a colour and a shape that never met are
then drawn together (figures in experiments/log.md). The sum is an ordinary embedding or head, and only that is ever written.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mmada.model.mmada import MMaDAModel

__all__ = ["factor_codes", "plain_state"]

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
HEAD_DECAY = 40.0  # weight decay of what a code has to itself in the head


class FactoredCodes(nn.Module):
    """Rows of ``vocab`` (2 ** n codes) as their own rows plus the rows of their bits; V vocabulary, D width, n bits."""

    bits_Cn: Tensor

    def __init__(self, vocab: range, weight_VD: Tensor, std: float, decay: float | None) -> None:
        super().__init__()
        self.vocab = vocab
        count = (len(vocab) - 1).bit_length()
        bits_Cn = (torch.arange(len(vocab))[:, None] >> torch.arange(count)) & 1
        self.register_buffer("bits_Cn", bits_Cn.float() * 2 - 1, persistent=False)
        self.rows_nD = nn.Parameter(torch.randn(count, weight_VD.shape[1]) * std)
        self.own_CD = nn.Parameter(weight_VD.detach()[vocab.start : vocab.stop].clone())
        if decay is not None:
            self.own_CD.weight_decay = decay  # type: ignore[attr-defined]

    def forward(self, weight_VD: Tensor) -> Tensor:
        """The plain rows (V, D)."""
        codes_CD = self.own_CD + self.bits_Cn @ self.rows_nD
        return torch.cat((weight_VD[: self.vocab.start], codes_CD, weight_VD[self.vocab.stop :]))


def factor_codes(model: MMaDAModel, vocab: range, *, std: float) -> None:
    """Train ``model`` with shared rows for the image codes ``vocab``; they start random with ``std``, 0 for a model that has
    learnt its rows already."""
    for module, decay in ((model.get_input_embeddings(), None), (model.get_output_embeddings(), HEAD_DECAY)):
        parametrize.register_parametrization(module, "weight", FactoredCodes(vocab, cast(Tensor, module.weight), std, decay))


def plain_state(model: MMaDAModel) -> dict[str, Tensor]:
    """The state of the model as it is written and loaded: one row a token, whatever it was trained with."""
    state = {k: v for k, v in model.state_dict().items() if ".parametrizations." not in k}
    rows = {EMBEDDING: model.get_input_embeddings(), HEAD: model.get_output_embeddings()}
    return {**state, **{name: cast(Tensor, module.weight).detach() for name, module in rows.items()}}
