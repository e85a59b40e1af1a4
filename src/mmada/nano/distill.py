"""Distillation on the nano world: its sources of right answers, and the recipe `distill`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from mmada.nano.recipes import GENTLE, NanoSftRecipe
from mmada.nano.world.arithmetic import problem
from mmada.nano.world.captions import drawable, satisfies
from mmada.nano.world.detector import detect
from mmada.nano.world.questions import ask_about
from mmada.nano.world.render import AUGMENTED, render
from mmada.nano.world.scenes import sample_scene
from mmada.pipeline import MMaDA
from mmada.recipes.distill import EVERYTHING, DistillRecipe
from mmada.recipes.sft import CurriculumPhase
from mmada.recipes.trajectories import AnswerSource, DecodedAnswer, decoded
from mmada.sampling import Frame
from mmada.training.loop import Plan
from mmada.training.masked_diffusion import LossSettings

__all__ = ["SOURCES", "NanoDistillRecipe", "distill"]

Random = np.random.Generator


def math(model: MMaDA, rng: Random, count: int) -> Iterator[DecodedAnswer]:
    """Worded problems with every step of the reasoning right."""
    asked, frames = [problem(rng) for _ in range(count)], list[Frame]()
    answers = model.generate([p.text for p in asked], thinking=True, callback=frames.append)
    for row, (given, answer) in enumerate(zip(asked, answers, strict=True)):
        if given.solved(answer.thinking, answer.text):
            yield decoded(frames, row, model.preset.reasoning.numbers[2])


def questions(model: MMaDA, rng: Random, count: int) -> Iterator[DecodedAnswer]:
    """Questions about pictures, answered right."""
    scenes, frames = [sample_scene(rng) for _ in range(count)], list[Frame]()
    asked = [ask_about(scene, rng) for scene in scenes]
    pictures = [Image.fromarray(render(scene, rng, AUGMENTED)) for scene in scenes]
    answers = model.ask(list(pictures), [q.text for q in asked], thinking=False, callback=frames.append)
    for row, (question, answer) in enumerate(zip(asked, answers, strict=True)):
        if answer.text.strip().rstrip(".") == question.answer:
            yield decoded(frames, row, model.preset.answer.numbers[2])


def pictures(model: MMaDA, rng: Random, count: int) -> Iterator[DecodedAnswer]:
    """Pictures that show what their caption says."""
    asked, frames = [drawable(rng) for _ in range(count)], list[Frame]()
    drawn = model.draw([item.text for item in asked], callback=frames.append, seed=int(rng.integers(2**31)))
    for row, (item, picture) in enumerate(zip(asked, drawn, strict=True)):
        if satisfies(item.meaning, detect(np.asarray(picture))):
            yield decoded(frames, row, 0)


SOURCES: dict[str, AnswerSource] = {"math": math, "questions": questions, "pictures": pictures}


@dataclass(frozen=True, kw_only=True)
class NanoDistillRecipe(NanoSftRecipe, DistillRecipe):
    """Distillation on the nano world's problems, questions and captions."""

    def answer_sources(self) -> Mapping[str, AnswerSource]:
        """Sources of right answers by name."""
        return SOURCES


def distill() -> NanoDistillRecipe:
    """After the last stage: more tokens per forward pass in text, questions and pictures; a share of `cot` keeps all else."""
    mixture = {"text_to_image": 0.2, "digit_to_image": 0.03, "captioning": 0.02, "vqa": 0.38, "vqa_comparison": 0.15,
               "text_comparison": 0.04, "vqa_reasoning": 0.06, "digit_vqa": 0.02, "knowledge_to_image": 0.015, "inpainting": 0.06,
               "equations": 0.02, "arithmetic_reasoning": 0.04, "knowledge_chat": 0.01, "thought_to_image": 0.04,
               "language": 0.01}  # fmt: skip
    return NanoDistillRecipe(
        name="distill",
        follows="cot",
        plan=Plan(steps=3000, seed=7, optim=replace(GENTLE, lr=3e-4, muon_lr=1.2e-3, decay=0.6, final=0.02), save_every=250,
                  sample_every=500),
        curriculum=(CurriculumPhase(until=1.0, mixture=mixture),),
        losses=LossSettings(text=EVERYTHING, image=EVERYTHING, text_coefficient=2.0, certainty=0.5),
        trajectories={"math": 1500, "questions": 1000, "pictures": 400},
        trajectory_weights={"math": 0.2, "questions": 0.12, "pictures": 0.08},
        block_weights={"arithmetic_reasoning": 0.15},
        replay_weight=0.45,
    )  # fmt: skip
