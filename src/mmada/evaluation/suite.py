"""The suite `nano`: every measure over several seeds, against the floors of a first release, kept with all settings."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from mmada.errors import InputError, unknown_name
from mmada.io.atomic import write_text
from mmada.io.contact_sheet import Row, Tile, contact_sheet
from mmada.io.images import save_image
from mmada.nano.measures import MEASURES
from mmada.pipeline import MMaDA

__all__ = ["FLOORS", "SUITES", "run_suite"]

SUITES = ("nano",)
# Floors of a first release; the aim is 0.99 wherever the detector itself reaches 1.
FLOORS = {
    "psnr scenes": 32.0,
    "psnr digits": 25.0,
    "questions": 0.95,
    "questions: exist": 0.99,
    "geneval": 0.90,
    "held-out pairs": 0.75,
    "digits drawn": 0.90,
    "digits asked": 0.90,
    "knowledge to picture": 0.80,
    "arithmetic: answer": 0.70,
    "arithmetic: every step": 0.65,
    "inpainting": 0.85,
}


def run_suite(
    suite: str, model: MMaDA, *, seeds: int = 3, limit: int | None = None, samples: Path | None = None, out: Path
) -> list[dict[str, object]]:
    """Measure ``model`` with seeds 0 .. ``seeds`` - 1 and write ``out`` (JSON: rows, settings, versions).

    ``limit`` caps the examples a measure and seed; ``samples`` is a folder for contact sheets of the first seed. Each row has
    ``name``, ``value`` (mean over seeds), ``low`` and ``high`` (over seeds), ``floor`` (None where there is none), ``met``
    and ``n`` (examples in all). Raises InputError for an unknown suite or where scikit-learn is missing.
    """
    if suite not in SUITES:
        raise unknown_name("suite", suite, SUITES)
    if seeds < 1:
        raise InputError(f"seeds must be at least 1, got {seeds}")
    try:
        import sklearn  # noqa: F401 - digits and detector need it; say so before an hour of work
    except ImportError as error:
        raise InputError("the suite nano needs scikit-learn; install it with pip install 'mmada[nano]'") from error
    began = time.time()
    by_name: dict[str, list[list[float]]] = {}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("evaluating", total=seeds * len(MEASURES))
        for seed in range(seeds):
            for index, (name, (measure, examples)) in enumerate(MEASURES.items()):
                progress.update(task, description=f"seed {seed}: {name}")
                rng = np.random.default_rng((seed, index, 2**20))
                measured = measure(model, rng, min(examples, limit or examples))
                for key, values in measured.hits.items():
                    by_name.setdefault(key, []).append(values)
                if samples is not None and seed == 0 and measured.tiles:
                    save_sheet(samples, name, measured.tiles)
                progress.advance(task)
    rows = [summary(name, runs) for name, runs in by_name.items()]
    settings = {
        "suite": suite,
        "seeds": seeds,
        "limit": limit,
        "model": model.info(),
        "preset": asdict(model.engine.parts.preset),
    }
    write_results(out, {"rows": rows, "settings": settings, "machine": machine(), "seconds": round(time.time() - began, 1)})
    return rows


def summary(name: str, runs: list[list[float]]) -> dict[str, object]:
    """One row: mean over seeds with the lowest and highest seed."""
    means = [float(np.mean(values)) for values in runs]
    value, floor = float(np.mean(means)), FLOORS.get(name)
    return {
        "name": name,
        "value": round(value, 4),
        "low": round(min(means), 4),
        "high": round(max(means), 4),
        "floor": floor,
        "met": None if floor is None else value >= floor,
        "n": sum(len(values) for values in runs),
    }


def machine() -> dict[str, object]:
    """Where and with what it ran."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "packages": dict(versions(("mmada", "torch", "transformers", "numpy", "scikit-learn"))),
    }


def versions(names: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Installed versions; a package run from its source folder has none."""
    for name in names:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            yield name, "not installed"


def save_sheet(folder: Path, name: str, tiles: list[Tile]) -> None:
    """A contact sheet of judged pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    save_image(contact_sheet([Row(name, tiles)], columns=8, side=128), folder / f"{name.replace(' ', '_')}.png")


def write_results(path: Path, results: dict[str, object]) -> None:
    """Write beside, then rename."""
    write_text(path, json.dumps(results, indent=2, default=str) + "\n")
