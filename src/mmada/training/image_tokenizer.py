"""Training of the image tokenizer: reconstruction, commitment and entropy losses of a lookup-free VQ autoencoder (MAGVIT-v2).

A recipe may add one auxiliary loss on the quantised latent, such as a classification head. Perceptual and adversarial
losses are not implemented: flat-coloured scenes reach a sufficient fidelity without them (experiments/log.md).

Shapes: B pictures, H x W pixels, N code positions, K bits, V codes, h x w latent grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from mmada.errors import check_number, check_whole
from mmada.tokenizers.image import ImageTokenizer, to_images, to_pixels
from mmada.tokenizers.magvit import Latent

__all__ = ["AuxiliaryLoss", "ImageBatch", "ImageLosses", "ImageTokenizerLearner", "entropy_losses", "position_entropy"]


@dataclass(frozen=True, kw_only=True)
class ImageLosses:
    """Coefficients of the losses.

    ``absolute``: absolute error of the reconstruction, added to the squared error of weight 1. ``commitment``: distance of the
    latent from its signs. ``entropy_penalty``: entropy of each position's code distribution, which makes codes decisive.
    ``codebook_usage``: bonus on the entropy of the batch's mean distribution, which makes a batch use many codes; both entropies
    are those of MAGVIT-v2, with ``sharpness`` as inverse temperature. ``auxiliary``: weight of the auxiliary loss (0: none).
    Over the first ``soft_steps`` steps the quantised share of the latent rises from 0 to 1, so that the decoder learns first.
    """

    absolute: float = 0.2
    commitment: float = 0.01
    entropy_penalty: float = 0.002
    codebook_usage: float = 0.0
    auxiliary: float = 0.02
    sharpness: float = 2.0
    soft_steps: int = 200

    def __post_init__(self) -> None:
        for name in ("absolute", "commitment", "entropy_penalty", "codebook_usage", "auxiliary", "sharpness"):
            check_number(f"losses.{name}", getattr(self, name))
        check_whole("losses.soft_steps", self.soft_steps, 0)


def position_entropy(latent_BKhw: Tensor, sharpness: float) -> Tensor:
    """Mean entropy of a position's code distribution, in nats.

    The distribution is a product over bits with p(bit = 1) = sigmoid(2 * sharpness * z), so this is exact.
    """
    logits_NK = latent_BKhw.float().permute(0, 2, 3, 1).flatten(0, 2) * (2 * sharpness)
    return F.binary_cross_entropy_with_logits(logits_NK, torch.sigmoid(logits_NK), reduction="none").sum(1).mean()


def entropy_losses(latent_BKhw: Tensor, codebook_VK: Tensor, sharpness: float, positions: int = 2048) -> tuple[Tensor, Tensor]:
    """`position_entropy`, and the entropy of the batch's mean code distribution, both in nats.

    The second averages at most ``positions`` distributions over the whole codebook; with many bits that costs more than the
    networks do. ``codebook_VK`` holds -1 and 1.
    """
    logits_NK = latent_BKhw.float().permute(0, 2, 3, 1).flatten(0, 2) * (2 * sharpness)
    some_NK = logits_NK[:: max(1, len(logits_NK) // positions)]
    # With bits of -1 and 1 the logit of a code is half the dot product, since ln p(1) - ln p(-1) equals 2 * sharpness * z.
    mean_V = torch.softmax(some_NK @ codebook_VK.float().T * 0.5, dim=1).mean(0)
    return position_entropy(latent_BKhw, sharpness), -(mean_V * (mean_V + 1e-9).log()).sum()


class ImageBatch(Protocol):
    """A batch of pictures: uint8 (B, H, W, 3), and labels for the auxiliary loss (None where it has none)."""

    @property
    def pixels(self) -> np.ndarray: ...
    @property
    def labels(self) -> Any: ...


class AuxiliaryLoss(Protocol):
    """A module with a loss on the quantised latent, trained with the tokenizer and discarded afterwards."""

    def loss(self, latent_BKhw: Tensor, labels: Any) -> Tensor:
        """The loss of a batch; ``labels`` are those of its `ImageBatch`."""
        ...


class ImageTokenizerLearner:
    """Learner of an image tokenizer, as `mmada.training.loop.train` runs it.

    ``batches(step)``: the batch of a step. ``sample_pictures``: uint8 (n, H, W, 3), pictures to reconstruct as samples.
    ``auxiliary``: a module that is an `AuxiliaryLoss`, used if ``losses.auxiliary`` is not 0. ``held_out``: pictures of the
    validation, as the samples.
    """

    def __init__(
        self,
        tokenizer: ImageTokenizer,
        batches: Callable[[int], ImageBatch],
        sample_pictures: np.ndarray,
        losses: ImageLosses,
        device: torch.device,
        *,
        auxiliary: nn.Module | None = None,
        held_out: np.ndarray | None = None,
    ) -> None:
        self.held_out = held_out
        self.tokenizer = tokenizer
        self.auxiliary = auxiliary if losses.auxiliary else None
        parts = {"tokenizer": tokenizer, **({"auxiliary": self.auxiliary} if self.auxiliary is not None else {})}
        self.module = nn.ModuleDict(parts).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = device
        self.batches, self.sample_pictures, self.coefficients = batches, sample_pictures, losses
        self.examples = 0
        self.statistics: dict[str, float] = {}

    def losses(self, step: int) -> Iterator[dict[str, Tensor]]:
        """Squared and absolute error of the reconstruction and, if the encoder is trained, `code_losses`."""
        batch = self.batches(step)
        pixels = to_pixels(batch.pixels).to(self.device, memory_format=torch.channels_last)
        self.examples = len(pixels)
        self.module.train()
        with torch.autocast(self.device.type, torch.bfloat16):
            torch.manual_seed(step)  # the choice of unquantised elements depends on the step only
            rebuilt, latent = self.tokenizer(pixels, min(1.0, step / max(1, self.coefficients.soft_steps)))
            codes = self.code_losses(latent, batch.labels) if latent.continuous.requires_grad else {}
        error = rebuilt.float() - pixels
        yield {"square": error.square().mean(), "absolute": self.coefficients.absolute * error.abs().mean(), **codes}

    def code_losses(self, latent: Latent, labels: Any) -> dict[str, Tensor]:
        """Commitment to the signs, the two entropies, and the auxiliary loss."""
        c, z = self.coefficients, latent.continuous.float()
        if c.codebook_usage:
            each, mean = entropy_losses(z, cast(Tensor, self.tokenizer.quantize.embedding), c.sharpness)
            entropy = c.entropy_penalty * each - c.codebook_usage * mean
        else:  # spares a product with the whole codebook
            entropy = c.entropy_penalty * position_entropy(z, c.sharpness)
        found = {"commitment": c.commitment * (z - torch.sign(z.detach())).square().mean(), "entropy": entropy}
        if self.auxiliary is not None:
            head = cast(AuxiliaryLoss, self.auxiliary)
            found["auxiliary"] = c.auxiliary * head.loss(latent.quantised, labels.to(self.device))
        return found

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Squared error of held-out pictures rebuilt from their codes, and the same in decibels (PSNR, peak 255)."""
        if self.held_out is None:
            return {}
        self.module.eval()
        errors = []
        for start in range(0, len(self.held_out), 16):
            shown = self.held_out[start : start + 16]
            rebuilt = self.tokenizer.decode(self.tokenizer.encode(to_pixels(shown).to(self.device)))
            made = np.stack([np.asarray(one, np.float64) for one in to_images(rebuilt)])
            errors += list((((made - shown) / 255.0) ** 2).mean((1, 2, 3)))
        psnr = float(np.mean([-10 * np.log10(max(error, 1e-10)) for error in errors]))
        return {"loss": float(np.mean(errors)), "psnr": psnr}

    def samples(self, folder: Path) -> Sequence[Image.Image]:
        """The sample pictures, followed by their reconstructions."""
        saved = ImageTokenizer.load(folder / "image_tokenizer")
        rebuilt = saved.decode(saved.encode(to_pixels(self.sample_pictures)))
        return [Image.fromarray(p) for p in self.sample_pictures] + to_images(rebuilt)

    def save(self, folder: Path) -> None:
        """Write the tokenizer to ``folder/image_tokenizer``."""
        self.tokenizer.save(folder / "image_tokenizer")
