"""Every test of the command line runs in an empty folder, with the fake instead of the pipeline."""

import sys
import types
from pathlib import Path

import pytest
from PIL import Image
from tests.cli.fake_model import CALLS, FakeMMaDA


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working folder, and the fake instead of the pipeline (so nothing here imports torch)."""
    pipeline = types.ModuleType("mmada.pipeline")
    pipeline.MMaDA = FakeMMaDA  # type: ignore[attr-defined]
    options = types.ModuleType("mmada.pipeline.options")
    options.TextSampling = options.ImageSampling = dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mmada.pipeline", pipeline)
    monkeypatch.setitem(sys.modules, "mmada.pipeline.options", options)
    monkeypatch.chdir(tmp_path)
    CALLS.clear()
    return tmp_path


@pytest.fixture
def scene(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "scene.png"
    Image.new("RGB", (16, 12), "red").save(path)
    return str(path)


@pytest.fixture
def hole(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "hole.png"
    Image.new("L", (16, 12), 255).save(path)
    return str(path)
