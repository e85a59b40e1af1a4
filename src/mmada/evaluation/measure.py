"""Measures: functions that run a model on examples of a split and return scores, and measures made from a task and its data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image

from mmada.errors import InputError
from mmada.io.contact_sheet import Tile
from mmada.pipeline import MMaDA
from mmada.tasks.task import Completion, Prompt, Score, Task

__all__ = ["Measure", "Measured", "Split", "Suite", "TaskMeasure"]

Random = np.random.Generator
Split = Literal["train", "validation", "test"]
BATCH = 32
"""Prompts of a call; more only takes more memory."""
MAX_TILES = 40


@dataclass
class Measured:
    """``hits``: scores by name, one a judged example. ``tiles``: judged pictures for the contact sheet."""

    hits: dict[str, list[float]] = field(default_factory=dict)
    tiles: list[Tile] = field(default_factory=list)

    def add(self, name: str, value: float) -> None:
        """Add the score of one example."""
        self.hits.setdefault(name, []).append(float(value))

    def show(self, picture: Image.Image, caption: str, right: bool | None = None) -> None:
        """Add a picture to the contact sheet."""
        if len(self.tiles) < MAX_TILES:
            self.tiles.append(Tile(picture, caption, "" if right is None else "right" if right else "wrong", right))


class Measure(Protocol):
    """Runs a model on ``count`` examples of a split, drawn from ``rng``.

    Choices (settings, checkpoints, methods) are made on "validation", figures are reported on "test".
    """

    def __call__(self, model: MMaDA, rng: Random, count: int, split: Split = "test", /) -> Measured: ...


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A set of measures; its name is the one it is registered by.

    ``measures``: name -> (measure, examples for each seed). ``thresholds``: score that a model should reach, by name.
    ``check``: raises InputError where something that the measures need is missing, before any work is done.
    """

    measures: Mapping[str, tuple[Measure, int]]
    thresholds: Mapping[str, float] = field(default_factory=dict)
    check: Callable[[], None] = lambda: None


@dataclass(frozen=True, kw_only=True)
class TaskMeasure:
    """The measure of any task: prompts from examples, completions by the model, scores by the task.

    ``examples(rng, count, split)``: examples of the task's data, such as a sample of a data set's split. ``thinking``: whether
    the model reasons first (None: its default).
    """

    task: Task
    examples: Callable[[Random, int, Split], Sequence[Any]]
    thinking: bool | None = None

    def __call__(self, model: MMaDA, rng: Random, count: int, split: Split = "test", /) -> Measured:
        """Scores "NAME: correct" and "NAME: PART", where NAME is the task's."""
        result = Measured()
        prompts = [self.task.prompt(example) for example in self.examples(rng, count, split)]
        if not prompts:
            raise InputError(f"task {self.task.name} has no examples of the split {split}; give it some")
        seed = int(rng.integers(2**31))
        for start in range(0, len(prompts), BATCH):
            for completion in complete(model, prompts[start : start + BATCH], self.task, self.thinking, seed + start):
                self.add(result, completion, self.task.score(completion))
        return result

    def add(self, result: Measured, completion: Completion, score: Score) -> None:
        """Add the scores of a completion; those that cannot be judged (NaN) are counted apart."""
        for name, value in {"correct": score.correct, **score.parts}.items():
            if np.isnan(value):
                result.add(f"{self.task.name}: {name} not judged", 1.0)
            else:
                result.add(f"{self.task.name}: {name}", value)
        prompt = completion.prompt
        pictures = [completion.image] if completion.image is not None else list(prompt.images)
        caption = prompt.text if completion.image is not None else f"{prompt.text} {completion.answer}"
        right = None if np.isnan(score.correct) else score.correct >= 1
        for picture in pictures:
            result.show(picture, caption, right)


def complete(model: MMaDA, prompts: Sequence[Prompt], task: Task, thinking: bool | None, seed: int) -> list[Completion]:
    """The model's completions of prompts of one task."""
    texts = [prompt.text for prompt in prompts]
    if task.output == "image":
        pictures = model.draw(texts, seed=seed, thinking=bool(thinking))
        return [
            Completion(prompt, raw_text=str(picture.info.get("thinking", "")), image=picture)
            for prompt, picture in zip(prompts, pictures, strict=True)
        ]
    if "image" in task.inputs:
        images = [prompt.images[0] for prompt in prompts]
        results = model.ask(list(images), texts, thinking=thinking)
    else:
        results = model.generate(texts, thinking=thinking)
    return [
        Completion(prompt, raw_text=result.raw_text, answer=result.text) for prompt, result in zip(prompts, results, strict=True)
    ]
