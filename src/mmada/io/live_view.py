"""Live view of denoising in a terminal: text appears, the image sharpens out of half blocks; or one line of progress.

Each character cell shows two pixels of the image: the upper half block takes the colour of the upper one, its background that of
the lower. Where the output is not a terminal, a few plain snapshots are printed instead, and no progress.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from PIL import Image
from rich.color import Color
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.style import Style
from rich.text import Text

__all__ = ["ProgressLine", "View", "Watcher", "half_blocks", "plain", "render"]

_SNAPSHOTS = 4
_RAMP = "@%#*+=-:. "  # dark to light: a bright background becomes blank paper
_RAMP_COLUMNS = 32
_MASK = "░"


@dataclass(frozen=True)
class View:
    """A frame for a person.

    ``step``: steps done, 0 to ``steps``. ``pieces``: the answer so far as (text, still masked) in reading
    order, or None. ``image``: the image so far, or None.
    """

    step: int
    steps: int
    pieces: tuple[tuple[str, bool], ...] | None = None
    image: Image.Image | None = None


class Watcher:
    """Shows views as they come: ``with Watcher(console) as watcher: watcher.show(view)``.

    In a terminal the view is redrawn in place and stays when the block ends; elsewhere about five snapshots
    are printed.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._printed = -1
        self._last: View | None = None

    def __enter__(self) -> Watcher:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="visible")
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
        elif kind is None and self._last is not None:
            self._print(self._last)

    def show(self, view: View) -> None:
        """Show ``view``; it replaces the one before."""
        if self._live is not None:
            self._live.update(render(view, self._console.width, self._console.height), refresh=True)
            return
        quarter = view.step * _SNAPSHOTS // max(view.steps, 1)
        self._last = view
        if quarter > self._printed:
            self._printed = quarter
            self._print(view)

    def _print(self, view: View) -> None:
        self._console.print(plain(view), markup=False, highlight=False, soft_wrap=True)
        self._last = None


class ProgressLine:
    """One line of progress, rewritten in place: ``with ProgressLine(console) as line: line.show(step, steps, passes)``.

    It ends with the forward passes and the seconds in all. Several runs of the model in one block are added up. Meant for a
    terminal: whoever makes it checks that there is one.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._start = 0.0
        self._before = 0  # forward passes of earlier runs of the model
        self._passes = 0
        self._run = 0.0

    def __enter__(self) -> ProgressLine:
        self._start = self._run = self._clock()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        done = f"{self._before + self._passes} forward passes, {self._clock() - self._start:.1f} s"
        self._write(done + "\n" if kind is None else "")

    def show(self, step: int, steps: int, passes: int) -> None:
        """Show that ``step`` of ``steps`` is done, after ``passes`` forward passes of this run."""
        now = self._clock()
        if passes < self._passes or step == 0:  # the next run has begun
            self._before, self._run = self._before + self._passes, now
        self._passes = passes
        line = f"step {step}/{steps}, {self._before + passes} forward passes, {now - self._start:.1f} s"
        if 0 < step < steps:
            line += f", about {(now - self._run) / step * (steps - step):.0f} s left"
        self._write(line)

    def _write(self, line: str) -> None:
        """Replace the line; it is cut to the terminal, as one that wraps could not be rewritten."""
        shown = line if line.endswith("\n") else line[: max(self._console.width - 1, 1)]
        self._console.file.write(f"\r\x1b[K{shown}")
        self._console.file.flush()


def render(view: View, width: int, height: int) -> RenderableType:
    """``view`` for a terminal of ``width`` columns and ``height`` rows."""
    parts: list[RenderableType] = [Text(f"step {view.step}/{view.steps}", style="dim")]
    if view.pieces is not None:
        text = Text()
        for piece, masked in view.pieces:
            text.append(_MASK if masked else piece, style="dim" if masked else "")
        parts.append(text)
    if view.image is not None:
        parts.append(half_blocks(view.image, width, max(height - 4, 1)))
    return Group(*parts)


def half_blocks(image: Image.Image, columns: int, rows: int) -> Text:
    """``image`` in at most ``columns`` x ``rows`` cells, two pixels a cell, never enlarged, shape kept."""
    scale = min(1.0, columns / image.width, 2 * rows / image.height)
    size = max(1, round(image.width * scale)), 2 * max(1, round(image.height * scale / 2))
    pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BOX))
    text = Text(no_wrap=True, end="")
    for upper, lower in zip(pixels[0::2], pixels[1::2], strict=True):
        for top, bottom in zip(upper.tolist(), lower.tolist(), strict=True):
            text.append("▀", Style(color=Color.from_rgb(*top), bgcolor=Color.from_rgb(*bottom)))
        text.append("\n")
    return text


def plain(view: View) -> str:
    """``view`` as text without colour: one snapshot for a file or a pipe."""
    lines = [f"step {view.step}/{view.steps}"]
    if view.pieces is not None:
        lines.append("".join(_MASK if masked else piece for piece, masked in view.pieces))
    if view.image is not None:
        grey = view.image.convert("L")
        scale = min(1.0, _RAMP_COLUMNS / grey.width)
        columns, rows = max(1, round(grey.width * scale)), max(1, round(grey.height * scale / 2))
        levels = np.asarray(grey.resize((columns, rows), Image.Resampling.BOX)).astype(int) * len(_RAMP) // 256
        lines += ["".join(_RAMP[level] for level in row).rstrip() for row in levels.tolist()]
    return "\n".join(lines)
