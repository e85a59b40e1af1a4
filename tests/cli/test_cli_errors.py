"""Wrong input on the command line: one sentence that names the field, exit status 2, nothing written; and how commands end."""

import io
import sys
from pathlib import Path

import pytest
from PIL import Image
from tests.cli.fake_model import CALLS, FakeMMaDA

from mmada.cli import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["drw", "x"], "command 'drw' is unknown; did you mean 'draw'?"),
        (["generate", "x", "--model", "nanno"], "did you mean 'nano'?"),
        (["generate", ""], "prompt is empty"),
        (["generate", "  "], "prompt is empty"),
        (["generate", "x", "--block", "0"], "--block must be a whole number of 1 to 1000000000, got 0"),
        (["generate", "x", "--temperature", "nan"], "temperature must be a number of at least 0, got nan"),
        (["draw", "x", "--steps", "-3"], "steps must be a whole number of 1 to 10000, got -3"),
        (["draw", "x", "--steps", "0"], "got 0"),
        (["draw", "x", "--seed", "-1"], "seed must be a whole number of 0 to"),
        (["draw", "x", "--count", "0"], "--count must be a whole number of 1 to 10000, got 0"),
        (["draw", "x", "--guidance", "-1"], "guidance must be a number of at least 0, got -1"),
        (["draw", "x", "-o", "picture.doc"], "should end in"),
        (["draw", "x", "--size", "512"], "--size '512' is not a size in pixels; write it as WIDTHxHEIGHT, such as 512x256"),
        (
            ["draw", "x", "--seed", "9223372036854775807", "--count", "2"],
            "--seed of the last image must be",
        ),
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
        (["extend", "SCENE"], "--left, --right, --up and --down are all 0"),
        (["extend", "SCENE", "--left", "-2"], "left must be a whole number of at least 0, got -2"),
        (["infill", ""], "text is empty"),
        (["demo", "--image", "none.png"], "'none.png' does not exist"),
        (["demo", "--prompt", ""], "prompt is empty"),
        (["train"], "recipe is missing"),
        (["train", "cot", "--set", "lr"], "--set 'lr' is not an assignment"),
        (["eval", "nano", "--seeds", "0"], "--seeds must be a whole number of 1 to 1000, got 0"),
        (["eval", "nano", "--out", "results.txt"], "should end in .json"),
        (["eval", "nano", "--compare", "missing.json"], "--compare 'missing.json' does not exist"),
        (["eval", "nano", "--compare", "results.json"], "is where the new results go"),
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
        ["eval", "nano", "--compare"],
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


LONG = "x" * 5000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["draw", "x", "--size", "64"], "--size '64' is not a size"),
        (["draw", "x", "--size", "None"], "--size 'None' is not a size"),
        (["draw", "x", "--temperature", "abc"], "--temperature must be a number"),
        (["draw", "x", "--guidance", "None"], "--guidance must be a number"),
        (["inpaint", "a", "b", "x", "--guidance", "inf"], "--guidance must be a finite number"),
        (["generate", "x", "--length", "None"], "--length must be a whole number"),
        (["generate", "x", "--steps", "1_000"], "--steps must be a whole number"),
        (["generate", "x", "--steps", "٣"], "--steps must be a whole number"),
        (["generate", "x", "--steps", "9" * 5000], "--steps must be a whole number"),
        (["generate", "x", "--temperature", "1_0"], "--temperature must be a number"),
        (["generate", "x", "--dtype", "None"], "--dtype must be one of float32"),
        (["draw", "x", "--outt", "y.png"], "did you mean --out?"),
        (["generate", "x", "-s", "3"], "option '-s' is unknown; see"),
        (["draw", "x", "-o"], "--out has no value"),
        (["draw", "x", "--out"], "--out has no value"),
        (["draw", "x", "-o", ""], "--out is empty"),
        (["tokenizer", "--out", " "], "--out is empty"),
        (["draw", "x", "-o", "a\0.png"], "--out 'a\\x00.png' has a NUL character"),
        (["draw", "x", "-o", "\ud800.png"], "--out '\\ud800.png' is not valid text"),
        (["draw", "x", "-o", f"{LONG}.png"], "is a name of 5004 bytes"),
        (["draw", "x", "--watch=yes"], "--watch"),
        (["ask", LONG, "what?"], "image '"),
        ([LONG], "command '"),
        (["generate", "x", f"--{LONG}"], "option '"),
        (["generate", "x", "--model", "a\nb\x1b[31m"], "a\\nb\\x1b[31m"),
        (["generate", "\ud800"], "prompt '\\ud800' is not valid text"),
        (["--seed", "3", "generate", "x"], "give a command first"),
        (["generate", "two", "words"], "'words' is one argument too many"),
        (["collect", "nano:math:1"], "--out is missing"),
        (["collect", "--out", "x"], "source is missing"),
        (["eval"], "suite is missing"),
        (["eval", "nanno"], "did you mean 'nano'?"),
        (["train", "pretrian"], "did you mean 'pretrain'?"),
        (["bench", "--workload", "mth"], "--workload 'mth' is unknown; did you mean 'math'?"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_errors_are_short_and_clean_in_any_encoding(
    arguments: list[str], said: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding=encoding, errors="strict", write_through=True))
    assert main(arguments) == 2
    shown = raw.getvalue().decode(encoding)
    assert shown.startswith("mmada: error: ")
    assert (shown.count("\n"), shown[-1]) == (1, "\n")
    assert len(shown) < 400
    assert all(char.isprintable() for char in shown[:-1])
    assert not set("│╭╮╰╯─").intersection(shown)
    assert "---" not in shown
    assert said.encode(encoding, "backslashreplace").decode(encoding) in shown
    assert CALLS == []


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


@pytest.mark.parametrize(
    "option",
    [
        ["--adapter", "x"],
        ["--preset", "base"],
        ["--dtype", "float16"],
        ["--device", "cpu"],
        ["--image-tokenizer", "x"],
        ["--model", "x"],
    ],
)
def test_collect_refuses_options_that_no_source_uses(option: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", "nano:math:1", "--out", "x", *option]) == 2
    assert f"{option[0]} is not used" in capsys.readouterr().err
    assert list(folder.iterdir()) == []
