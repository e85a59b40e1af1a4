"""Trackers beside the log: each is told what the log has, and one that fails never stops a run."""

import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from mmada.errors import InputError
from mmada.training.loop import Plan
from mmada.training.trackers import TRACKERS, Trackers


class Recorder(ModuleType):
    """A stand-in for the module of a tracker that writes down every call; ``fails``: functions that raise."""

    def __init__(self, name: str, fails: tuple[str, ...] = ()) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.fails = fails

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*values: Any, **named: Any) -> Any:
            self.calls.append((name, values, named))
            if name in self.fails:
                raise ConnectionError("no network")
            return f"{name} of {values}"

        return call

    def named(self, name: str) -> list[dict[str, Any]]:
        """The named arguments of every call of a function."""
        return [named for called, _, named in self.calls if called == name]


def put_in(monkeypatch: pytest.MonkeyPatch, name: str, fails: tuple[str, ...] = ()) -> Recorder:
    found = Recorder(name, fails)
    monkeypatch.setitem(sys.modules, name, found)
    for variable in ("WANDB_MODE", "WANDB_API_KEY", "MLFLOW_TRACKING_URI", "RANK"):
        monkeypatch.delenv(variable, raising=False)
    return found


def tracked(names: list[str], folder: Path) -> None:
    with Trackers(names, folder, "run", {"name": "sft"}) as trackers:
        for step in range(3):
            trackers.log({"loss": 1.0 / (step + 1)}, step)
        trackers.picture("samples", Image.new("RGB", (4, 4)), 2)
        trackers.text("answers", "four", 2)


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_a_tracker_is_told_what_the_log_has(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = put_in(monkeypatch, name)
    tracked([name], tmp_path)
    called = [call for call, _, _ in module.calls]
    logged = [values[0] for call, values, _ in module.calls if call in ("log", "log_metrics")]
    assert [one for one in logged if "loss" in one] == [{"loss": 1.0}, {"loss": 0.5}, {"loss": 1 / 3}]
    assert called[-1] == ("end_run" if name == "mlflow" else "finish")
    if name == "wandb":
        (options,) = module.named("init")
        assert options["mode"] == "offline", "nothing leaves the machine unless asked"
        tracked([name], tmp_path)
        assert module.named("init")[1]["id"] == options["id"], "a resumed run goes on in its own curves"


def test_tensorboard_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard", exc_type=ImportError)
    tracked(["tensorboard"], tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("loss")] == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3))]
    assert events.Tags()["images"] == ["samples"]


@pytest.mark.parametrize("when", ["init", "log", "finish"])
def test_a_failing_tracker_warns_once_and_the_others_go_on(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put_in(monkeypatch, "wandb", (when,))
    other = put_in(monkeypatch, "trackio")
    with caplog.at_level(logging.WARNING):
        tracked(["wandb", "trackio"], tmp_path)
    assert len(caplog.records) == 1
    assert "tracker wandb failed (ConnectionError: no network); the run goes on without it" in caplog.text
    assert len(other.named("log")) == 5


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with caplog.at_level(logging.WARNING):
        tracked(["wandb"], tmp_path)
    assert "pip install 'mmada[wandb]'" in caplog.text
    assert len(caplog.records) == 1


def test_only_the_first_process_has_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = put_in(monkeypatch, "wandb")
    monkeypatch.setenv("RANK", "1")
    tracked(["wandb"], tmp_path)
    assert not module.calls
    assert not list(tmp_path.iterdir())


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(InputError, match=r"tracker 'wandbb' is unknown; did you mean 'wandb'\?"):
        Plan(steps=1, trackers=("wandbb",))
    assert set(TRACKERS) == {"tensorboard", "wandb", "trackio", "mlflow"}
