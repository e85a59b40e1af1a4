"""The plain sampler: the slow twin of `mmada.sampling`, doing the work that the reference implementation does.

Every step runs the transformer and the head over all rows and all positions, asks for the whole vocabulary everywhere, and
decides afterwards what it needed. Nothing is left out and nothing is added to be slow: `mmada.sampling.denoise` is to give the
same tokens (greedy texts) or the same logits on the same canvas (pictures) in less time. The transformer is ours for both, so a
comparison measures the sampler; which attention kernel runs is torch's choice, where the reference switches one of them off.

Shapes: B rows, P positions of the prompt, L positions, N image positions, V all vocabulary columns, C code columns, S steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mmada.model.mmada import MMaDAModel

__all__ = ["ImageStep", "plain_image", "plain_text"]

TINY = 1e-20


@torch.no_grad()
def plain_text(
    model: MMaDAModel,
    prompt_BP: Tensor,
    *,
    length: int,
    steps: int,
    block: int,
    mask_id: int,
    guidance: float = 0.0,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Prompts with ``length`` sampled tokens behind them, int64 (B, P + length): low-confidence remasking, block after block.

    ``steps``: of all blocks together. Candidates are all masked positions before the end of the block, the ones left over in
    earlier
    blocks and in the prompt too; any id may be drawn, the mask itself too. A step that commits nothing still runs its forward.
    Prompts share one length: there is no padding. Raises ValueError where blocks or steps do not divide evenly.
    """
    if length % block or steps % (length // block):
        raise ValueError(f"length {length} must be whole blocks of {block}, and steps {steps} a multiple of their number")
    rows, start = prompt_BP.shape
    steps_per_block = steps // (length // block)
    tokens_BL = torch.cat([prompt_BP, prompt_BP.new_full((rows, length), mask_id)], dim=1)
    given_BL = tokens_BL != mask_id
    for end in range(start + block, start + length + 1, block):
        counts_BS = even_split((tokens_BL[:, end - block : end] == mask_id).sum(1), steps_per_block)
        for step in range(steps_per_block):
            masked_BL = tokens_BL == mask_id
            logits_BLV = text_logits(model, tokens_BL, given_BL, guidance, mask_id)
            drawn_BL = perturbed(logits_BLV, temperature, generator).argmax(-1)
            p_BL = logits_BLV.double().softmax(-1).gather(-1, drawn_BL[..., None])[..., 0]
            p_BL[:, end:] = float("-inf")
            confidence_BL = p_BL.masked_fill(~masked_BL, float("-inf"))
            for row in range(rows):
                best = confidence_BL[row].topk(int(counts_BS[row, step])).indices
                tokens_BL[row, best] = drawn_BL[row, best]
    return tokens_BL


def even_split(masked_B: Tensor, steps: int) -> Tensor:
    """Places that each step commits, int64 (B, S): equal shares, the remainder on the first steps."""
    step_S = torch.arange(steps, device=masked_B.device)
    return masked_B[:, None] // steps + (step_S < masked_B[:, None] % steps)


def text_logits(model: MMaDAModel, tokens_BL: Tensor, given_BL: Tensor, guidance: float, mask_id: int) -> Tensor:
    """Logits (B, L, V); with guidance from a second half of the batch that has masks for the positions ``given_BL``."""
    if guidance == 0:
        return full_logits(model, tokens_BL)
    both = full_logits(model, torch.cat([tokens_BL, tokens_BL.masked_fill(given_BL, mask_id)]))
    conditional_BLV, unconditional_BLV = both.chunk(2)
    return unconditional_BLV + (guidance + 1) * (conditional_BLV - unconditional_BLV)


def full_logits(model: MMaDAModel, tokens_BL: Tensor, valid_BL: Tensor | None = None) -> Tensor:
    """One forward: logits (B, L, V) of every position over the whole vocabulary, in the type of the weights."""
    logits_BLV: Tensor = model.lm_head(model.hidden(tokens_BL, valid_BL=valid_BL))
    return logits_BLV


def perturbed(logits_BLV: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """Something whose argmax is a draw from softmax(logits / temperature): exp(logits) / (-ln u)**temperature, in float64."""
    if temperature == 0:
        return logits_BLV
    u_BLV = torch.rand(logits_BLV.shape, dtype=torch.float64, device=logits_BLV.device, generator=generator)
    return logits_BLV.double().exp() / (-u_BLV.log()) ** temperature


@dataclass(frozen=True)
class ImageStep:
    """One step of `plain_image`.

    ``before_BL``: the canvas that was asked about. ``logits_BNC``: guided logits of all image positions. ``tokens_BL``: the
    canvas
    after the step, ids. ``codes_BN``: what was drawn or known at each position, complete at every step; that of the last is the
    picture, as one position of the canvas stays masked to the end.
    """

    before_BL: Tensor
    logits_BNC: Tensor
    tokens_BL: Tensor
    codes_BN: Tensor


@torch.no_grad()
def plain_image(
    model: MMaDAModel,
    cond_BL: Tensor,
    uncond_BL: Tensor,
    masks: tuple[Tensor, Tensor],
    *,
    positions: slice,
    vocab: range,
    mask_id: int,
    steps: int,
    guidance: float = 0.0,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Iterator[ImageStep]:
    """Draw the masked image positions of ``cond_BL``, step by step; the caller's tensors are not written to.

    ``masks``: which positions of both are real, bool (B, L); pads stay in the batch. ``positions``: the image positions, the
    same in
    both; what stands before them is the prompt. ``vocab``: ids of the codes. ``temperature``: of the noise in the order of
    commitment, which shrinks by 1 - r a step on top of all steps before. Codes themselves are drawn at temperature 1.
    """
    tokens_BL = cond_BL.clone()
    valid_BL = torch.cat(masks) if guidance > 0 else masks[0]
    for step in range(steps):
        before_BL = tokens_BL.clone()
        if guidance > 0:
            prompt_BP = uncond_BL[:, : positions.start]
            unconditional_BL = torch.cat([prompt_BP, tokens_BL[:, positions.start :]], dim=1)
            both = full_logits(model, torch.cat([tokens_BL, unconditional_BL]), valid_BL)
            conditional_BLV, unconditional_BLV = both.chunk(2)
            logits_BLV = (1 + guidance) * conditional_BLV - guidance * unconditional_BLV
        else:
            logits_BLV = full_logits(model, tokens_BL, valid_BL)
        logits_BNC = logits_BLV[:, positions, vocab.start : vocab.stop]
        p_BNC = logits_BNC.softmax(-1)
        drawn_BN = p_BNC.flatten(0, 1).multinomial(1, generator=generator).view(p_BNC.shape[:2])
        unknown_BN = tokens_BL[:, positions] == mask_id
        codes_BN = torch.where(unknown_BN, drawn_BN, tokens_BL[:, positions] - vocab.start)
        progress = (step + 1) / steps
        temperature *= 1 - progress
        p_BN = p_BNC.gather(-1, codes_BN[..., None])[..., 0].masked_fill(~unknown_BN, torch.finfo(p_BNC.dtype).max)
        confidence_BN = p_BN.clamp(min=TINY).log() + temperature * gumbel(p_BN, generator)
        stay_B1 = positions_that_stay(unknown_BN, progress)
        cut_B1 = confidence_BN.sort(dim=1).values.gather(1, stay_B1)
        tokens_BL[:, positions] = (codes_BN + vocab.start).masked_fill(confidence_BN < cut_B1, mask_id)
        yield ImageStep(before_BL, logits_BNC, tokens_BL.clone(), codes_BN)


def positions_that_stay(unknown_BN: Tensor, progress: float) -> Tensor:
    """How many positions stay masked, int64 (B, 1): N cos(pi r / 2) in float32, at least 1, fewer than are masked now."""
    ratio = torch.cos(torch.tensor(progress) * (math.pi / 2))
    wanted = (unknown_BN.shape[1] * ratio).floor().long().to(unknown_BN.device)
    return torch.minimum(unknown_BN.sum(1, keepdim=True) - 1, wanted).clamp(min=1)


def gumbel(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard Gumbel noise of the shape and type of ``like``."""
    u = torch.rand(like.shape, dtype=like.dtype, device=like.device, generator=generator)
    return -(-u.clamp(min=TINY).log()).clamp(min=TINY).log()
