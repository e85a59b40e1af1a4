"""The nano world as a source of reasoning examples and prompts: ``nano:math``, ``nano:vision``, ``nano:image``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import numpy as np
from PIL import Image

from mmada.data.reasoning import ReasoningExample
from mmada.nano.tasks import IMAGE, MATH, PROMPTS, VISION
from mmada.nano.world.arithmetic import EQUATION, EquationStep, Problem, problem
from mmada.nano.world.captions import Drawable, Group, Meaning, describe, drawable, satisfies
from mmada.nano.world.detector import detect, shows_flag
from mmada.nano.world.flags import flag_picture
from mmada.nano.world.knowledge import KnowledgeItem, knowledge_item
from mmada.nano.world.questions import Question, ask_about, check_reasoning
from mmada.nano.world.render import AUGMENTED, CANONICAL, render
from mmada.nano.world.scenes import Scene, sample_scene
from mmada.recipes.collect_sources import Candidate, Verdict
from mmada.tasks.task import Prompt, Task

__all__ = ["NANO", "NanoSource"]

Random = np.random.Generator


class NanoSource:
    """The training split of the nano world. See `mmada.recipes.collect_sources.SourceKind`."""

    @property
    def tasks(self) -> Mapping[str, Task]:
        """Its three tasks by name."""
        return MappingProxyType({"math": MATH, "vision": VISION, "image": IMAGE})

    def prompt(self, name: str, rng: Random) -> Prompt:
        """A prompt for policy optimisation."""
        return PROMPTS[name](rng)

    def candidate(self, name: str, rng: Random) -> Candidate:
        """An example with reasoning and its judge."""
        return CANDIDATES[name](rng)

    def verdict(self, name: str, example: ReasoningExample) -> Verdict | None:
        """The judge of other answers to the prompt of a stored example; None for pictures, whose meaning is not stored."""
        if name == "math":
            return partial(check_problem, stored_problem(example))
        return partial(same_trace, example) if name == "vision" else None


def stored_problem(example: ReasoningExample) -> Problem:
    """The problem of worded arithmetic that an example was made from; its steps were right then."""
    steps = (EquationStep(int(a), operator, int(b), int(c)) for a, operator, b, c in EQUATION.findall(example.thinking))
    return Problem(example.prompt, example.gold, tuple(steps))


def same_trace(stored: ReasoningExample, example: ReasoningExample) -> str:
    """As `Verdict`: a question about a scene has one right trace, and it is stored."""
    if not Question("", stored.prompt, stored.gold, stored.thinking).verify(example.answer):
        return "wrong answer"
    return "" if example.thinking.split() == stored.thinking.split() else "wrong reasoning"


def nano_math(rng: Random) -> Candidate:
    """Worded arithmetic."""
    given = problem(rng)
    made = ReasoningExample(
        source="nano:math", task="math", prompt=given.text, thinking=given.reasoning, answer=given.answer, gold=given.answer
    )
    return Candidate(made, partial(check_problem, given))


def check_problem(target: Problem, example: ReasoningExample) -> str:
    """As `Verdict`."""
    if target.solved(example.thinking, example.answer):
        return ""
    return "wrong reasoning" if target.verify(example.answer) else "wrong answer"


def nano_vision(rng: Random) -> Candidate:
    """A question about a scene."""
    scene = sample_scene(rng)
    question = ask_about(scene, rng)
    shown = Image.fromarray(render(scene, rng, AUGMENTED))
    answer = question.answer
    made = ReasoningExample(source="nano:vision", task="vision", prompt=question.text, thinking=question.reasoning, answer=answer,
                    gold=answer, picture=shown)  # fmt: skip
    return Candidate(made, partial(check_question, question))


def check_question(target: Question, example: ReasoningExample) -> str:
    """As `Verdict`."""
    if not target.verify(example.answer):
        return "wrong answer"
    return "" if check_reasoning(example.thinking, target) else "wrong reasoning"


def nano_image(rng: Random) -> Candidate:
    """A thought, then a picture: of a question of knowledge, or of a caption."""
    plain = np.random.default_rng(0)  # the canonical style draws nothing from it
    wanted: KnowledgeItem | Drawable
    if rng.random() < 0.6:
        wanted = item = knowledge_item(rng)
        prompt, thought = item.prompt, item.think
        shown = flag_picture(item.flag) if item.flag is not None else render(item.scene or Scene(()), plain, CANONICAL)
    else:
        wanted = drawn = drawable(rng)
        prompt, thought, shown = drawn.text, describe(drawn.scene), render(drawn.scene, plain, CANONICAL)
    made = ReasoningExample(source="nano:image", task="image", prompt=prompt, thinking=thought, picture=Image.fromarray(shown))
    return Candidate(made, partial(check_picture, wanted, thought))


def check_picture(wanted: KnowledgeItem | Drawable, thought: str, example: ReasoningExample) -> str:
    """As `Verdict`."""
    assert isinstance(example.picture, Image.Image)
    pixels = np.asarray(example.picture.convert("RGB"))
    if isinstance(wanted, Drawable):
        shown = satisfies(wanted.meaning, detect(pixels))
    elif wanted.flag is not None:
        shown = shows_flag(pixels, wanted.flag)
    else:
        assert wanted.scene is not None
        thing = wanted.scene.things[0]
        shown = satisfies(Meaning((Group(1, thing.color, thing.shape),)), detect(pixels))
    if not shown:
        return "wrong picture"
    return "" if example.thinking.strip() == thought else "wrong reasoning"


CANDIDATES: dict[str, Callable[[Random], Candidate]] = {"math": nano_math, "vision": nano_vision, "image": nano_image}
"""Name -> one example of it."""
NANO = NanoSource()
