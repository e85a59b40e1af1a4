"""Recipe for training an image tokenizer (MAGVIT-v2) on the pictures of data sets or of a folder.

A subclass may give other batches, and an auxiliary loss on their labels.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from mmada.data import Mixture, load
from mmada.data.dataset import step_generator
from mmada.data.readers import pictures_in
from mmada.errors import InputError, check_choice, check_whole
from mmada.io.device import chosen_device
from mmada.io.images import load_image
from mmada.pipeline.grids import fit
from mmada.recipes.tokenizer_data import MixturePictures
from mmada.tokenizers.image import ImageTokenizer
from mmada.tokenizers.magvit import SMALL_IMAGE, ImageTokenizerConfig
from mmada.training.image_tokenizer import ImageBatch, ImageLosses, ImageTokenizerLearner
from mmada.training.log import VALIDATION, read_log
from mmada.training.loop import Plan, train
from mmada.training.optim import Optim

__all__ = ["ImageTokenizerRecipe", "UnlabelledBatch"]

SHOWN_STEP = 10**9
"""Step number of the batch of sample pictures; no run reaches it."""
SHOWN, HELD_OUT = 8, 64
"""Sample pictures, and the most pictures of a validation."""


@dataclass(frozen=True)
class UnlabelledBatch:
    """A batch of pictures without labels, uint8 (B, H, W, 3)."""

    pixels: np.ndarray
    labels: None = None


@dataclass(frozen=True, kw_only=True)
class ImageTokenizerRecipe:
    """Training of an image tokenizer.

    ``data_file``: a YAML file of data sets, whose pictures are used, as ``--data`` gives it; ``images``: a folder of pictures
    instead. Pictures are cropped to the middle square. ``batch``: pictures a step. ``learn``: "decoder" keeps encoder
    and codes as they are, so that whatever was trained on the codes stays valid.
    """

    name: str = "image_tokenizer"
    data_file: str = ""
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
        if self.images and self.data_file:
            raise InputError("pictures are given by --data and by the setting images; give one of them")

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
        self.check_start(start)
        batches, sample_pictures = self.stream(tokenizer.config)
        plan = self.plan
        if self.data_file and not plan.validate_every:
            plan = replace(plan, validate_every=max(1, plan.steps // 10))
        held = self.held_out(tokenizer.config)
        if plan.patience and held is None:
            raise InputError(f"plan.patience {plan.patience} needs a validation split, and the pictures have none; leave it 0")
        learner = ImageTokenizerLearner(
            tokenizer,
            batches,
            sample_pictures,
            self.losses,
            device,
            auxiliary=self.auxiliary(tokenizer.config),
            held_out=held,
        )
        written = train(learner, plan, name=self.name, out=out, resume=resume)
        if self.data_file:
            self.report(out, written, start)
        return written

    def check_start(self, start: Path | None) -> None:
        """Raise InputError for a decoder to train without a start whose codes it could keep."""
        if self.learn == "decoder" and start is None:
            raise InputError("learn 'decoder' keeps the codes of a start, and there is none; give --start-from, or learn=all")

    def report(self, out: Path, written: Path, start: Path | None) -> None:
        """Print what the run reached, what it could not use, and how to use the tokenizer."""
        for name, reasons in self.pictures.sampler.rejected.items():
            for reason, count in reasons.most_common():
                print(f"data {name!r}: {count} examples not used: {reason}")
        path = out / VALIDATION
        rows = read_log(path) if path.is_file() else []
        reached = f"; held-out pictures: {rows[-1]['psnr']:.1f} dB" if rows else ""
        print(f"trained {self.plan.steps:,} steps of {self.batch} pictures{reached}")
        print(
            f"the image tokenizer is in {written / 'image_tokenizer'}, samples in {out / 'samples'}; train a model on its codes:"
        )
        print(f"  mmada train sft --data {shlex.quote(self.data_file)} --start-from {shlex.quote(str(written))}")

    def stream(self, config: ImageTokenizerConfig) -> tuple[Callable[[int], ImageBatch], np.ndarray]:
        """Batches by step, and pictures to show as samples. Raises InputError for a folder without pictures."""
        if self.data_file:
            drawn = self.pictures
            for name, one in self.mixture.sets.items():
                print(f"data {name!r} ({one.use}): {one.rows:,} rows")

            def batch(step: int) -> UnlabelledBatch:
                return UnlabelledBatch(np.stack(drawn.of_step(step, self.batch, config.image_size)))

            return batch, np.stack(drawn.of_step(SHOWN_STEP, SHOWN, config.image_size))
        files = pictures_in(Path(self.images))

        def pictures(step: int, count: int) -> UnlabelledBatch:
            chosen = step_generator(self.plan.seed, step).integers(len(files), size=count)
            loaded = [fit(load_image(files[i], "picture"), config.image_size) for i in chosen]
            return UnlabelledBatch(np.stack([np.asarray(picture) for picture in loaded]))

        return lambda step: pictures(step, self.batch), pictures(SHOWN_STEP, SHOWN).pixels

    @cached_property
    def mixture(self) -> Mixture:
        """The sets of ``data_file``."""
        return load(self.data_file)

    @cached_property
    def pictures(self) -> MixturePictures:
        """Its pictures for training. Raises InputError where it has none."""
        return MixturePictures.of(self.mixture, "train", self.plan.seed)

    def held_out(self, config: ImageTokenizerConfig) -> np.ndarray | None:
        """Pictures of the validation split, at most `HELD_OUT`; None where there are none."""
        if not self.data_file or not self.mixture.split("validation"):
            return None
        found = MixturePictures.of(self.mixture, "validation", self.plan.seed).first(HELD_OUT, config.image_size)
        return np.stack(found) if found else None

    def auxiliary(self, config: ImageTokenizerConfig) -> nn.Module | None:
        """A module with an auxiliary loss on the codes; None for pictures without labels."""
        return None
