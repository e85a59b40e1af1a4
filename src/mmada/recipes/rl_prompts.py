"""Prompts of policy optimisation: of the nano world, or from files.

    math: gsm8k:train.jsonl         a public set, from a file in its own layout, as `mmada collect` reads it
    vision: folder:runs/reason      what `mmada collect` kept
    image: captions:wanted.txt      a caption a line, for rewards that judge a picture by its words

A task is a function of a random generator that gives a prompt; what has been read is asked in random order, with replacement.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from mmada.data.public_sets import MATHEMATICS
from mmada.data.reasoning import Reasoned
from mmada.errors import InputError, check_choice
from mmada.pipeline import MMaDA
from mmada.recipes.collect_sources import Candidate, Own, Source, picture, source_of, unusable
from mmada.rewards import UNFIT, Caption, Prompt
from mmada.rewards.math_verify import Formulas
from mmada.rl.rollout import ASK
from mmada.tasks.mathematics import Known, need_math_verify
from mmada.tokenizers.prompt import Message

__all__ = ["Ask", "Prompts", "check_prompts", "check_use", "fitting_rewards"]

Ask = Callable[[np.random.Generator], Prompt]


def check_use(prompts: Mapping[str, str], tasks: Mapping[str, int], rewards: Mapping[str, Mapping[str, float]]) -> None:
    """Raises InputError for prompts that no task asks, and for rewards that cannot judge what they would be given."""
    for task in (task for task, count in tasks.items() if count):
        if useless := UNFIT[task] & set(rewards[task]):
            mend = "detector or clip" if task == "image" else "correctness or format"
            raise InputError(f"rewards of {task} have {min(useless)!r}, which can judge nothing of it; take {mend}")
    for task in prompts:
        if not tasks.get(task):
            raise InputError(f"prompts are given for {task}, of which tasks has none; give tasks some, or leave them out")
        if {name for name, weight in rewards[task].items() if weight} == {"reasoning"}:
            raise InputError(f"rewards of {task} have 'reasoning', which knows that of the nano world alone; take correctness")
    if "image" in prompts and (unfit := {"correctness", "detector"} & set(rewards.get("image", {}))):
        raise InputError(f"rewards of image have {min(unfit)!r}, which cannot judge captions of a file; take clip")


def fitting_rewards(rewards: Mapping[str, Mapping[str, float]], prompts: Mapping[str, str]) -> dict[str, Mapping[str, float]]:
    """Task -> its rewards, without ``reasoning`` where ``prompts`` are of a file: the right reasoning is not known there."""
    return {
        task: {name: weight for name, weight in terms.items() if name != "reasoning" or task not in prompts}
        for task, terms in rewards.items()
    }


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
    """Prompts by task. ``read``: task -> what its file holds; tasks without one ask of the nano world."""

    read: Mapping[str, Sequence[Reasoned]] = field(default_factory=dict)

    @classmethod
    def of(cls, sources: Mapping[str, str], images: Sequence[Path] = ()) -> Prompts:
        """Read ``sources``, task -> where from, before any model is; ``images``: folders that a public set's pictures are looked
        for in, beside its own. Raises InputError where a source is missing or damaged, or holds nothing to ask.
        """
        return cls({t: captions(source) if t == "image" else questions(t, source, images) for t, source in sources.items()})

    def asking(self, task: str, model: MMaDA, length: int | None) -> Ask:
        """Prompts of a task that fit ``model`` with ``length`` tokens to answer in (None: the preset's).

        Raises InputError where none does.
        """
        if task not in self.read:
            return ASK[task]
        made, longest = self.read[task], model.engine.parts.max_length
        room = model.preset.reasoning.numbers[0] if length is None else length
        fitting = [one for one in made if fits(one, model, room)]
        if not fitting:
            raise InputError(
                f"prompts of {task} hold none that fits: of the model's {longest} places {room} are for the answer; give shorter "
                "prompts, or a smaller sampler.length"
            )
        if lost := len(made) - len(fitting):
            logging.getLogger(__name__).warning("prompts of %s: %d of %d are too long and left out", task, lost, len(made))
        return partial(one_of, fitting)


def questions(task: str, source: str, images: Sequence[Path]) -> list[Reasoned]:
    """What can be asked of a set, and a warning that says what cannot."""
    formulas, found, wrong = Formulas(), list[Reasoned](), Counter[str]()
    try:
        for candidate in source_of(source, images=tuple(images), seed=0, formulas=formulas, own=no_model):
            if fault := unaskable(candidate, task):
                wrong[fault] += 1
            else:
                found.append(replace(candidate.example, thinking=""))
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"prompts of {task} from {source!r} cannot be read ({error}); check the path") from error
    said = ", ".join(f"{fault} ({number})" for fault, number in wrong.most_common(3))
    if not found:
        raise InputError(f"prompts of {task} from {source!r} hold nothing to ask ({said or 'empty'}); give another source")
    if wrong:
        rows = wrong.total() + len(found)
        logging.getLogger(__name__).warning("%s: %d of %d rows not asked: %s", source, wrong.total(), rows, said)
    if any(formula(example) for example in found):
        need_math_verify()
    return found


def unaskable(candidate: Candidate, task: str) -> str:
    """Why an example is no prompt of a task; empty if it is one."""
    example = candidate.example
    if fault := unusable(candidate):
        return fault
    if example.task != task:
        return f"it is of {example.task}"
    if candidate.alone or not example.gold:
        return "there is no gold answer"
    if task == "math" and example.picture is not None:
        return "it has a picture"
    try:
        json.dumps(example.texts(), ensure_ascii=False).encode()
    except ValueError:
        return "its text is broken"
    missing = isinstance(example.picture, str | Path) and not Path(example.picture).is_file()
    return "its picture is not found" if missing else ""


def formula(example: Reasoned) -> bool:
    """Whether its answer is mathematics."""
    return example.source.rpartition(":")[2] in MATHEMATICS


def no_model(prompts: Source, count: int) -> Own:
    """Own answers are no prompts; `check_prompts` refuses them first."""
    raise InputError("prompts cannot be a model's own answers; name the set that they answer")


def captions(source: str) -> list[Reasoned]:
    """The lines of a text file."""
    path = Path(source.partition(":")[2])
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"prompts of image: '{path}' cannot be read ({error}); give a text, one caption a line") from error
    found = [Reasoned(source=source, task="image", prompt=line.strip()) for line in lines if line.strip()]
    if not found:
        raise InputError(f"prompts of image: file '{path}' holds no caption; give one a line")
    return found


def one_of(pool: Sequence[Reasoned], rng: np.random.Generator) -> Prompt:
    """One of them, its picture read now; where that fails, which a warning says, another one.

    Raises InputError where ten pictures in a row cannot be read.
    """
    for attempt in range(10):
        example = pool[int(rng.integers(len(pool)))]
        if example.task == "image":
            return Prompt(example.prompt, Caption(example.prompt))
        try:
            return Prompt(example.prompt, Known(example.gold, formula(example)), picture(example))
        except InputError as error:
            if attempt == 9:
                raise
            logging.getLogger(__name__).warning("%s; another prompt is asked", error)
    raise AssertionError("not reached")


def fits(example: Reasoned, model: MMaDA, room: int) -> bool:
    """Whether a prompt and its answer are within the model's length."""
    engine = model.engine
    codes = engine.grid**2 if example.task != "math" else 0
    if example.task == "image":
        canvas = engine.prompter.draw(example.prompt, codes=[-1] * codes)
    else:
        shown = [[0] * codes] if codes else []
        canvas = engine.prompter.chat([Message("user", example.prompt)], images=shown, thinking=True, answer_length=room)
    return canvas.length <= engine.parts.max_length
