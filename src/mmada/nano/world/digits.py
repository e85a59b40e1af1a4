"""Handwritten digits (8 x 8 scans of scikit-learn) as pictures, with fixed splits and a classifier fitted on them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from PIL import Image

from mmada.nano.world.scenes import Split, split_of

__all__ = ["digit_image", "digit_indices", "digit_label", "recognise"]

FILTERS = (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)


@functools.cache
def scans() -> tuple[np.ndarray, np.ndarray]:
    """(1797, 8, 8) in 0..16 and labels (1797,)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return np.asarray(data.images), np.asarray(data.target)


@functools.cache
def digit_indices(split: Split) -> tuple[int, ...]:
    """Indices of the scans of a split; the splits share none. Test is a tenth, validation a twentieth."""
    _, labels = scans()
    # Two hash slots of a twentieth each make the test split of a tenth.
    test = [i for i in range(len(labels)) if split_of(f"digit {i}") in ("test", "validation")]
    if split == "test":
        return tuple(test)
    rest = [i for i in range(len(labels)) if i not in set(test)]
    return tuple(rest[::19]) if split == "validation" else tuple(i for k, i in enumerate(rest) if k % 19)


def digit_label(index: int) -> int:
    """The digit that scan ``index`` shows."""
    return int(scans()[1][index])


def digit_image(index: int, rng: np.random.Generator | None = None, size: int = 64) -> np.ndarray:
    """uint8 (size, size, 3), white on black: canonical (bicubic, full frame), or with ``rng`` shifted, rotated and resampled."""
    scan = Image.fromarray(np.clip(scans()[0][index] * 255 / 16, 0, 255).astype(np.uint8))
    if rng is None:
        picture = scan.resize((size, size), Image.Resampling.BICUBIC)
    else:
        picture = scan.resize((size, size), FILTERS[int(rng.integers(4))])
        if rng.random() < 0.7:
            scale, angle = rng.uniform(0.9, 1.12), np.deg2rad(rng.uniform(-8, 8))
            dx, dy = rng.uniform(-4, 4, 2) * size / 64
            cos, sin, half = np.cos(angle) * scale, np.sin(angle) * scale, size / 2
            matrix = (cos, -sin, half - cos * half + sin * half + dx, sin, cos, half - sin * half - cos * half + dy)
            picture = picture.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.repeat(np.asarray(picture)[..., None], 3, axis=2)


@functools.cache
def classifier() -> Any:
    """A support vector classifier fitted on the real training scans only."""
    from sklearn.svm import SVC

    images, labels = scans()
    train = list(digit_indices("train"))
    return SVC(gamma=0.001, C=10.0).fit(images[train].reshape(len(train), 64), labels[train])


def recognise(pictures: np.ndarray) -> np.ndarray:
    """uint8 (B, H, W, 3), H and W multiples of 8 -> the digit (B,) that the classifier recognises in the 8 x 8 averages."""
    count, height, width, _ = pictures.shape
    grey = pictures.mean(-1).reshape(count, 8, height // 8, 8, width // 8).mean((2, 4)) * 16 / 255
    return np.asarray(classifier().predict(grey.reshape(count, 64)))
