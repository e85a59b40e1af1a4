"""Completions to be judged, which the tests of rewards share."""

import numpy as np
from PIL import Image

from mmada.tasks.arithmetic import problem
from mmada.tasks.captions import drawable
from mmada.tasks.render import CLEAN, render
from mmada.tasks.scenes import Scene
from mmada.training.rewards import Asked, Completion


def written(answer: str, written: str = "") -> Completion:
    """An answer to one arithmetic problem, 5 by construction of the caller."""
    given = problem(np.random.default_rng(0))
    return Completion(Asked(given.text, given), written or answer, answer.replace("RIGHT", given.answer))


def drawn(scene: Scene | None = None) -> Completion:
    """A picture for a caption: of its own scene, or of another."""
    item = drawable(np.random.default_rng(1))
    pixels = render(scene or item.scene, np.random.default_rng(0), CLEAN)
    return Completion(Asked(item.text, item), drawn=Image.fromarray(pixels))
