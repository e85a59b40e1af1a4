"""Recipes: functions that return a run, each derived from the one before, named by purpose."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Protocol

import yaml

from mmada.errors import InputError, check_folder, make_folder
from mmada.evaluation.results import write_results
from mmada.io.atomic import write_text
from mmada.pipeline.loading import find_folder
from mmada.recipes.init_from import BEGUN_FROM, begun_from, check_begun_from, remembered
from mmada.recipes.overrides import dumped, override
from mmada.registry import RECIPES

__all__ = ["Recipe", "run"]


class Recipe(Protocol):
    """A run: everything it needs but its folder."""

    @property
    def follows(self) -> str:
        """The recipe whose model this one starts from; empty for the first."""
        ...

    def run(self, *, out: Path, resume: bool, start: Path | None) -> Path:
        """Train; returns the model's folder."""
        ...


def run(
    name: str,
    *,
    overrides: Mapping[str, str] | None = None,
    out: Path | None = None,
    resume: bool = False,
    start_from: str | Path | None = None,
) -> Path:
    """Run a recipe; returns the folder of its model.

    ``out`` defaults to ``runs/NAME``; ``start_from`` ("nano", a folder, a hub id) to the model of the recipe it follows, in the
    folder beside ``out``, or with ``resume`` to the one that the run began from. The settings are written to ``out/recipe.yaml``.
    Raises InputError for an unknown name, setting or start.
    """
    recipe: Recipe = override(RECIPES.find(name)(), overrides or {})
    out = Path("runs") / name if out is None else out
    check_folder("out", out)
    if resume:
        check_same_recipe(name, out / "recipe.yaml")
    start = start_of(recipe, out, start_from, resume=resume)
    new = not out.exists()
    if start is not None and not startable(start):
        wanted, first = "an image tokenizer", ""
        if resume and remembered(out).get("start") == str(start):
            raise InputError(f"start {start} of the run in {out} is gone; give --start-from with where it is now")
        if (start / "adapter_config.json").is_file():
            raise InputError(f"--start-from {start} holds adapters; give the whole model that they were trained from")
        if recipe.follows:
            wanted, first = f"the model of {recipe.follows}", f"run `mmada train {recipe.follows}` first or "
        raise InputError(f"recipe {name} starts from {wanted}, not found at {start}; {first}give another --start-from")
    make_folder("out", out)
    refused = not resume and (out / "checkpoint.safetensors").exists()
    if resume and start is not None:
        check_begun_from(out, start)
    before, logs = progress(out), [file for name in ("log.jsonl", "groups.jsonl") if not (file := out / name).exists()]
    undo = [] if refused else [write_settings(recipe, out / "recipe.yaml", resume=resume)]
    if start is not None and not refused:
        undo.append(write_start(start, out / BEGUN_FROM))
    try:
        return recipe.run(out=out, resume=resume, start=start)
    except InputError:
        if progress(out) == before:  # nothing was begun
            for one in undo:
                one()
            for file in logs:
                file.unlink(missing_ok=True)
        if new and not os.listdir(out):
            out.rmdir()
        raise


def start_of(recipe: Recipe, out: Path, start_from: str | Path | None, *, resume: bool) -> Path | None:
    """The folder that a run starts from, None where it has none; a name is looked up, a path is taken as it is, and a run that
    goes on has its own."""
    if start_from is None:
        if resume and recipe.follows and (before := remembered(out)):
            return Path(before["start"])
        return out.parent / recipe.follows / "model" if recipe.follows else None
    return start_from if isinstance(start_from, Path) else find_folder(start_from)


def check_same_recipe(name: str, path: Path) -> None:
    """Raises InputError where a run of another recipe would be gone on with, or its ``recipe.yaml`` is damaged."""
    if not path.exists():
        return
    try:
        before = yaml.safe_load(path.read_text())["name"]
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"'{path}' is damaged, which says what the run is; remove it to go on with what you give") from error
    if before != name:
        raise InputError(f"the run in {path.parent} is one of {before!r}, not of {name!r}; resume that, or choose another --out")


OF_A_CALL = {"only"}
"""Settings that may differ from call to call of one run: which arms of a study are to run now."""


def nothing() -> None:
    """There is nothing to take back."""


def write_settings(recipe: Recipe, path: Path, *, resume: bool) -> Callable[[], object]:
    """``recipe.yaml``; one of other settings, which a run was begun with, is kept as ``recipe_1.yaml``, ``recipe_2.yaml``, ...,
    and where that run goes on a warning says what is other.

    Returns what takes it back.
    """
    text = dumped(recipe)
    if not path.exists():
        write_text(path, text)
        return path.unlink
    before = path.read_text()
    if before == text:
        return nothing
    changed = sorted({*differing(yaml.safe_load(before), yaml.safe_load(text))} - OF_A_CALL) if resume else []
    if changed:
        logging.getLogger(__name__).warning("the run goes on with other settings than so far: %s", ", ".join(changed))
    kept = next(file for n in count(1) if not (file := path.with_name(f"recipe_{n}.yaml")).exists())
    shutil.copyfile(path, kept)
    write_text(path, text)
    return lambda: os.replace(kept, path)


def differing(before: object, now: object, above: str = "") -> Iterator[str]:
    """Dotted names of the settings that are not the same in both."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in {*before, *now}:
            yield from differing(before.get(name), now.get(name), f"{above}.{name}" if above else str(name))
    elif before != now:
        yield above


def progress(out: Path) -> dict[Path, int]:
    """The logs and results of a folder, with their sizes: what tells a run that has gone on from one that was refused."""
    sizes: dict[Path, int] = {}
    for file in out.rglob("*.json*"):
        with suppress(FileNotFoundError):  # of a process that is writing another arm
            if file.name != BEGUN_FROM and ".part" not in file.parent.suffixes and (size := file.stat().st_size):
                sizes[file] = size
    return sizes


def write_start(start: Path, path: Path) -> Callable[[], object]:
    """Note what a run begins from; returns what takes it back."""
    before = path.read_bytes() if path.exists() else None
    write_results(path, begun_from(start))
    return path.unlink if before is None else lambda: path.write_bytes(before)


def startable(folder: Path) -> bool:
    """Whether a folder holds an image tokenizer, or a model that says where its own is."""
    return any((folder / name).is_file() for name in ("image_tokenizer/config.json", "config.json"))
