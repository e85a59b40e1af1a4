"""The commands, with a model that draws one colour: what they print, write and refuse, and how they end."""

import inspect
import io
import json
import os
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.cli.fake_model import CALLS, FakeMMaDA

from mmada.cli import main
from mmada.registry import RECIPES, plugins


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
    assert {*options} == {"prompt", "thinking", "seed", "callback", "steps"}  # what is not given is the model's choice
    assert options["callback"] is None


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--temperature", "0.7"], "temperature", 0.7),
        (["--temperature", "0"], "temperature", 0.0),
        (["--lookahead", "0"], "lookahead", 0),
        (["--parallel", "none"], "parallel", "none"),
        (["--stop", "a", "--stop", "b c"], "stop", ("a", "b c")),
        (["--stop", "\n"], "stop", ("\n",)),
        (["--no-stop-at-eos"], "stop_at_eos", False),
        (["--open-vocabulary"], "open_vocabulary", True),
    ],
)
def test_a_sampling_option_is_passed_on_under_its_name(words: list[str], name: str, value: object) -> None:
    assert main(["generate", "x", *words]) == 0
    assert CALLS[0][1][name] == value


def test_notes_go_to_the_error_stream(scene: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "x", "--length", "1", "--thinking"]) == 0
    assert "mmada: note: the reasoning did not end within 3 tokens" in capsys.readouterr().err
    assert main(["ask", scene, "how many?", "--fit", "crop"]) == 0
    assert capsys.readouterr().err == "mmada: note: only the middle square of the image is seen\n"
    assert CALLS[1][1]["fit"] == "crop"


def test_chat(scene: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One message; or a line a turn, with what was said before, the images with the first."""
    assert main(["chat", "hello", "--system", "be brief"]) == 0
    (_, options) = CALLS.pop()
    assert options["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hello"}]},
    ]
    assert capsys.readouterr().out == "answer 2\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO("what is it?\n\n and now? \n"))
    assert main(["chat", "--image", scene, "--json"]) == 0
    shown = capsys.readouterr()
    assert [json.loads(line)["text"] for line in shown.out.splitlines()] == ["answer 1", "answer 3"]
    assert shown.err == ""
    first, second = (options["messages"] for _, options in CALLS)
    assert [part["type"] for part in first[0]["content"]] == ["image", "text"]
    assert [message["role"] for message in second] == ["user", "assistant", "user"]
    assert second[2]["content"] == [{"type": "text", "text": "and now?"}]
    monkeypatch.setattr(sys, "stdin", io.StringIO(" \n"))
    assert main(["chat"]) == 2
    assert "message is missing and standard input is empty" in capsys.readouterr().err


def test_score(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "3 + 4?", "7"]) == 0
    assert capsys.readouterr().out == "-6.000 nats for 3 tokens, -2.000 a token (32 samples)\n"
    assert main(["score", "3 + 4?", "7", "--samples", "5", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["nats"], record["per_token"], record["samples"]) == (-6.0, -2.0, 5)


@pytest.mark.parametrize(("flags", "said"), [([], None), (["--thinking"], True), (["--no-thinking"], False)])
def test_thinking_is_the_models_choice_unless_said(flags: list[str], said: bool | None, scene: str) -> None:
    assert main(["ask", scene, "how many?", *flags]) == 0
    assert CALLS[0][1]["thinking"] is said


def test_ask_gives_the_picture(scene: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", scene, "how many?", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["command"], record["text"], record["seed"], record["tokens"], record["nfe"]) == ("ask", "two", 0, 3, 4)
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
        assert animation.n_frames == 4  # type: ignore[attr-defined]  # three frames and the result


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
        return {"source": source, "memory": {"int8": 0.5, "int4": 0.3}, "cpu_memory": 8, "cpu_fits": ["int8", "int4"]}

    monkeypatch.setitem(sys.modules, "mmada.pipeline.info", types.SimpleNamespace(describe=describe))
    assert main(["info", "a/folder", "--preset", "base"]) == 0
    assert asked == [("a/folder", {"image_tokenizer": None, "preset": "base"})]
    assert capsys.readouterr().out == (
        "source      a/folder\nmemory      int8 0.5 GiB, int4 0.3 GiB\ncpu_memory  8 GiB\ncpu_fits    int8, int4\n"
    )


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
    assert main(["eval", "nano", "--compare", "cot.json"]) == 0
    assert {"cot", "0.5432", "0.9877"} <= set(capsys.readouterr().out.split())
    assert main(["eval", "nano", "--compare", "cot.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["cot.json"] == 0.5432
    Path("few.json").write_text('{"rows": [], "settings": {"seeds": 3, "limit": 32}}')
    Path("all.json").write_text('{"rows": [], "settings": {"seeds": 3, "limit": null}}')
    assert main(["eval", "nano", "--compare", "all.json"]) == 0
    assert "differ" not in capsys.readouterr().out
    assert main(["eval", "nano", "--compare", "few.json", "all.json", "cot.json"]) == 0
    told = "value has seeds 3 and no limit; few has seeds 3 and limit 32; all has seeds 3 and no limit; cot has none on record."
    assert f"Seeds or limits differ: {told}\n" in capsys.readouterr().out
    Path("cot.json").write_text('{"rows": [{"name": "digits"}]}')
    assert main(["eval", "nano", "--compare", "cot.json"]) == 2
    assert "cot.json' holds no results" in capsys.readouterr().err
    assert main(["eval", "nanno"]) == 2
    assert "did you mean 'nano'?" in capsys.readouterr().err


def test_the_fields_of_a_recipe_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass(frozen=True)
    class Plan:
        """A plan. ``steps``: optimizer steps. ``seed``, ``rate``: not both."""

        steps: int = 7
        seed: int | None = None
        rate: float = 1e-3

    @dataclass(frozen=True)
    class Recipe:
        """A recipe.

        ``plan``: how long.
        """

        plan: Plan
        names: tuple[str, ...] = ("a", "b")

    plugins()
    monkeypatch.setattr(RECIPES, "targets", {"short": lambda: Recipe(Plan())})
    assert main(["train", "short", "--fields"]) == 0
    fields = capsys.readouterr().out
    assert [line.split() for line in fields.splitlines()] == [
        ["plan", "Plan", "(Plan)", "#", "how", "long"],
        ["plan.steps", "int", "7", "#", "optimizer", "steps"],
        ["plan.seed", "int", "|", "None", "null", "#", "not", "both"],
        ["plan.rate", "float", "0.001", "#", "not", "both"],
        ["names", "tuple[str,", "...]", "[a,", "b]"],
    ]
    with pytest.raises(SystemExit) as caught:
        main(["train", "short", "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert shown.endswith(fields)
    assert "--start-from" in shown


@pytest.mark.parametrize("command", ["generate", "draw"])
def test_a_prompt_from_standard_input(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], scene: str
) -> None:
    for given, taken in {"a disc\n": "a disc", "two\nlines\n\n": "two\nlines", "größe\r\n": "größe"}.items():
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
        assert main([command, "-"]) == 0
        assert CALLS.pop()[1]["prompt"] == taken
    for bad, said in {b"": "is empty", b" \n": "is empty", b"\xff\xfe": "UTF-8", b"x" * 1_000_001: "longer"}.items():
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(bad)))
        capsys.readouterr()
        assert main([command, "-"]) == 2
        assert "error: prompt " in (shown := capsys.readouterr().err)
        assert said in shown
    assert CALLS == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_one_line_of_progress_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for arguments, shows in {("generate", "x"): True, ("draw", "x"): True, ("generate", "x", "--json"): False}.items():
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        assert main(arguments) == 0
        shown = terminal.getvalue()
        assert (shown.count("\n") == 1 and " forward passes, " in shown and " s left" in shown) if shows else shown == ""
    monkeypatch.undo()
    capsys.readouterr()


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
    assert sorted(file.name for file in folder.iterdir()) == ["sheet-mask.png", "sheet-picture.png", "sheet.png"]
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 800
        assert sheet.height > 1000
    asked = [options["image"].size for name, options in CALLS if name == "ask"]
    assert asked.count((16, 12)) == 3
    assert any("a blue star" in options["prompt"] for name, options in CALLS if name == "draw")


def test_the_fake_has_the_methods_of_the_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    from mmada.pipeline import MMaDA

    for name, method in inspect.getmembers(FakeMMaDA, inspect.isroutine):
        if not name.startswith("_"):
            mine = [p.name for p in inspect.signature(method).parameters.values() if p.kind != p.VAR_KEYWORD]
            real = list(inspect.signature(getattr(MMaDA, name)).parameters)
            assert real[: len(mine)] == mine, name
