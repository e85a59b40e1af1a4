"""Suites of any measures: tasks with data, likelihood, splits, and results that are stored as they come."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image
from tests.helpers import tiny_folder

import mmada
from mmada.errors import InputError
from mmada.evaluation import LikelihoodMeasure, Measured, ScoredText, Suite, TaskMeasure, run_suite
from mmada.pipeline import Preset
from mmada.registry import SUITES, plugins
from mmada.tasks.task import Completion, Prompt, Score

Random = np.random.Generator


class Model:
    """Answers "7", draws red pictures, and notes what it is asked."""

    def __init__(self) -> None:
        self.preset = Preset(cot_instruction="think")
        self.engine = SimpleNamespace(parts=SimpleNamespace(preset=self.preset))
        self.calls: list[tuple[str, Any]] = []

    def generate(self, texts: list[str], thinking: bool | None = None) -> list[SimpleNamespace]:
        self.calls.append(("generate", (len(texts), thinking)))
        return [SimpleNamespace(text="7", raw_text="<think> so</think> 7") for _ in texts]

    def ask(self, images: list[Image.Image], texts: list[str], thinking: bool | None = None) -> list[SimpleNamespace]:
        self.calls.append(("ask", (len(images), thinking)))
        return [SimpleNamespace(text="7", raw_text="7") for _ in texts]

    def draw(self, texts: list[str], seed: int = 0, thinking: bool = False) -> list[Image.Image]:
        self.calls.append(("draw", seed))
        return [Image.new("RGB", (8, 8), "red") for _ in texts]

    def info(self) -> dict[str, object]:
        return {"name": "toy"}


@dataclass(frozen=True)
class Sums:
    """A task whose examples are (question, answer); an answer of None cannot be judged."""

    inputs: frozenset[Any] = frozenset({"text"})
    output: Any = "text"
    name: ClassVar[str] = "sums"
    scores: ClassVar[frozenset[str]] = frozenset({"correct", "length"})

    def prompt(self, example: Any) -> Prompt:
        images = (Image.new("RGB", (8, 8)),) if "image" in self.inputs else ()
        return Prompt(example[0], self, target=example[1], images=images)

    def score(self, completion: Completion) -> Score:
        if completion.image is not None:
            return Score(float(completion.image.getpixel((0, 0)) == (255, 0, 0)))
        target = completion.prompt.target
        return Score(math.nan if target is None else float(completion.answer == target), {"length": len(completion.raw_text)})


def examples(rng: Random, count: int, split: str) -> Sequence[tuple[str, str | None]]:
    answers = {"train": "1", "validation": "7", "test": "8"}[split]
    return [(f"q{rng.integers(99)}", answers if i % 4 else None) for i in range(count)]


def suite(**measures: Any) -> str:
    name = f"toy{len(SUITES.targets)}"
    SUITES.register(name, Suite(measures=measures, thresholds={"sums: correct": 0.5}))
    return name


@pytest.fixture(autouse=True)
def registry() -> Any:
    plugins()
    before = dict(SUITES.targets)
    yield
    SUITES.targets.clear()
    SUITES.targets.update(before)


def test_a_task_with_data_is_a_measure(tmp_path: Path) -> None:
    model: Any = Model()
    name = suite(sums=(TaskMeasure(task=Sums(), examples=examples, thinking=True), 40))
    for split, right in (("test", 0.0), ("validation", 1.0)):
        rows = {row["name"]: row for row in run_suite(name, model, seeds=2, split=split, out=tmp_path / "r.json")}
        assert rows["sums: correct"]["value"] == right
        assert rows["sums: correct"]["n"] == 60  # 10 of 40 cannot be judged, and are not counted as wrong
        assert rows["sums: correct not judged"]["n"] == 20
        assert rows["sums: length"]["value"] == len("<think> so</think> 7")
        assert rows["sums: correct"]["met"] == (right >= 0.5)
        assert json.loads((tmp_path / "r.json").read_text())["settings"]["split"] == split
    assert model.calls[:2] == [("generate", (32, True)), ("generate", (8, True))]


def test_tasks_about_and_of_pictures(tmp_path: Path) -> None:
    model: Any = Model()
    looks = TaskMeasure(task=Sums(frozenset({"text", "image"})), examples=examples)
    draws = TaskMeasure(task=Sums(output="image"), examples=examples)
    run_suite(suite(looks=(looks, 4)), model, seeds=1, split="validation", samples=tmp_path / "s", out=tmp_path / "r.json")
    assert model.calls == [("ask", (4, None))]
    rows = run_suite(suite(draws=(draws, 4)), model, seeds=1, out=tmp_path / "r.json")
    assert rows[0]["value"] == 1.0
    assert (tmp_path / "s" / "looks.png").is_file()
    empty = suite(empty=(TaskMeasure(task=Sums(), examples=lambda rng, count, split: []), 4))
    with pytest.raises(InputError, match="no examples of the split test"):
        run_suite(empty, model, seeds=1, out=tmp_path / "r.json")


@dataclass
class Killed:
    """A measure that is interrupted at its third call."""

    calls: list[int] = field(default_factory=list)

    def __call__(self, model: Any, rng: Random, count: int, split: str = "test", /) -> Measured:
        self.calls.append(count)
        if len(self.calls) == 3:
            raise KeyboardInterrupt
        return Measured({"score": [1.0] * count})


def test_a_killed_evaluation_keeps_the_rows_so_far(tmp_path: Path) -> None:
    model: Any = Model()
    with pytest.raises(KeyboardInterrupt):
        run_suite(suite(a=(Killed(), 5)), model, seeds=4, limit=3, out=tmp_path / "r.json")
    stored = json.loads((tmp_path / "r.json").read_text())
    assert stored["complete"] is False
    assert [(row["name"], row["value"], row["n"]) for row in stored["rows"]] == [("score", 1.0, 6)]


def test_the_likelihood_of_what_a_model_finds_probable_is_higher(tmp_path: Path) -> None:
    tiny_folder(tmp_path / "model")
    model = mmada.load(tmp_path / "model", device="cpu")
    texts = [ScoredText("tom has 3 red pens", "7"), ScoredText("a red circle", "a red circle", thinking=True)]
    measure = LikelihoodMeasure(name="texts", texts=lambda rng, count, split: texts[:count], samples=4)
    found = measure(model, np.random.default_rng(0), 2).hits["texts: nats a token"]
    bounds = [model.score(t.prompt, t.completion, thinking=t.thinking, samples=4, seed=i) for i, t in enumerate(texts)]
    assert found == [-bound.nats / bound.tokens for bound in bounds]
    assert all(0 < value < 20 for value in found)
    with pytest.raises(InputError, match="no texts of the split"):
        LikelihoodMeasure(name="texts", texts=lambda rng, count, split: [])(model, np.random.default_rng(0), 2)


def test_wrong_calls_do_no_work(tmp_path: Path) -> None:
    model: Any = None

    def refuse() -> None:
        raise InputError("needs a library")

    SUITES.register("needy", Suite(measures={}, check=refuse))
    for call, message in (
        ({"suite": "nanoo"}, "nano"),
        ({"suite": "needy"}, "needs a library"),
        ({"suite": "nano", "seeds": 0}, "seeds must be a whole number"),
        ({"suite": "nano", "split": "testing"}, "split must be one of train, validation, test"),
    ):
        with pytest.raises(InputError, match=message):
            run_suite(model=model, out=tmp_path / "r.json", **call)
    assert not list(tmp_path.iterdir())
