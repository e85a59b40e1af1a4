"""`mmada data check`: what it prints of each set, what it counts, and when it stops."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data.layouts import encoded, lines, picture, turns

from mmada.cli.main import main
from mmada.data import load
from mmada.data.dataset import Example
from mmada.recipes.data_check import LOOKED_AT, Ruler, check_data, check_report, readable, ruler_of


@pytest.fixture(scope="module")
def ruler() -> Ruler:
    return ruler_of("nano")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number, colour in enumerate(("red", "green", "blue")):
        picture(tmp_path / f"pictures/{number}.png", colour)
        (tmp_path / f"pictures/{number}.txt").write_text(f"a {colour} square")
    lines(tmp_path / "chats.jsonl", {"conversations": turns("<image>\nwhich colour?", "red"), "image": "pictures/0.png"})
    lines(tmp_path / "rl.jsonl", {"question": "2 + 2?", "answer": 4})
    (tmp_path / "data.yaml").write_text(
        "squares: {use: pair, files: pictures, weight: 3}\nchats: {use: chat, files: chats.jsonl}\n"
        "sums: {use: prompts, files: rl.jsonl, prompt: question, task: math}\n"
    )
    return tmp_path / "data.yaml"


def test_canvases_are_shown_as_a_person_reads_them(data: Path, ruler: Ruler) -> None:
    squares, chats, sums = check_data(load(data), ruler).sets
    assert squares.shown[0] == "<draw> <bos> a red square <eos> «[picture: 64 codes]»"
    assert squares.shown[1].startswith(
        "<look> [picture: 64 codes] <bos> user: describe the picture. <eot> assistant: «a red square <eot>"
    )
    assert chats.shown[0].startswith("<look> [picture: 64 codes] <bos> user: which colour? <eot> assistant: «red <eot>")
    assert sums.shown == ("math: 2 + 2? (right: 4)",)
    assert (squares.rows, squares.read, squares.splits["train"], squares.looked_at) == (3, 3, 6, 3)
    assert squares.epoch_tokens == sum(squares.lengths)
    assert len(squares.tiles) == 6


def test_what_an_epoch_costs_is_six_operations_a_parameter_and_token(data: Path, ruler: Ruler) -> None:
    squares = check_data(load(data), ruler).sets[0]
    attention = sum(3 * ruler.attention * n * n for n in squares.lengths)
    assert squares.epoch_flops == pytest.approx(6 * ruler.parameters * squares.epoch_tokens + attention)


def test_shares_follow_the_weights(data: Path, ruler: Ruler) -> None:
    shares = check_data(load(data), ruler).shares
    assert shares["squares"][0] == pytest.approx(0.75)
    assert "sums" not in shares
    data.write_text(data.read_text() + "mixture: {weights: tokens}\n")
    shares = check_data(load(data), ruler).shares
    assert shares["squares"][1] == pytest.approx(0.75)
    assert sum(tokens for _, tokens in shares.values()) == pytest.approx(1)


def test_a_thought_and_an_edit_are_readable(tmp_path: Path, ruler: Ruler) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    lines(
        tmp_path / "a.jsonl", {"image": "a.png", "caption": "a cat", "thought": "four legs", "to": "b.png", "say": "make it blue"}
    )
    (tmp_path / "data.yaml").write_text(
        "drawn: {use: pair, files: a.jsonl, thought: thought, ways: draw}\n"
        "edited: {use: edit, files: a.jsonl, source: image, instruction: say, target: to}\n"
    )
    drawn, edited = check_data(load(tmp_path / "data.yaml"), ruler).sets
    assert drawn.shown[0].startswith("<think and draw> <bos> a cat <eos> «<think> four legs</think> <eos> x")
    assert drawn.shown[1].endswith("«[picture: 64 codes]»")
    assert edited.shown[0] == "<look> [picture: 64 codes] <draw> <bos> make it blue <eos> «[picture: 64 codes]»"


def test_pictures_that_cannot_be_decoded_stop_the_check(tmp_path: Path, ruler: Ruler) -> None:
    rows = []
    for number in range(2 * LOOKED_AT):
        (tmp_path / f"{number}.jpg").write_bytes(encoded() if number % 4 else encoded()[:-60])
        rows.append({"image": f"{number}.jpg", "caption": "x"})
    lines(tmp_path / "a.jsonl", *rows)
    (tmp_path / "data.yaml").write_text("a: {use: pair, files: a.jsonl, ways: draw}\n")
    mixture = load(tmp_path / "data.yaml")
    report = check_data(mixture, ruler)
    assert report.sets[0].bad == {"picture is damaged": report.sets[0].undecoded}
    assert report.sets[0].undecoded > 5
    with pytest.raises(Exception, match=r"'a' has pictures that cannot be decoded in \d+ of 64 rows"):
        check_report(mixture, report)


def test_links_to_pictures_that_are_not_there_are_counted(tmp_path: Path, ruler: Ruler) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        (tmp_path / f"pictures/{number}.jpg").symlink_to(tmp_path / "nowhere.jpg")
        (tmp_path / f"pictures/{number}.txt").write_text("a square")
    (tmp_path / "data.yaml").write_text("a: {use: pair, files: pictures}\nmixture: {max_bad: 1.0}\n")
    (found,) = check_data(load(tmp_path / "data.yaml"), ruler).sets
    assert found.bad == {"picture is missing": 3}


def test_pictures_that_are_encoded_already_are_measured(ruler: Ruler) -> None:
    codes = np.zeros((4, 4), np.int64)
    canvas = ruler.canvas(Example(objective="text_to_image", text="a square", codes=(codes,)))
    assert int((canvas.modality_BL == 1).sum()) == 16


def test_the_command_prints_and_writes_a_sheet(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(data), "--sheet", str(tmp_path / "sheet.png")]) == 0
    printed = capsys.readouterr().out
    assert "squares: pair, 3 rows; examples: train 6" in printed
    assert "An epoch of all sets costs" in printed
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 500
    assert main(["data", "check", str(data), "--json"]) == 0
    squares = json.loads(capsys.readouterr().out)["sets"][0]
    assert (squares["set"], squares["examples"]["train"], squares["bad"]) == ("squares", 6, {})


def test_the_command_stops_with_the_reasons(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data.parent / "pictures/0.txt").write_text("")
    assert main(["data", "check", str(data)]) == 2
    out, error = capsys.readouterr()
    assert "cannot be used, of 3 rows read: no caption 1\n  fields of its rows: __key__, name, label, image, png, txt" in out
    assert "no caption 1" in error
    assert "raise max_bad" in error


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["data"], "command 'data' is not complete; add "),
        (["data", "chek"], "did you mean 'check'?"),
        (["data", "check"], "file is missing"),
        (["data", "check", "gone.yaml"], "'gone.yaml' does not exist"),
    ],
)
def test_wrong_commands_are_one_sentence(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert sentence in capsys.readouterr().err


def test_readable_keeps_what_is_learned_apart(ruler: Ruler) -> None:
    prompter = ruler.formatter.prompter
    assert readable(prompter.gaps([("one", False), (" two", True)]), prompter) == "<bos> one «two» <eos>"
