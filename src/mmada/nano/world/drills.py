"""Drills: pairs of questions for training only: an open question, then the same fact as yes or no.

"Is the circle above the star?" is answered by yes or no, which is the exclusive or of what the picture shows and which word was
asked: nothing that looks at one of them alone tells anything, and training on such questions stays at chance. "Is the circle
above or below the star?" has the answer that the picture shows; asked first, it lends the other what it needs
(experiments/log.md).
"""

from __future__ import annotations

import numpy as np

from mmada.nano.world.questions import Question, compared, reason, related, said
from mmada.nano.world.scenes import Scene

__all__ = ["drill"]

Random = np.random.Generator
OPPOSITE = {"above": "below", "below": "above", "left": "right", "right": "left"}


def drill(scene: Scene, rng: Random) -> list[Question]:
    """Two questions about the same things, of the kind relation or compare; empty if the scene does not allow any."""
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
