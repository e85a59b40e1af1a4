"""Fast renderer of scenes: each shape is a signed-distance field on its own patch, anti-aliased by a clipped ramp."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from mmada.errors import InputError
from mmada.nano.world.scenes import Scene, Thing

__all__ = ["AUGMENTED", "CANONICAL", "PALETTE", "Style", "render"]

# The colours that the model learns to draw, one per name.
PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (230, 25, 25),
    "green": (0, 160, 50),
    "blue": (30, 70, 230),
    "yellow": (250, 225, 30),
    "purple": (150, 40, 190),
    "orange": (250, 140, 20),
    "white": (252, 252, 252),
    "black": (12, 12, 12),
}
CANONICAL_BACKGROUND = {"grey": (140, 140, 140), "light": (228, 228, 228)}
# (hue in degrees, saturation, value) ranges that a colour name may stand for in pictures by others.
RANGES: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "red": ((-8, 7), (0.78, 1.0), (0.72, 1.0)),
    "orange": ((22, 40), (0.8, 1.0), (0.88, 1.0)),
    "yellow": ((48, 62), (0.72, 1.0), (0.86, 1.0)),
    "green": ((95, 152), (0.6, 1.0), (0.42, 1.0)),
    "blue": ((208, 244), (0.65, 1.0), (0.6, 1.0)),
    "purple": ((268, 304), (0.6, 1.0), (0.42, 0.95)),
    "white": ((0, 360), (0.0, 0.03), (0.95, 1.0)),
    "black": ((0, 360), (0.0, 0.3), (0.0, 0.14)),
}
# Colours that other renderers commonly use for a name.
COMMON: dict[str, tuple[tuple[int, int, int], ...]] = {
    "red": ((255, 0, 0), (220, 30, 30), (200, 30, 40)),
    "orange": ((255, 165, 0), (255, 140, 0), (255, 128, 0)),
    "yellow": ((255, 255, 0), (255, 220, 0), (240, 220, 40)),
    "green": ((0, 128, 0), (0, 160, 0), (40, 180, 60), (0, 255, 0)),
    "blue": ((0, 0, 255), (40, 80, 220), (30, 60, 200), (30, 110, 240)),
    "purple": ((128, 0, 128), (150, 50, 180), (160, 32, 240)),
    "white": ((255, 255, 255), (250, 250, 250)),
    "black": ((0, 0, 0), (20, 20, 20)),
}
COMMON_BACKGROUND = {"grey": (128.0, 128.0, 120.0, 150.0), "light": (200.0, 220.0, 230.0, 240.0)}


@dataclass(frozen=True)
class Style:
    """A drawing style: ``jitter`` above 0 varies colours, sizes, angles and edges, and moves centres; 0 is the canonical style.

    Centres move by up to a share of ``jitter`` pixels (of 64); the share is drawn once per picture.
    """

    jitter: float

    def __post_init__(self) -> None:
        if not 0 <= self.jitter <= 6:
            raise InputError(f"jitter of a style must lie in 0..6 pixels, got {self.jitter}")


CANONICAL = Style(0.0)  # the style that the model learns to draw, aligned with the grid of codes
AUGMENTED = Style(4.0)  # the styles that it learns to read, as other renderers might draw
DIAMETER = {"small": 10.0, "medium": 16.0, "large": 22.0}
AUGMENTED_DIAMETER = {"small": (9.0, 11.0), "medium": (13.0, 17.0), "large": (19.0, 22.0)}


def polygon_field(x: np.ndarray, y: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Signed distance to a polygon (n, 2): positive inside."""
    a, b = corners, np.roll(corners, -1, axis=0)
    px, py = x[..., None] - a[:, 0], y[..., None] - a[:, 1]
    ex, ey = b[:, 0] - a[:, 0], b[:, 1] - a[:, 1]
    along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
    distance = np.sqrt(np.min((px - along * ex) ** 2 + (py - along * ey) ** 2, axis=-1))
    crosses = (a[:, 1] > y[..., None]) != (b[:, 1] > y[..., None])
    with np.errstate(divide="ignore", invalid="ignore"):
        left = px < py * ex / ey
    inside = (crosses & left).sum(-1) % 2 == 1
    return np.asarray(np.where(inside, distance, -distance))


def corners_of(shape: str, radius: float, angle: float, inner: float, stretch: float) -> np.ndarray:
    """Corners (n, 2) as (x, y) around the origin, y down; the bounding circle has about ``radius``."""
    if shape == "square":
        side = radius * 0.92
        points = np.array([(-side, -side), (side, -side), (side, side), (-side, side)])
    elif shape == "triangle":
        points = np.array([(0.0, -radius), (radius * stretch, radius * 0.85), (-radius * stretch, radius * 0.85)])
    else:
        turns = np.arange(10) * np.pi / 5
        reach = np.where(np.arange(10) % 2 == 0, 1.1, 1.1 * inner) * radius
        points = np.stack([np.sin(turns) * reach, -np.cos(turns) * reach], 1)
        points[:, 1] += 0.05 * radius
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray(points @ turn.T)


def augmented_color(rng: np.random.Generator, name: str) -> np.ndarray:
    """A colour that the name may mean, often a common one, float RGB 0..255."""
    if rng.random() < 0.5:
        options = COMMON[name]
        return np.clip(np.array(options[int(rng.integers(len(options)))]) + rng.uniform(-6, 6, 3), 0, 255)
    h, s, v = (rng.uniform(*bounds) for bounds in RANGES[name])
    if name == "green" and v < 0.6:
        s = max(s, 0.75)
    return np.array(colorsys.hsv_to_rgb(h / 360 % 1, s, v)) * 255


def draw_thing(canvas: np.ndarray, thing: Thing, rng: np.random.Generator, style: Style, hard: bool) -> None:
    """Blend one shape into the float canvas (H, W, 3); its centre is up to ``style.jitter`` pixels (of 64) off its cell's."""
    size = canvas.shape[0]
    unit = size / 64
    color = np.array(PALETTE[thing.color], float)
    if style.jitter:
        cx, cy = (10.67 + 21.33 * c + rng.uniform(-style.jitter, style.jitter) for c in (thing.col, thing.row))
        radius = rng.uniform(*AUGMENTED_DIAMETER[thing.size]) / 2
        cx, cy = (float(np.clip(c, radius + 0.5, 63.5 - radius)) for c in (cx, cy))
        angle = rng.uniform(-0.2, 0.2) if rng.random() < 0.4 else 0.0
        if thing.shape == "star" and rng.random() < 0.2:
            angle = rng.uniform(-0.6, 0.6)
        inner, stretch = rng.uniform(0.36, 0.5), rng.uniform(0.85, 1.1)
        color = augmented_color(rng, thing.color)
    else:
        cx, cy = 8.0 + 24 * thing.col, 8.0 + 24 * thing.row
        radius, angle, inner, stretch = DIAMETER[thing.size] / 2, 0.0, 0.42, 1.0
        if thing.size == "large":  # keep the largest inside the picture
            cx, cy = (float(np.clip(c, radius + 0.5, 63.5 - radius)) for c in (cx, cy))
    reach = radius * 1.35 + 1.5
    x0, x1 = max(0, int((cx - reach) * unit)), min(size, int((cx + reach) * unit) + 1)
    y0, y1 = max(0, int((cy - reach) * unit)), min(size, int((cy + reach) * unit) + 1)
    y, x = np.mgrid[y0:y1, x0:x1]
    x, y = (x + 0.5) / unit - cx, (y + 0.5) / unit - cy
    if thing.shape == "circle":
        inside = radius - np.hypot(x, y)
    else:
        inside = polygon_field(x, y, corners_of(thing.shape, radius, angle, inner, stretch))
    cover = (inside > 0).astype(float) if hard else np.clip(inside * unit + 0.5, 0, 1)
    patch = canvas[y0:y1, x0:x1]
    patch += cover[..., None] * (color - patch)


def augmented_background(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A plain background of the scene's kind, sometimes tinted, float RGB; darker than a white thing on it."""
    brightest = 222.0 if any(t.color == "white" for t in scene.things) else 248.0
    level = rng.uniform(95, 175) if scene.background == "grey" else rng.uniform(195, brightest)
    if rng.random() < 0.4:
        options = COMMON_BACKGROUND[scene.background]
        level = min(options[int(rng.integers(len(options)))], brightest)
    tint = rng.uniform(-6, 6, 3) if rng.random() < 0.3 else np.zeros(3)
    return np.clip(level + tint, 0, 255)


def render(scene: Scene, rng: np.random.Generator, style: Style = CANONICAL, size: int = 64) -> np.ndarray:
    """uint8 (size, size, 3). The canonical style does not use ``rng``."""
    if not style.jitter:
        background = np.array(CANONICAL_BACKGROUND[scene.background], float)
        hard, noise = False, 0.0
    else:
        background, style = (
            augmented_background(scene, rng),
            Style(rng.uniform(0, style.jitter)),
        )  # a small jitter stays close to the grid
        hard, noise = rng.random() < 0.3, float(rng.uniform(0, 4)) if rng.random() < 0.15 else 0.0
    canvas = np.empty((size, size, 3))
    canvas[:] = background
    for thing in scene.things:
        draw_thing(canvas, thing, rng, style, hard)
    if noise:
        canvas += rng.normal(0, noise, canvas.shape)
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
