"""Flags as pictures: bands or a disc in the world's canonical colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mmada.nano.world.render import PALETTE

__all__ = ["FLAGS", "Flag", "flag_picture"]


@dataclass(frozen=True)
class Flag:
    """A flag of ``bands``, from top to bottom (horizontal) or left to right (vertical), or of one band with a ``disc``."""

    country: str
    layout: Literal["horizontal", "vertical", "disc"]
    bands: tuple[str, ...]
    disc: str = ""


FLAGS = (
    Flag("japan", "disc", ("white",), "red"),
    Flag("bangladesh", "disc", ("green",), "red"),
    Flag("france", "vertical", ("blue", "white", "red")),
    Flag("italy", "vertical", ("green", "white", "red")),
    Flag("ireland", "vertical", ("green", "white", "orange")),
    Flag("belgium", "vertical", ("black", "yellow", "red")),
    Flag("germany", "horizontal", ("black", "red", "yellow")),
    Flag("russia", "horizontal", ("white", "blue", "red")),
    Flag("netherlands", "horizontal", ("red", "white", "blue")),
    Flag("austria", "horizontal", ("red", "white", "red")),
    Flag("poland", "horizontal", ("white", "red")),
    Flag("ukraine", "horizontal", ("blue", "yellow")),
)


def flag_picture(flag: Flag, size: int = 64) -> np.ndarray:
    """The flag as a picture, uint8 (size, size, 3)."""
    colors = np.array([PALETTE[name] for name in flag.bands], np.uint8)
    band = np.arange(size) * len(colors) // size
    if flag.layout == "vertical":
        return np.ascontiguousarray(np.broadcast_to(colors[band][None], (size, size, 3)))
    picture = np.ascontiguousarray(np.broadcast_to(colors[band][:, None], (size, size, 3)))
    if flag.layout == "disc":
        y, x = np.mgrid[:size, :size] + 0.5 - size / 2
        cover = np.clip(size * 0.3 - np.hypot(x, y) + 0.5, 0, 1)[..., None]
        picture = (picture + cover * (np.array(PALETTE[flag.disc], float) - picture) + 0.5).astype(np.uint8)
    return picture
