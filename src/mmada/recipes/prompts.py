"""Prompts of policy optimisation: of the nano world, or from files.

    math: gsm8k:train.jsonl         a public set, from a file in its own layout, as `mmada reason` reads it
    vision: folder:runs/reason      what `mmada reason` kept
    image: captions:wanted.txt      a caption a line, for rewards that judge a picture by its words

A task is a function of a random generator that gives a prompt; what has been read is asked in random order, with replacement.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from mmada.data.public_sets import MATHEMATICS
from mmada.data.reasoning import Reasoned
from mmada.errors import InputError, check_choice
from mmada.pipeline import MMaDA
from mmada.recipes.reasoning_sources import Formulas, Own, Source, picture, source_of, truth, unusable
from mmada.tasks.mathematics import Known
from mmada.tokenizers.prompt import Message
from mmada.training.rewards import Asked, Caption
from mmada.training.rollouts import ASK

__all__ = ["Ask", "Prompts", "check_prompts", "check_rewards"]

Ask = Callable[[np.random.Generator], Asked]


def check_rewards(prompts: Mapping[str, str], rewards: Mapping[str, Mapping[str, float]]) -> None:
    """Raises InputError for rewards that cannot judge what is read from a file."""
    if "image" in prompts and (unfit := {"correctness", "detector"} & set(rewards.get("image", {}))):
        raise InputError(f"rewards of image have {min(unfit)!r}, which cannot judge captions of a file; take clip")


def check_prompts(prompts: Mapping[str, str]) -> None:
    """Raises InputError for prompts of an unknown task, or from where they cannot come."""
    for task, source in prompts.items():
        check_choice("prompts", task, ASK)
        kind = source.partition(":")[0]
        if (kind == "captions") != (task == "image"):
            wanted = "captions:FILE" if task == "image" else "a public set such as gsm8k:FILE, or folder:FOLDER"
            raise InputError(f"prompts of {task} cannot come from {source!r}; give {wanted}")
        if kind in ("nano", "own"):
            raise InputError(f"prompts of {task} cannot come from {source!r}; leave them out for the nano world's own")


@dataclass(frozen=True)
class Prompts:
    """Prompts by task. ``sources``: task -> where they are read from; the nano world for tasks without one. ``images``: folders
    that a public set's pictures are looked for in, beside its own."""

    sources: Mapping[str, str] = field(default_factory=dict)
    images: tuple[Path, ...] = ()

    def asking(self, task: str, model: MMaDA, length: int | None) -> Ask:
        """Prompts of a task that fit ``model`` with ``length`` tokens to answer in (None: the preset's).

        Raises InputError where the source is missing or damaged, or holds nothing to ask.
        """
        if task not in self.sources:
            return ASK[task]
        source = self.sources[task]
        made = captions(source) if task == "image" else self.questions(task, source)
        room = model.preset.reasoning.length if length is None else length
        fitting = [one for one in made if fits(one, model, room)]
        if not fitting:
            raise InputError(f"prompts of {task} from {source!r} hold none that fits the model; give shorter ones")
        if len(fitting) < len(made):
            lost = len(made) - len(fitting)
            logging.getLogger(__name__).warning("%s: %d of %d prompts are too long and left out", source, lost, len(made))
        return partial(one_of, fitting)

    def questions(self, task: str, source: str) -> list[Reasoned]:
        """What can be asked of a set, and a warning that says what cannot."""
        formulas = Formulas()
        try:
            candidates = list(source_of(source, images=self.images, seed=0, formulas=formulas, own=no_model))
        finally:
            formulas.close()
        wrong: Counter[str] = Counter()
        found = []
        for candidate in candidates:
            other = "" if candidate.example.task == task else f"it is of {candidate.example.task}"
            if fault := unusable(candidate) or other:
                wrong[fault] += 1
            else:
                found.append(candidate.example)
        said = ", ".join(f"{fault} ({number})" for fault, number in wrong.most_common(3))
        if not found:
            raise InputError(f"prompts of {task} from {source!r} hold nothing to ask ({said or 'empty'}); give another source")
        if wrong:
            logging.getLogger(__name__).warning("%s: %d of %d rows not asked: %s", source, wrong.total(), len(candidates), said)
        return found


def no_model(prompts: Source, count: int) -> Own:
    """Own answers are no prompts; `check_prompts` refuses them first."""
    raise InputError("prompts cannot be a model's own answers; name the set that they answer")


def captions(source: str) -> list[Reasoned]:
    """The lines of a text file."""
    path = Path(source.partition(":")[2])
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"prompts of image: '{path}' cannot be read ({error}); give a text, one caption a line") from error
    found = [Reasoned(source=source, task="image", prompt=line.strip()) for line in lines if line.strip()]
    if not found:
        raise InputError(f"prompts of image: file '{path}' holds no caption; give one a line")
    return found


def one_of(pool: Sequence[Reasoned], rng: np.random.Generator) -> Asked:
    """One of them, its picture read now."""
    example = pool[int(rng.integers(len(pool)))]
    if example.task == "image":
        return Asked(example.prompt, Caption(example.prompt))
    formula = example.source.rpartition(":")[2] in MATHEMATICS
    return Asked(example.prompt, Known(truth(example), formula), picture(example))


def fits(example: Reasoned, model: MMaDA, room: int) -> bool:
    """Whether a prompt and its answer are within the model's length."""
    engine = model.engine
    codes = engine.grid**2 if example.task != "math" else 0
    if example.task == "image":
        canvas = engine.prompter.draw(example.prompt, codes=[None] * codes)
    else:
        shown = [0] * codes if codes else None
        canvas = engine.prompter.chat([Message("user", example.prompt)], codes=shown, thinking=True, answer_length=room)
    return canvas.length <= engine.parts.max_length
