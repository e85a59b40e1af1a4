"""The picture streams of the nano recipes: any batch from (seed, step) alone."""

from __future__ import annotations

import numpy as np

from mmada.tasks.digits import digit_image, digit_indices
from mmada.tasks.flags import FLAGS, flag_picture
from mmada.tasks.render import CLEAN, LOOSE, render
from mmada.tasks.scenes import Split, sample_scene

__all__ = ["picture_batch", "random_picture"]

# Shares of the image tokenizer's diet: scenes as others may draw them, scenes as we draw them, digits; the rest is flags.
LOOSE_SHARE, CLEAN_SHARE, DIGIT_SHARE = 0.62, 0.18, 0.15


def random_picture(rng: np.random.Generator, split: Split) -> np.ndarray:
    """One uint8 (64, 64, 3) picture of the nano world."""
    kind = rng.random()
    if kind < LOOSE_SHARE:
        return render(sample_scene(rng, split), rng, LOOSE)
    if kind < LOOSE_SHARE + CLEAN_SHARE:
        return render(sample_scene(rng, split), rng, CLEAN)
    if kind < LOOSE_SHARE + CLEAN_SHARE + DIGIT_SHARE:
        index = int(rng.choice(digit_indices(split)))
        return digit_image(index, rng if rng.random() < 0.7 else None)
    return flag_picture(FLAGS[int(rng.integers(len(FLAGS)))])


def picture_batch(seed: int, step: int, count: int, split: Split = "train") -> np.ndarray:
    """uint8 (count, 64, 64, 3), the same for the same (seed, step)."""
    rng = np.random.default_rng((seed, step))
    return np.stack([random_picture(rng, split) for _ in range(count)])
