"""GenEval's six categories for the nano world; the detector must find exactly the named things."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mmada.nano.world.captions import RELATIONS, Group, Meaning, named, satisfies, share
from mmada.nano.world.detector import detect
from mmada.nano.world.scenes import COLORS, HELD_OUT, SHAPES, Split, split_of

__all__ = ["CATEGORIES", "GenPrompt", "Promise", "grade", "judge", "of_split", "prompts"]

CATEGORIES = ("single object", "two objects", "counting", "colors", "position", "color attribution")
OPENINGS = ("", "", "a photo of ", "a picture of ", "draw ")
TESTED_WITHOUT_COLOR = ("circle", "star")
Random = np.random.Generator
Pair = tuple[str, str]


@dataclass(frozen=True)
class GenPrompt:
    """A prompt with its checkable meaning."""

    category: str
    text: str
    meaning: Meaning


def random_pair(rng: Random, held_out: bool) -> Pair:
    """(colour, shape), held out or not."""
    pairs = sorted(HELD_OUT)
    if held_out:
        return pairs[int(rng.integers(len(pairs)))]
    while True:
        pair = (str(rng.choice(COLORS)), str(rng.choice(SHAPES)))
        if pair not in HELD_OUT:
            return pair


def made(category: str, rng: Random, held_out: bool) -> GenPrompt:
    """One prompt of a category; with ``held_out`` its first thing is a held-out pair."""
    (color, shape), (other_color, other_shape) = random_pair(rng, held_out), random_pair(rng, False)
    groups: tuple[Group, ...] = (Group(1, color, shape),)
    relation = ""
    if category == "single object" and not held_out:
        groups = (Group(1, None, shape),)
    elif category == "counting":
        count = int(rng.integers(2, 5))
        groups = (Group(count, color if held_out or rng.random() < 0.7 else None, shape),)
    elif category not in ("single object", "colors"):
        groups = (*groups, Group(1, other_color, other_shape))
        relation = str(rng.choice(list(RELATIONS))) if category == "position" else ""
    meaning = Meaning(groups, relation)
    return GenPrompt(category, words(meaning), meaning)


def fair(prompt: GenPrompt) -> bool:
    """Whether the two things differ: in shape for "two objects", in both for "color attribution", else in shape or colour."""
    if len(prompt.meaning.groups) < 2:
        return True
    a, b = prompt.meaning.groups
    if prompt.category == "color attribution":
        return a.color != b.color and a.shape != b.shape
    if prompt.category == "two objects":
        return a.shape != b.shape
    return (a.color, a.shape) != (b.color, b.shape)


def of_split(meaning: Meaning, split: Split) -> bool:
    """Whether a prompt of one or two groups belongs to a split, independent of its wording.

    With two groups, in their order, the split is that of captions. With one group there are too few combinations, and supervised
    training has captions of all of them; but no prompt of policy optimisation is in the test set, which has "a circle" and
    "a star" without a colour, and a third of the rest.
    """
    group = meaning.groups[0]
    if len(meaning.groups) > 1:
        return split_of(words(meaning)) == split
    if group.color is None and group.count == 1:
        in_test = group.shape in TESTED_WITHOUT_COLOR
    else:
        in_test = zlib.crc32(words(meaning).encode()) % 3 == 0
    return in_test == (split == "test")


def words(meaning: Meaning) -> str:
    """Text of a prompt, without an opening such as "a photo of"."""
    names = [named(group.color, str(group.shape), None, group.count) for group in meaning.groups]
    return (f" {RELATIONS[meaning.relation]} " if meaning.relation else " and ").join(names)


def prompts(category: str, rng: Random, count: int, *, held_out: bool = False, split: Split = "test") -> list[GenPrompt]:
    """``count`` prompts of a split; the splits share none (`of_split`)."""
    found: list[GenPrompt] = []
    while len(found) < count:
        prompt = made(category, rng, held_out)
        if fair(prompt) and (held_out or of_split(prompt.meaning, split)):
            opening = OPENINGS[int(rng.integers(len(OPENINGS)))]
            found.append(GenPrompt(category, opening + prompt.text, prompt.meaning))
    return found


class Promise(Protocol):
    """A prompt with a checkable meaning: a `GenPrompt`, a `Drawable`."""

    @property
    def meaning(self) -> Meaning:
        """The things that a picture must show."""
        ...


def judge(prompt: Promise, picture: np.ndarray) -> bool:
    """Whether a uint8 (H, W, 3) picture shows exactly the things of the prompt."""
    return satisfies(prompt.meaning, detect(picture))


def grade(prompt: Promise, picture: np.ndarray) -> float:
    """Share of the prompt that the picture shows, 0 to 1; 1 exactly if `judge` is True."""
    return share(prompt.meaning, detect(picture))
