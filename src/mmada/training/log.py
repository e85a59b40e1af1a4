"""Logging of a run: a JSONL log, a plot of its curves, sample images, and a progress bar with rate and time left."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mmada.errors import InputError, quote
from mmada.io.atomic import atomic_file, sync, write_text
from mmada.io.images import save_image
from mmada.io.jsonl import read_log

__all__ = ["VALIDATION", "RunLog", "read_log"]

VALIDATION = "validation.jsonl"
"""Name of the file with a line for each validation: the step it came after, and losses."""

Array = NDArray[np.float64]

TERM = re.compile(r"reward_[^_]+_")
"""Log names of single reward terms by task; they are plotted apart, as their scales differ."""
EVERY = 60.0
"""Seconds between printed lines where there is no terminal for a progress bar; a step of RL can take half a minute."""


def rows_before(path: Path, start: int) -> list[dict[str, float]]:
    """The log rows before step ``start``, which a resumed run keeps; later steps are repeated.

    A log that was emptied may begin at a later step. Raises InputError for one that is damaged, or in which steps
    are missing, doubled or out of order.
    """
    rows = [row for row in read_log(path) if row["step"] < start]
    if rows and [row["step"] for row in rows] != list(range(int(rows[0]["step"]), start)):
        raise InputError(
            f"log {quote(path)} does not have each step before its checkpoint's {start} once; restore it, empty the file to "
            f"continue without it, or give another folder"
        )
    return rows


class RunLog:
    """Writes ``log.jsonl``, ``curves.png`` and ``samples/`` into a run folder and shows the progress bar."""

    def __init__(self, folder: Path, name: str, steps: int, start: int) -> None:
        self.folder = folder
        self.path = folder / "log.jsonl"
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows_before(self.path, start)))
        if (validations := folder / VALIDATION).exists():
            kept = [row for row in read_log(validations) if row["step"] <= start]
            write_text(validations, "".join(json.dumps(row) + "\n" for row in kept))
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
        )
        self.reward: float | None = None
        self.printed = time.monotonic()
        self.task = self.progress.add_task(name, total=steps, completed=start, rate="", loss="")

    def __enter__(self) -> RunLog:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.progress.stop()

    def step(self, row: dict[str, float]) -> None:
        """Write one line of the log and move the progress bar. ``row`` has ``step``, ``loss`` and ``rate`` (examples/s)."""
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.reward = row.get("reward", self.reward)
        text = f"loss {row['loss']:.3f}" + ("" if self.reward is None else f", reward {self.reward:.2f}")
        self.progress.update(self.task, completed=row["step"] + 1, rate=f"{row['rate']:.0f} ex/s", loss=text)
        now = time.monotonic()
        if not self.progress.console.is_terminal and (int(row["step"]) % 100 == 0 or now - self.printed > EVERY):
            self.printed = now
            print(json.dumps(row), flush=True)

    def validation(self, step: int, losses: Mapping[str, float]) -> None:
        """Write one line of `VALIDATION`, the losses after ``step`` steps, and print the loss."""
        with (self.folder / VALIDATION).open("a") as file:
            file.write(json.dumps({"step": step, **losses}) + "\n")
        self.progress.console.print(f"step {step}: validation loss {losses['loss']:.4f}", highlight=False)

    def sync(self) -> None:
        """Flush the log to disk, so that it never lacks steps that a checkpoint has."""
        sync(self.path)

    def pictures(self, step: int, pictures: Sequence[Image.Image]) -> Image.Image | None:
        """Write a strip of sample images, ``samples/step_NNNNNN.png``; returns it."""
        if not pictures:
            return None
        folder = self.folder / "samples"
        folder.mkdir(exist_ok=True)
        width, height = pictures[0].size
        columns = min(8, len(pictures))
        sheet = Image.new("RGB", (columns * (width + 2), -(-len(pictures) // columns) * (height + 2)), "white")
        for i, picture in enumerate(pictures):
            sheet.paste(picture, (i % columns * (width + 2), i // columns * (height + 2)))
        sheet = sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST)
        save_image(sheet, folder / f"step_{step:06d}.png")
        return sheet

    def texts(self, step: int, texts: str) -> None:
        """Write sample texts, ``samples/step_NNNNNN.txt``."""
        folder = self.folder / "samples"
        folder.mkdir(exist_ok=True)
        write_text(folder / f"step_{step:06d}.txt", texts + "\n")

    def plot(self) -> None:
        """Write ``curves.png`` from the log, if matplotlib is installed."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            return
        rows = read_log(self.path)
        if len(rows) < 2:
            return
        # The loss of policy optimisation is not informative: with one update per batch it is 0 up to rounding.
        kinds = [kind for kind in ("reward", "diversity") if any(kind in row for row in rows)] or ["loss"]
        kinds += ["kl"] if any(row.get("kl") for row in rows) else []
        panels = {kind: sorted({k for row in rows for k in row if k.startswith(kind) and not TERM.match(k)}) for kind in kinds}
        if terms := sorted({k for row in rows for k in row if TERM.match(k)}):
            panels |= {"terms": terms}
        figure = Figure(figsize=(8, 1 + 3 * len(panels)), layout="constrained")
        for axes, (kind, names) in zip(np.atleast_1d(figure.subplots(len(panels), sharex=True)), panels.items(), strict=True):
            for name in names:
                step_N, value_N = np.array([(row["step"], row[name]) for row in rows if name in row]).T
                (line,) = axes.plot(step_N, value_N, alpha=0.25, linewidth=0.8)
                label = name.removeprefix("reward_") if kind == "terms" else name
                axes.plot(*smoothed(step_N, value_N), color=line.get_color(), label=label)
            axes.set_ylabel(kind)
            axes.set_yscale("log" if kind == "loss" and all(row["loss"] > 0 for row in rows) else "linear")
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        axes.set_xlabel("step")
        with atomic_file(self.folder / "curves.png") as part:
            figure.savefig(part, dpi=110, format="png")


def smoothed(step_N: Array, value_N: Array) -> tuple[Array, Array]:
    """Moving averages over a twelfth of the run, each at the middle of its steps."""
    width = max(1, len(value_N) // 12)
    window = np.full(width, 1 / width)
    return np.convolve(step_N, window, "valid"), np.convolve(value_N, window, "valid")
