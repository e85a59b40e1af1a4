"""Scores of pictures: fidelity of a reconstruction (PSNR, SSIM), and retrieval by the nearest of many real pictures.

Shapes: B images, H x W pixels, Q queries, C candidates, D features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mmada.pipeline import MMaDA
from mmada.tokenizers.image import to_pixels

__all__ = ["clip_features", "latent_features", "psnr", "rank_of_right", "ssim"]

WINDOW, SPREAD = 11, 1.5
"""Size and standard deviation of SSIM's Gaussian window, in pixels."""
K1, K2 = 0.01, 0.03
BATCH = 32


def psnr(one: Image.Image, two: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB of two RGB pictures of one size; equal ones have that of an error of 0.1."""
    error = float(((np.asarray(one, np.float64) - np.asarray(two, np.float64)) ** 2).mean())
    return 10 * math.log10(255**2 / max(error, 1e-2))


def ssim(one: Image.Image, two: Image.Image) -> float:
    """Structural similarity (Wang et al., IEEE TIP 2004), the mean over colour channels; -1..1.

    The Gaussian window of the paper, population covariance, and only positions where the whole window is inside the picture; a
    picture narrower than the window is compared by one window of its own size.
    """
    x, y = (torch.from_numpy(np.array(p.convert("RGB"), np.float64)).permute(2, 0, 1)[:, None] for p in (one, two))
    weights = window(min(WINDOW, x.shape[2]), min(WINDOW, x.shape[3]))
    mean_x, mean_y = F.conv2d(x, weights), F.conv2d(y, weights)
    var_x = F.conv2d(x * x, weights) - mean_x**2
    var_y = F.conv2d(y * y, weights) - mean_y**2
    both = F.conv2d(x * y, weights) - mean_x * mean_y
    c1, c2 = (K1 * 255) ** 2, (K2 * 255) ** 2
    like = (2 * mean_x * mean_y + c1) * (2 * both + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(like.mean())


def window(height: int, width: int) -> Tensor:
    """A Gaussian window (1, 1, h, w) that sums to 1."""
    rows, columns = (
        torch.exp(-((torch.arange(n, dtype=torch.float64) - (n - 1) / 2) ** 2) / (2 * SPREAD**2)) for n in (height, width)
    )
    weights = rows[:, None] * columns
    return (weights / weights.sum())[None, None]


@torch.no_grad()
def latent_features(model: MMaDA, pictures: Sequence[Image.Image]) -> Tensor:
    """What the image tokenizer sees in pictures of one size: its latents before quantisation, squashed to (-1, 1); (B, D)."""
    tokenizer = model.engine.image
    first = next(tokenizer.parameters())
    found = []
    for start in range(0, len(pictures), BATCH):
        pixels = to_pixels(np.stack([np.asarray(picture) for picture in pictures[start : start + BATCH]]))
        pixels = pixels.to(first.device, first.dtype, memory_format=torch.channels_last)
        found.append(torch.tanh(tokenizer.encoder(pixels).float()).flatten(1).cpu())
    return torch.cat(found)


@torch.no_grad()
def clip_features(source: str, device: str, pictures: Sequence[Image.Image]) -> Tensor:
    """Image embeddings of a CLIP model, of length 1; (B, D)."""
    from mmada.rewards.clip_score import loaded, prepared

    model, _ = loaded(source, device)
    at, side = next(model.parameters()).device, model.config.vision_config.image_size
    found = []
    for start in range(0, len(pictures), BATCH):
        pixels = torch.stack([prepared(picture, side) for picture in pictures[start : start + BATCH]])
        pooled = model.vision_model(pixel_values=pixels.to(at)).pooler_output
        found.append(F.normalize(model.visual_projection(pooled).float(), dim=1).cpu())
    return torch.cat(found)


def rank_of_right(queries_QD: Tensor, candidates_CD: Tensor, right_QC: Tensor, among_QC: Tensor) -> list[int]:
    """For each query how many wrong candidates are at least as near as the nearest right one; 0 is a hit.

    ``right_QC``: bool, the right candidates; ``among_QC``: bool, those that take part. Ties count against the model, so that one
    that draws the same picture for every prompt finds nothing. Raises ValueError for a query without a right candidate.
    """
    if not (right_QC & among_QC).any(1).all():
        raise ValueError("a query has no right candidate")
    distance_QC = torch.cdist(queries_QD, candidates_CD)
    nearest_Q1 = distance_QC.masked_fill(~(right_QC & among_QC), math.inf).min(1, keepdim=True).values
    nearer_QC = (distance_QC <= nearest_Q1) & among_QC & ~right_QC
    return cast("list[int]", nearer_QC.sum(1).tolist())
