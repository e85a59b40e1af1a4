"""Training examples of the nano world as canvases: one small function a kind, chosen by a mixture.

Every function takes the world (pools and prompter) and a random generator and returns one canvas; a stage is a mixture of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mmada.canvas import Canvas
from mmada.data.reasoning import Reasoned
from mmada.errors import InputError, check_number
from mmada.nano.image_sets import ImageSets, ReasoningSet
from mmada.nano.world.arithmetic import equation_step, plain_equation, problem
from mmada.nano.world.captions import describe, named
from mmada.nano.world.drills import drill
from mmada.nano.world.flags import FLAGS
from mmada.nano.world.knowledge import COLOR_FACTS, SHAPE_FACTS, fact_sentence, knowledge_item
from mmada.nano.world.questions import ask_about
from mmada.nano.world.scenes import COLORS, SHAPES, Scene
from mmada.tokenizers.prompt import Message, Prompter, with_thinking

__all__ = ["KINDS", "World", "corpus", "fits_canvas", "mixed"]

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
WORD_DROPOUT = 0.4  # share of captions that lose some of their words
CAPTION_DROPOUT = 0.1  # classifier-free guidance learns the empty caption (released value)
EQUATIONS = 11  # on one canvas: two canvases fill a row
THINK_LENGTH = 32  # tokens of the thought before a picture
ANSWER_LENGTHS = (16, 32, 48, 64)  # an answer and its padding fill one of these, whatever the answer's own length


@dataclass(frozen=True)
class World:
    """What examples are made from. ``grid``: height and width of a picture in codes. ``told``: reasoning of a folder, if any."""

    pools: ImageSets
    prompter: Prompter
    grid: int = 8
    told: ReasoningSet | None = None


def codes_at(codes: Tensor, index: int) -> list[int]:
    """One row of a pool."""
    row: list[int] = codes[index].tolist()
    return row


def pick(rng: Random, options: tuple[str, ...]) -> str:
    """One of the options."""
    return options[int(rng.integers(len(options)))]


def conversation(
    world: World, rng: Random, turns: list[tuple[str, str]], codes: list[int] | None = None, *, thinking: bool = False
) -> Canvas:
    """Questions and answers; the last answer is padded to a length that says nothing about the answer's own."""
    messages = [Message(role, text) for q, a in turns for role, text in (("user", q), ("assistant", a))]  # type: ignore[arg-type]
    needed = len(world.prompter.text.encode(turns[-1][1])) + 1
    lengths = [n for n in ANSWER_LENGTHS if n >= needed] or [needed]
    room = lengths[min(len(lengths) - 1, int(rng.geometric(0.7)) - 1)]
    return world.prompter.chat(messages, images=[] if codes is None else [codes], thinking=thinking, padding=room - needed)


def reading(world: World, rng: Random) -> Canvas:
    """Stage 1 text: facts, equations, worked problems."""
    return world.prompter.language(text_line(rng))


def text_line(rng: Random) -> str:
    """One line of the nano corpus."""
    kind = rng.random()
    if kind < 0.15:
        return fact_sentence(rng)
    if kind < 0.5:
        return plain_equation(rng)
    asked = problem(rng)
    return f"{asked.text} {asked.reasoning} {asked.answer}"


def seen(world: World, rng: Random) -> tuple[Scene, list[int]]:
    """A scene to look at with its codes: mostly as others may draw it, now and then as the model itself does."""
    if rng.random() < 0.75:
        index = int(rng.integers(len(world.pools.loose)))
        return world.pools.loose[index], codes_at(world.pools.loose_codes, index)
    index = int(rng.integers(len(world.pools.drawn)))
    return world.pools.drawn[index].scene, codes_at(world.pools.drawn_codes, index)


def captioning(world: World, rng: Random) -> Canvas:
    """A picture, then what is in it."""
    scene, codes = seen(world, rng)
    return conversation(world, rng, [(pick(rng, DESCRIBE), describe(scene))], codes)


def drawing(world: World, rng: Random) -> Canvas:
    """Caption to picture."""
    index = int(rng.integers(len(world.pools.drawn)))
    text = "" if rng.random() < CAPTION_DROPOUT else world.pools.drawn[index].text
    canvas = world.prompter.draw_example(text, codes_at(world.pools.drawn_codes, index))
    return with_words_masked(canvas, world, rng) if rng.random() < WORD_DROPOUT else canvas


def with_words_masked(canvas: Canvas, world: World, rng: Random) -> Canvas:
    """The same picture for a caption that lacks a third of its words: a colour must be understood without its shape."""
    tokens_BL, vocabulary = canvas.tokens_BL.clone(), world.prompter.vocabulary
    for place in range(2, tokens_BL[0].tolist().index(vocabulary.eos)):  # behind the task token and <bos>
        if rng.random() < 1 / 3:
            tokens_BL[0, place] = vocabulary.mask
    return canvas.with_tokens(tokens_BL)


def digit_drawing(world: World, rng: Random) -> Canvas:
    """Class-conditional digits."""
    index = int(rng.integers(len(world.pools.digits)))
    text = "" if rng.random() < CAPTION_DROPOUT else pick(rng, DIGIT_PROMPTS).format(world.pools.digits[index])
    return world.prompter.draw_example(text, codes_at(world.pools.digit_codes, index))


def seen_digit(world: World, rng: Random) -> tuple[int, list[int]]:
    """A digit to look at with its codes: mostly moved and turned, now and then as it was written."""
    digits = world.pools.digits
    if rng.random() < 0.25:
        index = int(rng.integers(len(digits)))
        return digits[index], codes_at(world.pools.digit_codes, index)
    count = len(world.pools.digit_seen_codes)
    index = int(rng.integers(count))
    return digits[index * len(digits) // count], codes_at(world.pools.digit_seen_codes, index)


def digit_asking(world: World, rng: Random) -> Canvas:
    """Which digit is this?"""
    label, codes = seen_digit(world, rng)
    return conversation(world, rng, [(pick(rng, DIGIT_QUESTIONS), str(label))], codes)


def editing(world: World, rng: Random) -> Canvas:
    """A picture with a hole: inpainting one thing, or going on from a part (extrapolation)."""
    loose = rng.random() < 0.3
    index = int(rng.integers(len(world.pools.loose if loose else world.pools.drawn)))
    scene = world.pools.loose[index] if loose else world.pools.drawn[index].scene
    codes = codes_at(world.pools.loose_codes if loose else world.pools.drawn_codes, index)
    thing = scene.things[int(rng.integers(len(scene.things)))]
    hole = np.zeros((8, 8), bool)
    if rng.random() < 0.7:  # around one thing, named alone
        row, col = ((0, 2, 4)[thing.row], (0, 2, 4)[thing.col])
        top, left = max(0, row - int(rng.integers(2))), max(0, col - int(rng.integers(2)))
        hole[top : row + 4 + int(rng.integers(2)), left : col + 4 + int(rng.integers(2))] = True
        size = None if thing.size == "medium" else thing.size
        text = named(thing.color, thing.shape, size if rng.random() < 0.5 else None)
    else:  # a strip at one side, everything named
        width = int(rng.integers(2, 7))
        side = hole if rng.random() < 0.5 else hole.T
        side[:, :width] = True
        if rng.random() < 0.5:
            hole = np.ascontiguousarray(hole[::-1, ::-1])
        text = describe(scene).rstrip(".") if loose else world.pools.drawn[index].text
    if rng.random() < CAPTION_DROPOUT:
        text = ""
    return world.prompter.draw_example(text, codes, hole=regridded(hole, world.grid))


def regridded(hole: np.ndarray, grid: int) -> np.ndarray:
    """A hole of eighths on another grid: a cell is in it where any part of it is."""
    fine = hole.repeat(grid, 0).repeat(grid, 1)
    return np.asarray(fine.reshape(grid, 8, grid, 8).any(axis=(1, 3)))


def asking(world: World, rng: Random) -> Canvas:
    """Several questions about one picture, answered at once; often a description comes first."""
    scene, codes = seen(world, rng)
    first = [(pick(rng, DESCRIBE), describe(scene))] if rng.random() < 0.6 else []
    most = 1 if rng.random() < 0.1 else 4 if first else 6  # the picture is the dearest part: mostly use it for several
    asked = [ask_about(scene, rng) for _ in range(int(rng.integers(min(3, most), most + 1)))]
    return conversation(world, rng, first + [(q.text, q.answer) for q in asked], codes)


def drilled(scene: Scene, rng: Random, number: int) -> list[tuple[str, str]]:
    """Turns of ``number`` drills; a third of them lack their open question."""
    turns = []
    for _ in range(number):
        questions = drill(scene, rng) or [ask_about(scene, rng)]
        first = int(rng.integers(len(questions))) if rng.random() < 0.3 else 0
        turns += [(q.text, q.answer) for q in questions[first:]]
    return turns


def comparing(world: World, rng: Random) -> Canvas:
    """Drills on a picture: where one thing is from another and what there is more of, first as an open question, then by yes or
    no."""
    scene, codes = seen(world, rng)
    while len(scene.things) < 2:
        scene, codes = seen(world, rng)
    first = [(pick(rng, DESCRIBE), describe(scene))] if rng.random() < 0.3 else []
    return conversation(world, rng, first + drilled(scene, rng, 3), codes)


def comparing_told(world: World, rng: Random) -> Canvas:
    """The same drills on a scene that is told instead of shown: cheap practice of the second half of the work."""
    scene, _ = seen(world, rng)
    while len(scene.things) < 2:
        scene, _ = seen(world, rng)
    (text, answer), *rest = drilled(scene, rng, 4)
    return conversation(world, rng, [(f"{describe(scene)} {text}", answer), *rest])


def asking_thinking(world: World, rng: Random) -> Canvas:
    """One question about a picture, with reasoning: on a scene, or now and then which digit it is or what there is to see."""
    kind = rng.random()
    if kind < 0.1:
        label, codes = seen_digit(world, rng)
        text, reasoning, answer = pick(rng, DIGIT_QUESTIONS), f"it is a {label}.", str(label)
    else:
        scene, codes = seen(world, rng)
        question = ask_about(scene, rng)
        text, reasoning, answer = question.text, question.reasoning, question.answer
        if kind < 0.18:
            text, reasoning, answer = pick(rng, DESCRIBE), describe(scene), describe(scene)
    return conversation(world, rng, [(text, with_thinking(reasoning, answer))], codes, thinking=True)


def calculating(world: World, rng: Random) -> Canvas:
    """A short problem, answered at once."""
    asked = problem(rng, steps=1)
    return conversation(world, rng, [(asked.text, asked.answer)])


def equations(world: World, rng: Random) -> Canvas:
    """Many equations at once with one number of each left out, mostly the result: dense practice for the steps of problems."""
    parts = []
    for _ in range(EQUATIONS):
        step = equation_step(rng)
        gap = int(rng.choice(3, p=(0.12, 0.12, 0.76)))
        for i, piece in enumerate((f" {step.left}", f" {step.operator}", f" {step.right}", " =", f" {step.result}", ".")):
            parts.append((piece, i == 2 * gap))
    return world.prompter.gaps(parts)


def calculating_thinking(world: World, rng: Random) -> Canvas:
    """A worded problem with its steps."""
    asked = problem(rng)
    return conversation(world, rng, [(asked.text, with_thinking(asked.reasoning, asked.answer))], thinking=True)


def chatting(world: World, rng: Random) -> Canvas:
    """Knowledge in conversation."""
    if rng.random() < 0.6:
        known = str(rng.choice(list(COLOR_FACTS)))
        verb = "are" if known in ("leaves", "grapes") else "is"
        return conversation(world, rng, [(f"what color {verb} {known}?", COLOR_FACTS[known])])
    clue = str(rng.choice(list(SHAPE_FACTS)))
    return conversation(world, rng, [(f"what is the shape {clue}?", f"a {SHAPE_FACTS[clue]}")])


def knowledge_codes(world: World, rng: Random) -> tuple[str, str, list[int]]:
    """(prompt, thought, codes) of a knowledge item."""
    item = knowledge_item(rng)
    if item.flag is not None:
        return item.prompt, item.think, codes_at(world.pools.flag_codes, FLAGS.index(item.flag))
    assert item.scene is not None
    thing = item.scene.things[0]
    return item.prompt, item.think, codes_at(world.pools.single_codes, world.pools.single[thing.color, thing.shape])


def knowing(world: World, rng: Random) -> Canvas:
    """Knowledge to picture, at once."""
    prompt, _, codes = knowledge_codes(world, rng)
    return world.prompter.draw_example(prompt, codes)


def thinking_drawing(world: World, rng: Random) -> Canvas:
    """A thought, then the picture: half of the examples train the one, half the other."""
    if rng.random() < 0.6:
        prompt, think, codes = knowledge_codes(world, rng)
    else:
        index = int(rng.integers(len(world.pools.drawn)))
        item = world.pools.drawn[index]
        prompt, think, codes = item.text, describe(item.scene), codes_at(world.pools.drawn_codes, index)
    return thought_and_picture(world, rng, prompt, think, codes)


def thought_and_picture(world: World, rng: Random, prompt: str, think: str, codes: list[int]) -> Canvas:
    """Either the thought is to be learnt, or the picture that follows it."""
    if rng.random() < 0.4:
        return world.prompter.draw(prompt, think=think, think_length=THINK_LENGTH, edit="think")
    return world.prompter.think_draw_example(prompt, think, THINK_LENGTH, codes)


def reasoning(world: World, rng: Random) -> Canvas:
    """An example of the folder of reasoning: of text, about a picture, or a picture after a thought."""
    if world.told is None:
        raise InputError("mixture has reasoning, but no folder of it is given; set reasoning=FOLDER")
    index = int(rng.integers(len(world.told.examples)))
    return reasoned(world, rng, world.told.examples[index], world.told.codes[index])


def reasoned(world: World, rng: Random, example: Reasoned, codes: list[int] | None) -> Canvas:
    """The canvas of one such example, its prompt clean (eq. 2)."""
    if example.task == "image":
        assert codes is not None, "checked where it was read"
        return thought_and_picture(world, rng, example.prompt, example.thinking, codes)
    return conversation(world, rng, [(example.prompt, example.written)], codes, thinking=True)


def fits_canvas(world: World, example: Reasoned, codes: list[int] | None, longest: int) -> bool:
    """Whether an example can be learnt whole on ``longest`` tokens: a thought before a picture has a length of its own."""
    prompt, think, prompter = example.prompt, example.thinking, world.prompter
    if example.task == "image":
        whole = len(prompter.text.encode(f"<think> {think}</think>")) <= THINK_LENGTH
        return whole and prompter.draw(prompt, think=think, think_length=THINK_LENGTH).length <= longest
    turns = [Message("user", prompt), Message("assistant", example.written)]
    return prompter.chat(turns, images=[] if codes is None else [codes], thinking=True).length <= longest


Maker = Callable[[World, Random], Canvas]
KINDS: dict[str, Maker] = {
    "reading": reading, "captioning": captioning, "drawing": drawing, "digit_drawing": digit_drawing,
    "digit_asking": digit_asking, "editing": editing, "asking": asking, "comparing": comparing, "comparing_told": comparing_told,
    "asking_thinking": asking_thinking, "calculating": calculating, "calculating_thinking": calculating_thinking,
    "equations": equations, "chatting": chatting, "knowing": knowing, "thinking_drawing": thinking_drawing,
    "reasoning": reasoning,
}  # fmt: skip


def mixed(world: World, weights: Mapping[str, float], rng: Random, longest: int) -> Iterator[Canvas]:
    """Examples without end, each kind by its weight; the rare one longer than ``longest`` tokens is drawn again."""
    check_mixture(weights)
    names = list(weights)
    shares = np.array([weights[n] for n in names])
    shares = shares / shares.sum()

    def drawn() -> Iterator[Canvas]:
        while True:
            yield KINDS[names[int(rng.choice(len(names), p=shares))]](world, rng)

    return fitting(drawn(), longest)


def check_mixture(weights: Mapping[str, float]) -> None:
    """Raise InputError for an unknown kind, or weights that are no shares."""
    unknown = [name for name in weights if name not in KINDS]
    if unknown:
        raise InputError(f"mixture names {unknown[0]!r}; choose among {', '.join(KINDS)}")
    for name, weight in weights.items():
        check_number(f"mixture's weight of {name}", weight)
    if not sum(weights.values()):
        raise InputError("mixture has no weight above 0; give one kind at least")


def fitting(canvases: Iterator[Canvas], longest: int, patience: int = 1000) -> Iterator[Canvas]:
    """Those of at most ``longest`` tokens. Raises InputError when ``patience`` in turn are longer."""
    misses = 0
    for canvas in canvases:
        if canvas.length <= longest:
            misses = 0
            yield canvas
        elif (misses := misses + 1) >= patience:
            raise InputError(f"row_length {longest} is too short for all of {patience} examples; raise it")


def corpus(seed: int, lines: int, cot_instruction: str) -> Iterator[str]:
    """Text that the tokenizer is trained on: every kind of sentence of the world."""
    from mmada.nano.world.captions import drawable
    from mmada.nano.world.scenes import sample_scene

    rng = np.random.default_rng((seed, 99))
    for _ in range(lines):
        scene = sample_scene(rng)
        question = ask_about(scene, rng)
        item, asked = knowledge_item(rng), problem(rng)
        yield f"{question.text} {question.answer} {question.reasoning}"
        yield f" {drawable(rng).text} {item.prompt} {item.think}"
        yield f"{asked.text} {asked.reasoning} {asked.answer} {text_line(rng)}"
        yield f"{cot_instruction} {pick(rng, DESCRIBE)} {pick(rng, DIGIT_QUESTIONS)} {pick(rng, DIGIT_PROMPTS)}"
        # Alone, as answers stand: a word must be one token there too, or half of an answer gives the other half away.
        yield from (question.text, question.answer, describe(scene), drawable(rng).text, item.prompt, asked.text, text_line(rng))
        yield from (pick(rng, COLORS), pick(rng, SHAPES), scene.things[0].place)
        yield "assistant\nuser\nsystem\n"
