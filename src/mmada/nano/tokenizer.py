"""Recipes `image_tokenizer` and `image_decoder`: the nano MAGVIT-v2 on pictures of the nano world, or on a folder of your own.

The first learns the codes; the second trains only the decoder further, so that whatever was trained on the codes stays valid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from mmada.nano.picture_stream import CLASSES, picture_batch
from mmada.nano.semantic_head import SemanticHead
from mmada.recipes.tokenizer import SHOWN, SHOWN_STEP, ImageTokenizerRecipe
from mmada.tokenizers.magvit import ImageTokenizerConfig
from mmada.training.image_tokenizer import ImageBatch

__all__ = ["NanoImageTokenizerRecipe", "image_decoder", "image_tokenizer"]


@dataclass(frozen=True, kw_only=True)
class NanoImageTokenizerRecipe(ImageTokenizerRecipe):
    """Training on rendered pictures, whose labels feed the semantic head; on ``data_file`` or ``images`` if given, without it."""

    def stream(self, config: ImageTokenizerConfig) -> tuple[Callable[[int], ImageBatch], np.ndarray]:
        """Batches by step, and unseen pictures to show as samples."""
        if self.images or self.data_file:
            return super().stream(config)
        shown = picture_batch(self.plan.seed, SHOWN_STEP, SHOWN, "validation").pixels
        return lambda step: picture_batch(self.plan.seed, step, self.batch), shown

    def auxiliary(self, config: ImageTokenizerConfig) -> nn.Module | None:
        """The semantic head: codes that a language model can read tell apart what a picture shows."""
        if self.images or self.data_file:
            return None
        return SemanticHead(config.code_bits, config.image_size // config.downsample, CLASSES)


def image_tokenizer() -> NanoImageTokenizerRecipe:
    """Encoder, codes and decoder, from random weights."""
    return NanoImageTokenizerRecipe()


def image_decoder() -> NanoImageTokenizerRecipe:
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
