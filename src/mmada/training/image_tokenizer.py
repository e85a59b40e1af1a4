"""Training the image tokenizer: reconstruction, commitment and entropy losses of a lookup-free VQ autoencoder, and one that
asks its codes to tell what they show.

Perceptual and adversarial terms are not offered: flat-coloured scenes reach the wanted fidelity without them
(experiments/log.md).

Shapes: B pictures, H x W pixels, N code places, K bits, V codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from mmada.errors import InputError
from mmada.nano.semantic_head import Labels, SemanticHead
from mmada.tokenizers.image import ImageTokenizer, to_images, to_pixels
from mmada.tokenizers.magvit import Latent

__all__ = ["ImageLosses", "ImageTokenizerLearner", "entropy_losses"]


@dataclass(frozen=True, kw_only=True)
class ImageLosses:
    """Coefficients. ``certainty`` rewards codes that are sure of themselves, ``variety`` a batch that uses many of them.

    ``meaning`` weighs what `SemanticHead` reads from the codes (0 leaves it out).
    Over the first ``soft_steps`` steps the quantised share of the latent rises from 0 to 1: the decoder learns to draw first.
    """

    absolute: float = 0.2
    commitment: float = 0.01
    certainty: float = 0.002
    variety: float = 0.0
    meaning: float = 0.02
    sharpness: float = 2.0
    soft_steps: int = 200

    def __post_init__(self) -> None:
        for name in ("absolute", "commitment", "certainty", "variety", "meaning", "sharpness", "soft_steps"):
            if getattr(self, name) < 0:
                raise InputError(f"losses.{name} must not be negative, got {getattr(self, name)}")


def entropy_losses(latent_BKhw: Tensor, codebook_VK: Tensor, sharpness: float, places: int = 2048) -> tuple[Tensor, Tensor]:
    """(mean entropy of a place's code distribution, entropy of the batch's mean distribution), both in nats.

    A place's distribution over codes is a product over bits with p(bit = 1) = sigmoid(2 * sharpness * z), so the first is exact;
    the second averages at most ``places`` of them over the whole codebook.
    """
    latent_NK = latent_BKhw.float().permute(0, 2, 3, 1).flatten(0, 2) * (2 * sharpness)
    p_NK = torch.sigmoid(latent_NK)
    each = F.binary_cross_entropy_with_logits(latent_NK, p_NK, reduction="none").sum(1).mean()
    stride = max(1, len(latent_NK) // places)
    some_NK = latent_NK[::stride]
    mean_V = torch.softmax(some_NK @ codebook_VK.float().T * 0.5, dim=1).mean(0)
    return each, -(mean_V * (mean_V + 1e-9).log()).sum()


class Shown(Protocol):
    """A batch of pictures: uint8 (B, H, W, 3) and what they show."""

    @property
    def pixels(self) -> np.ndarray: ...
    @property
    def labels(self) -> Labels: ...


class ImageTokenizerLearner:
    """`pictures(step)` gives the batch of a step; `shown` (uint8, n x H x W x 3) are pictures to reconstruct as samples.

    ``classes``: how many colours (and nothing), shapes, sizes and whole pictures the labels tell apart.
    """

    def __init__(
        self,
        tokenizer: ImageTokenizer,
        pictures: Callable[[int], Shown],
        shown: np.ndarray,
        losses: ImageLosses,
        device: torch.device,
        *,
        classes: tuple[int, int, int, int],
    ) -> None:
        config = tokenizer.config
        self.tokenizer = tokenizer
        self.head = SemanticHead(config.code_bits, config.image_size // config.downsample, classes) if losses.meaning else None
        parts = {"tokenizer": tokenizer, **({"meaning": self.head} if self.head is not None else {})}
        self.module = nn.ModuleDict(parts).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = device
        self.pictures, self.shown, self.coefficients = pictures, shown, losses
        self.examples = 0
        self.statistics: dict[str, float] = {}

    def losses(self, step: int) -> Iterator[dict[str, Tensor]]:
        """Squared and absolute error of the reconstruction and, where the codes are still learned, `code_losses`."""
        batch = self.pictures(step)
        pixels = to_pixels(batch.pixels).to(self.device, memory_format=torch.channels_last)
        self.examples = len(pixels)
        self.module.train()
        with torch.autocast(self.device.type, torch.bfloat16):
            torch.manual_seed(step)  # which elements stay soft depends on the step alone
            rebuilt, latent = self.tokenizer(pixels, min(1.0, step / max(1, self.coefficients.soft_steps)))
            codes = self.code_losses(latent, batch.labels) if latent.continuous.requires_grad else {}
        error = rebuilt.float() - pixels
        yield {"square": error.square().mean(), "absolute": self.coefficients.absolute * error.abs().mean(), **codes}

    def code_losses(self, latent: Latent, labels: Labels) -> dict[str, Tensor]:
        """Commitment to the signs, the two entropies, and what the codes fail to tell."""
        c, z = self.coefficients, latent.continuous.float()
        each, mean = entropy_losses(z, cast(Tensor, self.tokenizer.quantize.embedding), c.sharpness)
        told = {"meaning": c.meaning * self.head.loss(latent.quantised, labels.to(self.device))} if self.head is not None else {}
        return {
            "commitment": c.commitment * (z - torch.sign(z.detach())).square().mean(),
            "entropy": c.certainty * each - c.variety * mean,
            **told,
        }

    def samples(self, folder: Path) -> Sequence[Image.Image]:
        """The shown pictures above their reconstructions."""
        saved = ImageTokenizer.load(folder / "image_tokenizer")
        rebuilt = saved.decode(saved.encode(to_pixels(self.shown)))
        return [Image.fromarray(p) for p in self.shown] + to_images(rebuilt)

    def save(self, folder: Path) -> None:
        """Write the tokenizer to ``folder/image_tokenizer``."""
        self.tokenizer.save(folder / "image_tokenizer")
