"""Images and their grids of codes: fit an image to the model's square, map a hole to codes, slide a window over a larger grid.

A cell is the square of pixels that one code stands for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from PIL import Image

__all__ = ["Fit", "Grid", "Mask", "fit", "fit_mask", "hole_cells", "keep_cells", "padded", "slide"]

Fit = Literal["crop", "squash", "pad"]
Grid = np.ndarray[Any, np.dtype[np.int64]]
"""Codes (h, w); -1 where unknown."""
Mask = np.ndarray[Any, np.dtype[np.bool_]]
"""Bool (H, W)."""


def fit(image: Image.Image, size: int, how: Fit = "crop") -> Image.Image:
    """An image as a square of ``size`` pixels; one of that size keeps its pixels. The three transforms of the reference:

    ``how`` "crop": the short side becomes ``size``, then the middle is taken; "squash": both sides become ``size``; "pad": white
    is added around it to make a square, which becomes ``size``.
    """
    width, height = image.size
    if how == "pad" and width != height:
        side = max(width, height)
        square = Image.new("RGB", (side, side), "white")
        square.paste(image, ((side - width) // 2, (side - height) // 2))
        image, width, height = square, side, side
    if how == "crop":
        width, height = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    else:
        width, height = size, size
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def fit_mask(mask: Mask, size: int) -> Mask:
    """The middle square of a mask at ``size`` pixels; a pixel is True if any pixel that it covers was."""
    left, top, right, bottom = _middle((mask.shape[1], mask.shape[0]))
    square = mask[top:bottom, left:right]
    if square.shape[0] == size:
        return square
    pixels = Image.fromarray(square.astype(np.uint8) * np.uint8(255)).convert("F")
    small = pixels.resize((size, size), Image.Resampling.BOX)
    return np.asarray(small) > 0


def hole_cells(mask: Mask, cell: int) -> Mask:
    """Cells (h, w) with any masked pixel."""
    height, width = mask.shape[0] // cell, mask.shape[1] // cell
    return np.asarray(mask.reshape(height, cell, width, cell).any(axis=(1, 3)))


def keep_cells(made: Image.Image, original: Image.Image, hole: Mask, cell: int) -> Image.Image:
    """``original`` with the cells of ``hole`` taken from ``made``; both of one size."""
    inside = Image.fromarray(hole.repeat(cell, 0).repeat(cell, 1).astype(np.uint8) * np.uint8(255))
    return Image.composite(made, original, inside)


def padded(grid: Grid, side: str, cells: int) -> Grid:
    """A grid with ``cells`` more unknown columns or rows on one side."""
    pad = (cells, 0) if side in ("left", "up") else (0, cells)
    pads = ((0, 0), pad) if side in ("left", "right") else (pad, (0, 0))
    return np.pad(grid, pads, constant_values=-1)


def slide(grid: Grid, window: int, side: str) -> Iterator[tuple[slice, slice]]:
    """Windows (rows, columns) that fill the unknown cells of a grid on one side, known cells first.

    Each has ``window`` x ``window`` cells, at most half of them new in the direction of growth, so that it always shows what it
    continues. A window is taken after the one before it has been filled.
    """
    view = _towards_right(grid, side)  # a view: filling the grid fills it
    height, width = view.shape
    known = int((view >= 0).all(axis=0).sum())
    for end in [*range(known + window // 2, width, window // 2), width]:
        starts = [*range(0, height - window, window // 2), height - window]
        for start in starts:
            yield _from_right(slice(start, start + window), slice(end - window, end), (height, width), side)


def _middle(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The middle square of (width, height) as left, top, right, bottom."""
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return left, top, left + side, top + side


def _towards_right(grid: Grid, side: str) -> Grid:
    turned = grid.T if side in ("up", "down") else grid
    return turned[:, ::-1] if side in ("left", "up") else turned


def _from_right(rows: slice, columns: slice, shape: tuple[int, int], side: str) -> tuple[slice, slice]:
    """A window of the turned grid, of (height, width) ``shape``, as one of the grid."""
    if side in ("left", "up"):
        columns = slice(shape[1] - columns.stop, shape[1] - columns.start)
    return (columns, rows) if side in ("up", "down") else (rows, columns)
