"""Batches of labelled pictures for the image tokenizer, from (seed, step) alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mmada.nano.semantic_head import UNKNOWN, Labels
from mmada.nano.world.digits import digit_image, digit_indices, digit_label
from mmada.nano.world.flags import FLAGS, flag_picture
from mmada.nano.world.render import AUGMENTED, CANONICAL, render
from mmada.nano.world.scenes import COLORS, SHAPES, SIZES, Scene, Split, sample_scene

__all__ = ["CLASSES", "LabelledBatch", "picture_batch"]

# Shares of the image tokenizer's pictures: augmented scenes, canonical scenes, digits; the rest is flags.
AUGMENTED_SHARE, CANONICAL_SHARE, DIGIT_SHARE = 0.62, 0.18, 0.15
CLASSES = (1 + len(COLORS), len(SHAPES), len(SIZES), 10)


@dataclass(frozen=True)
class LabelledBatch:
    """uint8 (count, 64, 64, 3) and their labels."""

    pixels: np.ndarray
    labels: Labels


def random_picture(rng: np.random.Generator, split: Split) -> tuple[np.ndarray, Scene | int | None]:
    """One uint8 (64, 64, 3) picture of the nano world, and its scene, its digit, or None for a flag."""
    kind = rng.random()
    if kind < AUGMENTED_SHARE + CANONICAL_SHARE:
        scene = sample_scene(rng, split)
        return render(scene, rng, AUGMENTED if kind < AUGMENTED_SHARE else CANONICAL), scene
    if kind < AUGMENTED_SHARE + CANONICAL_SHARE + DIGIT_SHARE:
        index = int(rng.choice(digit_indices(split)))
        return digit_image(index, rng if rng.random() < 0.7 else None), digit_label(index)
    return flag_picture(FLAGS[int(rng.integers(len(FLAGS)))]), None


def labels_of(shown: list[Scene | int | None]) -> Labels:
    """Labels of scenes, digits and (None) flags."""
    color, shape, size = (torch.full((len(shown), 9), UNKNOWN) for _ in range(3))
    whole = torch.tensor([what if isinstance(what, int) else UNKNOWN for what in shown])
    for row, what in enumerate(shown):
        if not isinstance(what, Scene):
            continue
        color[row] = 0
        for thing in what.things:
            cell = 3 * thing.row + thing.col
            color[row, cell] = 1 + COLORS.index(thing.color)
            shape[row, cell] = SHAPES.index(thing.shape)
            size[row, cell] = SIZES.index(thing.size)
    return Labels(color, shape, size, whole)


def picture_batch(seed: int, step: int, count: int, split: Split = "train") -> LabelledBatch:
    """A batch of the nano world, the same for the same (seed, step)."""
    rng = np.random.default_rng((seed, step))
    pixels, shown = zip(*(random_picture(rng, split) for _ in range(count)), strict=True)
    return LabelledBatch(np.stack(pixels), labels_of(list(shown)))
