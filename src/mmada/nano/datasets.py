"""Procedural data sets of the nano world: one small function a kind, which makes an example from a generator's draws.

A training stage is a mixture of kinds (`mmada.nano.recipes`); each kind is a `ProceduralDataset`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from mmada.data.dataset import Example
from mmada.nano.image_sets import ImageSets
from mmada.nano.world.arithmetic import equation_step, plain_equation, problem
from mmada.nano.world.captions import describe, drawable, named
from mmada.nano.world.drills import drill
from mmada.nano.world.flags import FLAGS
from mmada.nano.world.knowledge import COLOR_FACTS, SHAPE_FACTS, fact_sentence, knowledge_item
from mmada.nano.world.questions import ask_about
from mmada.nano.world.scenes import COLORS, SHAPES, Scene, sample_scene
from mmada.tokenizers.prompt import Message, with_thinking
from mmada.tokenizers.text import TextTokenizer

__all__ = ["KINDS", "NanoData", "NanoDataset", "corpus", "nano_datasets"]

Random = np.random.Generator
DESCRIBE = ("describe the picture.", "describe the image.", "what is in the picture?", "what do you see?",
            "describe this picture.", "please describe this image.", "what does the picture show?", "where is each thing?",
            "where is each object?")  # fmt: skip
DIGIT_PROMPTS = (
    "the digit {}",
    "the digit {}",
    "draw the digit {}",
    "a handwritten {}",
    "the number {}",
    "a picture of the digit {}",
)
DIGIT_QUESTIONS = ("what digit is this?", "what digit is this?", "which digit is this?", "what number is this?",
                   "which digit is shown?", "what digit is in the picture?", "read the digit.")  # fmt: skip
WORD_DROPOUT = 0.4  # share of captions of which a third of the tokens is masked
CAPTION_DROPOUT = 0.1  # share of empty captions, from which classifier-free guidance is learned (released value)
EQUATIONS = 11  # per example: two examples fill a row
ANSWER_LENGTHS = (16, 32, 48, 64)  # an answer and its padding fill one of these, whichever the answer's own length


@dataclass(frozen=True)
class NanoData:
    """What examples are made from: the pictures, a tokenizer to count tokens with, and ``grid``, a picture's height and width in
    codes."""

    images: ImageSets
    text: TextTokenizer
    grid: int = 8


def pick(rng: Random, options: tuple[str, ...]) -> str:
    """One of the options."""
    return options[int(rng.integers(len(options)))]


def conversation(
    data: NanoData, rng: Random, turns: list[tuple[str, str]], codes: Tensor | None = None, *, reasoning: bool = False
) -> Example:
    """Questions and answers; the padding of the last answer says nothing about the answer's own length."""
    messages = tuple(Message(role, text) for q, a in turns for role, text in (("user", q), ("assistant", a)))  # type: ignore[arg-type]
    needed = len(data.text.encode(turns[-1][1])) + 1
    lengths = [n for n in ANSWER_LENGTHS if n >= needed] or [needed]
    room = lengths[min(len(lengths) - 1, int(rng.geometric(0.7)) - 1)]
    return Example(
        objective="chat",
        messages=messages,
        codes=() if codes is None else (codes,),
        reasoning=reasoning,
        padding=room - needed,
    )


def language(data: NanoData, rng: Random) -> Example:
    """Stage 1 text: facts, equations, worked problems."""
    return Example(objective="text", text=text_line(rng))


def text_line(rng: Random) -> str:
    """One line of the nano corpus."""
    kind = rng.random()
    if kind < 0.15:
        return fact_sentence(rng)
    if kind < 0.5:
        return plain_equation(rng)
    asked = problem(rng)
    return f"{asked.text} {asked.reasoning} {asked.answer}"


def scene_to_look_at(data: NanoData, rng: Random) -> tuple[Scene, Tensor]:
    """A scene to look at and its codes: mostly augmented, in a quarter in the style that the model itself draws."""
    if rng.random() < 0.75:
        index = int(rng.integers(len(data.images.augmented)))
        return data.images.augmented[index], data.images.augmented_codes[index]
    index = int(rng.integers(len(data.images.canonical)))
    return data.images.canonical[index].scene, data.images.canonical_codes[index]


def captioning(data: NanoData, rng: Random) -> Example:
    """A picture, then its description."""
    scene, codes = scene_to_look_at(data, rng)
    return conversation(data, rng, [(pick(rng, DESCRIBE), describe(scene))], codes)


def text_to_image(data: NanoData, rng: Random) -> Example:
    """Caption to picture (classifier-free guidance: 10 % of the captions are empty)."""
    index = int(rng.integers(len(data.images.canonical)))
    text = "" if rng.random() < CAPTION_DROPOUT else data.images.canonical[index].text
    words = masked_words(data, text, rng) if rng.random() < WORD_DROPOUT else ()
    return Example(objective="text_to_image", text=text, codes=(data.images.canonical_codes[index],), masked_words=words)


def masked_words(data: NanoData, caption: str, rng: Random) -> tuple[int, ...]:
    """A third of a caption's tokens, to be masked: a colour must be understood without its shape."""
    return tuple(i for i in range(len(data.text.encode(caption.strip()))) if rng.random() < 1 / 3)


def digit_to_image(data: NanoData, rng: Random) -> Example:
    """Class-conditional digits."""
    index = int(rng.integers(len(data.images.digits)))
    text = "" if rng.random() < CAPTION_DROPOUT else pick(rng, DIGIT_PROMPTS).format(data.images.digits[index])
    return Example(objective="text_to_image", text=text, codes=(data.images.digit_codes[index],))


def digit_to_look_at(data: NanoData, rng: Random) -> tuple[int, Tensor]:
    """A digit to look at and its codes: mostly moved and rotated, in a quarter as it was written."""
    digits = data.images.digits
    if rng.random() < 0.25:
        index = int(rng.integers(len(digits)))
        return digits[index], data.images.digit_codes[index]
    count = len(data.images.digit_variant_codes)
    index = int(rng.integers(count))
    return digits[index * len(digits) // count], data.images.digit_variant_codes[index]


def digit_vqa(data: NanoData, rng: Random) -> Example:
    """Which digit is this?"""
    label, codes = digit_to_look_at(data, rng)
    return conversation(data, rng, [(pick(rng, DIGIT_QUESTIONS), str(label))], codes)


def inpainting(data: NanoData, rng: Random) -> Example:
    """A picture with a hole: inpainting of one thing, or of a strip at one side (extrapolation)."""
    augmented = rng.random() < 0.3
    index = int(rng.integers(len(data.images.augmented if augmented else data.images.canonical)))
    scene = data.images.augmented[index] if augmented else data.images.canonical[index].scene
    codes = (data.images.augmented_codes if augmented else data.images.canonical_codes)[index]
    thing = scene.things[int(rng.integers(len(scene.things)))]
    hole = np.zeros((8, 8), bool)
    if rng.random() < 0.7:  # around one thing, which alone is named
        row, col = ((0, 2, 4)[thing.row], (0, 2, 4)[thing.col])
        top, left = max(0, row - int(rng.integers(2))), max(0, col - int(rng.integers(2)))
        hole[top : row + 4 + int(rng.integers(2)), left : col + 4 + int(rng.integers(2))] = True
        size = None if thing.size == "medium" else thing.size
        text = named(thing.color, thing.shape, size if rng.random() < 0.5 else None)
    else:  # a strip at one side; the caption names everything
        width = int(rng.integers(2, 7))
        side = hole if rng.random() < 0.5 else hole.T
        side[:, :width] = True
        if rng.random() < 0.5:
            hole = np.ascontiguousarray(hole[::-1, ::-1])
        text = describe(scene).rstrip(".") if augmented else data.images.canonical[index].text
    if rng.random() < CAPTION_DROPOUT:
        text = ""
    return Example(objective="text_to_image", text=text, codes=(codes,), hole=regridded(hole, data.grid))


def regridded(hole: np.ndarray, grid: int) -> np.ndarray:
    """A hole on an 8 x 8 grid laid on another grid: a cell is in the hole where any part of it is."""
    fine = hole.repeat(grid, 0).repeat(grid, 1)
    return np.asarray(fine.reshape(grid, 8, grid, 8).any(axis=(1, 3)))


def vqa(data: NanoData, rng: Random) -> Example:
    """Several questions about one picture, answered without reasoning; often a description comes first."""
    scene, codes = scene_to_look_at(data, rng)
    first = [(pick(rng, DESCRIBE), describe(scene))] if rng.random() < 0.6 else []
    most = 1 if rng.random() < 0.1 else 4 if first else 6  # most tokens are the picture's: use it for several questions
    asked = [ask_about(scene, rng) for _ in range(int(rng.integers(min(3, most), most + 1)))]
    return conversation(data, rng, first + [(q.text, q.answer) for q in asked], codes)


def drill_turns(scene: Scene, rng: Random, number: int) -> list[tuple[str, str]]:
    """Turns of ``number`` drills; 30 % of them may lack their open question."""
    turns = []
    for _ in range(number):
        questions = drill(scene, rng) or [ask_about(scene, rng)]
        first = int(rng.integers(len(questions))) if rng.random() < 0.3 else 0
        turns += [(q.text, q.answer) for q in questions[first:]]
    return turns


def vqa_comparison(data: NanoData, rng: Random) -> Example:
    """Drills on a picture: where one thing is from another and what there is more of, first as an open question, then by yes or
    no."""
    scene, codes = scene_to_look_at(data, rng)
    while len(scene.things) < 2:
        scene, codes = scene_to_look_at(data, rng)
    first = [(pick(rng, DESCRIBE), describe(scene))] if rng.random() < 0.3 else []
    return conversation(data, rng, first + drill_turns(scene, rng, 3), codes)


def text_comparison(data: NanoData, rng: Random) -> Example:
    """The same drills on a described scene instead of a picture: cheap practice of the comparison alone."""
    scene, _ = scene_to_look_at(data, rng)
    while len(scene.things) < 2:
        scene, _ = scene_to_look_at(data, rng)
    (text, answer), *rest = drill_turns(scene, rng, 4)
    return conversation(data, rng, [(f"{describe(scene)} {text}", answer), *rest])


def vqa_reasoning(data: NanoData, rng: Random) -> Example:
    """One question about a picture, with reasoning: mostly about a scene, else which digit it is, or a description."""
    kind = rng.random()
    if kind < 0.1:
        label, codes = digit_to_look_at(data, rng)
        text, reasoning, answer = pick(rng, DIGIT_QUESTIONS), f"it is a {label}.", str(label)
    else:
        scene, codes = scene_to_look_at(data, rng)
        question = ask_about(scene, rng)
        text, reasoning, answer = question.text, question.reasoning, question.answer
        if kind < 0.18:
            text, reasoning, answer = pick(rng, DESCRIBE), describe(scene), describe(scene)
    return conversation(data, rng, [(text, with_thinking(reasoning, answer))], codes, reasoning=True)


def arithmetic(data: NanoData, rng: Random) -> Example:
    """A problem of one step, answered without reasoning."""
    asked = problem(rng, steps=1)
    return conversation(data, rng, [(asked.text, asked.answer)])


def equations(data: NanoData, rng: Random) -> Example:
    """Many equations with one number of each left out, mostly the result: dense practice for the steps of problems."""
    parts = []
    for _ in range(EQUATIONS):
        step = equation_step(rng)
        gap = int(rng.choice(3, p=(0.12, 0.12, 0.76)))
        for i, piece in enumerate((f" {step.left}", f" {step.operator}", f" {step.right}", " =", f" {step.result}", ".")):
            parts.append((piece, i == 2 * gap))
    return Example(objective="infill", parts=tuple(parts))


def arithmetic_reasoning(data: NanoData, rng: Random) -> Example:
    """A worded problem with its steps."""
    asked = problem(rng)
    return conversation(data, rng, [(asked.text, with_thinking(asked.reasoning, asked.answer))], reasoning=True)


def knowledge_chat(data: NanoData, rng: Random) -> Example:
    """Knowledge in conversation."""
    if rng.random() < 0.6:
        known = str(rng.choice(list(COLOR_FACTS)))
        verb = "are" if known in ("leaves", "grapes") else "is"
        return conversation(data, rng, [(f"what color {verb} {known}?", COLOR_FACTS[known])])
    clue = str(rng.choice(list(SHAPE_FACTS)))
    return conversation(data, rng, [(f"what is the shape {clue}?", f"a {SHAPE_FACTS[clue]}")])


def knowledge_codes(data: NanoData, rng: Random) -> tuple[str, str, Tensor]:
    """(prompt, thought, codes) of a knowledge item."""
    item = knowledge_item(rng)
    if item.flag is not None:
        return item.prompt, item.think, data.images.flag_codes[FLAGS.index(item.flag)]
    assert item.scene is not None
    thing = item.scene.things[0]
    return item.prompt, item.think, data.images.single_codes[data.images.single[thing.color, thing.shape]]


def knowledge_to_image(data: NanoData, rng: Random) -> Example:
    """Knowledge to picture, without a thought."""
    prompt, _, codes = knowledge_codes(data, rng)
    return Example(objective="text_to_image", text=prompt, codes=(codes,))


def thought_to_image(data: NanoData, rng: Random) -> Example:
    """A thought, then the picture: 40 % of the examples train the thought, the others the picture after it."""
    if rng.random() < 0.6:
        prompt, think, codes = knowledge_codes(data, rng)
    else:
        index = int(rng.integers(len(data.images.canonical)))
        item = data.images.canonical[index]
        prompt, think, codes = item.text, describe(item.scene), data.images.canonical_codes[index]
    learn: Literal["thought", "image"] = "thought" if rng.random() < 0.4 else "image"
    return Example(objective="text_to_image", text=prompt, thought=think, learn=learn, codes=(codes,))


Maker = Callable[[NanoData, Random], Example]
KINDS: dict[str, Maker] = {function.__name__: function for function in (
    language, captioning, text_to_image, digit_to_image, digit_vqa, inpainting, vqa, vqa_comparison, text_comparison,
    vqa_reasoning, arithmetic, arithmetic_reasoning, equations, knowledge_chat, knowledge_to_image, thought_to_image,
)}  # fmt: skip


@dataclass(frozen=True)
class NanoDataset:
    """The procedural data set of one kind."""

    kind: str
    data: NanoData

    def draw(self, rng: Random) -> Example:
        """One example."""
        return KINDS[self.kind](self.data, rng)


def nano_datasets(data: NanoData) -> dict[str, NanoDataset]:
    """The data sets of all kinds, by name."""
    return {kind: NanoDataset(kind, data) for kind in KINDS}


def corpus(seed: int, lines: int, cot_instruction: str) -> Iterator[str]:
    """Text to train the tokenizer on: every kind of sentence of the nano world."""
    rng = np.random.default_rng((seed, 99))
    for _ in range(lines):
        scene = sample_scene(rng)
        question = ask_about(scene, rng)
        item, asked = knowledge_item(rng), problem(rng)
        yield f"{question.text} {question.answer} {question.reasoning}"
        yield f" {drawable(rng).text} {item.prompt} {item.think}"
        yield f"{asked.text} {asked.reasoning} {asked.answer} {text_line(rng)}"
        yield f"{cot_instruction} {pick(rng, DESCRIBE)} {pick(rng, DIGIT_QUESTIONS)} {pick(rng, DIGIT_PROMPTS)}"
        # Each also alone, as answers stand: were a word two tokens there, one half of an answer would give the other away.
        yield from (question.text, question.answer, describe(scene), drawable(rng).text, item.prompt, asked.text, text_line(rng))
        yield from (pick(rng, COLORS), pick(rng, SHAPES), scene.things[0].place)
        yield "assistant\nuser\nsystem\n"
