"""Recipes `image_tokenizer` and `image_decoder`: the nano MAGVIT-v2 on pictures of the nano world.

The first learns the codes; the second goes on with the decoder alone, so that whatever was trained on the codes stays valid.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from mmada.errors import InputError
from mmada.io.device import chosen_device
from mmada.nano.picture_stream import CLASSES, picture_batch
from mmada.nano.semantic_head import SemanticHead
from mmada.tokenizers.image import ImageTokenizer
from mmada.tokenizers.magvit import NANO_IMAGE, ImageTokenizerConfig
from mmada.training.image_tokenizer import ImageLosses, ImageTokenizerLearner
from mmada.training.loop import Plan, train
from mmada.training.optim import Optim

__all__ = ["ImageTokenizerRecipe", "image_decoder", "image_tokenizer"]

SHOWN_STEP = 10**9  # a step no run reaches: the pictures shown as samples


@dataclass(frozen=True, kw_only=True)
class ImageTokenizerRecipe:
    """Train the image tokenizer: pixels <-> 64 codes of 12 bits. ``learn`` "decoder" keeps the codes as they are."""

    name: str = "image_tokenizer"
    plan: Plan = field(
        default_factory=lambda: Plan(
            steps=5000,
            optim=Optim(lr=2e-3, muon_lr=1e-2, decay=0.75, warmup=30, weight_decay=0.0),
            average=0.99,
            sample_every=1500,
        )
    )
    model: ImageTokenizerConfig = NANO_IMAGE
    losses: ImageLosses = field(default_factory=ImageLosses)
    batch: int = 16
    learn: Literal["all", "decoder"] = "all"
    device: str = "auto"
    follows: str = ""

    def __post_init__(self) -> None:
        if self.learn not in ("all", "decoder"):
            raise InputError(f"learn must be 'all' or 'decoder', got {self.learn!r}")
        if self.batch < 1:
            raise InputError(f"batch must be at least 1, got {self.batch}")

    def run(self, *, out: Path, resume: bool, start: Path | None) -> Path:
        """Train in ``out``, from nothing or from the tokenizer in the model folder ``start``."""
        torch.manual_seed(self.plan.seed)
        tokenizer = ImageTokenizer(self.model) if start is None else ImageTokenizer.load(start / "image_tokenizer")
        if self.model not in (NANO_IMAGE, tokenizer.config):
            raise InputError(
                f"model of the recipe differs from the tokenizer in {start}, which decides; leave model out or --start-from"
            )
        if self.learn == "decoder":
            tokenizer.encoder.requires_grad_(False)
        size = tokenizer.config.image_size // tokenizer.config.downsample
        learner = ImageTokenizerLearner(
            tokenizer,
            lambda step: picture_batch(self.plan.seed, step, self.batch),
            picture_batch(self.plan.seed, SHOWN_STEP, 8, "validation").pixels,
            self.losses,
            chosen_device(self.device),
            auxiliary=SemanticHead(tokenizer.config.code_bits, size, CLASSES),
        )
        return train(learner, self.plan, name=self.name, out=out, resume=resume)


def image_tokenizer() -> ImageTokenizerRecipe:
    """Encoder, codes and decoder, from nothing."""
    return ImageTokenizerRecipe()


def image_decoder() -> ImageTokenizerRecipe:
    """Sharper pictures from the same codes."""
    first = image_tokenizer()
    return replace(
        first,
        name="image_decoder",
        follows=first.name,
        learn="decoder",
        losses=replace(first.losses, auxiliary=0.0, soft_steps=0),
        plan=replace(first.plan, steps=2200, seed=1, optim=replace(first.plan.optim, lr=1e-3, muon_lr=5e-3)),
    )
