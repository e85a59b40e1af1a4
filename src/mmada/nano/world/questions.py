"""Questions about scenes with answers and reasoning traces, and a check of traces.

A trace first lists the things in reading order (`describe`), then states the conclusion.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np

from mmada.nano.world.captions import describe, named
from mmada.nano.world.scenes import COLORS, SHAPES, Scene, Thing

__all__ = ["KINDS", "Question", "ask_about", "check_reasoning", "compared", "reason", "related", "said", "shared_statements"]

Random = np.random.Generator


@dataclass(frozen=True)
class Question:
    """A question about a scene with its answer and trace. ``negative``: how the absent thing of a "no" was chosen (POPE)."""

    kind: str
    text: str
    answer: str
    reasoning: str
    negative: str = ""

    def verify(self, answer: str) -> bool:
        """Whether an answer (without its reasoning) is the right word, ignoring case and full stop."""
        return answer.strip().lower().rstrip(".") == self.answer


def choose(rng: Random, options: Sequence[str]) -> str:
    """One of the options."""
    return options[int(rng.integers(len(options)))]


def attributes(rng: Random, thing: Thing) -> tuple[str | None, str | None]:
    """(colour, shape) by which a thing is named: both, or one of them and None."""
    kind = rng.random()
    return (thing.color, thing.shape) if kind < 0.5 else (None, thing.shape) if kind < 0.8 else (thing.color, None)


def matching(scene: Scene, color: str | None, shape: str | None) -> list[Thing]:
    """Things of that colour and shape (None = any)."""
    return [t for t in scene.things if color in (None, t.color) and shape in (None, t.shape)]


def plural(color: str | None, shape: str | None, noun: str = "objects") -> str:
    """ "red circles", "circles", "red objects"."""
    return " ".join(w for w in (color, f"{shape}s" if shape else noun) if w)


def reason(scene: Scene, conclusion: str) -> str:
    """A trace: the listing of all things, then the conclusion."""
    return f"{describe(scene)} {conclusion}"


def absent(rng: Random, scene: Scene) -> tuple[str | None, str | None, str]:
    """An absent (colour, shape), and how it was chosen: random, popular or adversarial (POPE)."""
    colors, shapes = sorted({t.color for t in scene.things}), sorted({t.shape for t in scene.things})
    crossed = [(c, s) for c in colors for s in shapes if not matching(scene, c, s)]
    kind = rng.random()
    if kind < 0.35 and crossed:
        return *crossed[int(rng.integers(len(crossed)))], "adversarial"
    if kind < 0.5:
        missing = [s for s in SHAPES if s not in shapes]
        if missing:
            return None, choose(rng, missing), "popular"
    while True:
        color, shape = choose(rng, COLORS), choose(rng, SHAPES)
        if kind < 0.8:  # share one attribute with a thing of the scene
            color, shape = (choose(rng, colors), shape) if rng.random() < 0.5 else (color, choose(rng, shapes))
        if not matching(scene, color, shape):
            return color, shape, "random"


def exist(scene: Scene, rng: Random) -> Question:
    """Is there a red circle?"""
    negative = ""
    if rng.random() < 0.5:
        color, shape = attributes(rng, scene.things[int(rng.integers(len(scene.things)))])
        size = None
    else:
        color, shape, negative = absent(rng, scene)
    there = bool(matching(scene, color, shape))
    thing = named(color, shape)
    text = choose(rng, (f"is there {thing}?", f"is there {thing}?", f"is there {thing} in the picture?",
                        f"is there {thing} in the image?", f"do you see {thing}?", f"can you see {thing}?",
                        f"does the picture show {thing}?", f"does the image contain {thing}?"))  # fmt: skip
    size = "" if there else "no "
    return Question(
        "exist", text, "yes" if there else "no", reason(scene, f"{size}{' '.join(thing.split()[1:])} found."), negative
    )


def count(scene: Scene, rng: Random) -> Question:
    """How many circles are there?"""
    thing = scene.things[int(rng.integers(len(scene.things)))]
    color, shape = attributes(rng, thing)
    if rng.random() < 0.12:
        color, shape, _ = absent(rng, scene)
    if rng.random() < 0.3:
        color, shape = None, None
    number = len(matching(scene, color, shape))
    noun = choose(rng, ("objects", "objects", "things", "shapes"))
    many = plural(color, shape, noun)
    text = choose(rng, (f"how many {many} are there?", f"how many {many} are there?", f"how many {many} are in the picture?",
                        f"how many {many} are in the image?", f"how many {many} do you see?", f"count the {many}.",
                        f"what is the number of {many}?"))  # fmt: skip
    return Question("count", text, str(number), reason(scene, f"{plural(color, shape)}: {number}."))


def color(scene: Scene, rng: Random) -> Question | None:
    """What color is the square?"""
    options = [t for t in scene.things if len({o.color for o in matching(scene, None, t.shape)}) == 1]
    if not options:
        return None
    thing = options[int(rng.integers(len(options)))]
    shape = thing.shape
    if len(scene.things) == 1 and rng.random() < 0.2:
        text = choose(rng, ("what color is the object?", "what color is the shape?", "what color is it?"))
    elif len(matching(scene, None, shape)) > 1:
        text = f"what color are the {shape}s?"
    else:
        text = choose(rng, (f"what color is the {shape}?", f"what color is the {shape}?", f"what is the color of the {shape}?",
                            f"what colour is the {shape}?", f"which color is the {shape}?",
                            f"what color is the {shape} in the picture?"))  # fmt: skip
    return Question("color", text, thing.color, reason(scene, f"the {shape} is {thing.color}."))


def shape(scene: Scene, rng: Random) -> Question | None:
    """What shape is the red object?"""
    options = [t for t in scene.things if len({o.shape for o in matching(scene, t.color, None)}) == 1]
    if not options:
        return None
    thing = options[int(rng.integers(len(options)))]
    color_ = thing.color
    noun = choose(rng, ("object", "object", "thing", "one"))
    if len(scene.things) == 1 and rng.random() < 0.2:
        text = choose(rng, ("what shape is the object?", "what shape is it?", "which shape is in the picture?"))
    elif len(matching(scene, color_, None)) > 1:
        text = f"what shape are the {color_} objects?"
    else:
        text = choose(rng, (f"what shape is the {color_} {noun}?", f"what shape is the {color_} {noun}?",
                            f"what is the shape of the {color_} {noun}?", f"which shape is {color_}?"))  # fmt: skip
    return Question("shape", text, thing.shape, reason(scene, f"the {color_} object is a {thing.shape}."))


def unique(scene: Scene) -> list[Thing]:
    """Things with a unique colour and shape."""
    return [t for t in scene.things if len(matching(scene, t.color, t.shape)) == 1]


def said(rng: Random, scene: Scene, thing: Thing) -> str:
    """ "red circle", or "circle" where that is enough."""
    alone = len(matching(scene, None, thing.shape)) == 1
    return thing.shape if alone and rng.random() < 0.5 else thing.name


def related(scene: Scene, rng: Random) -> tuple[Thing, Thing, str] | None:
    """Two things, and the position of the first relative to the second: above, below, left or right."""
    candidates = unique(scene)
    rng.shuffle(candidates)
    for a in candidates:
        for b in candidates:
            if a is b:
                continue
            vertical = rng.random() < 0.5
            gap = b.row - a.row if vertical else b.col - a.col
            if gap:
                return a, b, ("above" if gap > 0 else "below") if vertical else ("left" if gap > 0 else "right")
    return None


def relation(scene: Scene, rng: Random) -> Question | None:
    """Is the red circle above the blue square?"""
    found = related(scene, rng)
    if found is None:
        return None
    a, b, truth = found
    vertical = truth in ("above", "below")
    word = choose(rng, ("above", "below")) if vertical else choose(rng, ("left", "right"))
    phrase = word if vertical else choose(rng, (f"to the {word} of", f"{word} of"))
    x, y = said(rng, scene, a), said(rng, scene, b)
    side = truth if vertical else f"{truth} of"
    trace = f"{a.name} {a.place}, {b.name} {b.place}. so it is {side} it."
    return Question("relation", f"is the {x} {phrase} the {y}?", "yes" if word == truth else "no", trace)


def place(scene: Scene, rng: Random) -> Question | None:
    """Where is the red circle?"""
    candidates = unique(scene)
    if not candidates:
        return None
    thing = candidates[int(rng.integers(len(candidates)))]
    words = said(rng, scene, thing)
    text = choose(rng, (f"where is the {words}?", f"in which part of the picture is the {words}?"))
    return Question("place", text, thing.place, reason(scene, f"the {words} is at the {thing.place}."))


def compared(scene: Scene, rng: Random) -> tuple[tuple[str, int], tuple[str, int]] | None:
    """Two groups by shape or by colour, with their numbers."""
    by_shape = rng.random() < 0.7
    names = SHAPES if by_shape else COLORS
    kinds = sorted({t.shape if by_shape else t.color for t in scene.things}) + list(names)
    a, b = kinds[int(rng.integers(len(kinds)))], choose(rng, names)
    if a == b:
        return None
    left, right = (len(matching(scene, None, k) if by_shape else matching(scene, k, None)) for k in (a, b))
    x, y = (f"{k}s" if by_shape else f"{k} objects" for k in (a, b))
    return (x, left), (y, right)


def compare(scene: Scene, rng: Random) -> Question | None:
    """Are there more circles than squares?"""
    found = compared(scene, rng)
    if found is None:
        return None
    (x, left), (y, right) = found
    word = choose(rng, ("more", "fewer", "same"))
    yes = {"more": left > right, "fewer": left < right, "same": left == right}[word]
    text = f"are there as many {x} as {y}?" if word == "same" else f"are there {word} {x} than {y}?"
    return Question("compare", text, "yes" if yes else "no", reason(scene, f"{x}: {left}. {y}: {right}."))


def total(scene: Scene, rng: Random) -> Question | None:
    """How many circles and squares are there in total?"""
    a, b = (str(s) for s in rng.choice(SHAPES, 2, replace=False))
    left, right = len(matching(scene, None, a)), len(matching(scene, None, b))
    text = choose(rng, (f"how many {a}s and {b}s are there in total?", f"how many {a}s and {b}s are there?"))
    return Question(
        "sum",
        text,
        str(left + right),
        reason(scene, f"{a}s: {left}. {b}s: {right}. {left} + {right} = {left + right}."),
    )


Maker = Callable[[Scene, Random], Question | None]
KINDS: dict[str, Maker] = {
    "exist": exist, "count": count, "color": color, "shape": shape,
    "relation": relation, "place": place, "compare": compare, "sum": total,
}  # fmt: skip
SHARES = (0.12, 0.17, 0.06, 0.06, 0.12, 0.24, 0.14, 0.09)


def ask_about(scene: Scene, rng: Random, kind: str | None = None) -> Question:
    """A question with one right answer, of a ``kind`` of `KINDS`; an existence question if the scene does not allow that kind."""
    for _ in range(8):
        maker = KINDS[kind or list(KINDS)[int(rng.choice(len(KINDS), p=SHARES))]]
        question = maker(scene, rng)
        if question is not None:
            return question
    return exist(scene, rng)


def check_reasoning(trace: str, question: Question) -> bool:
    """Whether a trace equals the reference trace of the question, ignoring spaces."""
    return " ".join(trace.split()) == question.reasoning


def shared_statements(trace: str, right: str) -> float:
    """Similarity of two traces, 0 to 1: twice their longest common subsequence of statements, over the statements of both.

    Statements end with a comma or a full stop.
    """
    one, other = ([s.strip() for s in re.findall(r"[^.,]+[.,]?", text) if s.strip()] for text in (trace, right))
    return SequenceMatcher(None, one, other, autojunk=False).ratio() if one else 0.0
