"""Recipe `image_tokenizer`: the nano MAGVIT-v2 on pictures of the nano world."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from mmada.recipes.pictures import CLASSES, picture_batch
from mmada.tokenizers.image import NANO_IMAGE, ImageTokenizer, ImageTokenizerConfig
from mmada.training.device import chosen_device
from mmada.training.image_learner import ImageLearner, ImageLosses
from mmada.training.loop import Plan, train
from mmada.training.optim import Optim

__all__ = ["ImageTokenizerRecipe"]

SHOWN_STEP = 10**9  # a step no run reaches: the pictures shown as samples


@dataclass(frozen=True, kw_only=True)
class ImageTokenizerRecipe:
    """Train the image tokenizer: pixels <-> 64 codes of 12 bits."""

    plan: Plan = field(
        default_factory=lambda: Plan(
            steps=9000,
            optim=Optim(lr=2e-3, muon_lr=1e-2, decay=0.75, warmup=30, weight_decay=0.0),
            average=0.99,
            sample_every=1500,
        )
    )
    model: ImageTokenizerConfig = NANO_IMAGE
    losses: ImageLosses = field(default_factory=ImageLosses)
    batch: int = 16
    device: str = "auto"
    follows: str = ""

    def run(self, *, out: Path, resume: bool, start: Path | None) -> Path:
        """Train in ``out``, from nothing or from the tokenizer in the model folder ``start``."""
        torch.manual_seed(self.plan.seed)
        tokenizer = ImageTokenizer(self.model) if start is None else ImageTokenizer.load(start / "image_tokenizer")
        learner = ImageLearner(
            tokenizer,
            lambda step: picture_batch(self.plan.seed, step, self.batch),
            picture_batch(self.plan.seed, SHOWN_STEP, 8, "validation").pixels,
            self.losses,
            chosen_device(self.device),
            classes=CLASSES,
        )
        return train(learner, self.plan, name="image_tokenizer", out=out, resume=resume)
