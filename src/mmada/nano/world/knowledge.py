"""Prompts that need world knowledge: flags, and shapes and colours described by facts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmada.nano.world.captions import named
from mmada.nano.world.flags import FLAGS, Flag
from mmada.nano.world.scenes import HELD_OUT, Scene, Split, Thing, split_of

__all__ = ["COLOR_FACTS", "SHAPE_FACTS", "KnowledgeItem", "fact_sentence", "knowledge_item"]

# Things that are known for a colour.
COLOR_FACTS = {
    "grass": "green", "leaves": "green", "the sky": "blue", "the sea": "blue", "blood": "red", "a tomato": "red",
    "a strawberry": "red", "a banana": "yellow", "a lemon": "yellow", "the sun": "yellow", "snow": "white", "milk": "white",
    "coal": "black", "the night": "black", "a carrot": "orange", "a pumpkin": "orange", "grapes": "purple",
    "an eggplant": "purple",
}  # fmt: skip
SHAPE_FACTS = {
    "with three sides": "triangle", "with three corners": "triangle", "of a pyramid": "triangle",
    "with four equal sides": "square", "with four corners": "square", "of a chessboard": "square",
    "without corners": "circle", "of a wheel": "circle", "of a coin": "circle",
    "with five points": "star", "on top of a christmas tree": "star", "of a starfish": "star",
}  # fmt: skip


@dataclass(frozen=True)
class KnowledgeItem:
    """A prompt that describes a picture by facts, the thought that names it, and the correct scene or flag."""

    prompt: str
    think: str
    scene: Scene | None
    flag: Flag | None


def flag_words(flag: Flag) -> str:
    """Description of a flag."""
    if flag.layout == "disc":
        return f"a {flag.disc} disc on {flag.bands[0]}"
    across = "from top to bottom" if flag.layout == "horizontal" else "from left to right"
    return f"{' '.join(flag.bands)} {across}"


def of_flag(rng: np.random.Generator) -> KnowledgeItem:
    """ "the flag of japan"."""
    flag = FLAGS[int(rng.integers(len(FLAGS)))]
    country = f"the {flag.country}" if flag.country == "netherlands" and rng.random() < 0.7 else flag.country
    forms = (f"the flag of {country}", f"the flag of {country}", f"draw the flag of {country}", f"{flag.country}'s flag",
             f"the national flag of {country}", f"a flag of {country}")  # fmt: skip
    think = f"the flag of {flag.country} is {flag_words(flag)}."
    return KnowledgeItem(forms[int(rng.integers(len(forms)))], think, None, flag)


def of_facts(rng: np.random.Generator, split: Split) -> KnowledgeItem:
    """ "the shape with three sides in the colour of grass"."""
    while True:
        known = str(rng.choice(list(COLOR_FACTS)))
        clue = str(rng.choice(list(SHAPE_FACTS)))
        color, shape = COLOR_FACTS[known], SHAPE_FACTS[clue]
        if (color, shape) in HELD_OUT or split_of(f"{known} {clue}") != split:
            continue
        spelled = "colour" if rng.random() < 0.6 else "color"
        forms = (f"the shape {clue} in the {spelled} of {known}", f"the shape {clue} in the {spelled} of {known}",
                 f"draw the shape {clue} in the {spelled} of {known}", f"a {shape} in the {spelled} of {known}",
                 f"a shape {clue}, as {color} as {known}" if rng.random() < 0.3 else f"{named(color, None)} {clue}")  # fmt: skip
        verb = "are" if known in ("leaves", "grapes") else "is"
        think = f"{known} {verb} {color}. the shape {clue} is a {shape}. {named(color, shape)}."
        scene = Scene((Thing(1, 1, shape, color),))
        return KnowledgeItem(forms[int(rng.integers(len(forms)))], think, scene, None)


def knowledge_item(rng: np.random.Generator, split: Split = "train", *, flags: float = 0.3) -> KnowledgeItem:
    """A prompt of the split. Combinations of colour and shape clues are split; flags are facts, and in all splits."""
    return of_flag(rng) if rng.random() < flags else of_facts(rng, split)


def fact_sentence(rng: np.random.Generator) -> str:
    """A sentence that states a fact: "grass is green." """
    kind = rng.random()
    if kind < 0.4:
        known = str(rng.choice(list(COLOR_FACTS)))
        return f"{known} {'are' if known in ('leaves', 'grapes') else 'is'} {COLOR_FACTS[known]}."
    if kind < 0.7:
        clue = str(rng.choice(list(SHAPE_FACTS)))
        return f"the shape {clue} is a {SHAPE_FACTS[clue]}."
    flag = FLAGS[int(rng.integers(len(FLAGS)))]
    return f"the flag of {flag.country} is {flag_words(flag)}."
