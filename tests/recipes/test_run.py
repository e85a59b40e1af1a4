"""Running recipes: everything is checked before any work, and what is refused leaves nothing behind."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mmada.errors import InputError
from mmada.recipes.run import run
from mmada.registry import RECIPES, plugins


@dataclass(frozen=True, kw_only=True)
class Toy:
    """A recipe that notes that it works, and takes a step or refuses."""

    name: str
    follows: str = "before"
    refuse: bool = False
    rate: float = 0.1

    def run(self, *, out: Path, resume: bool, start: Path | None) -> Path:
        WORKED.append((self.name, resume, start))
        if self.refuse:
            raise InputError("rate is too low for these data")
        (out / "log.jsonl").write_text(json.dumps({"step": 0}) + "\n")
        (out / "checkpoint.safetensors").write_bytes(b"x")
        return out / "model"


WORKED: list[Any] = []


@pytest.fixture(autouse=True)
def registry(tmp_path: Path) -> Any:
    plugins()
    before = dict(RECIPES.targets)
    WORKED.clear()
    for name in ("toy", "other"):
        RECIPES.register(name, lambda name=name: Toy(name=name))
    (tmp_path / "runs" / "before" / "model").mkdir(parents=True)
    (tmp_path / "runs" / "before" / "model" / "config.json").write_text("{}")
    yield
    RECIPES.targets.clear()
    RECIPES.targets.update(before)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def damaged(file: str, text: str) -> Any:
    return lambda out: (out / file).write_text(text)


@pytest.mark.parametrize(
    ("call", "prepare", "message"),
    [
        ({"name": "toys"}, None, "recipe 'toys' is unknown; did you mean 'toy'"),
        ({"overrides": {"rat": "1"}}, None, "did you mean 'rate'"),
        ({"overrides": {"rate": "fast"}}, None, "setting 'rate' cannot be 'fast'"),
        ({"resume": True}, "nothing", "holds no run to resume"),
        ({"resume": True}, "empty", "holds no run to resume"),
        ({}, "run", "already holds a run"),
        ({"name": "other"}, "run", "already holds a run"),
        ({"name": "other", "resume": True}, "run", "is of recipe 'toy', not 'other'"),
        ({"name": "other"}, "killed", "is of recipe 'toy', not 'other'"),
        ({"resume": True}, damaged("recipe.yaml", "[" * 5000), "is damaged"),
        ({"resume": True}, damaged("recipe.yaml", "name: [\n"), "is damaged"),
        ({"resume": True}, damaged("recipe.yaml", "3"), "is damaged"),
        ({"resume": True}, damaged("begun_from.json", "{"), "is damaged"),
        ({"resume": True}, damaged("begun_from.json", "[" * 100_000), "is damaged"),
        ({"start_from": Path("gone")}, "nothing", "starts from the model of before, not found at gone"),
        ({"resume": True, "gone": True}, "run", "of the run in .* is gone"),
        ({"resume": True, "changed": True}, "run", "has changed since the run in .* began"),
    ],
)
def test_refused_before_any_work(call: dict[str, Any], prepare: Any, message: str, tmp_path: Path) -> None:
    out, start = tmp_path / "runs" / "toy", tmp_path / "runs" / "before" / "model"
    given = {"name": "toy", "out": out} | call
    if prepare == "empty":
        out.mkdir()
    if prepare not in (None, "nothing", "empty"):
        run("toy", out=out)
        if prepare == "killed":  # before its first checkpoint
            (out / "checkpoint.safetensors").unlink()
        if callable(prepare):
            prepare(out)
    if given.pop("gone", False):
        (start / "config.json").unlink()
    if given.pop("changed", False):
        (start / "model.safetensors").write_bytes(b"other weights")
    WORKED.clear()
    before = tree(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        run(**given)
    assert "\n" not in str(caught.value)
    assert not WORKED
    assert tree(tmp_path) == before
    assert out.exists() == (prepare not in (None, "nothing"))


def test_a_recipe_that_refuses_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "toy"
    with pytest.raises(InputError, match="rate is too low"):
        run("toy", overrides={"refuse": "true"}, out=out)
    assert not out.exists()
    with pytest.raises(InputError, match="rate is too low"):
        run("toy", overrides={"refuse": "true"}, out=tmp_path / "new" / "deep" / "toy", start_from=tmp_path / "runs/before/model")
    assert not (tmp_path / "new").exists()
    run("toy", out=out)
    before = tree(out)
    with pytest.raises(InputError, match="rate is too low"):
        run("toy", overrides={"refuse": "true"}, out=out, resume=True)
    assert tree(out) == before


def test_settings_that_differ_are_stored_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "runs" / "toy"
    run("toy", out=out)
    run("toy", out=out, resume=True)
    assert not caplog.records
    run("toy", overrides={"rate": "0.2"}, out=out, resume=True)
    assert "other settings than before: rate" in caplog.text
    assert "rate: 0.1" in (out / "recipe_1.yaml").read_text()
    assert "rate: 0.2" in (out / "recipe.yaml").read_text()
