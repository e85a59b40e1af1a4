"""Completions to be judged, which the tests of rewards share."""

import numpy as np
from PIL import Image

from mmada.nano.tasks import IMAGE, MATH
from mmada.nano.world.arithmetic import problem
from mmada.nano.world.captions import drawable
from mmada.nano.world.render import CANONICAL, render
from mmada.nano.world.scenes import Scene
from mmada.tasks.task import Completion


def written(answer: str, written: str = "") -> Completion:
    """An answer to one arithmetic problem, 5 by construction of the caller."""
    given = problem(np.random.default_rng(0))
    return Completion(MATH.prompt(given), written or answer, answer.replace("RIGHT", given.answer))


def drawn(scene: Scene | None = None) -> Completion:
    """A picture for a caption: of its own scene, or of another."""
    item = drawable(np.random.default_rng(1))
    pixels = render(scene or item.scene, np.random.default_rng(0), CANONICAL)
    return Completion(IMAGE.prompt(item), image=Image.fromarray(pixels))
