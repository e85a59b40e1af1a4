"""Detector of coloured shapes in pictures, which judges drawings; it is not tied to one renderer.

The background is the most frequent colour, things are connected regions that differ from it, with colour by hue and shape by the
best overlap with rendered templates.
"""

from __future__ import annotations

import colorsys
import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mmada.errors import InputError
from mmada.nano.world.flags import Flag
from mmada.nano.world.render import PALETTE, corners_of, polygon_field

__all__ = ["FoundThing", "color_name", "detect", "shows_flag"]

GRID = 24  # templates and things are compared on a grid of this side
CONTRAST = 28.0  # foreground pixels differ this much from the background in a channel
MIN_AREA = 14  # pixels of 64 x 64; smaller regions are specks


@dataclass(frozen=True)
class FoundThing:
    """A detected thing. ``y`` and ``x`` in cells of the 3 x 3 grid (0..2); ``box`` (top, left, bottom, right) in pixels."""

    color: str
    shape: str
    size: str
    y: float
    x: float
    box: tuple[int, int, int, int]


def color_name(rgb: np.ndarray) -> str:
    """The name of a colour, float RGB 0..255."""
    h, s, v = colorsys.rgb_to_hsv(*(float(c) / 255 for c in rgb))
    if v < 0.24:
        return "black"
    if s < 0.2:
        return "white" if v > 0.62 else "black" if v < 0.35 else "white"
    hue = h * 360
    for limit, name in ((14, "red"), (44.5, "orange"), (72, "yellow"), (182, "green"), (256, "blue"), (330, "purple")):
        if hue < limit:
            return name
    return "red"


@functools.cache
def templates() -> tuple[np.ndarray, tuple[str, ...]]:
    """(T, GRID * GRID) bool masks filling their box, and their shapes."""
    masks, names = [], []
    angles = np.linspace(-0.22, 0.22, 5)
    variants = [("circle", 0.0, 0.4, 1.0)]
    variants += [("square", a, 0.4, 1.0) for a in angles]
    variants += [("triangle", a, 0.4, s) for a in angles for s in (0.85, 1.0, 1.1)]
    variants += [("star", a, i, 1.0) for a in np.linspace(-0.62, 0.62, 11) for i in (0.37, 0.44, 0.52)]
    axis = (np.arange(96) + 0.5) / 48 - 1
    y, x = np.meshgrid(axis * 1.25, axis * 1.25, indexing="ij")
    for shape, angle, inner, stretch in variants:
        field = 1 - np.hypot(x, y) if shape == "circle" else polygon_field(x, y, corners_of(shape, 1.0, angle, inner, stretch))
        masks.append(boxed((field > 0).astype(np.float32)).ravel())
        names.append(shape)
    return np.stack(masks), tuple(names)


def boxed(cover: np.ndarray) -> np.ndarray:
    """A coverage map cut to its box and resampled to GRID x GRID, as a mask."""
    inside = cover > 0.5
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    cut = cover[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    picture = Image.fromarray((cut * 255).astype(np.uint8)).resize((GRID, GRID), Image.Resampling.BILINEAR)
    return np.asarray(picture) > 127


def shape_name(cover: np.ndarray) -> str:
    """The shape whose template overlaps most with a coverage map (values 0..1)."""
    high = np.asarray(
        Image.fromarray((cover * 255).astype(np.uint8)).resize((cover.shape[1] * 4, cover.shape[0] * 4), Image.Resampling.BICUBIC)
    )
    mask = boxed(high / 255.0).ravel()
    masks, names = templates()
    overlap = (masks & mask).sum(1) / (masks | mask).sum(1)
    return names[int(overlap.argmax())]


def background_of(picture: np.ndarray) -> np.ndarray:
    """The most frequent colour, float RGB."""
    coarse = (picture // 16).reshape(-1, 3).astype(np.int64)
    keys = coarse @ np.array([256, 16, 1])
    common = np.bincount(keys).argmax()
    middle = picture.reshape(-1, 3)[keys == common].mean(0)
    near = np.abs(picture.reshape(-1, 3) - middle).max(1) < 16
    return np.asarray(np.median(picture.reshape(-1, 3)[near], axis=0), dtype=float)


def regions(picture: np.ndarray, background: np.ndarray) -> list[np.ndarray]:
    """Masks of the things: connected foreground, split where it has two colours."""
    try:
        from scipy import ndimage
    except ImportError as error:
        raise InputError("judging pictures needs scikit-learn and scipy; install them with pip install 'mmada[nano]'") from error

    foreground = np.abs(picture - background).max(-1) > CONTRAST
    min_area = MIN_AREA * foreground.size / 4096
    found: list[np.ndarray] = []
    labels, count = ndimage.label(foreground)
    for index in range(1, count + 1):
        region = labels == index
        if region.sum() < min_area:
            continue
        inside = ndimage.binary_erosion(region)
        pixels = np.argwhere(inside)
        names = np.array([color_name(picture[y, x]) for y, x in pixels])
        common = [n for n in set(names) if (names == n).sum() >= max(6.0, 0.15 * len(names))] if len(names) else []
        if len(common) < 2:
            found.append(region)
            continue
        for name in common:  # two colours touch: split the region, each pixel going to the nearer colour
            core = np.zeros_like(region)
            core[tuple(pixels[names == name].T)] = True
            parts, number = ndimage.label(core)
            grown = [ndimage.binary_dilation(parts == p + 1) & region for p in range(number)]
            found += [g for g in grown if g.sum() >= min_area]
    return found


def detect(picture: np.ndarray) -> tuple[FoundThing, ...]:
    """Things in a uint8 (H, W, 3) picture, in reading order of their centres."""
    pixels = picture.astype(float)
    background = background_of(pixels)
    height, width = picture.shape[:2]
    things = []
    for region in regions(pixels, background):
        rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        contrast = np.abs(pixels - background).sum(-1) * region
        strongest = contrast >= np.quantile(contrast[region], 0.6)
        color = np.median(pixels[region & strongest], axis=0)
        cover = (
            np.clip((pixels - background) @ (color - background) / ((color - background) @ (color - background)), 0, 1) * region
        )
        cut = np.pad(cover[top:bottom, left:right], 2)
        if (cut > 0.5).sum() < MIN_AREA / 2:
            continue
        reach = max((bottom - top) * 64 / height, (right - left) * 64 / width)
        size = "small" if reach < 13.5 else "medium" if reach < 19.5 else "large"
        y, x = ((top + bottom) / 2 / height * 3 - 0.5, (left + right) / 2 / width * 3 - 0.5)
        box = (top, left, bottom, right)
        things.append(FoundThing(color_name(color), shape_name(cut), size, y, x, box))
    return tuple(sorted(things, key=lambda t: (round(t.y), t.x)))


def shows_flag(picture: np.ndarray, flag: Flag) -> bool:
    """Whether the bands, and the disc if any, have the colours of the flag at the right positions."""
    side = picture.shape[0]
    expected: list[tuple[float, float, str]] = []
    if flag.layout == "disc":
        expected = [(0.5, 0.5, flag.disc), *((y, x, flag.bands[0]) for y in (0.1, 0.9) for x in (0.1, 0.9))]
    else:
        for i, name in enumerate(flag.bands):
            for along in ((i + share) / len(flag.bands) for share in (0.2, 0.5, 0.8)):  # the edges tell 2 bands from 3
                expected += [
                    (along, across, name) if flag.layout == "horizontal" else (across, along, name) for across in (0.2, 0.8)
                ]
    reach = max(1, side // 32)
    palette = {name: np.array(rgb, float) for name, rgb in PALETTE.items()}
    for y, x, name in expected:
        row, column = int(y * side), int(x * side)
        mean = picture[row - reach : row + reach, column - reach : column + reach].reshape(-1, 3).mean(0)
        if min(palette, key=lambda n: float(np.abs(palette[n] - mean).sum())) != name:
            return False
    return True
