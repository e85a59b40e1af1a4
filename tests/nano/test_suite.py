"""The suite: a model that knows every answer scores 1, one that knows none scores 0, and the results are kept whole."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmada.errors import InputError
from mmada.evaluation import run_suite
from mmada.nano import measures
from mmada.nano.measures import MEASURES, STUDIED
from mmada.nano.suite import THRESHOLDS
from mmada.nano.world.digits import digit_image, digit_indices, digit_label
from mmada.nano.world.flags import flag_picture
from mmada.nano.world.render import CANONICAL, render
from mmada.nano.world.scenes import COLORS, SHAPES, Scene, Thing
from mmada.pipeline import ImageSampling, Preset

RNG = np.random.default_rng(0)
DIGITS = {digit_label(i): digit_image(i) for i in digit_indices("train")}


def scene_of(meaning: Any) -> Scene:
    """A scene that satisfies a meaning."""
    slots = [g for g in meaning.groups for _ in range(g.count)]
    cells = [(0, 0), (2, 2), (0, 2), (2, 0)]
    if meaning.relation in ("below", "right"):
        cells = [(2, 2), (0, 0)]
    things = [Thing(r, c, g.shape or "star", g.color or "red") for (r, c), g in zip(cells, slots, strict=False)]
    return Scene(tuple(sorted(things)))


class Oracle:
    """Sees what the suite samples and gives it back, or, if it knows nothing, blank pictures and "nothing"."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, knows: bool) -> None:
        self.knows = knows
        self.said: dict[str, tuple[str, str]] = {}
        self.queue: list[tuple[str, str]] = []
        self.pictures: dict[str, np.ndarray] = {f"the digit {n}": picture for n, picture in DIGITS.items()}
        self.thoughts: dict[str, str] = {}
        parts = SimpleNamespace(preset=Preset(cot_instruction="think first."), text=SimpleNamespace(decode="".join))
        self.preset = parts.preset
        self.engine = SimpleNamespace(encode=lambda x: x, decode=self.decode, parts=parts)
        for name, keep in (
            ("ask_about", lambda q: self.queue.append((q.answer, q.reasoning))),
            ("problem", lambda p: self.said.__setitem__(p.text, (p.answer, p.reasoning))),
            ("prompts", self.keep_prompts),
            ("knowledge_item", self.keep_knowledge),
        ):
            monkeypatch.setattr(measures, name, self.watched(getattr(measures, name), keep))

    @staticmethod
    def watched(make: Callable[..., Any], keep: Callable[[Any], None]) -> Callable[..., Any]:
        def made(*args: Any, **options: Any) -> Any:
            value = make(*args, **options)
            keep(value)
            return value

        return made

    def keep_prompts(self, prompts: list[Any]) -> None:
        for prompt in prompts:
            self.pictures[prompt.text] = render(scene_of(prompt.meaning), RNG, CANONICAL)

    def keep_knowledge(self, item: Any) -> None:
        self.thoughts[item.prompt] = item.think
        self.pictures[item.prompt] = flag_picture(item.flag) if item.flag else render(item.scene, RNG, CANONICAL)

    def decode(self, pictures: list[Image.Image]) -> list[Image.Image]:
        return pictures if self.knows else [Image.new("RGB", p.size, "navy") for p in pictures]

    def answer(self, answer: str, thought: str) -> SimpleNamespace:
        if not self.knows:
            return SimpleNamespace(text="nothing", thinking="no", tokens=tuple("no</think> nothing"))
        written = f"<think> {thought}</think> {answer}" if thought else answer
        return SimpleNamespace(text=answer, thinking=thought, tokens=tuple(written))

    def ask(self, images: list[Any], question: Any, thinking: bool | None = None) -> list[SimpleNamespace]:
        if question == "what digit is this?":
            labels = [next(n for n in range(10) if self.same_digit(image, n)) for image in images]
            return [self.answer(str(n), "") for n in labels]
        known, self.queue = self.queue[: len(images)], self.queue[len(images) :]
        return [self.answer(a, t if thinking else "") for a, t in known]

    @staticmethod
    def same_digit(image: Image.Image, label: int) -> bool:
        pixels = np.asarray(image)
        return any(np.array_equal(pixels, digit_image(i)) for i in digit_indices("test") if digit_label(i) == label)

    def generate(self, texts: list[str], thinking: bool = False) -> list[SimpleNamespace]:
        return [self.answer(*self.said[t]) for t in texts]

    def draw(self, texts: list[str], seed: int = 0, thinking: bool = False) -> list[Image.Image]:
        pictures = [Image.fromarray(self.pictures[t]) if self.knows else Image.new("RGB", (64, 64), "gray") for t in texts]
        for picture, text in zip(pictures, texts, strict=True):
            picture.info["thinking"] = self.thoughts.get(text, "") if self.knows else ""
        return pictures

    def inpaint(self, image: np.ndarray, mask: np.ndarray, prompt: str, seed: int = 0) -> Image.Image:
        pixels = image.copy()
        if self.knows:
            words = prompt.split()
            thing = Thing(1, 1, next(s for s in SHAPES if s in words), next(c for c in COLORS if c in words))
            patch = render(Scene((thing,)), RNG, CANONICAL)[16:48, 16:48]
            corner = pixels[1, 1] if not mask[1, 1] else pixels[-2, -2]
            blank = (np.abs(patch.astype(int) - 140).max(-1) < 6)[..., None]
            pixels[mask] = np.where(blank, corner, patch).reshape(-1, 3)
        return Image.fromarray(pixels)

    def score(self, prompt: str, completion: str, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(nats=-1.0 if self.knows else -100.0, tokens=10)

    def info(self) -> dict[str, object]:
        return {"name": "oracle"}


@pytest.mark.parametrize("knows", [True, False])
def test_who_knows_all_scores_one_and_who_knows_nothing_scores_none(
    knows: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    oracle: Any = Oracle(monkeypatch, knows)
    out = tmp_path / "results.json"
    rows = run_suite("nano", oracle, seeds=2, limit=10, samples=tmp_path / "samples", out=out)
    values = {str(row["name"]): row["value"] for row in rows}
    assert set(THRESHOLDS) <= set(values)
    for name in THRESHOLDS:
        if knows and name == "inpainting":
            assert values[name] >= 0.8  # a neighbour may reach into the hole and spoil the pasted thing
        elif knows:
            assert values[name] >= THRESHOLDS[name], name
        else:  # a blank picture is still read as some digit
            assert values[name] <= (20 if "psnr" in name else 0.1 if name == "digits drawn" else 0.0), name
    kept = json.loads(out.read_text())
    assert [row["name"] for row in kept["rows"]] == list(values)
    assert {"rows", "settings", "machine", "seconds"} <= set(kept)
    assert kept["complete"]
    assert kept["settings"]["seeds"] == 2
    for row in kept["rows"]:
        assert row["low"] <= row["value"] <= row["high"]
        assert row["met"] == (None if row["threshold"] is None else row["value"] >= row["threshold"])
    assert len(list((tmp_path / "samples").glob("*.png"))) >= 5
    assert len(MEASURES) == 10


@pytest.mark.parametrize("knows", [True, False])
def test_quick_pictures_are_drawn_in_four_steps(knows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle: Any = Oracle(monkeypatch, knows)
    drawn: list[tuple[int, float]] = []

    class Paced(Oracle):
        def draw(self, texts: list[str], seed: int = 0, thinking: bool = False) -> list[Image.Image]:
            drawn.append((self.preset.image.steps, self.preset.image.guidance))
            return oracle.draw(texts, seed, thinking)

    def with_defaults(image: ImageSampling) -> Oracle:
        hurried = Paced.__new__(Paced)
        hurried.preset, hurried.engine = oracle.preset.with_options(None, image), oracle.engine
        return hurried

    oracle.with_defaults = with_defaults
    before = oracle.preset
    hits = STUDIED["quick geneval"][0](oracle, np.random.default_rng(0), 2).hits
    assert set(drawn) == {(4, 0.0)}
    assert oracle.preset == before
    assert hits["in four steps, geneval"] == [float(knows)] * 12
    assert all(name.startswith("in four steps, geneval") for name in hits)


def test_an_answer_without_reasoning_has_no_step_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is counted: models that reason less are not judged on fewer answers. Answers that are not to reason have no steps."""
    oracle: Any = Oracle(monkeypatch, knows=True)
    thoughtful = oracle.answer
    monkeypatch.setattr(oracle, "answer", lambda answer, thought: thoughtful(answer, thought if oracle.queue else ""))
    steps = measures.questions(oracle, np.random.default_rng(0), measures.ROWS + 6, thinking=True).hits
    assert steps["questions: every step right"] == [1] * measures.ROWS + [0] * 6
    assert steps["questions: format"] == [1] * measures.ROWS + [0] * 6
    assert "questions: every step right" not in measures.questions(oracle, np.random.default_rng(0), 6).hits
    oracle.preset = Preset(cot_instruction="think first.", ask_thinking=True)
    assert measures.questions(oracle, np.random.default_rng(0), 6).hits["questions: every step right"] == [0] * 6


def test_wrong_suites_and_seeds_are_named(tmp_path: Path) -> None:
    model: Any = None
    with pytest.raises(InputError, match="nano"):
        run_suite("nanu", model, out=tmp_path / "r.json")
    with pytest.raises(InputError, match="seeds"):
        run_suite("nano", model, seeds=0, out=tmp_path / "r.json")
    assert not list(tmp_path.iterdir())
