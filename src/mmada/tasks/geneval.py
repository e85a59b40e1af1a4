"""The six categories of GenEval in the nano world, judged by the detector: exactly the things named, none else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mmada.tasks.captions import RELATIONS, Group, Meaning, named, satisfies, share
from mmada.tasks.detector import detect
from mmada.tasks.scenes import COLORS, HELD_OUT, SHAPES, Split, split_of

__all__ = ["CATEGORIES", "GenPrompt", "Promise", "grade", "judge", "prompts"]

CATEGORIES = ("single object", "two objects", "counting", "colors", "position", "color attribution")
OPENINGS = ("", "", "a photo of ", "a picture of ", "draw ")
Random = np.random.Generator
Pair = tuple[str, str]


@dataclass(frozen=True)
class GenPrompt:
    """A prompt with what the picture must show."""

    category: str
    text: str
    meaning: Meaning


def random_pair(rng: Random, held_out: bool) -> Pair:
    """(colour, shape), held out or not."""
    held = sorted(HELD_OUT)
    if held_out:
        return held[int(rng.integers(len(held)))]
    while True:
        pair = (str(rng.choice(COLORS)), str(rng.choice(SHAPES)))
        if pair not in HELD_OUT:
            return pair


def made(category: str, rng: Random, held_out: bool) -> GenPrompt:
    """One prompt of a category; with ``held_out`` its first thing is a held-out pair."""
    (color, shape), (other_color, other_shape) = random_pair(rng, held_out), random_pair(rng, False)
    first, second = named(color, shape), named(other_color, other_shape)
    if category == "single object" and not held_out:
        return GenPrompt(category, named(None, shape), Meaning((Group(1, None, shape),)))
    if category in ("single object", "colors"):
        return GenPrompt(category, first, Meaning((Group(1, color, shape),)))
    if category == "counting":
        count = int(rng.integers(2, 5))
        said = color if held_out or rng.random() < 0.7 else None
        return GenPrompt(category, named(said, shape, None, count), Meaning((Group(count, said, shape),)))
    groups = (Group(1, color, shape), Group(1, other_color, other_shape))
    if category == "position":
        relation = str(rng.choice(list(RELATIONS)))
        return GenPrompt(category, f"{first} {RELATIONS[relation]} {second}", Meaning(groups, relation))
    return GenPrompt(category, f"{first} and {second}", Meaning(groups))


def fair(prompt: GenPrompt) -> bool:
    """Two things must differ: in shape for "two objects", in both for "color attribution", in anything otherwise."""
    if len(prompt.meaning.groups) < 2:
        return True
    a, b = prompt.meaning.groups
    if prompt.category == "color attribution":
        return a.color != b.color and a.shape != b.shape
    if prompt.category == "two objects":
        return a.shape != b.shape
    return (a.color, a.shape) != (b.color, b.shape)


def prompts(category: str, rng: Random, count: int, *, held_out: bool = False, split: Split = "test") -> list[GenPrompt]:
    """``count`` prompts. Those naming two groups are of the split of captions; with one group there are too few to split."""
    found: list[GenPrompt] = []
    while len(found) < count:
        prompt = made(category, rng, held_out)
        of_split = held_out or len(prompt.meaning.groups) < 2 or split_of(prompt.text) == split
        if fair(prompt) and of_split:
            opening = OPENINGS[int(rng.integers(len(OPENINGS)))]
            found.append(GenPrompt(category, opening + prompt.text, prompt.meaning))
    return found


class Promise(Protocol):
    """What says what a picture must show: a `GenPrompt`, a `Drawable`."""

    @property
    def meaning(self) -> Meaning:
        """The things promised."""
        ...


def judge(prompt: Promise, picture: np.ndarray) -> bool:
    """Whether a uint8 (H, W, 3) picture shows exactly what the prompt names."""
    return satisfies(prompt.meaning, detect(picture))


def grade(prompt: Promise, picture: np.ndarray) -> float:
    """How much of it the picture shows, 0 to 1; 1 exactly where `judge` says yes."""
    return share(prompt.meaning, detect(picture))
