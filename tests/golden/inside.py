"""Internals of the package that the goldens depend on; update this file if names or folders move."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tests.parity import checkpoint

import mmada
from mmada.recipes.run import run
from mmada.sampling import Acceleration

Values = dict[str, Any]
NANO = Path(mmada.__file__).parent / "nano" / "assets"


def speed_of(**names: Any) -> Any:
    """The acceleration, by the names of the command line."""
    return Acceleration.of(**names)


def train(recipe: str, settings: Mapping[str, str], out: Path, start: Path) -> None:
    """Run a recipe."""
    run(recipe, overrides=settings, out=out, start_from=start)


@contextmanager
def shortened() -> Iterator[mock.Mock]:
    """Runs collect few trajectories at a time and compute in float32, in which CPUs hardly differ.

    Yields what stands for ``torch.autocast``, which knows how it was called.
    """
    trails = mock.patch("mmada.recipes.trajectories.ROWS", 6)
    with trails, mock.patch.object(torch, "autocast", return_value=nullcontext()) as autocast:
        yield autocast


def random_released(home: Path) -> None:
    """Write random weights in the released layout: ``home/model`` and ``home/magvit``."""
    checkpoint.write_transformer(home / "model", 0, width=8, heads=1, layers=1, mlp=8)
    checkpoint.write_magvit(home / "magvit", 0)


def released(home: Path, preset: str | None = None) -> Any:
    """The model of `random_released`, as the card called ``preset`` says, or its own ``preset.json``."""
    return mmada.load(home / "model", device="cpu", image_tokenizer=home / "magvit", preset=preset)


@cache
def nano() -> Any:
    """The bundled model, on the CPU."""
    return mmada.load("nano", device="cpu")


def tokens(frame: Any) -> list[list[int]]:
    """Token ids of the rows of a frame, padding included."""
    found: list[list[int]] = frame.canvas.tokens_BL.tolist()
    return found


def codes(frame: Any) -> list[list[int]]:
    """Codes of the pictures in the rows of a frame."""
    first, canvas = nano().engine.parts.vocabulary.image_offset, frame.canvas
    return [row[canvas.modality_BL[i] == 1].sub(first).tolist() for i, row in enumerate(canvas.tokens_BL)]


def thoughts(frame: Any) -> list[list[int]]:
    """Token ids of the text that the rows of a frame were to write."""
    canvas = frame.canvas
    written_BL = canvas.editable_BL & (canvas.modality_BL == 0)
    return [row[written_BL[i]].tolist() for i, row in enumerate(canvas.tokens_BL)]


def canvases(frame: Any) -> list[Values]:
    """The rows of a frame: ids, and runs of (value, times) of the state of its positions."""
    canvas = frame.canvas
    parts = {"editable": canvas.editable_BL, "valid": canvas.valid_BL, "modality": canvas.modality_BL}
    named = {name: [runs(row) for row in part.int().tolist()] for name, part in parts.items()}
    return [{"tokens": ids} | {name: rows[i] for name, rows in named.items()} for i, ids in enumerate(tokens(frame))]


class Seen:
    """A ``watch`` that keeps the last frame of each run of the loop, and its first."""

    def __init__(self) -> None:
        self.first: list[Any] = []
        self.last: list[Any] = []

    def __call__(self, frame: Any) -> None:
        if frame.step == 0 and not (self.last and self.last[-1].step == 0):
            self.first.append(frame)
            self.last.append(frame)
        self.last[-1] = frame


def runs(row: Iterable[int]) -> list[list[int]]:
    """(value, times) of what stands in a row."""
    found: list[list[int]] = []
    for value in row:
        if found and found[-1][0] == value:
            found[-1][1] += 1
        else:
            found.append([value, 1])
    return found


def changed(value: Any, **fields: Any) -> Any:
    """The same settings with other fields."""
    return type(value)(**{name: getattr(value, name) for name in value.__dataclass_fields__} | fields)
