"""The commands, with a model that draws one colour: what they print, write and refuse, and how they end."""

import inspect
import json
import os
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmada.cli import main
from mmada.errors import InputError
from mmada.io.live_view import View
from mmada.registry import RECIPES, plugins

CALLS: list[tuple[str, dict[str, Any]]] = []


@dataclass(frozen=True)
class Result:
    text: str
    thinking: str
    tokens: tuple[int, ...] = (1, 2, 3)
    nfe: int = 4


def watched(options: dict[str, Any]) -> None:
    if options.get("watch"):
        for step in range(1, 4):
            options["watch"](step)


class FakeMMaDA:
    """Has the methods of the real one (a test compares them) and notes every call."""

    @classmethod
    def load(cls, source: str = "nano", **options: Any) -> "FakeMMaDA":
        if source != "nano":
            raise InputError(f"model '{source}' is unknown; did you mean 'nano'?")
        return cls()

    def generate(self, prompt: str, **options: Any) -> Result:
        CALLS.append(("generate", {"prompt": prompt, **options}))
        watched(options)
        return Result("7", "3 + 4 = 7" if options["thinking"] else "")

    def ask(self, image: Image.Image, question: str, **options: Any) -> Result:
        CALLS.append(("ask", {"image": image, "question": question, **options}))
        return Result("two", "")

    def infill(self, text: str, **options: Any) -> Result:
        CALLS.append(("infill", {"text": text, **options}))
        return Result("2 + 3 = 5", "")

    def draw(self, prompt: Any, **options: Any) -> Any:
        CALLS.append(("draw", {"prompt": prompt, **options}))
        watched(options)
        image = Image.new("RGB", (8, 8), (options.get("seed", 0), 0, 0))
        if options.get("thinking"):
            image.info["thinking"] = "a red disc on white"
        return image if isinstance(prompt, str) else [image] * len(prompt)

    def inpaint(self, image: Image.Image, mask: np.ndarray, prompt: str = "", **options: Any) -> Image.Image:
        CALLS.append(("inpaint", {"image": image, "mask": mask, "prompt": prompt, **options}))
        return image

    def extend(self, image: Image.Image, prompt: str = "", **options: Any) -> Image.Image:
        CALLS.append(("extend", {"image": image, "prompt": prompt, **options}))
        return image

    def view(self, frame: int, row: int = 0, *, size: tuple[int, int] | None = None) -> View:
        return View(frame, 3, (("seven", frame < 3),), Image.new("RGB", (8, 8), (0, 80 * frame, 0)))

    def info(self) -> dict[str, object]:
        return {"source": "nano", "parameters": 7}


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working folder, and the fake in the place of the pipeline (so nothing here imports torch)."""
    pipeline = types.ModuleType("mmada.pipeline")
    pipeline.MMaDA = FakeMMaDA  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mmada.pipeline", pipeline)
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


def test_generate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "3 and 4?", "--thinking", "--steps", "5", "--seed", "9"]) == 0
    assert capsys.readouterr().out == "3 + 4 = 7\n\n7\n"
    name, options = CALLS[0]
    assert name == "generate"
    assert (options["prompt"], options["steps"], options["seed"], options["thinking"]) == (
        "3 and 4?",
        5,
        9,
        True,
    )
    assert options["length"] is options["block"] is options["watch"] is None


@pytest.mark.parametrize(("flags", "said"), [([], None), (["--thinking"], True), (["--no-thinking"], False)])
def test_thinking_is_the_models_choice_unless_said(flags: list[str], said: bool | None, scene: str) -> None:
    assert main(["ask", scene, "how many?", *flags]) == 0
    assert CALLS[0][1]["thinking"] is said


def test_ask_gives_the_picture(scene: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", scene, "how many?", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["command"], record["text"], record["seed"], record["tokens"], record["passes"]) == ("ask", "two", 0, 3, 4)
    assert CALLS[0][1]["image"].size == (16, 12)


def test_infill(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["infill", "2 + [MASK] = 5"]) == 0
    assert capsys.readouterr().out == "2 + 3 = 5\n"


def test_draw_writes_the_picture_and_the_animation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["draw", "a disc", "-o", "a.png", "--gif", "a.gif", "--thinking", "--seed", "40"]) == 0
    assert capsys.readouterr().out == "a red disc on white\n\na.png\na.gif\n"
    assert sorted(file.name for file in folder.iterdir()) == ["a.gif", "a.png"]
    with Image.open("a.png") as image:
        assert image.getpixel((0, 0)) == (40, 0, 0)
    with Image.open("a.gif") as animation:
        assert animation.n_frames == 4  # three frames and the result


def test_draw_several(folder: Path) -> None:
    assert main(["draw", "a disc", "--count", "3", "--seed", "5"]) == 0
    assert sorted(file.name for file in folder.iterdir()) == ["out-1.png", "out-2.png", "out-3.png"]
    assert [options["seed"] for _, options in CALLS] == [5, 6, 7]


def test_inpaint_and_extend(scene: str, hole: str, folder: Path) -> None:
    assert main(["inpaint", scene, hole, "a disc", "--guidance", "3.5"]) == 0
    assert main(["extend", scene, "--right", "2", "--prompt", "a disc", "-o", "wide.png"]) == 0
    (_, inpaint), (_, extend) = CALLS
    assert inpaint["mask"].shape == (12, 16)
    assert inpaint["mask"].all()
    assert inpaint["guidance"] == 3.5
    assert [extend[side] for side in ("left", "right", "up", "down")] == [0, 2, 0, 0]
    assert sorted(file.name for file in folder.iterdir()) == ["out.png", "wide.png"]


def test_watch_leaves_json_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "3 and 4?", "--watch", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["text"] == "7"
    assert "step 3/3\nseven" in shown.err


def test_info(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[object] = []

    def describe(source: str, **options: object) -> dict[str, object]:
        asked.append((source, options))
        return {"source": source, "memory": {"int8": 0.5, "int4": 0.3}}

    monkeypatch.setitem(sys.modules, "mmada.pipeline.info", types.SimpleNamespace(describe=describe))
    assert main(["info", "a/folder", "--preset", "base"]) == 0
    assert asked == [("a/folder", {"image_tokenizer": None, "preset": "base"})]
    assert capsys.readouterr().out == "source  a/folder\nmemory  int8 0.5 GiB, int4 0.3 GiB\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["drw", "x"], "command 'drw' is unknown; did you mean 'draw'?"),
        (["generate", "x", "--model", "nanno"], "did you mean 'nano'?"),
        (["generate", ""], "prompt is empty"),
        (["generate", "  "], "prompt is empty"),
        (["generate", "x", "--thinking", "--no-thinking"], "asked for and forbidden"),
        (["generate", "x", "--block", "0"], "block must be a whole number of at least 1, got 0"),
        (["generate", "x", "--temperature", "nan"], "temperature must be a number of at least 0, got nan"),
        (["draw", "x", "--steps", "-3"], "steps must be a whole number of 1 to 10000, got -3"),
        (["draw", "x", "--steps", "0"], "got 0"),
        (["draw", "x", "--seed", "-1"], "seed must be a whole number of 0 to"),
        (["draw", "x", "--count", "0"], "count must be a whole number of at least 1, got 0"),
        (["draw", "x", "--guidance", "-1"], "guidance must be a number of at least 0, got -1"),
        (["draw", "x", "-o", "picture.doc"], "should end in"),
        (["draw", "x", "--size", "512"], "'512' is no size; write it as 512x256."),
        (["draw", "x", "--seed", "9223372036854775807", "--count", "2"], "seed must be a whole number of 0 to"),
        (["generate", "x", "--dtype", "int2"], "int2"),
        (["convert", "nano", "SCENE"], "is a file; give a folder"),
        (["convert", "nano", "out", "--noise", "-1"], "noise must be a number"),
        (["convert", "nano", "out", "--rows", "100000000000"], "rows must be a whole number of 1 to 1048576"),
        (["draw", "x", "-o", "none/a.png"], "does not exist"),
        (["draw", "x", "--gif", "a.png"], "should end in .gif"),
        (["ask", "none.png", "how many?"], "'none.png' does not exist"),
        (["ask", "SCENE", ""], "question is empty"),
        (["inpaint", "SCENE", "SMALL", "x"], "4x4 pixels but its image is 16x12"),
        (["inpaint", "SCENE", "none.png", "x"], "mask 'none.png' does not exist"),
        (["extend", "SCENE"], "no edge is given"),
        (["extend", "SCENE", "--left", "-2"], "left must be a whole number of at least 0, got -2"),
        (["infill", ""], "text is empty"),
        (["demo", "--image", "none.png"], "'none.png' does not exist"),
        (["demo", "--prompt", ""], "prompt is empty"),
        (["train"], "recipe is missing"),
        (["train", "x", "--set", "lr"], "set 'lr' is no assignment"),
        (["eval", "nano", "--seeds", "0"], "seeds must be a whole number of at least 1, got 0"),
        (["eval", "nano", "--out", "results.txt"], "should end in .json"),
        (["eval", "nano", "--beside", "missing.json"], "beside missing.json does not exist"),
        (["eval", "nano", "--beside", "results.json"], "is where the new results go"),
        (["info", ""], "model is empty"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str],
    said: str,
    scene: str,
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = tmp_path_factory.mktemp("small") / "small.png"
    Image.new("L", (4, 4), 255).save(small)
    places = {"SCENE": scene, "SMALL": str(small)}
    assert main([places.get(word, word) for word in arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("mmada: error: ")
    assert shown.err.count("\n") == 1
    assert said in shown.err
    assert list(folder.iterdir()) == []
    assert CALLS == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["draw", "x", "--steps", "2.5"],
        ["draw"],
        ["draw", "x", "--stpes", "3"],
        ["--verson"],
        ["eval", "nano", "--beside"],
        ["convert", "nano", "there", "--mean"],
        ["bench", "--modes", "--json"],
    ],
)
def test_misused_options_exit_2(arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("mmada: error: ")
    assert said.count("\n") == 1
    assert list(folder.iterdir()) == []


def test_train_and_eval(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Pretrain:
        """Learn from everything."""

    calls: list[tuple[Any, ...]] = []
    recipes, evaluation = types.ModuleType("mmada.recipes.run"), types.ModuleType("mmada.evaluation")
    plugins()  # before the names are replaced
    monkeypatch.setattr(RECIPES, "targets", {"pretrain": Pretrain()})
    recipes.run = lambda name, **options: calls.append((name, options))  # type: ignore[attr-defined]
    evaluation.SUITES = {"nano": None}  # type: ignore[attr-defined]
    evaluation.run_suite = lambda suite, model, **options: [  # type: ignore[attr-defined]
        {"name": "digits", "value": 0.98765, "floor": None, "seeds": options["seeds"]}
    ]
    for module in (recipes, evaluation):
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(f"mmada.{module.__name__.split('.')[1]}", module, raising=False)

    assert main(["train", "--list"]) == 0
    assert capsys.readouterr().out.split() == ["pretrain", "Learn", "from", "everything."]
    assert main(["train", "pretrain", "--set", "a.b=1", "--set", "c=x=y", "--out", "run", "--resume"]) == 0
    expected = {"overrides": {"a.b": "1", "c": "x=y"}, "out": Path("run"), "resume": True, "start_from": None}
    assert calls == [("pretrain", expected)]
    assert main(["train", "pretrian"]) == 2
    assert "did you mean 'pretrain'?" in capsys.readouterr().err
    assert main(["eval", "nano", "--seeds", "2"]) == 0
    shown = capsys.readouterr().out
    assert "digits" in shown
    assert "0.9877" in shown
    assert "results.json" in shown
    Path("cot.json").write_text('{"rows": [{"name": "digits", "value": 0.5432}]}')
    assert main(["eval", "nano", "--beside", "cot.json"]) == 0
    assert {"cot", "0.5432", "0.9877"} <= set(capsys.readouterr().out.split())
    assert main(["eval", "nano", "--beside", "cot.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["cot.json"] == 0.5432
    Path("few.json").write_text('{"rows": [], "settings": {"seeds": 3, "limit": 32}}')
    Path("all.json").write_text('{"rows": [], "settings": {"seeds": 3, "limit": null}}')
    assert main(["eval", "nano", "--beside", "all.json"]) == 0
    assert "differ" not in capsys.readouterr().out
    assert main(["eval", "nano", "--beside", "few.json", "all.json", "cot.json"]) == 0
    told = "value has seeds 3 and no limit; few has seeds 3 and limit 32; all has seeds 3 and no limit; cot has none on record."
    assert f"Seeds or limits differ: {told}\n" in capsys.readouterr().out
    Path("cot.json").write_text('{"rows": [{"name": "digits"}]}')
    assert main(["eval", "nano", "--beside", "cot.json"]) == 2
    assert "cot.json holds no results" in capsys.readouterr().err
    assert main(["eval", "nanno"]) == 2
    assert "did you mean 'nano'?" in capsys.readouterr().err


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def load(source: str, **options: object) -> FakeMMaDA:
        raise error

    monkeypatch.setattr(FakeMMaDA, "load", load)


def test_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    assert main(["generate", "x"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing(monkeypatch, ModuleNotFoundError("No module named 'sklearn'", name="sklearn.datasets"))
    assert main(["generate", "x"]) == 2
    assert "scikit-learn" in capsys.readouterr().err
    failing(monkeypatch, ModuleNotFoundError("No module named 'mmada.lost'", name="mmada.lost"))
    with pytest.raises(ModuleNotFoundError):
        main(["generate", "x"])


def test_a_closed_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "mmada", "--help"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from mmada import __version__

    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"mmada {__version__}\n"


def test_demo_writes_one_sheet(scene: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--image", scene, "--prompt", "a blue star", "--out", "sheet.png"]) == 0
    text = capsys.readouterr().out
    assert "sheet.png" in text
    assert "2 + 3 = 5  (right)" in text  # the fake's other answers
    assert "(wrong: " in text
    assert "describe the picture." in text
    assert [file.name for file in folder.iterdir()] == ["sheet.png"]
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 800
        assert sheet.height > 1000
    asked = [options["image"].size for name, options in CALLS if name == "ask"]
    assert asked.count((16, 12)) == 3
    assert any("a blue star" in options["prompt"] for name, options in CALLS if name == "draw")


def test_the_fake_has_the_methods_of_the_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mmada.pipeline")
    from mmada.pipeline import MMaDA

    for name, method in inspect.getmembers(FakeMMaDA, inspect.isroutine):
        if not name.startswith("_"):
            mine = [p.name for p in inspect.signature(method).parameters.values() if p.kind != p.VAR_KEYWORD]
            real = list(inspect.signature(getattr(MMaDA, name)).parameters)
            assert real[: len(mine)] == mine, name
