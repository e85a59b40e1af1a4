"""Masked cross-entropy (eq. 1, eq. 2) and the likelihood bound, from hidden states at the masked positions only.

Full logits are never built: the head runs on masked positions, over the vocabulary range of their modality, in chunks.

Shapes: M masked positions, D width, V vocab, B rows, L positions, S examples.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mmada.canvas import Canvas, Denoiser

__all__ = ["chunked_cross_entropy", "likelihood_bound", "normalised_weights", "plain_cross_entropy", "weighted_mean"]

Normaliser = Literal["example", "token", "masked"]


def plain_cross_entropy(hidden_MD: Tensor, weight_VD: Tensor, target_M: Tensor, certainty: float = 0.0) -> Tensor:
    """Cross-entropy (M,) float32 from one product with the head; the reference for `chunked_cross_entropy`.

    ``certainty`` times the entropy is added where the target is the most probable token (certainty-forcing distillation of
    dParallel, arXiv 2509.26488).
    """
    logits_MV = (hidden_MD @ weight_VD.T).float()
    loss_M = F.cross_entropy(logits_MV, target_M, reduction="none")
    if certainty == 0:
        return loss_M
    log_p_MV = logits_MV.log_softmax(-1)
    entropy_M = -(log_p_MV.exp() * log_p_MV).sum(-1)
    return loss_M + certainty * torch.where(logits_MV.argmax(-1) == target_M, entropy_M, 0.0)


def chunked_cross_entropy(
    hidden_MD: Tensor, weight_VD: Tensor, target_M: Tensor, *, chunk: int = 1024, certainty: float = 0.0
) -> Tensor:
    """`plain_cross_entropy` with at most ``chunk`` x V logits in memory; the backward pass recomputes them."""
    if len(target_M) <= chunk:
        return plain_cross_entropy(hidden_MD, weight_VD, target_M, certainty)
    parts = [
        cast(Tensor, checkpoint(plain_cross_entropy, h, weight_VD, t, certainty, use_reentrant=False))
        for h, t in zip(torch.split(hidden_MD, chunk), torch.split(target_M, chunk), strict=True)
    ]
    return torch.cat(parts)


def normalised_weights(weight_M: Tensor, segment_M: Tensor, positions_S: Tensor, *, normaliser: Normaliser) -> Tensor:
    """Weights (M,) that turn the sum of the losses of the masked positions into the mean that ``normaliser`` names.

    ``"example"``: each example's weighted sum over its number of editable positions, averaged over examples: the released
    answer-length normalisation; with the weights of `corrupt` the mean bound per position (eq. 1 / length). ``"token"``: the
    weighted sum over all editable positions of the batch. ``"masked"``: the weighted mean over masked positions: the released
    image loss. ``segment_M`` counts examples from 0; ``positions_S`` may hold fractions where some positions count less. As a
    sum, the loss can be computed a few rows at a time (gradient accumulation).
    """
    if normaliser == "masked":
        return weight_M / weight_M.sum().clamp(min=1.0)
    if normaliser == "token":
        return weight_M / positions_S.sum().clamp(min=1.0)
    present = (positions_S > 0).sum().clamp(min=1)
    return weight_M / positions_S.clamp(min=1e-6)[segment_M] / present


def weighted_mean(loss_M: Tensor, weight_M: Tensor, segment_M: Tensor, positions_S: Tensor, *, normaliser: Normaliser) -> Tensor:
    """Scalar loss: the mean of the losses of the masked positions as defined by `normalised_weights`."""
    return (loss_M * normalised_weights(weight_M, segment_M, positions_S, normaliser=normaliser)).sum()


@torch.no_grad()
def likelihood_bound(
    denoiser: Denoiser, canvas: Canvas, *, mask_id: int, vocab: range, samples: int, generator: torch.Generator
) -> Tensor:
    """Lower bound on ln p(editable tokens | context) of each row (B,), in nats (LLaDA's exact-count estimator).

    For k = 1..n spread systematically over ``samples`` draws, k of the n editable positions are masked uniformly, and n/k times
    their summed log-probability is averaged: an unbiased estimate of eq. 1, of less variance than independent masks (LLaDA,
    arXiv 2502.09992, eq. 6). Evaluate all rows with one generator seed to compare models.
    """
    editable_BL = canvas.editable_BL & canvas.valid_BL
    positions_B = editable_BL.sum(1)
    total_B = torch.zeros(canvas.rows)
    offset = float(torch.rand((), generator=generator))
    for sample in range(samples):
        share = (sample + offset) / samples
        count_B = (share * positions_B).floor().long().clamp(max=positions_B - 1) + 1
        draw_BL = torch.rand(canvas.tokens_BL.shape, generator=generator).masked_fill(~editable_BL, 2.0)
        rank_BL = draw_BL.argsort(1).argsort(1)
        masked_BL = editable_BL & (rank_BL < count_B[:, None])
        tokens_BL = torch.where(masked_BL, mask_id, canvas.tokens_BL)
        logits_MV = denoiser.predict(tokens_BL, query_BL=masked_BL, vocab=vocab, valid_BL=canvas.valid_BL)
        target_M = (canvas.tokens_BL[masked_BL] - vocab.start).to(logits_MV.device)
        log_M = -F.cross_entropy(logits_MV.float(), target_M, reduction="none").cpu()
        row_M = torch.arange(canvas.rows)[:, None].expand_as(masked_BL)[masked_BL]
        scale_B = positions_B.float() / count_B.float()
        total_B += torch.zeros(canvas.rows).index_add(0, row_M, log_M) * scale_B
    return total_B / samples
