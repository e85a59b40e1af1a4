"""ImageReward: how people would like a picture for its prompt, by the package of its authors."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmada.errors import InputError, check_text
from mmada.training.rewards.completion import Completion

__all__ = ["ImageReward"]


@dataclass(frozen=True)
class ImageReward:
    """The score of the package `image-reward` (about -2 to 2; mean 0 and deviation 1 over its own data).

    ``source``: a name that the package knows, which it downloads, or a checkpoint file. ``device``: where it runs.
    """

    source: str = "ImageReward-v1.0"
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_text("source of image_reward", self.source)

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        """As `Reward`. Raises InputError without the package, or for a completion that is no picture."""
        model = loaded(self.source, self.device)
        return [scored(model, completion) for completion in completions]


def scored(model: Any, completion: Completion) -> float:
    """Of one picture: through a file, which every version of the package reads."""
    if completion.drawn is None:
        raise InputError(f"image_reward judges pictures, and {completion.asked.words!r} asks for text; leave it out there")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drawn.png"
        completion.drawn.convert("RGB").save(path)
        return float(model.score(completion.asked.words, str(path)))


@lru_cache(maxsize=1)
def loaded(source: str, device: str) -> Any:
    """The model, read once."""
    try:
        package: Any = importlib.import_module("ImageReward")
    except ImportError as error:
        raise InputError(f"image_reward cannot be imported ({error}); install it with: pip install image-reward") from error
    return package.load(source, device=device)
