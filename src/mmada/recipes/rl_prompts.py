"""Prompt sources for policy optimisation, by name of the task.

    math: gsm8k:train.jsonl         a public set, from a file in its own layout
    vision: folder:runs/reason      collected examples
    image: captions:captions.txt    one caption per line, for rewards that compare picture and caption
    mine: data:FILE.yaml::NAME      the set NAME, of use prompts, of a YAML file of data sets
    math: KIND:NAME                 a kind of `mmada.registry.SOURCES` that generates prompts

Task names are free. From a folder, a task named "math", "vision" or "image" takes the examples of that kind, and a task of
another name takes all. Prompts are drawn at random with replacement.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from mmada.data import Mixture, load
from mmada.data.dataset import UnusableRow
from mmada.data.mixture import SourceSet
from mmada.data.public_sets import MATHEMATICS, READERS
from mmada.data.reasoning import ReasoningExample
from mmada.errors import InputError, check_choice, unknown_name
from mmada.pipeline import MMaDA
from mmada.recipes.collect_sources import Candidate, SelfGenerated, Source, prompt_of, source_of, unusable
from mmada.registry import SOURCES
from mmada.tasks.mathematics import Mathematics
from mmada.tasks.task import Prompt, Task
from mmada.tasks.text_to_image import TextToImage
from mmada.tasks.vqa import VQA
from mmada.tokenizers.prompt import Message

__all__ = ["DrawPrompt", "PromptPool", "check_prompts", "data_prompts", "read_prompts", "tasks_of"]

DrawPrompt = Callable[[np.random.Generator], Prompt]
KINDS = ("math", "vision", "image")
"""Names of tasks that choose among the examples of a folder."""


class PromptPool(Protocol):
    """A pool of prompts, read from a file or generated."""

    def drawing(self, task: str, model: MMaDA, length: int | None) -> DrawPrompt:
        """A function that draws prompts which fit ``model`` with ``length`` tokens for the answer (None: the preset's).

        Raises InputError if none fits; ``task`` is the name in the recipe, for messages.
        """
        ...


def tasks_of(name: str, source: str) -> tuple[Task, ...]:
    """The tasks that prompts of a source may be of, without reading it. Raises InputError for an unknown source."""
    kind, _, rest = source.partition(":")
    if kind in SOURCES:
        check_choice(f"prompts of {name} '{source}': the name after {kind}:", rest, SOURCES[kind].tasks)
        return (SOURCES[kind].tasks[rest],)
    if kind == "captions":
        return (TextToImage(),)
    if kind == "data":
        made: dict[str, Task] = {"math": Mathematics(), "vision": VQA(), "image": TextToImage()}
        return tuple(made[task] for task in set_of(name, source).tasks)
    if kind == "folder":
        return {"math": (Mathematics(), VQA()), "vision": (VQA(),)}.get(name, (Mathematics(), VQA()))
    if kind == "self":
        raise InputError(f"prompts of {name} cannot be {source!r}, a model's own answers; name the source of the prompts")
    if kind not in READERS:
        raise unknown_name(f"source of the prompts of {name}:", kind, [*READERS, *SOURCES, "folder", "captions", "data"])
    return (Mathematics(),) if kind in MATHEMATICS else (VQA(),)


def check_prompts(prompts: Mapping[str, str], tasks: Mapping[str, int]) -> None:
    """Raise InputError for unknown sources, and for tasks without prompts."""
    for name, source in prompts.items():
        tasks_of(name, source)
    for name, count in tasks.items():
        if count and name not in prompts:
            raise InputError(f"prompts of {name} are missing, and tasks has {count} of it; name a source, such as gsm8k:FILE")


@dataclass(frozen=True)
class GeneratedPrompts:
    """Prompts of a registered kind of source."""

    source: str

    def drawing(self, task: str, model: MMaDA, length: int | None) -> DrawPrompt:
        """As `PromptPool`."""
        kind, _, name = self.source.partition(":")
        return partial(SOURCES[kind].prompt, name)


@dataclass(frozen=True)
class StoredPrompts:
    """Prompts of a file or a folder."""

    examples: Sequence[ReasoningExample]

    def drawing(self, task: str, model: MMaDA, length: int | None) -> DrawPrompt:
        """As `PromptPool`; a warning says how many are too long."""
        room = model.preset.reasoning.numbers[0] if length is None else length
        fitting = [one for one in self.examples if fits(one, model, room)]
        if not fitting:
            raise InputError(
                f"no prompt of {task} fits: {room} of the model's {model.engine.parts.max_length} positions are "
                "reserved for the answer; give shorter prompts, or a smaller sampling.text.length"
            )
        if lost := len(self.examples) - len(fitting):
            logging.getLogger(__name__).warning(
                "prompts of %s: %d of %d are too long and are left out", task, lost, len(self.examples)
            )
        return partial(one_of, fitting)


def read_prompts(prompts: Mapping[str, str], images: Sequence[Path] = ()) -> dict[str, PromptPool]:
    """Read the sources of a recipe, before any model is read.

    ``images``: further folders that are searched for the pictures of public sets. Raises InputError if a source is
    missing or damaged, or holds no prompt.
    """
    return {name: pool_of(name, source, images) for name, source in prompts.items()}


def pool_of(name: str, source: str, images: Sequence[Path]) -> PromptPool:
    """The prompts of one source."""
    kind = source.partition(":")[0]
    if kind in SOURCES:
        return GeneratedPrompts(source)
    if kind == "data":
        return StoredPrompts(prompts_of_set(name, source))
    return StoredPrompts(captions(name, source) if kind == "captions" else questions(name, source, images))


@lru_cache(maxsize=4)
def mixture_of(path: str) -> Mixture:
    """The mixture of a YAML file, listed once."""
    return load(path)


def set_of(name: str, source: str) -> SourceSet:
    """The set of a source such as ``data:FILE.yaml::NAME``. Raises InputError where it is none of prompts."""
    path, _, wanted = source.partition(":")[2].rpartition("::")
    sets = mixture_of(path).sets
    if wanted not in sets:
        raise unknown_name(f"set of {path} for the prompts of {name}:", wanted, sets)
    if sets[wanted].use != "prompts":
        raise InputError(f"set {wanted!r} of {path} is of use {sets[wanted].use}; prompts of {name} need a set of use prompts")
    return sets[wanted]


class PromptSet(NamedTuple):
    """A set of prompts: its source, how many prompts of a batch it has, and the kinds of its tasks."""

    source: str
    prompts: int
    kinds: tuple[str, ...]


def data_prompts(path: str, count: int) -> dict[str, PromptSet]:
    """The sets of prompts of a YAML file; each has part of ``count`` prompts of a batch, by its weight.

    Raises InputError where there is none.
    """
    mixture = mixture_of(path)
    weights = {
        name: mixture.weights[name] for name, one in mixture.sets.items() if one.use == "prompts" and mixture.weights[name]
    }
    if not weights:
        raise InputError(
            f"data {path} has no set of use prompts; write one, as in name: {{use: prompts, files: ..., reader: gsm8k}}"
        )
    whole = sum(weights.values())
    return {
        name: PromptSet(f"data:{path}::{name}", max(1, round(count * weight / whole)), mixture.sets[name].tasks)
        for name, weight in weights.items()
    }


def prompts_of_set(name: str, source: str) -> list[ReasoningExample]:
    """The prompts of the training split of a set, with a warning that says which rows are left out and why."""
    one = set_of(name, source)
    prompts, found = one.prompts("train"), []
    for index in range(len(prompts)):
        try:
            found.append(prompts[index])
        except UnusableRow:  # counted by the set
            continue
    mixture_of(source.partition(":")[2].rpartition("::")[0]).check_rejected()
    said = ", ".join(f"{reason} ({number})" for reason, number in one.tally.reasons.most_common(3))
    if not found:
        raise InputError(f"prompts of {name} from {source!r} hold no usable prompt ({said or 'empty'}); give another source")
    if said:
        logging.getLogger(__name__).warning("%s: %d of %d rows left out: %s", source, one.tally.reasons.total(), one.rows, said)
    return found


def questions(name: str, source: str, images: Sequence[Path]) -> list[ReasoningExample]:
    """The prompts of a set, with a warning that says which rows are left out and why."""
    found, rejected = list[ReasoningExample](), Counter[str]()
    try:
        for candidate in source_of(source, images=tuple(images), seed=0, own=no_model):
            if reason := reject_reason(candidate, name):
                rejected[reason] += 1
            else:
                found.append(replace(candidate.example, thinking=""))
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"prompts of {name} from {source!r} cannot be read ({error}); check the path") from error
    said = ", ".join(f"{reason} ({number})" for reason, number in rejected.most_common(3))
    if not found:
        raise InputError(f"prompts of {name} from {source!r} hold no usable prompt ({said or 'empty'}); give another source")
    if rejected:
        rows = rejected.total() + len(found)
        logging.getLogger(__name__).warning("%s: %d of %d rows left out: %s", source, rejected.total(), rows, said)
    return found


def reject_reason(candidate: Candidate, name: str) -> str:
    """Why an example is not a prompt of a task; empty if it is."""
    example = candidate.example
    if reason := unusable(candidate):
        return reason
    if name in KINDS and example.task != name:
        return f"it is of {example.task}"
    if not candidate.rejudgeable or not example.gold:
        return "there is no gold answer"
    if example.task == "math" and example.picture is not None:
        return "it has a picture"
    try:
        json.dumps(example.texts(), ensure_ascii=False).encode()
    except ValueError:
        return "its text is not valid Unicode"
    missing = isinstance(example.picture, str | Path) and not Path(example.picture).is_file()
    return "its picture is not found" if missing else ""


def no_model(prompts: Source, count: int) -> SelfGenerated:
    """Refuse a model's own answers; `tasks_of` does so first."""
    raise InputError("prompts cannot be a model's own answers; name the source of the prompts")


def captions(name: str, source: str) -> list[ReasoningExample]:
    """The captions in a text file, one per line."""
    path = Path(source.partition(":")[2])
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"prompts of {name}: '{path}' cannot be read ({error}); give a text file, one caption a line") from error
    found = [ReasoningExample(source=source, task="image", prompt=line.strip()) for line in lines if line.strip()]
    if not found:
        raise InputError(f"prompts of {name}: file '{path}' holds no caption; give one a line")
    return found


def one_of(pool: Sequence[ReasoningExample], rng: np.random.Generator) -> Prompt:
    """A random prompt with its picture; if the picture cannot be read, another one is drawn after a warning.

    Raises InputError if ten pictures in a row cannot be read.
    """
    for attempt in range(10):
        example = pool[int(rng.integers(len(pool)))]
        try:
            return prompt_of(example)
        except InputError as error:
            if attempt == 9:
                raise
            logging.getLogger(__name__).warning("%s; another prompt is drawn", error)
    raise AssertionError("not reached")


def fits(example: ReasoningExample, model: MMaDA, room: int) -> bool:
    """Whether a prompt and its answer are within the model's length."""
    engine = model.engine
    codes = engine.grid**2 if example.task != "math" else 0
    if example.task == "image":
        canvas = engine.prompter.draw(example.prompt, codes=[-1] * codes)
    else:
        images = [[0] * codes] if codes else []
        canvas = engine.prompter.chat([Message("user", example.prompt)], images=images, thinking=True, answer_length=room)
    return canvas.length <= engine.parts.max_length
