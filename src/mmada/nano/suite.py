"""The evaluation suite of the nano world, with the thresholds of a first release, and its workloads for `mmada bench`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
from PIL import Image

from mmada.errors import InputError
from mmada.evaluation.bench import Job, Workload
from mmada.evaluation.likelihood import LikelihoodMeasure, ScoredText
from mmada.evaluation.measure import Measure, Split, Suite
from mmada.nano.measures import MEASURES
from mmada.nano.world.arithmetic import problem
from mmada.nano.world.geneval import CATEGORIES, prompts
from mmada.nano.world.questions import ask_about
from mmada.nano.world.render import AUGMENTED, render
from mmada.nano.world.scenes import sample_scene
from mmada.pipeline import MMaDA
from mmada.tokenizers.prompt import with_thinking

__all__ = ["DRAW", "MATH", "QUESTIONS", "SUITE"]

Random = np.random.Generator
# The aim is 0.99 wherever the detector itself reaches 1.
THRESHOLDS = {
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


def need_sklearn() -> None:
    """Raise InputError without scikit-learn, which digits and the detector need."""
    if find_spec("sklearn") is None:
        raise InputError("the suite nano needs scikit-learn; install it with: pip install 'mmada[nano]'")


def worked_problems(rng: Random, count: int, split: Split) -> list[ScoredText]:
    """Worded problems with their worked answers."""
    made = [problem(rng, split) for _ in range(count)]
    return [ScoredText(p.text, with_thinking(p.reasoning, p.answer), thinking=True) for p in made]


SUITE = Suite(
    measures={**MEASURES, "likelihood": (LikelihoodMeasure(name="likelihood of worked problems", texts=worked_problems), 16)},
    thresholds=THRESHOLDS,
    check=need_sklearn,
)


def math_job(model: MMaDA, rng: Random) -> Job:
    """A worded problem with reasoning."""
    text = problem(rng, "validation").text
    return lambda m: m.generate(text, thinking=True).text


def question_job(model: MMaDA, rng: Random) -> Job:
    """A question about a scene."""
    scene = sample_scene(rng, "validation")
    picture, question = Image.fromarray(render(scene, rng, AUGMENTED)), ask_about(scene, rng).text
    return lambda m: m.ask(picture, question).text


def draw_job(model: MMaDA, rng: Random) -> Job:
    """A GenEval prompt to draw."""
    caption = prompts(CATEGORIES[int(rng.integers(len(CATEGORIES)))], rng, 1, split="validation")[0].text
    return lambda m: m.draw(caption).tobytes()


class Accuracy:
    """One score of a measure on the validation split; ``parts``: categories that share the examples."""

    def __init__(self, measure: str, score: str, parts: int = 1) -> None:
        self.measure: Measure = MEASURES[measure][0]
        self.score, self.parts = score, parts

    def __call__(self, model: MMaDA, rng: Random, count: int) -> Sequence[float]:
        """Scores of about ``count`` examples."""
        return self.measure(model, rng, max(1, count // self.parts), "validation").hits[self.score]


MATH = Workload(
    job=math_job,
    accuracy=Accuracy("arithmetic", "arithmetic: answer"),
    modes=("exact", "lookahead=3", "threshold=0.9", "threshold=0.95", "factor=0.3", "entropy=0.01", "margin=0.9",
           "hierarchical=0.8,0.98", "stable", "draft", "block", "factor=0.3+block"),
)  # fmt: skip
QUESTIONS = Workload(
    job=question_job,
    accuracy=Accuracy("questions", "questions"),
    modes=("exact", "lookahead=3", "threshold=0.9", "factor=0.3", "entropy=0.1", "draft", "threshold=0.9+block"),
)
DRAW = Workload(
    job=draw_job,
    accuracy=Accuracy("geneval", "geneval", len(CATEGORIES)),
    modes=("steps=64", "steps=32", "steps=16", "steps=12", "steps=8", "steps=6"),
    output="image",
)
