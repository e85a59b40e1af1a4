"""Recipe for training an image tokenizer (MAGVIT-v2) on a folder of pictures.

A subclass may give other batches, and an auxiliary loss on their labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from mmada.data.dataset import step_generator
from mmada.data.readers import pictures_in
from mmada.errors import InputError, check_choice, check_whole
from mmada.io.device import chosen_device
from mmada.io.images import load_image
from mmada.pipeline.grids import fit
from mmada.tokenizers.image import ImageTokenizer
from mmada.tokenizers.magvit import SMALL_IMAGE, ImageTokenizerConfig
from mmada.training.image_tokenizer import ImageBatch, ImageLosses, ImageTokenizerLearner
from mmada.training.loop import Plan, train
from mmada.training.optim import Optim

__all__ = ["ImageTokenizerRecipe", "UnlabelledBatch"]

SHOWN_STEP = 10**9
"""Step number of the batch of sample pictures; no run reaches it."""
SHOWN = 8


@dataclass(frozen=True)
class UnlabelledBatch:
    """A batch of pictures without labels, uint8 (B, H, W, 3)."""

    pixels: np.ndarray
    labels: None = None


@dataclass(frozen=True, kw_only=True)
class ImageTokenizerRecipe:
    """Training of an image tokenizer.

    ``images``: folder of pictures, cropped to the middle square. ``batch``: pictures a step. ``learn``: "decoder" keeps encoder
    and codes as they are, so that whatever was trained on the codes stays valid.
    """

    name: str = "image_tokenizer"
    images: str = ""
    plan: Plan = field(
        default_factory=lambda: Plan(
            steps=5000,
            optim=Optim(lr=2e-3, muon_lr=1e-2, decay=0.75, warmup=30, weight_decay=0.0),
            average=0.99,
            sample_every=1500,
        )
    )
    model: ImageTokenizerConfig = SMALL_IMAGE
    losses: ImageLosses = field(default_factory=ImageLosses)
    batch: int = 16
    learn: Literal["all", "decoder"] = "all"
    device: str = "auto"
    follows: str = ""

    def __post_init__(self) -> None:
        check_choice("learn", self.learn, ("all", "decoder"))
        check_whole("batch", self.batch, 1)

    def run(self, *, out: Path, resume: bool, start: Path | None) -> Path:
        """Train in ``out``, from random weights or from the image tokenizer in the model folder ``start``."""
        device = chosen_device(self.device)
        torch.manual_seed(self.plan.seed)
        tokenizer = ImageTokenizer(self.model) if start is None else ImageTokenizer.load(start / "image_tokenizer")
        if self.model not in (SMALL_IMAGE, tokenizer.config):
            raise InputError(
                f"model of the recipe differs from the tokenizer in {start}, whose sizes are fixed; "
                "leave model out or --start-from"
            )
        if self.learn == "decoder":
            tokenizer.encoder.requires_grad_(False)
        batches, sample_pictures = self.stream(tokenizer.config)
        learner = ImageTokenizerLearner(
            tokenizer,
            batches,
            sample_pictures,
            self.losses,
            device,
            auxiliary=self.auxiliary(tokenizer.config),
        )
        return train(learner, self.plan, name=self.name, out=out, resume=resume)

    def stream(self, config: ImageTokenizerConfig) -> tuple[Callable[[int], ImageBatch], np.ndarray]:
        """Batches by step, and pictures to show as samples. Raises InputError for a folder without pictures."""
        files = pictures_in(Path(self.images))

        def pictures(step: int, count: int) -> UnlabelledBatch:
            chosen = step_generator(self.plan.seed, step).integers(len(files), size=count)
            loaded = [fit(load_image(files[i], "picture"), config.image_size) for i in chosen]
            return UnlabelledBatch(np.stack([np.asarray(picture) for picture in loaded]))

        return lambda step: pictures(step, self.batch), pictures(SHOWN_STEP, SHOWN).pixels

    def auxiliary(self, config: ImageTokenizerConfig) -> nn.Module | None:
        """A module with an auxiliary loss on the codes; None for pictures without labels."""
        return None
