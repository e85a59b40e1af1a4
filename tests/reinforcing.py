"""Short runs of policy optimisation, which the tests of its recipes share: settings, rewards, and what a run left."""

import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.helpers import SHORT_RUN
from torch import Tensor

from mmada import nano
from mmada.io.jsonl import read_log
from mmada.tasks.task import Completion

NANO = Path(nano.__path__[0]) / "assets"
FEW = SHORT_RUN | {
    "plan.steps": "7",
    "plan.save_every": "2",
    "plan.optim.lr": "1e-3",
    "group_size": "3",
    "method.updates": "3",
}
MODULE = "tests.reinforcing"


def varied(completions: Sequence[Completion]) -> list[float]:
    """Another number for every completion, the same each time."""
    return [zlib.crc32(c.image.tobytes() if c.image else c.raw_text.encode()) % 97 / 97 for c in completions]


def equal(completions: Sequence[Completion]) -> list[float]:
    return [0.7] * len(completions)


def raising(completions: Sequence[Completion]) -> list[float]:
    raise ValueError("out of order")


def nothing(completions: Sequence[Completion]) -> list[float]:
    return [float("nan")] * len(completions)


def sleeping(completions: Sequence[Completion]) -> list[float]:
    time.sleep(60)
    return varied(completions)


def half_broken(completions: Sequence[Completion]) -> list[float]:
    """No number for every third completion."""
    return [value if i % 3 else float("nan") for i, value in enumerate(varied(completions))]


def rewarded(name: str) -> dict[str, str]:
    """Settings with one reward for all tasks."""
    return {"rewards": str({task: {f"{MODULE}:{name}": 1.0} for task in ("math", "vision", "image")})}


def rows(folder: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    clock = ("rate", "seconds", "seconds_rollout", "seconds_reward")
    return [{k: v for k, v in row.items() if k not in clock} for row in read_log(folder / "log.jsonl")]


def weights(folder: Path) -> dict[str, Tensor]:
    return {k: v for k, v in load_file(folder / "checkpoint.safetensors").items() if k.startswith("model.")}


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    """Sample pictures take a second a run."""
    patch.setattr("mmada.recipes.rl.RLRecipe.samples", lambda *_: [])


def mixed() -> dict[str, str]:
    return FEW | rewarded("varied") | {"tasks": "{math: 1, vision: 1, image: 1}"}
