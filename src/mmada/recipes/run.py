"""Execution of a recipe: settings, start, and the records in a run folder.

Everything that can be checked is checked before any work is done, and a rejected run leaves no files behind.
"""

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
from mmada.io.lock import folder_lock
from mmada.pipeline.loading import find_folder
from mmada.recipes.init_from import BEGUN_FROM, begun_from, check_begun_from, remembered
from mmada.recipes.overrides import dumped, override
from mmada.registry import RECIPES

__all__ = ["Recipe", "run"]


class Recipe(Protocol):
    """The settings of a run, and the run itself."""

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

    ``out`` defaults to ``runs/NAME``; ``start_from`` (a bundled model, a folder, a hub id) to the model of the recipe it follows,
    in the folder next to ``out``, or with ``resume`` to the one that the run began from. Settings go to ``out/recipe.yaml``.
    Raises InputError for an unknown name, setting or start, and for a folder that holds another run.
    """
    recipe: Recipe = override(RECIPES.find(name)(), overrides or {})
    out = Path("runs") / name if out is None else out
    check_folder("out", out)
    check_run_folder(name, out, resume=resume)
    start = start_of(recipe, out, start_from, resume=resume)
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    if start is not None and not startable(start):
        needed, first = "an image tokenizer", ""
        if resume and remembered(out).get("start") == str(start):
            raise InputError(f"start {start} of the run in {out} is gone; give --start-from with where it is now")
        if (start / "adapter_config.json").is_file():
            raise InputError(f"--start-from {start} holds adapters; give the whole model that they were trained from")
        if recipe.follows:
            needed, first = f"the model of {recipe.follows}", f"run `mmada train {recipe.follows}` first or "
        raise InputError(f"recipe {name} starts from {needed}, not found at {start}; {first}give another --start-from")
    if resume and start is not None:
        check_begun_from(out, start)
    make_folder("out", out)
    with folder_lock(out):  # fail now if another process trains here, not after the data is prepared
        pass
    before, logs = progress(out), [file for name in ("log.jsonl", "groups.jsonl") if not (file := out / name).exists()]
    undo = [write_settings(recipe, out / "recipe.yaml", resume=resume)]
    if start is not None:
        undo.append(write_start(start, out / BEGUN_FROM))
    try:
        return recipe.run(out=out, resume=resume, start=start)
    except InputError:
        if progress(out) == before:  # no step was taken
            for restore in undo:
                restore()
            for file in logs:
                file.unlink(missing_ok=True)
        for folder in made:  # from the inside out
            if not os.listdir(folder):
                folder.rmdir()
        raise


def start_of(recipe: Recipe, out: Path, start_from: str | Path | None, *, resume: bool) -> Path | None:
    """The folder that a run starts from; None if it needs none.

    A name is looked up, a path is used as it is; a resumed run keeps its start.
    """
    if start_from is None:
        if resume and recipe.follows and (before := remembered(out)):
            return Path(before["start"])
        return out.parent / recipe.follows / "model" if recipe.follows else None
    return start_from if isinstance(start_from, Path) else find_folder(start_from, "start_from")


def check_run_folder(name: str, out: Path, *, resume: bool) -> None:
    """Raise InputError if ``out`` holds a run that would be overwritten, none to resume, or one of another recipe."""
    if not resume and (out / "checkpoint.safetensors").exists():
        raise InputError(f"out folder {out} already holds a run; add --resume to continue it or choose another --out")
    if resume and not (out / "log.jsonl").exists() and not progress(out):
        raise InputError(f"out folder {out} holds no run to resume; leave out --resume to start one")
    path = out / "recipe.yaml"
    if not path.exists() or not (resume or progress(out)):
        return
    try:
        before = yaml.safe_load(path.read_text())["name"]
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"settings '{path}' is damaged; remove that file to continue with those given") from error
    if before != name:
        raise InputError(
            f"the run in {path.parent} is of recipe {before!r}, not {name!r}; resume that one or choose another --out"
        )


PER_CALL = {"only"}
"""Settings that may differ between calls of one run, such as the arms of a study to run now."""


def nothing() -> None:
    """No-op undo."""


def write_settings(recipe: Recipe, path: Path, *, resume: bool) -> Callable[[], object]:
    """Write ``recipe.yaml``; returns a function that undoes it.

    Earlier settings are renamed to ``recipe_1.yaml``, ``recipe_2.yaml``, ..., and a resumed run warns which of them differ.
    """
    text = dumped(recipe)
    if not path.exists():
        write_text(path, text)
        return path.unlink
    before = path.read_text()
    if before == text:
        return nothing
    changed = sorted({*differing(yaml.safe_load(before), yaml.safe_load(text))} - PER_CALL) if resume else []
    if changed:
        logging.getLogger(__name__).warning("the resumed run has other settings than before: %s", ", ".join(changed))
    backup = next(file for n in count(1) if not (file := path.with_name(f"recipe_{n}.yaml")).exists())
    shutil.copyfile(path, backup)
    write_text(path, text)
    return lambda: os.replace(backup, path)


def differing(before: object, now: object, above: str = "") -> Iterator[str]:
    """Dotted names of the settings that differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in {*before, *now}:
            yield from differing(before.get(name), now.get(name), f"{above}.{name}" if above else str(name))
    elif before != now:
        yield above


def progress(out: Path) -> dict[Path, int]:
    """Sizes of the logs and results in a folder: they tell a run that has taken a step from one that was rejected."""
    sizes: dict[Path, int] = {}
    for file in out.rglob("*.json*"):
        with suppress(FileNotFoundError):  # another process may be writing another arm
            if file.name != BEGUN_FROM and ".part" not in file.parent.suffixes and (size := file.stat().st_size):
                sizes[file] = size
    return sizes


def write_start(start: Path, path: Path) -> Callable[[], object]:
    """Write the record of the start of a run; returns a function that undoes it."""
    before = path.read_bytes() if path.exists() else None
    write_results(path, begun_from(start))
    return path.unlink if before is None else lambda: path.write_bytes(before)


def startable(folder: Path) -> bool:
    """Whether a folder holds an image tokenizer or a model."""
    return any((folder / name).is_file() for name in ("image_tokenizer/config.json", "config.json"))
