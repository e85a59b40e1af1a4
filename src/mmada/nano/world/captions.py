"""Captions of scenes with a checkable meaning, and the scenes that the model learns to draw for them.

For a caption without positions, training pictures use a fixed layout, with things in the order in which they are named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Protocol

import numpy as np

from mmada.nano.world.scenes import COLORS, SHAPES, Scene, Split, Thing, split_of

__all__ = ["RELATIONS", "Drawable", "Found", "Group", "Meaning", "describe", "drawable", "named", "satisfies", "share"]

NUMBERS = ("zero", "one", "two", "three", "four")
RELATIONS = {"above": "above", "below": "below", "left": "to the left of", "right": "to the right of"}
PREFIXES = ("", "", "", "", "draw ", "a picture of ", "an image of ", "a photo of ", "please draw ")


@dataclass(frozen=True)
class Group:
    """``count`` equal things; an attribute of None matches any. ``place`` is the (row, col) of the grid."""

    count: int
    color: str | None = None
    shape: str | None = None
    size: str | None = None
    place: tuple[int, int] | None = None


@dataclass(frozen=True)
class Meaning:
    """The checkable meaning of a caption: exactly these things. ``relation`` holds between the first and the second group."""

    groups: tuple[Group, ...]
    relation: str = ""


@dataclass(frozen=True)
class Drawable:
    """A caption with its meaning and a scene that shows it."""

    text: str
    meaning: Meaning
    scene: Scene


class Found(Protocol):
    """Interface of a thing in a scene or a detection; ``y`` and ``x`` are its centre in cells (0..2, fractions allowed)."""

    @property
    def color(self) -> str: ...
    @property
    def shape(self) -> str: ...
    @property
    def size(self) -> str: ...
    @property
    def y(self) -> float: ...
    @property
    def x(self) -> float: ...


def fits(thing: Found, group: Group) -> bool:
    """Whether a thing matches a group."""
    if group.place is not None and (round(thing.y), round(thing.x)) != group.place:
        return False
    pairs = ((group.color, thing.color), (group.shape, thing.shape), (group.size, thing.size))
    return all(expected is None or expected == actual for expected, actual in pairs)


def holds(relation: str, a: Found, b: Found) -> bool:
    """Whether ``a`` is in the relation to ``b`` by more than a third of a cell."""
    gap = {"above": b.y - a.y, "below": a.y - b.y, "left": b.x - a.x, "right": a.x - b.x}[relation]
    return gap > 1 / 3


def satisfies(meaning: Meaning, things: Sequence[Found]) -> bool:
    """Whether the things are exactly those of the meaning: none missing, none extra, relation and positions right."""
    slots = [group for group in meaning.groups for _ in range(group.count)]
    if len(slots) != len(things):
        return False
    return any(
        all(fits(thing, slot) for thing, slot in zip(order, slots, strict=True))
        and (not meaning.relation or holds(meaning.relation, order[0], order[1]))
        for order in permutations(things)
    )


def share(meaning: Meaning, things: Sequence[Found]) -> float:
    """Share of a meaning that the things show, 0 to 1; 1 exactly if they satisfy it.

    The size of a maximum matching of promised things to found ones, over the larger of the two numbers; a relation counts as one
    more.
    """
    if satisfies(meaning, things):
        return 1.0
    slots = [group for group in meaning.groups for _ in range(group.count)]
    taken: dict[int, int] = {}  # thing -> slot

    def matched(slot: int, seen: set[int]) -> bool:
        """Assign a thing to the slot, reassigning other slots if needed (an augmenting path)."""
        for index, thing in enumerate(things):
            if index not in seen and fits(thing, slots[slot]):
                seen.add(index)
                if index not in taken or matched(taken[index], seen):
                    taken[index] = slot
                    return True
        return False

    found = sum(matched(slot, set()) for slot in range(len(slots)))
    return found / (max(len(slots), len(things)) + bool(meaning.relation))


def named(color: str | None, shape: str | None, size: str | None = None, count: int = 1) -> str:
    """Text of a group: "a small red circle", "three stars"."""
    noun = shape or "object"
    words = [w for w in (size if size != "medium" else None, color, noun if count == 1 else f"{noun}s") if w]
    if count > 1:
        return " ".join([NUMBERS[count], *words])
    return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])


def enumerated(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def describe(scene: Scene) -> str:
    """All things in reading order: "red circle top left, small blue square center." """
    listed = (f"{'' if t.size == 'medium' else t.size + ' '}{t.name} {t.place}" for t in scene.things)
    return ", ".join(listed) + "."


# Layout (row, col) by number of things, for captions without positions: a caption then has one correct picture, and positions
# decoded in parallel cannot contradict each other (experiments/log.md).
LAYOUTS: dict[int, tuple[tuple[int, int], ...]] = {
    1: ((1, 1),),
    2: ((1, 0), (1, 2)),
    3: ((1, 0), (1, 1), (1, 2)),
    4: ((0, 0), (0, 2), (2, 0), (2, 2)),
}


def pairs(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """(colour, shape) of ``count`` different-looking groups."""
    found: list[tuple[str, str]] = []
    while len(found) < count:
        pair = (str(rng.choice(COLORS)), str(rng.choice(SHAPES)))
        if pair not in found:
            found.append(pair)
    return found


def listing(rng: np.random.Generator) -> tuple[str, Meaning, list[Thing]]:
    """A caption that lists one to four different things; sometimes without the colour or with a size."""
    count = int(rng.choice(4, p=(0.3, 0.38, 0.26, 0.06))) + 1
    sized, plain = rng.random() < 0.15, rng.random() < 0.1 and count == 1
    groups, things, words = [], [], []
    for (row, col), (color, shape) in zip(LAYOUTS[count], pairs(rng, count), strict=True):
        size = str(rng.choice(("small", "large"))) if sized and rng.random() < 0.6 else "medium"
        things.append(Thing(row, col, shape, color, size))
        groups.append(Group(1, None if plain else color, shape, size if sized else None))
        words.append(named(None if plain else color, shape, size))
    return enumerated(words), Meaning(tuple(groups)), things


def counting(rng: np.random.Generator) -> tuple[str, Meaning, list[Thing]]:
    """ "three red circles", "two stars", "two blue squares and a star"."""
    total = int(rng.integers(2, 5))
    first = total if total < 3 or rng.random() < 0.65 else total - 1
    (color, shape), (other_color, other_shape) = pairs(rng, 2)
    plain = rng.random() < 0.15
    cells = LAYOUTS[total]
    things = [Thing(r, c, shape, color) for r, c in cells[:first]]
    groups, words = (
        [Group(first, None if plain else color, shape)],
        [named(None if plain else color, shape, None, first)],
    )
    if first < total:
        things.append(Thing(*cells[-1], other_shape, other_color))
        groups.append(Group(1, other_color, other_shape))
        words.append(named(other_color, other_shape))
    return enumerated(words), Meaning(tuple(groups)), things


def relating(rng: np.random.Generator) -> tuple[str, Meaning, list[Thing]]:
    """ "a green star above a white circle"."""
    relation = str(rng.choice(list(RELATIONS)))
    cells = [(0, 1), (2, 1)] if relation in ("above", "below") else [(1, 0), (1, 2)]
    if relation in ("below", "right"):
        cells.reverse()
    names = pairs(rng, 2)
    things = [Thing(r, c, s, k) for (r, c), (k, s) in zip(cells, names, strict=True)]
    says = RELATIONS[relation] if relation in ("above", "below") or rng.random() < 0.7 else f"{relation} of"
    text = f"{named(*names[0])} {says} {named(*names[1])}"
    return text, Meaning(tuple(Group(1, k, s) for k, s in names), relation), things


def placing(rng: np.random.Generator) -> tuple[str, Meaning, list[Thing]]:
    """ "a red circle in the top left and a star in the center"."""
    count = int(rng.choice((1, 2, 3), p=(0.5, 0.35, 0.15)))
    cells = sorted(divmod(int(c), 3) for c in rng.choice(9, count, replace=False))
    things = [Thing(r, c, s, k) for (r, c), (k, s) in zip(cells, pairs(rng, count), strict=True)]
    words = [f"{named(t.color, t.shape)} {'at' if rng.random() < 0.3 else 'in'} the {t.place}" for t in things]
    return enumerated(words), Meaning(tuple(Group(1, t.color, t.shape, None, (t.row, t.col)) for t in things)), things


KINDS = (listing, counting, relating, placing)


def drawable(rng: np.random.Generator, split: Split = "train", *, held_out: bool = False) -> Drawable:
    """A caption with a scene that shows it, of the split; ``held_out`` as in `sample_scene`. The split follows the caption."""
    while True:
        text, meaning, things = KINDS[int(rng.choice(4, p=(0.4, 0.2, 0.2, 0.2)))](rng)
        scene = Scene(tuple(sorted(things)))
        of_split = held_out or (len(meaning.groups) == 1 and split == "train") or split_of(text) == split
        if scene.held_out != held_out or not of_split:
            continue
        if rng.random() < 0.12 and all(t.color != "white" for t in things):
            scene = Scene(scene.things, "light")
            text += " on a light background"
        return Drawable(str(rng.choice(PREFIXES)) + text, meaning, scene)
