"""Scenes of the nano world: one to four coloured shapes on a 3 x 3 grid, and disjoint splits."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = [
    "BACKGROUNDS",
    "COLORS",
    "HELD_OUT",
    "PLACES",
    "SHAPES",
    "SIZES",
    "Scene",
    "Split",
    "Thing",
    "sample_scene",
    "split_of",
]

SHAPES = ("circle", "square", "triangle", "star")
COLORS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "black")
SIZES = ("small", "medium", "large")
BACKGROUNDS = ("grey", "light")
PLACES = (
    ("top left", "top", "top right"),
    ("left", "center", "right"),
    ("bottom left", "bottom", "bottom right"),
)
# (colour, shape) pairs that are in no training scene, to measure compositional generalisation.
HELD_OUT = frozenset({("purple", "star"), ("orange", "triangle"), ("blue", "square")})
Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, order=True)
class Thing:
    """One shape in cell (row, col) of the grid, both 0..2."""

    row: int
    col: int
    shape: str
    color: str
    size: str = "medium"

    @property
    def place(self) -> str:
        """Name of the cell."""
        return PLACES[self.row][self.col]

    @property
    def name(self) -> str:
        """Colour and shape, such as "red circle"."""
        return f"{self.color} {self.shape}"

    @property
    def y(self) -> float:
        """Row as a coordinate in cells."""
        return float(self.row)

    @property
    def x(self) -> float:
        """Column as a coordinate in cells."""
        return float(self.col)

    @property
    def held_out(self) -> bool:
        """Whether the (colour, shape) pair never occurs in training."""
        return (self.color, self.shape) in HELD_OUT


@dataclass(frozen=True)
class Scene:
    """Things in reading order, at most one a cell, on a background."""

    things: tuple[Thing, ...]
    background: str = "grey"

    @property
    def held_out(self) -> bool:
        """Whether any thing is a held-out pair."""
        return any(thing.held_out for thing in self.things)

    @property
    def key(self) -> str:
        """Canonical text of the scene; it decides the split."""
        return "; ".join(f"{t.row}{t.col} {t.size} {t.color} {t.shape}" for t in self.things)


def split_of(key: str) -> Split:
    """The split of a canonical text: a stable hash gives 5 % to test and 5 % to validation."""
    slot = zlib.crc32(key.encode()) % 20
    return "test" if slot == 0 else "validation" if slot == 1 else "train"


def sample_things(rng: np.random.Generator, count: int, sizes: bool) -> tuple[Thing, ...]:
    """Things in distinct cells; sometimes equal in colour, shape or both, so that counting is not trivial."""
    cells = sorted(int(c) for c in rng.choice(9, count, replace=False))
    kind = rng.random()
    base_shape, base_color = str(rng.choice(SHAPES)), str(rng.choice(COLORS))
    things = []
    for cell in cells:
        shape = base_shape if kind < 0.35 else str(rng.choice(SHAPES))
        color = base_color if kind < 0.2 or 0.35 <= kind < 0.5 else str(rng.choice(COLORS))
        size = str(rng.choice(("small", "large"))) if sizes and rng.random() < 0.3 else "medium"
        things.append(Thing(cell // 3, cell % 3, shape, color, size))
    return tuple(things)


def sample_scene(
    rng: np.random.Generator,
    split: Split = "train",
    *,
    count: int | None = None,
    held_out: bool = False,
    sizes: bool = True,
) -> Scene:
    """A scene of the split, with ``count`` things (1..4; drawn if None).

    ``held_out``: at least one thing is a held-out pair, and the split is ignored, as no training scene has one; otherwise
    no thing is.
    """
    while True:
        number = count or int(rng.choice(4, p=(0.25, 0.33, 0.27, 0.15))) + 1
        scene = Scene(sample_things(rng, number, sizes), str(rng.choice(BACKGROUNDS, p=(0.6, 0.4))))
        if scene.held_out == held_out and (held_out or split_of(scene.key) == split):
            return scene
