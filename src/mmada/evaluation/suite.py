"""Evaluation suites: every measure of a suite over several seeds, with the spread, stored with all settings as it goes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from mmada.errors import InputError, check_choice, check_whole, quote
from mmada.evaluation.measure import Split, Suite
from mmada.evaluation.results import machine, write_results
from mmada.io.contact_sheet import Row, Tile, contact_sheet
from mmada.io.documents import read_fields
from mmada.io.images import save_image
from mmada.pipeline import MMaDA
from mmada.registry import SUITES

__all__ = ["run_suite"]

STREAM = 2**20
"""Keeps the examples of a measure apart from those of other uses of (seed, index)."""


def run_suite(
    suite: str | Suite,
    model: MMaDA,
    *,
    seeds: int = 3,
    limit: int | None = None,
    split: Split = "test",
    samples: Path | None = None,
    out: Path,
    resume: bool = False,
    facts: Mapping[str, object] | None = None,
) -> list[dict[str, object]]:
    """Measure ``model`` with seeds 0 .. ``seeds`` - 1 and write ``out`` (JSON: rows, settings, versions).

    ``limit`` caps the examples of a measure and seed; ``samples`` is a folder for contact sheets of the first seed. ``split``:
    "validation" for choices, "test" for figures. Each row has ``name``, ``value`` (mean over seeds), ``low`` and ``high`` (over
    seeds), ``threshold`` (None if there is none), ``met`` and ``n`` (examples in all). ``out`` is written after every measure
    with the rows so far and ``complete`` false, so a run that is killed keeps what it has; with ``resume`` it goes on after the
    last measure in ``out``. ``facts`` are further settings, such as the data measured on. Raises InputError for an unknown suite,
    where something that it needs is missing, and where ``out`` was measured with other settings.
    """
    check_whole("seeds", seeds, 1)
    check_choice("split", split, ("train", "validation", "test"))
    chosen: Suite = SUITES.find(suite) if isinstance(suite, str) else suite
    chosen.check()
    began = time.time()
    settings = {
        "suite": suite if isinstance(suite, str) else "data",
        "split": split,
        "seeds": seeds,
        "limit": limit,
        "model": model.info(),
        "preset": asdict(model.engine.parts.preset),
        **(facts or {}),
    }
    done = earlier(out, settings) if resume else []

    def write(*, complete: bool) -> list[dict[str, object]]:
        rows = rows_of(done, chosen.thresholds)
        seconds = round(time.time() - began, 1)
        found = {"rows": rows, "settings": settings, "machine": machine(), "seconds": seconds, "complete": complete}
        write_results(out, found if complete else {**found, "done": done})
        return rows

    known = {(record["seed"], record["measure"]) for record in done}
    todo = [(s, i, name) for s in range(seeds) for i, name in enumerate(chosen.measures) if (s, name) not in known]
    console = Console(stderr=True)  # elsewhere than on a terminal even a transient bar prints an empty line
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("evaluating", total=len(todo))
        for seed, index, name in todo:
            progress.update(task, description=f"seed {seed}: {name}")
            measure, examples = chosen.measures[name]
            rng = np.random.default_rng((seed, index, STREAM))
            measured = measure(model, rng, min(examples, limit or examples), split)
            done.append({"seed": seed, "measure": name, "hits": measured.hits})
            if samples is not None and seed == 0 and measured.tiles:
                save_sheet(samples, name, measured.tiles)
            write(complete=False)
            progress.advance(task)
    return write(complete=True)


def earlier(out: Path, settings: Mapping[str, object]) -> list[dict[str, Any]]:
    """The measures that an unfinished run wrote: seed, measure and scores. Raises InputError where there is none to resume."""
    if not out.is_file():
        raise InputError(f"results {quote(out)} do not exist, so there is nothing to resume; leave --resume out")
    stored = read_fields(out, "results", "give a file that mmada eval wrote, or leave --resume out")
    now = json.loads(json.dumps(settings, default=str))
    changed = sorted(key for key in now if stored.get("settings", {}).get(key) != now[key])
    if changed:
        raise InputError(f"results {quote(out)} were measured with other settings ({', '.join(changed)}); give another --out")
    if stored.get("complete") is True:
        raise InputError(f"results {quote(out)} are complete; leave --resume out to measure again")
    done = stored.get("done")
    if not isinstance(done, list) or not all(isinstance(one, dict) and {"seed", "measure", "hits"} <= one.keys() for one in done):
        raise InputError(f"results {quote(out)} have no record of their measures; leave --resume out to measure again")
    return done


def rows_of(done: Sequence[Mapping[str, Any]], thresholds: Mapping[str, float]) -> list[dict[str, object]]:
    """A row for each score of the measures that are done."""
    runs: dict[str, list[list[float]]] = {}
    for record in done:
        for key, values in record["hits"].items():
            runs.setdefault(key, []).append(values)
    return [summary(name, of_seeds, thresholds) for name, of_seeds in runs.items()]


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
