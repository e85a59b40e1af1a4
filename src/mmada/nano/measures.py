"""Measures of a nano model: one function for each task.

A function takes the model, a random generator and a number of examples, and returns named scores in 0..1 (PSNR in dB) with the
pictures it judged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from mmada.evaluation.measure import Measure, Measured, Split
from mmada.nano.world.arithmetic import check_steps, extract_answer, problem
from mmada.nano.world.captions import named
from mmada.nano.world.detector import detect, shows_flag
from mmada.nano.world.digits import digit_image, digit_indices, digit_label, recognise
from mmada.nano.world.geneval import CATEGORIES, judge, prompts
from mmada.nano.world.knowledge import knowledge_item
from mmada.nano.world.questions import KINDS, ask_about, check_reasoning
from mmada.nano.world.render import AUGMENTED, CANONICAL, render
from mmada.nano.world.scenes import Scene, Thing, sample_scene
from mmada.pipeline import ImageSampling, MMaDA, TextResult
from mmada.pipeline.grids import fit
from mmada.tokenizers.prompt import well_formed

__all__ = ["MEASURES", "STUDIED"]

Random = np.random.Generator
ROWS = 32  # rows of a call; more only take more memory
PICTURE = 64  # pixels of the nano world's pictures; a model's drawings are fitted to it


def chunks(items: Sequence[object]) -> list[slice]:
    """Slices of at most ROWS."""
    return [slice(i, i + ROWS) for i in range(0, len(items), ROWS)]


def drawn(model: MMaDA, texts: list[str], seed: int, *, thinking: bool = False) -> list[Image.Image]:
    """Pictures of many prompts."""
    pictures = [p for part in chunks(texts) for p in model.draw(texts[part], seed=seed + part.start, thinking=thinking)]
    return [fit(picture, PICTURE) for picture in pictures]


def psnr(one: np.ndarray, two: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 pictures."""
    error = float(((one.astype(float) - two.astype(float)) ** 2).mean())
    return float(10 * np.log10(255**2 / max(error, 1e-2)))


def fidelity(model: MMaDA, rng: Random, count: int, split: Split = "test") -> Measured:
    """The image tokenizer alone: PSNR of reconstructions."""
    result = Measured()
    indices = digit_indices(split)
    for _ in range(count):
        scene = sample_scene(rng, split)
        pictures = {
            "psnr scenes": render(scene, rng, CANONICAL),
            "psnr augmented scenes": render(scene, rng, AUGMENTED),
            "psnr digits": digit_image(int(rng.choice(indices))),
        }
        rebuilt = model.engine.decode(model.engine.encode([Image.fromarray(p) for p in pictures.values()]))
        for (name, picture), again in zip(pictures.items(), rebuilt, strict=True):
            result.add(name, psnr(picture, np.asarray(again)))
    return result


def follows_format(model: MMaDA, answer: TextResult) -> bool:
    """Whether a text is ``<think> reasoning </think> answer``."""
    return well_formed(model.engine.parts.text.decode(list(answer.tokens)))


def questions(model: MMaDA, rng: Random, count: int, split: Split = "test", *, thinking: bool | None = None) -> Measured:
    """Questions about unseen augmented scenes; existence also by how its "no" was made (random, popular, adversarial: POPE)."""
    result = Measured()
    thinks = model.preset.ask_thinking if thinking is None else thinking
    scenes = [sample_scene(rng, split) for _ in range(count)]
    asked = [ask_about(scene, rng, list(KINDS)[i % len(KINDS)]) for i, scene in enumerate(scenes)]
    pictures = [Image.fromarray(render(scene, rng, AUGMENTED)) for scene in scenes]
    for part in chunks(asked):
        answers = model.ask(list(pictures[part]), [q.text for q in asked[part]], thinking=thinking)
        for question, picture, answer in zip(asked[part], pictures[part], answers, strict=True):
            right = question.verify(answer.text)
            result.add("questions", right)
            result.add(f"questions: {question.kind}", right)
            if question.kind == "exist":
                result.add(f"existence: {question.negative or 'yes'}", right)
            if thinks:
                steps = bool(answer.thinking) and check_reasoning(answer.thinking, question)
                result.add("questions: every step right", steps)
                result.add("questions: format", follows_format(model, answer))
            result.show(picture, f"{question.text} {answer.text}", right)
    return result


def thought_questions(model: MMaDA, rng: Random, count: int, split: Split = "test") -> Measured:
    """The same questions, answered with reasoning."""
    result = questions(model, rng, count, split, thinking=True)
    return Measured({f"with reasoning, {k}": v for k, v in result.hits.items() if k.startswith("questions")}, result.tiles)


def geneval(model: MMaDA, rng: Random, count: int, split: Split = "test", *, held_out: bool = False) -> Measured:
    """The six categories of GenEval, drawn and judged by the detector."""
    result = Measured()
    asked = [p for category in CATEGORIES for p in prompts(category, rng, count, held_out=held_out, split=split)]
    pictures = drawn(model, [p.text for p in asked], int(rng.integers(2**31)))
    order = rng.permutation(len(asked))
    for i in order:
        right = judge(asked[i], np.asarray(pictures[i]))
        result.add("held-out pairs" if held_out else "geneval", right)
        if not held_out:
            result.add(f"geneval: {asked[i].category}", right)
        result.show(pictures[i], asked[i].text, right)
    return result


def quick_geneval(model: MMaDA, rng: Random, count: int, split: Split = "test") -> Measured:
    """GenEval in four steps without guidance: harder, so it separates models that are near the ceiling."""
    hurried = model.with_defaults(image=ImageSampling(steps=4, guidance=0.0))
    result = geneval(hurried, rng, count, split)
    return Measured({f"in four steps, {k}": v for k, v in result.hits.items()}, result.tiles)


def held_out(model: MMaDA, rng: Random, count: int, split: Split = "test") -> Measured:
    """GenEval on (colour, shape) pairs that never occur in training."""
    return geneval(model, rng, count, split, held_out=True)


def digits(model: MMaDA, rng: Random, count: int, split: Split = "test") -> Measured:
    """Drawn digits, recognised by a classifier of real ones; questions about real unseen digits."""
    result = Measured()
    labels = [i % 10 for i in range(count)]
    pictures = drawn(model, [f"the digit {n}" for n in labels], int(rng.integers(2**31)))
    for label, picture, seen in zip(labels, pictures, recognise(np.stack([np.asarray(p) for p in pictures])), strict=True):
        result.add("digits drawn", seen == label)
        result.show(picture, f"the digit {label}", bool(seen == label))
    chosen = [int(i) for i in rng.choice(digit_indices(split), count)]
    shown = [Image.fromarray(digit_image(i)) for i in chosen]
    for part in chunks(chosen):
        answers = model.ask(list(shown[part]), "what digit is this?")
        for index, answer in zip(chosen[part], answers, strict=True):
            result.add("digits asked", extract_answer(answer.text) == str(digit_label(index)))
    return result


def knowledge(model: MMaDA, rng: Random, count: int, split: Split = "test") -> Measured:
    """Knowledge to picture, after a thought."""
    result = Measured()
    items = [knowledge_item(rng, split) for _ in range(count)]
    pictures = drawn(model, [item.prompt for item in items], int(rng.integers(2**31)), thinking=True)
    for item, picture in zip(items, pictures, strict=True):
        pixels = np.asarray(picture)
        if item.flag is not None:
            right = shows_flag(pixels, item.flag)
        else:
            assert item.scene is not None
            found, wanted = detect(pixels), item.scene.things[0]
            right = [(t.color, t.shape) for t in found] == [(wanted.color, wanted.shape)]
        result.add("knowledge to picture", right)
        result.add("knowledge: thought right", str(picture.info.get("thinking", "")).strip() == item.think)
        result.show(picture, item.prompt, right)
    return result


def arithmetic(model: MMaDA, rng: Random, count: int, split: Split = "test", *, outside: bool = False) -> Measured:
    """Worded arithmetic with reasoning."""
    result = Measured()
    asked = [problem(rng, split, held_out=outside, steps=1 + i % 3) for i in range(count)]
    for part in chunks(asked):
        answers = model.generate([p.text for p in asked[part]], thinking=True)
        for given, answer in zip(asked[part], answers, strict=True):
            right = given.verify(answer.text)
            steps = check_steps(answer.thinking, given)
            if outside:
                result.add("arithmetic: held-out numbers", right)
                continue
            result.add("arithmetic: answer", right)
            result.add("arithmetic: every step", steps)
            result.add("arithmetic: format", follows_format(model, answer))
            result.add(f"arithmetic: {len(given.steps)} step{'s' * (len(given.steps) > 1)}", right)
    return result


def arithmetic_held_out(model: MMaDA, rng: Random, count: int, split: Split = "test") -> Measured:
    """Worded arithmetic with numbers that never occur in training."""
    return arithmetic(model, rng, count, split, outside=True)


def something_new(scene: Scene, rng: Random, split: Split) -> Thing:
    """A thing unlike any in the scene, so that leaving the picture as it is does not count as success."""
    there = {(t.color, t.shape) for t in scene.things}
    while True:
        wanted = sample_scene(rng, split, count=1).things[0]
        if (wanted.color, wanted.shape) not in there:
            return wanted


def inpainting(model: MMaDA, rng: Random, count: int, split: Split = "test") -> Measured:
    """A thing and its surroundings are cut out, and another is asked for there: by its name alone, then with all others."""
    result = Measured()
    for i in range(count):
        scene = sample_scene(rng, split, sizes=False)
        pixels = render(scene, rng, CANONICAL if i % 2 else AUGMENTED)
        thing = scene.things[int(rng.integers(len(scene.things)))]
        wanted = something_new(scene, rng, split)
        mask = np.zeros(pixels.shape[:2], bool)
        top, left = (0, 16, 32)[thing.row], (0, 16, 32)[thing.col]
        mask[top : top + 32, left : left + 32] = True
        seed, alone = int(rng.integers(2**31)), named(wanted.color, wanted.shape)
        others = [named(t.color, t.shape) for t in scene.things if t != thing]
        for name, text in (("inpainting", alone), ("inpainting: whole scene named", " and ".join([*others, alone]))):
            picture = model.inpaint(pixels, mask, text, seed=seed)
            after = np.asarray(fit(picture, PICTURE))
            kept = bool((after[~mask] == pixels[~mask]).all())
            inside = [t for t in detect(after) if mask[(t.box[0] + t.box[2]) // 2, (t.box[1] + t.box[3]) // 2]]
            there = any((t.color, t.shape) == (wanted.color, wanted.shape) for t in inside)
            result.add(name, kept and there)
            result.add("inpainting: outside unchanged", kept)
            result.show(picture, f"{text} at {thing.place}", kept and there)
    return result


# Name -> (measure, examples a seed).
MEASURES: dict[str, tuple[Measure, int]] = {
    "fidelity": (fidelity, 32),
    "questions": (questions, 192),
    "thought questions": (thought_questions, 96),
    "geneval": (geneval, 16),
    "held out": (held_out, 8),
    "digits": (digits, 40),
    "knowledge": (knowledge, 48),
    "arithmetic": (arithmetic, 96),
    "arithmetic held out": (arithmetic_held_out, 48),
    "inpainting": (inpainting, 32),
}
# Measures for studies: also pictures in few steps, which the suite sets no threshold for.
STUDIED = MEASURES | {"quick geneval": (quick_geneval, 16)}
