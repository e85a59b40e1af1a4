"""Resizing of the embedding and the head: LLaDA becomes MMaDA by rows for the image codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmada.errors import MAX_ROWS, InputError, check_number, check_whole
from mmada.model.mmada import MMaDAModel

__all__ = ["resize_embeddings"]

MAX_NOISE = 100.0
"""Largest noise, in standard deviations of the old rows; more would drown them."""


@torch.no_grad()
def resize_embeddings(model: MMaDAModel, rows: int, *, noise: float = 0.0, seed: int = 0) -> MMaDAModel:
    """Give the embedding and the head ``rows`` rows, in place; the old ones stay bit for bit.

    A new row is the mean of the old ones, as in the released models, plus ``noise`` times their standard deviation in each
    column, normally distributed: without noise all new rows are equal and only training tells them apart. Raises InputError for
    fewer rows than there are.
    """
    old = model.config.vocab_size
    check_whole("rows", rows, 1, MAX_ROWS)
    check_number("noise", noise, 0.0, MAX_NOISE)
    if rows < old:
        raise InputError(f"rows {rows} are fewer than the {old} of the model; give at least as many")
    generator = torch.Generator().manual_seed(seed)
    embedding, head = model.model.embed_tokens, model.lm_head
    for module in (embedding, head):
        module.weight = nn.Parameter(_widened(module.weight, rows, noise, generator), requires_grad=module.weight.requires_grad)
    embedding.num_embeddings, head.out_features, model.config.vocab_size = rows, rows, rows
    return model


def _widened(weight_VD: Tensor, rows: int, noise: float, generator: torch.Generator) -> Tensor:
    new = torch.empty(rows, weight_VD.shape[1], dtype=weight_VD.dtype, device=weight_VD.device)
    new[: len(weight_VD)] = weight_VD
    added = weight_VD.float().mean(0).expand(rows - len(weight_VD), -1)
    if noise > 0:
        spread = weight_VD.float().std(0) * noise
        added = added + spread * torch.randn(added.shape, generator=generator).to(added.device)
    new[len(weight_VD) :] = added.to(weight_VD.dtype)
    return new
