"""Tasks of the nano world: worded arithmetic, questions about scenes, and drawing. Each has a judge that is exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from mmada.canvas import Modality
from mmada.errors import InputError
from mmada.nano.world.arithmetic import Problem, check_steps, problem
from mmada.nano.world.captions import Drawable, drawable
from mmada.nano.world.geneval import CATEGORIES, GenPrompt, grade, of_split, prompts
from mmada.nano.world.questions import KINDS, Question, ask_about, check_reasoning, shared_statements
from mmada.nano.world.render import AUGMENTED, render
from mmada.nano.world.scenes import sample_scene
from mmada.tasks.task import Completion, Prompt, Score
from mmada.tokenizers.prompt import split_thinking

__all__ = ["PROMPTS", "Arithmetic", "Drawing", "SceneQuestions"]

Random = np.random.Generator


def reasoning_share(text: str, target: Problem | Question, right: bool) -> float:
    """Share of the right reasoning that a text holds, 0 to 1; 1 only if ``right``, every step of it is right."""
    return 1.0 if right else min(0.99, shared_statements(text, target.reasoning))


@dataclass(frozen=True)
class Arithmetic:
    """Worded arithmetic. The target is a `Problem`; the answer and each step of the reasoning are checked."""

    name: ClassVar[str] = "nano_math"
    inputs: ClassVar[frozenset[Modality]] = frozenset({"text"})
    output: ClassVar[Modality] = "text"
    scores: ClassVar[frozenset[str]] = frozenset({"correct", "reasoning"})

    def prompt(self, example: Problem) -> Prompt:
        """The prompt of a problem."""
        return Prompt(example.text, self, target=example)

    def score(self, completion: Completion) -> Score:
        """Right answer, and share of the reasoning that is right."""
        target: Problem = completion.prompt.target
        thinking = split_thinking(completion.raw_text)[1]
        share = reasoning_share(thinking, target, check_steps(thinking, target))
        return Score(float(target.verify(completion.answer)), {"reasoning": share})


@dataclass(frozen=True)
class SceneQuestions:
    """Questions about scenes. The target is a `Question`; the answer and the reasoning are checked."""

    name: ClassVar[str] = "nano_vision"
    inputs: ClassVar[frozenset[Modality]] = frozenset({"text", "image"})
    output: ClassVar[Modality] = "text"
    scores: ClassVar[frozenset[str]] = frozenset({"correct", "reasoning"})

    def prompt(self, example: tuple[Question, Image.Image]) -> Prompt:
        """The prompt of a question and its picture."""
        question, picture = example
        return Prompt(question.text, self, target=question, images=(picture,))

    def score(self, completion: Completion) -> Score:
        """Right answer, and share of the reasoning that is right."""
        target: Question = completion.prompt.target
        thinking = split_thinking(completion.raw_text)[1]
        share = reasoning_share(thinking, target, check_reasoning(thinking, target))
        return Score(float(target.verify(completion.answer)), {"reasoning": share})


@dataclass(frozen=True)
class Drawing:
    """Captions to draw, those of nano GenEval among them. The target says what the detector must find in the picture."""

    name: ClassVar[str] = "nano_image"
    inputs: ClassVar[frozenset[Modality]] = frozenset({"text"})
    output: ClassVar[Modality] = "image"
    scores: ClassVar[frozenset[str]] = frozenset({"correct", "detector"})

    def prompt(self, example: Drawable | GenPrompt) -> Prompt:
        """The prompt of a caption."""
        return Prompt(example.text, self, target=example)

    def score(self, completion: Completion) -> Score:
        """Whether the picture shows exactly what it should, and the share of it that it shows.

        Raises InputError for a completion without a picture.
        """
        if completion.image is None:
            raise InputError(f"completion of {completion.prompt.text!r} has no picture; give what was drawn")
        share = grade(completion.prompt.target, np.asarray(completion.image.convert("RGB")))
        return Score(float(share == 1), {"detector": share})


MATH, VISION, IMAGE = Arithmetic(), SceneQuestions(), Drawing()


def math(rng: Random) -> Prompt:
    """A problem of the training split; long ones more often, as models soon get all short ones right."""
    return MATH.prompt(problem(rng, steps=int(rng.choice((1, 2, 3), p=(0.1, 0.25, 0.65)))))


def vision(rng: Random) -> Prompt:
    """A question about a scene of the training split; kinds that compare objects more often."""
    scene = sample_scene(rng)
    hard = np.array([3.0 if kind in ("relation", "compare", "sum") else 1.0 for kind in KINDS])
    question = ask_about(scene, rng, str(rng.choice(list(KINDS), p=hard / hard.sum())))
    return VISION.prompt((question, Image.fromarray(render(scene, rng, AUGMENTED))))


def image(rng: Random) -> Prompt:
    """A caption of the training split: as in training, and three times as often one of the six categories of GenEval.

    Half of the latter name a single object without a colour: its parts may be drawn in several colours, and hardly anything else
    goes wrong. Nothing that GenEval's test asks for is among them (two objects in this order), whatever the wording.
    """
    category = CATEGORIES[0] if rng.random() < 0.4 else str(rng.choice(CATEGORIES))
    if rng.random() >= 0.25:
        return IMAGE.prompt(prompts(category, rng, 1, split="train")[0])
    while True:
        caption = drawable(rng)
        if len(caption.meaning.groups) > 2 or of_split(caption.meaning, "train"):
            return IMAGE.prompt(caption)


PROMPTS: dict[str, Callable[[Random], Prompt]] = {"math": math, "vision": vision, "image": image}
"""Prompts of policy optimisation, by the name after ``nano:``."""
