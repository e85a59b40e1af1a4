"""Evaluation suites: every measure of a suite over several seeds, with the spread, stored with all settings as it goes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from mmada.errors import check_choice, check_whole
from mmada.evaluation.measure import Split, Suite
from mmada.evaluation.results import machine, write_results
from mmada.io.contact_sheet import Row, Tile, contact_sheet
from mmada.io.images import save_image
from mmada.pipeline import MMaDA
from mmada.registry import SUITES

__all__ = ["run_suite"]

STREAM = 2**20
"""Keeps the examples of a measure apart from those of other uses of (seed, index)."""


def run_suite(
    suite: str,
    model: MMaDA,
    *,
    seeds: int = 3,
    limit: int | None = None,
    split: Split = "test",
    samples: Path | None = None,
    out: Path,
) -> list[dict[str, object]]:
    """Measure ``model`` with seeds 0 .. ``seeds`` - 1 and write ``out`` (JSON: rows, settings, versions).

    ``limit`` caps the examples of a measure and seed; ``samples`` is a folder for contact sheets of the first seed. ``split``:
    "validation" for choices, "test" for figures. Each row has ``name``, ``value`` (mean over seeds), ``low`` and ``high`` (over
    seeds), ``threshold`` (None if there is none), ``met`` and ``n`` (examples in all). ``out`` is written after every measure
    with the rows so far and ``complete`` false, so a run that is killed keeps what it has. Raises InputError for an unknown suite
    or where something that it needs is missing.
    """
    check_whole("seeds", seeds, 1)
    check_choice("split", split, ("train", "validation", "test"))
    chosen: Suite = SUITES.find(suite)
    chosen.check()
    began = time.time()
    runs: dict[str, list[list[float]]] = {}
    settings = {
        "suite": suite,
        "split": split,
        "seeds": seeds,
        "limit": limit,
        "model": model.info(),
        "preset": asdict(model.engine.parts.preset),
    }

    def write(*, complete: bool) -> list[dict[str, object]]:
        rows = [summary(name, of_seeds, chosen.thresholds) for name, of_seeds in runs.items()]
        seconds = round(time.time() - began, 1)
        write_results(out, {"rows": rows, "settings": settings, "machine": machine(), "seconds": seconds, "complete": complete})
        return rows

    console = Console(stderr=True)  # elsewhere than on a terminal even a transient bar prints an empty line
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("evaluating", total=seeds * len(chosen.measures))
        for seed in range(seeds):
            for index, (name, (measure, examples)) in enumerate(chosen.measures.items()):
                progress.update(task, description=f"seed {seed}: {name}")
                rng = np.random.default_rng((seed, index, STREAM))
                measured = measure(model, rng, min(examples, limit or examples), split)
                for key, values in measured.hits.items():
                    runs.setdefault(key, []).append(values)
                if samples is not None and seed == 0 and measured.tiles:
                    save_sheet(samples, name, measured.tiles)
                write(complete=False)
                progress.advance(task)
    return write(complete=True)


def summary(name: str, runs: list[list[float]], thresholds: Mapping[str, float]) -> dict[str, object]:
    """One row: mean over seeds with the lowest and highest seed."""
    means = [float(np.mean(values)) for values in runs]
    value, threshold = float(np.mean(means)), thresholds.get(name)
    return {
        "name": name,
        "value": round(value, 4),
        "low": round(min(means), 4),
        "high": round(max(means), 4),
        "threshold": threshold,
        "met": None if threshold is None else value >= threshold,
        "n": sum(len(values) for values in runs),
    }


def save_sheet(folder: Path, name: str, tiles: list[Tile]) -> None:
    """Save a contact sheet of judged pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    save_image(contact_sheet([Row(name, tiles)], columns=8, side=128), folder / f"{name.replace(' ', '_')}.png")
