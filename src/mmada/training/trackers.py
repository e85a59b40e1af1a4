"""Trackers: curves and sample pictures of a run in TensorBoard, Weights & Biases, Trackio or MLflow, beside the JSONL log.

They only show what the log has. A library is imported when a run begins; one that is missing or fails is warned about once and
left out, and the run goes on. Of several processes, the first alone has trackers.

Where they write: TensorBoard into the run folder; Trackio into its own local folder; MLflow into ``mlruns.db`` in the run folder
unless ``MLFLOW_TRACKING_URI`` is set. Weights & Biases is offline (``wandb sync`` uploads later) unless ``WANDB_MODE`` or
``WANDB_API_KEY`` is set.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from mmada.errors import unknown_name
from mmada.io.atomic import write_json
from mmada.io.documents import read_fields

__all__ = ["TRACKERS", "Tracker", "Trackers", "check_trackers"]

PROJECT = "mmada"
RUN_IDS = "trackers.json"
"""File of a run folder with the ids under which trackers know the run, so that a resumed run goes on in its own curves."""
Values = Mapping[str, float]


class Tracker(Protocol):
    """One tracker of a run that has begun."""

    def log(self, values: Values, step: int) -> None:
        """Numbers at a step."""
        ...

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        """A picture at a step."""
        ...

    def text(self, name: str, text: str, step: int) -> None:
        """A text at a step."""
        ...

    def finish(self) -> None:
        """The run is over."""
        ...


class TensorBoard:
    """Event files in ``tensorboard/`` of the run folder: ``tensorboard --logdir RUN``."""

    def __init__(self, folder: Path, name: str, run_id: str, settings: Mapping[str, Any]) -> None:
        self.writer: Any = import_module("torch.utils.tensorboard").SummaryWriter(str(folder / "tensorboard"))
        self.writer.add_text("settings", f"```\n{json.dumps(settings, indent=1, default=str)}\n```", 0)

    def log(self, values: Values, step: int) -> None:
        """As `Tracker.log`."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        """As `Tracker.picture`."""
        self.writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def text(self, name: str, text: str, step: int) -> None:
        """As `Tracker.text`."""
        self.writer.add_text(name, text, step)

    def finish(self) -> None:
        """As `Tracker.finish`."""
        self.writer.close()


class WandbLike:
    """Weights & Biases, and Trackio, which has the same functions."""

    def __init__(self, module: Any, options: Mapping[str, Any]) -> None:
        self.module: Any = module
        module.init(**options)

    def log(self, values: Values, step: int) -> None:
        """As `Tracker.log`."""
        self.module.log(dict(values), step=step)

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        """As `Tracker.picture`."""
        self.module.log({name: self.module.Image(picture)}, step=step)

    def text(self, name: str, text: str, step: int) -> None:
        """As `Tracker.text`."""
        table = self.module.Table if hasattr(self.module, "Table") else None
        if table is not None:
            self.module.log({name: table(columns=["text"], data=[[text]])}, step=step)

    def finish(self) -> None:
        """As `Tracker.finish`."""
        self.module.finish()


def wandb(folder: Path, name: str, run_id: str, settings: Mapping[str, Any]) -> Tracker:
    """Weights & Biases."""
    offline = not (os.environ.get("WANDB_MODE") or os.environ.get("WANDB_API_KEY"))
    mode = {"mode": "offline"} if offline else {}
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    options = {"project": project, "name": name, "id": run_id, "resume": "allow", "dir": str(folder), "config": dict(settings)}
    return WandbLike(import_module("wandb"), options | mode)


def trackio(folder: Path, name: str, run_id: str, settings: Mapping[str, Any]) -> Tracker:
    """Trackio: ``trackio show``."""
    project = os.environ.get("TRACKIO_PROJECT", PROJECT)
    options = {"project": project, "name": f"{name}-{run_id}", "config": dict(settings), "resume": "allow"}
    return WandbLike(import_module("trackio"), options)


class MLflow:
    """MLflow: ``mlflow ui --backend-store-uri sqlite:///RUN/mlruns.db``."""

    def __init__(self, folder: Path, name: str, run_id: str, settings: Mapping[str, Any]) -> None:
        self.module: Any = import_module("mlflow")
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            self.module.set_tracking_uri(f"sqlite:///{(folder / 'mlruns.db').resolve()}")
        self.module.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        self.module.start_run(run_name=f"{name}-{run_id}")
        self.module.log_dict(dict(settings), "recipe.json")

    def log(self, values: Values, step: int) -> None:
        """As `Tracker.log`."""
        self.module.log_metrics(dict(values), step=step)

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        """As `Tracker.picture`."""
        self.module.log_image(picture, f"{name}_{step:06d}.png")

    def text(self, name: str, text: str, step: int) -> None:
        """As `Tracker.text`."""
        self.module.log_text(text, f"{name}_{step:06d}.txt")

    def finish(self) -> None:
        """As `Tracker.finish`."""
        self.module.end_run()


TRACKERS: dict[str, Callable[[Path, str, str, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": wandb,
    "trackio": trackio,
    "mlflow": MLflow,
}
"""Name -> a function of the run folder, the run's name, its id and its settings. Each is an extra of the package too."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise InputError for a name that is no tracker."""
    for name in names:
        if name not in TRACKERS:
            raise unknown_name("tracker", str(name), TRACKERS)


def first_process() -> bool:
    """Whether this is the only process of the run, or the first of several (torchrun sets ``RANK``)."""
    return os.environ.get("RANK", "0") == "0"


class Trackers:
    """All trackers of a run; a context manager. What fails is warned about once and left out from then on."""

    def __init__(self, names: Sequence[str], folder: Path, name: str, settings: Mapping[str, Any] | None = None) -> None:
        self.running: dict[str, Tracker] = {}
        if not names or not first_process():
            return
        run_id = self.run_id(folder)
        for one in dict.fromkeys(names):
            made = self.tried(one, lambda one=one: TRACKERS[one](folder, name, run_id, settings or {}))  # type: ignore[misc]
            if made is not None:
                self.running[one] = made

    @staticmethod
    def run_id(folder: Path) -> str:
        """The id of the run, kept in its folder."""
        path = folder / RUN_IDS
        if path.is_file() and isinstance(found := read_fields(path, "trackers").get("id"), str):
            return found
        made = uuid.uuid4().hex[:8]
        write_json(path, {"id": made})
        return made

    def tried(self, name: str, call: Callable[[], Any]) -> Any:
        """The result of a call of a tracker; None, after a warning, where it fails."""
        try:
            return call()
        except ImportError as error:
            reason = f"is not installed ({error}); install it with: pip install 'mmada[{name}]'"
        except Exception as error:  # a tracker may fail in any way: no network, a full disk, a changed interface
            reason = f"failed ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        logging.getLogger(__name__).warning("tracker %s %s; the run goes on without it", name, reason)
        self.running.pop(name, None)
        return None

    def each(self, call: Callable[[Tracker], object]) -> None:
        """Call every tracker that still runs."""
        for name, tracker in list(self.running.items()):
            self.tried(name, lambda tracker=tracker: call(tracker))  # type: ignore[misc]

    def log(self, values: Values, step: int) -> None:
        """Numbers at a step, in every tracker."""
        self.each(lambda tracker: tracker.log(values, step))

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        """A picture at a step, in every tracker."""
        self.each(lambda tracker: tracker.picture(name, picture, step))

    def text(self, name: str, text: str, step: int) -> None:
        """A text at a step, in every tracker."""
        self.each(lambda tracker: tracker.text(name, text, step))

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_: object) -> None:
        self.each(lambda tracker: tracker.finish())
