"""Storage of rollout batches on disk, so that a run can be resumed between two updates of a batch."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from mmada.canvas import Canvas
from mmada.errors import InputError
from mmada.io.atomic import remove_leftovers, write_tensors
from mmada.io.fingerprint import fingerprint
from mmada.rl import MaskedViews, Update

__all__ = ["RolloutBatch", "RolloutStore"]


@dataclass(frozen=True)
class RolloutBatch:
    """Everything that the inner updates of a batch need, on the CPU. ``canvas``: completed; ``advantage_B``: float32."""

    canvas: Canvas
    advantage_B: Tensor
    updates: tuple[Update, ...]
    statistics: dict[str, float]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, for a file."""
        c = self.canvas
        found = {"tokens": c.tokens_BL, "editable": c.editable_BL, "valid": c.valid_BL, "modality": c.modality_BL}
        found["advantage"] = self.advantage_B
        for n, update in enumerate(self.updates):
            views = update.views
            parts = {"tokens": views.tokens_KBL, "scored": views.scored_KBL, "weight": views.weight_KBL}
            parts |= {} if update.old_KBL is None else {"old": update.old_KBL}
            parts |= {} if update.reference_KBL is None else {"reference": update.reference_KBL}
            found |= {f"{n}.{name}": value for name, value in parts.items()}
        return found

    @staticmethod
    def of(tensors: dict[str, Tensor], updates: int, statistics: dict[str, float]) -> RolloutBatch:
        """A batch from its `tensors`."""
        t = tensors
        made = []
        for n in range(updates):
            views = MaskedViews(t[f"{n}.tokens"], t[f"{n}.scored"], t[f"{n}.weight"])
            made.append(Update(views, t.get(f"{n}.old"), t.get(f"{n}.reference")))
        canvas = Canvas(t["tokens"], t["editable"], t["valid"], t["modality"])
        return RolloutBatch(canvas, t["advantage"], tuple(made), statistics)


class RolloutStore:
    """The stored batches of one run, in ``folder``.

    ``settings``: the settings that a batch depends on; ``training_config``: the others that change the weights. A batch whose
    updates have begun is reused if ``settings`` agree; one that can still be made again only if ``training_config`` agrees too.
    ``fresh``: the run starts anew, so the batches of an earlier one are deleted.
    """

    def __init__(self, folder: Path, *, settings: str, training_config: str, fresh: bool) -> None:
        self.folder = folder
        self.made_with = {"settings": fingerprint(settings)[:16], "course": fingerprint(settings + training_config)[:16]}
        if fresh:
            self.drop(since=0)

    def path(self, number: int) -> Path:
        """The file of a batch."""
        return self.folder / f"batch_{number:08d}.safetensors"

    def write(self, number: int, batch: RolloutBatch) -> None:
        """Store a batch; the file appears whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {**self.made_with, "updates": len(batch.updates), "statistics": batch.statistics}
        tensors = {name: value.contiguous().clone() for name, value in batch.tensors().items()}
        write_tensors(self.path(number), tensors, {"state": json.dumps(state)})

    def read(self, number: int, *, done: int) -> RolloutBatch | None:
        """A stored batch of which ``done`` updates are done, or None if there is none and it can be made again.

        Raises InputError where it cannot: the weights have moved since.
        """
        path = self.path(number)
        state, batch = self.stored(path) if path.is_file() else ({}, None)
        if state.get("settings" if done else "course") != self.made_with["settings" if done else "course"]:
            batch = None
        if batch is None and done:
            raise InputError(
                f"rollouts of batch {number}, of which {done} updates are done, are not in {self.folder} with these settings; "
                f"resume with the settings that the run was started with"
            )
        if done and state["course"] != self.made_with["course"]:
            self.drop(since=number + 1)  # made with weights that this training_config will not reach
        return batch

    def stored(self, path: Path) -> tuple[dict[str, Any], RolloutBatch]:
        """The metadata of a file, and its batch."""
        try:
            with safe_open(path, "pt") as file:
                state = json.loads(file.metadata()["state"])
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except Exception as error:  # a damaged file raises safetensors' own class
            raise InputError(f"stored rollouts {path} cannot be read ({error}); delete them and the run's checkpoint") from error
        return state, RolloutBatch.of(tensors, int(state["updates"]), dict(state["statistics"]))

    def drop(self, *, before: int = 0, since: int = sys.maxsize) -> None:
        """Delete the batches before one, and those since another."""
        remove_leftovers(self.folder)
        for file in self.folder.glob("batch_*.safetensors"):
            if not before <= int(file.stem.partition("_")[2]) < since:
                file.unlink()
