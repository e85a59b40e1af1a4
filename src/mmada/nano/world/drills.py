"""Drills: pairs of training questions about one fact, an open question followed by a yes-or-no question.

The answer to "Is the circle above the star?" is the exclusive or of what the picture shows and which word the question has.
Neither of the two alone is informative, and training on such questions alone stays at chance. "Is the circle above or below the
star?" is answered by the picture alone; it is learned first and makes the other learnable (experiments/log.md).
"""

from __future__ import annotations

import numpy as np

from mmada.nano.world.questions import Question, compared, reason, related, said
from mmada.nano.world.scenes import Scene

__all__ = ["drill"]

Random = np.random.Generator
OPPOSITE = {"above": "below", "below": "above", "left": "right", "right": "left"}


def drill(scene: Scene, rng: Random) -> list[Question]:
    """Two questions about the same things, of kind "relation" or "compare"; empty if the scene allows neither."""
    return sides(scene, rng) if rng.random() < 0.5 else amounts(scene, rng)


def sides(scene: Scene, rng: Random) -> list[Question]:
    """ "Is the circle above or below the star?", then a relation of the two."""
    found = related(scene, rng)
    if found is None:
        return []
    a, b, truth = found
    one, other = (truth, OPPOSITE[truth]) if rng.random() < 0.5 else (OPPOSITE[truth], truth)
    of = "" if truth in ("above", "below") else " of"
    x, y = said(rng, scene, a), said(rng, scene, b)
    trace = f"{a.name} {a.place}, {b.name} {b.place}. so it is {truth}{of} it."
    word = truth if rng.random() < 0.5 else OPPOSITE[truth]
    to = "to the " if of and rng.random() < 0.5 else ""
    return [
        Question("side", f"is the {x} {one} or {other}{of} the {y}?", truth, trace),
        Question("relation", f"is the {x} {to}{word}{of} the {y}?", "yes" if word == truth else "no", trace),
    ]


def amounts(scene: Scene, rng: Random) -> list[Question]:
    """ "Are there more circles or stars?", then a comparison of the two."""
    found = compared(scene, rng)
    if found is None:
        return []
    (x, left), (y, right) = found
    truth = "same" if left == right else x if left > right else y
    word = ("more", "fewer", "same")[int(rng.integers(3))]
    text = f"are there as many {x} as {y}?" if word == "same" else f"are there {word} {x} than {y}?"
    yes = {"more": left > right, "fewer": left < right, "same": left == right}[word]
    trace = reason(scene, f"{x}: {left}. {y}: {right}.")
    return [
        Question("more", f"are there more {x} or {y}?", truth, trace),
        Question("compare", text, "yes" if yes else "no", trace),
    ]
