"""Rollouts: what a policy makes of prompts, by the one denoising loop, with the step at which every token was decided.

    questions = [ASK["math"](rng) for _ in range(prompts)]
    rollouts = roll_out(model, questions, group=8, seed=7)     # 8 completions a prompt, next to each other

Shapes: B rows (prompts x G), L positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmada.canvas import TEXT, Canvas
from mmada.errors import MAX_STEPS, InputError, check_number, check_whole
from mmada.io.images import ImageSource
from mmada.nano.world.arithmetic import problem
from mmada.nano.world.captions import drawable
from mmada.nano.world.geneval import CATEGORIES, of_split, prompts
from mmada.nano.world.questions import KINDS, ask_about
from mmada.nano.world.render import LOOSE, render
from mmada.nano.world.scenes import sample_scene
from mmada.pipeline import MMaDA, TextResult, TextSampling
from mmada.pipeline.engine import Callback
from mmada.pipeline.preset import Preset
from mmada.rewards.completion import DRAWN, Completion, Prompt
from mmada.sampling import Acceleration, Frame
from mmada.tokenizers.vocabulary import Vocabulary

__all__ = ["ASK", "Rollouts", "Sampler", "distinct", "roll_out"]

Random = np.random.Generator


def math(rng: Random) -> Prompt:
    """A worded problem of the training split, to be reasoned on; long ones more often, as short ones are soon always right."""
    given = problem(rng, steps=int(rng.choice((1, 2, 3), p=(0.1, 0.25, 0.65))))
    return Prompt(given.text, given)


def vision(rng: Random) -> Prompt:
    """A question about a picture of the training split, to be reasoned on; kinds that compare things more often."""
    scene = sample_scene(rng)
    hard = np.array([3.0 if kind in ("relation", "compare", "sum") else 1.0 for kind in KINDS])
    question = ask_about(scene, rng, str(rng.choice(list(KINDS), p=hard / hard.sum())))
    return Prompt(question.text, question, Image.fromarray(render(scene, rng, LOOSE)))


def image(rng: Random) -> Prompt:
    """What to draw, of the training split: captions as in training, and three times as often the six categories of GenEval.

    Half of these name a single thing without a colour: its parts may be drawn in several, and hardly anything else goes wrong.
    What GenEval's test asks for is in none of them (two things in this order), whatever the words.
    """
    category = CATEGORIES[0] if rng.random() < 0.4 else str(rng.choice(CATEGORIES))
    if rng.random() >= 0.25:
        item = prompts(category, rng, 1, split="train")[0]
        return Prompt(item.text, item)
    while True:
        caption = drawable(rng)
        if len(caption.meaning.groups) > 2 or of_split(caption.meaning, "train"):
            return Prompt(caption.text, caption)


ASK: dict[str, Callable[[Random], Prompt]] = {"math": math, "vision": vision, "image": image}
"""Task -> a prompt of it."""


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How completions are drawn.

    ``temperature``: of text tokens, above 0, or a group holds one completion G times; ``image_temperature`` and ``guidance``: of
    pictures. ``length``: most tokens of a text, reasoning included; None as the model's preset says, and so for ``steps`` and
    ``image_steps``. ``parallel``: a rule by name that decides several text tokens a pass, such as "threshold=0.9". ``batch``:
    rows that are denoised together. A text stops early, at its end token.
    """

    temperature: float = 1.0
    image_temperature: float = 1.0
    guidance: float = 2.0
    length: int | None = None
    steps: int | None = None
    image_steps: int | None = None
    parallel: str | None = None
    batch: int = 64

    def __post_init__(self) -> None:
        for name in ("temperature", "image_temperature"):
            if check_number(f"sampler.{name}", getattr(self, name)) == 0:
                raise InputError(f"sampler.{name} is 0, so all completions of a prompt would be the same; give one above 0")
        check_number("sampler.guidance", self.guidance)
        for name in ("batch", "length", "steps", "image_steps"):
            if (value := getattr(self, name)) is not None:
                check_whole(f"sampler.{name}", value, 1, MAX_STEPS if name.endswith("steps") else None)
        _ = self.speed

    @property
    def speed(self) -> Acceleration:
        """How fast texts are decoded."""
        return Acceleration.of(self.parallel)

    def check_fits(self, preset: Preset, longest: int) -> None:
        """Raises InputError where a model of so many places cannot be sampled so."""
        if self.length is not None:
            check_whole("sampler.length", self.length, 1, longest - 1)
        try:
            TextSampling(length=self.length, steps=self.steps).over(preset.reasoning)
        except InputError as error:
            raise InputError(f"sampler with the model's preset: {error}") from error

    def text_options(self, seeds: list[int], callback: Callback) -> dict[str, Any]:
        """How an answer with reasoning is drawn."""
        plan = TextSampling(length=self.length, steps=self.steps, temperature=self.temperature)
        return {"sampling": plan, "thinking": True, "seed": seeds, "callback": callback}


@dataclass(frozen=True)
class Rollouts:
    """Finished completions: what they are, and what training needs of them.

    ``canvas``: its editable places are the completions, without end-of-text padding. ``step_BL``: int64, the step of the loop at
    which each place was filled, from 1, padding behind the end too; 0 in the context.
    """

    canvas: Canvas
    step_BL: Tensor
    completions: tuple[Completion, ...]

    @property
    def length_B(self) -> Tensor:
        """Places of each completion."""
        return self.canvas.editable_BL.sum(1)

    @staticmethod
    def join(parts: Sequence[Rollouts]) -> Rollouts:
        """One batch from several, the shorter rows padded."""
        canvas = Canvas.stack([part.canvas for part in parts])
        steps = [torch.nn.functional.pad(p.step_BL, (0, canvas.length - p.canvas.length)) for p in parts]
        return Rollouts(canvas, torch.cat(steps), tuple(c for part in parts for c in part.completions))


def roll_out(model: MMaDA, asked: Sequence[Prompt], *, group: int, seed: int, sampler: Sampler | None = None) -> Rollouts:
    """``group`` completions of every prompt; prompts of several tasks may be mixed. Row i depends on (weights, prompt, seed, i).

    Raises InputError where a prompt does not fit the model.
    """
    chosen = Sampler() if sampler is None else sampler
    check_whole("group", group, 1)
    # What the policy is asked about later is text alone, and a text ends at its end token, whatever a released sampler does.
    closed = replace(model.preset.reasoning, stop_at_eos=True, open_vocabulary=False)
    model = model.with_defaults(text=TextSampling(**vars(chosen.speed)), preset=replace(model.preset, reasoning=closed))
    rows = [one for one in asked for _ in range(group)]
    seeds = np.random.SeedSequence(seed).generate_state(len(rows), np.uint64) >> np.uint64(2)
    parts: dict[int, Rollouts] = {}
    for maker in (texts, looks, pictures):
        mine = [i for i, one in enumerate(rows) if maker_of(one) is maker]
        for start in range(0, len(mine), chosen.batch):
            some = mine[start : start + chosen.batch]
            made = maker(model, [rows[i] for i in some], [int(seeds[i]) for i in some], chosen)
            parts |= dict(zip(some, made, strict=True))
    return Rollouts.join([parts[i] for i in range(len(rows))])


Maker = Callable[[MMaDA, Sequence[Prompt], list[int], Sampler], list[Rollouts]]


def maker_of(asked: Prompt) -> Maker:
    """How a prompt is answered."""
    if isinstance(asked.about, DRAWN):
        return pictures
    return texts if asked.picture is None else looks


def texts(model: MMaDA, asked: Sequence[Prompt], seeds: list[int], sampler: Sampler) -> list[Rollouts]:
    """Answers with reasoning."""
    frames: list[Frame] = []
    results = model.generate([one.words for one in asked], **sampler.text_options(seeds, frames.append))
    return answered(model, asked, results, frames)


def looks(model: MMaDA, asked: Sequence[Prompt], seeds: list[int], sampler: Sampler) -> list[Rollouts]:
    """Answers about pictures, with reasoning."""
    frames: list[Frame] = []
    shown: list[ImageSource] = [one.picture for one in asked if one.picture is not None]
    words = [one.words for one in asked]
    results = model.ask(shown, words, **sampler.text_options(seeds, frames.append))
    return answered(model, asked, results, frames)


def answered(model: MMaDA, asked: Sequence[Prompt], results: Sequence[TextResult], frames: Sequence[Frame]) -> list[Rollouts]:
    """Rollouts of one row each."""
    parts = model.engine.parts
    made = []
    for row, (one, result) in enumerate(zip(asked, results, strict=True)):
        completion = Completion(one, result.raw_text, result.text)
        made.append(retraced(frames, row, completion, parts.vocabulary))
    return made


def pictures(model: MMaDA, asked: Sequence[Prompt], seeds: list[int], sampler: Sampler) -> list[Rollouts]:
    """Drawn pictures."""
    frames: list[Frame] = []
    drawn = model.draw(
        [one.words for one in asked],
        steps=sampler.image_steps,
        guidance=sampler.guidance,
        temperature=sampler.image_temperature,
        seed=seeds,
        callback=frames.append,
    )
    vocabulary = model.engine.parts.vocabulary
    return [
        retraced(frames, row, Completion(one, drawn=picture), vocabulary)
        for row, (one, picture) in enumerate(zip(asked, drawn, strict=True))
    ]


def retraced(frames: Sequence[Frame], row: int, completion: Completion, vocabulary: Vocabulary) -> Rollouts:
    """One row of a batch with its steps, and only its completion editable: of a text, what is behind its end token is none."""
    canvas = frames[-1].row(row).canvas.to("cpu")
    step_BL = torch.zeros_like(canvas.tokens_BL)
    for number, frame in enumerate(frames[1:], 1):
        step_BL[frame.row(row).changed_BL.cpu()] = number
    ends_BL = torch.isin(canvas.tokens_BL, torch.tensor([vocabulary.eot, vocabulary.eos]))
    ends_BL &= canvas.editable_BL & (canvas.modality_BL == TEXT)
    behind_BL = (ends_BL.cumsum(1) - ends_BL.long() > 0) & (canvas.modality_BL == TEXT)
    step_BL[canvas.editable_BL & (step_BL == 0)] = int(step_BL.max()) + 1  # filled when the row had ended
    return Rollouts(replace(canvas, editable_BL=canvas.editable_BL & ~behind_BL), step_BL, (completion,))


def distinct(canvas: Canvas) -> float:
    """Diversity of a group: the share of its pairs of completions that differ, 0 (all the same) to 1."""
    rows = [tuple(tokens[places].tolist()) for tokens, places in zip(canvas.tokens_BL, canvas.editable_BL, strict=True)]
    pairs = [(a, b) for i, a in enumerate(rows) for b in rows[:i]]
    return sum(a != b for a, b in pairs) / max(1, len(pairs))
