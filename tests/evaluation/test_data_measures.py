"""Measures on own data: what each set has, perfect and blind models, groups, resuming, and the command."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.helpers import tiny_folder

import mmada
from mmada.cli.main import main
from mmada.data.dataset import Example
from mmada.errors import InputError
from mmada.evaluation import data_suite, run_suite
from mmada.evaluation.data_answers import length_for
from mmada.evaluation.data_sets import sets_of
from mmada.tokenizers.prompt import Message

COLORS = {"red": (255, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 255), "white": (255, 255, 255), "black": (0, 0, 0)}


class Rows:
    """A set of examples in memory; None stands for a row that cannot be used."""

    def __init__(self, use: str, examples: list[Example | None], rows: list[dict[str, Any]] | None = None) -> None:
        self.use, self.examples, self.rows = use, examples, rows

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        if (found := self.examples[index]) is None:
            raise ValueError("no caption")
        return found

    def fields(self, split: str, index: int) -> Mapping[str, Any]:
        assert self.rows is not None
        return self.rows[index]


class Mixture:
    """Sets by name; all of them are the validation split, those of ``train`` the training split."""

    def __init__(self, sets: dict[str, Rows], train: tuple[str, ...] = ()) -> None:
        self.sets, self.train = sets, train

    def split(self, name: str) -> dict[str, Rows]:
        if name == "train":
            return {key: self.sets[key] for key in self.train}
        return dict(self.sets) if name == "validation" else {}


def pictures(folder: Path) -> dict[str, Path]:
    folder.mkdir()
    found = {}
    for number, (name, color) in enumerate(COLORS.items()):
        picture = Image.new("RGB", (32, 32), color)
        picture.paste((120, 120, 0), (4 * number, 8, 4 * number + 8, 24))
        picture.save(folder / f"{name}.png")
        found[name] = folder / f"{name}.png"
    return found


@pytest.fixture
def drawings(tmp_path: Path) -> Mixture:
    files = pictures(tmp_path / "pictures")
    drawn: list[Example | None] = [Example(objective="text_to_image", text=n, images=(file,)) for n, file in files.items()]
    asked = [
        Example(objective="chat", messages=(Message("user", "which?"), Message("assistant", n)), images=(file,))
        for n, file in files.items()
    ]
    rows = [{"kind": "light" if n in ("white", "red") else "dark"} for n in files]
    sets = {"draw": Rows("pair", [*drawn, None], [*rows, {}]), "ask": Rows("chat", [*asked]), "lines": Rows("text", texts())}
    return Mixture(sets, ("lines",))


def texts() -> list[Example | None]:
    return [Example(objective="text", text=text) for text in ("tom has 3 red pens", "a red circle", "3 + 4 = 7")]


@pytest.fixture
def model(tmp_path: Path) -> mmada.MMaDA:
    tiny_folder(tmp_path / "model")
    return mmada.load(tmp_path / "model")


def values(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {row["name"]: row["value"] for row in rows}


def test_each_set_has_the_measures_of_its_examples(drawings: Mixture, model: mmada.MMaDA, tmp_path: Path) -> None:
    suite = data_suite(drawings, "validation", group="kind", samples=2)
    rows = run_suite(suite, model, seeds=2, split="validation", out=tmp_path / "r.json")
    found = values(rows)
    by_set = {(name.split(": ")[0], name.split(": ")[1].split(" ")[0]) for name in found}
    assert by_set >= {("draw", "retrieval"), ("draw", "tokenizer"), ("draw", "nats"), ("ask", "exact"), ("ask", "CIDEr-D"),
                      ("ask", "nats"), ("lines", "nats"), ("use pair", "retrieval"), ("use chat", "exact")}  # fmt: skip
    assert not {("lines", "retrieval"), ("lines", "tokenizer"), ("draw", "exact")} & by_set
    assert {row["n"] for row in rows if row["name"] == "draw: retrieval top 1"} == {10}  # the bad row is left out
    assert found["draw: retrieval top 5"] == 1  # of five
    assert 0 <= found["draw: retrieval top 1 of its kind"] <= 1
    assert found["ask: nats a token"] > found["ask: nats a token, unigram"]  # random weights
    stored = json.loads((tmp_path / "r.json").read_text())
    assert stored["complete"] is True
    assert "done" not in stored


class Painter:
    """A model that draws the true picture of each caption, moved a little, and answers right."""

    def __init__(self, model: mmada.MMaDA, files: dict[str, Path], wrong: str = "") -> None:
        self.model, self.files, self.wrong = model, files, wrong
        self.engine, self.preset = model.engine, model.preset

    def info(self) -> dict[str, object]:
        return {"name": "painter"}

    def draw(self, texts: list[str], **_: Any) -> list[Image.Image]:
        return [Image.open(self.files[self.wrong or text]).convert("RGB").rotate(1) for text in texts]

    def chat(self, conversations: list[Any], **_: Any) -> list[Any]:
        asked = [turns[0]["content"][0]["image"].getpixel((1, 1)) for turns in conversations]
        names = {color: name for name, color in COLORS.items()}
        return [SimpleNamespace(text=f"{names[color]}.".capitalize()) for color in asked]


def test_a_model_that_draws_and_answers_right_has_it_all(drawings: Mixture, model: mmada.MMaDA, tmp_path: Path) -> None:
    painter: Any = Painter(model, {p.stem: p for p in (tmp_path / "pictures").iterdir()})
    suite = data_suite(drawings, "validation")
    chosen = replace(suite, measures={k: v for k, v in suite.measures.items() if k.startswith(("retrieval", "answers"))})
    found = values(run_suite(chosen, painter, seeds=1, split="validation", out=tmp_path / "r.json", samples=tmp_path / "s"))
    assert found["draw: retrieval top 1"] == 1
    assert found["ask: exact match"] == 1
    assert found["ask: CIDEr-D"] == pytest.approx(2.5)  # one word of four
    assert (tmp_path / "s" / "retrieval_of_pair.png").is_file()


def test_a_model_that_draws_one_picture_for_all_finds_that_one_alone(
    drawings: Mixture, model: mmada.MMaDA, tmp_path: Path
) -> None:
    painter: Any = Painter(model, {p.stem: p for p in (tmp_path / "pictures").iterdir()}, wrong="blue")
    suite = data_suite(drawings, "validation")
    chosen = replace(suite, measures={"retrieval of pair": suite.measures["retrieval of pair"]})
    assert values(run_suite(chosen, painter, seeds=1, out=tmp_path / "r.json"))["draw: retrieval top 1"] == 0.2


def test_pictures_that_look_the_same_are_all_right(model: mmada.MMaDA, tmp_path: Path) -> None:
    files = pictures(tmp_path / "pictures")
    twin = tmp_path / "twin.png"
    twin.write_bytes(files["red"].read_bytes())
    examples: list[Example | None] = [
        Example(objective="text_to_image", text=text, images=(file,))
        for text, file in (("red", files["red"]), ("scarlet", twin), ("blue", files["blue"]))
    ]
    painter: Any = Painter(model, {"red": files["red"], "scarlet": twin, "blue": files["blue"]})
    suite = data_suite(Mixture({"draw": Rows("pair", examples)}), "validation")
    chosen = replace(suite, measures={"retrieval of pair": suite.measures["retrieval of pair"]})
    assert values(run_suite(chosen, painter, seeds=1, out=tmp_path / "r.json"))["draw: retrieval top 1"] == 1


def test_the_unigram_is_counted_on_the_training_split(model: mmada.MMaDA, tmp_path: Path) -> None:
    sets = {"seen": Rows("text", texts()), "other": Rows("text", [Example(objective="text", text="tom has pens")])}
    measured = {}
    for train in ((), ("seen",)):
        suite = data_suite(Mixture(sets, train), "validation", samples=1)
        measured[train] = values(run_suite(suite, model, seeds=1, out=tmp_path / "r.json"))["other: nats a token, unigram"]
    vocabulary, text = model.engine.parts.vocabulary, model.engine.parts.text
    tokens = [t for line in ("tom has 3 red pens", "a red circle", "3 + 4 = 7") for t in (*text.encode(line), vocabulary.eos)]
    counts = np.bincount(tokens, minlength=len(vocabulary.ranges["text"])) + 1
    wanted = [*text.encode("tom has pens"), vocabulary.eos]
    assert measured["seen",] == pytest.approx(-np.log(counts[wanted] / counts.sum()).mean(), abs=1e-4)
    assert measured[()] != measured["seen",]


def test_a_run_that_was_killed_goes_on(drawings: Mixture, model: mmada.MMaDA, tmp_path: Path) -> None:
    suite = data_suite(drawings, "validation", samples=1)
    whole = run_suite(suite, model, seeds=2, limit=3, out=tmp_path / "whole.json")
    calls = []

    def stopping(name: str, after: int) -> Any:
        measure, count = suite.measures[name]

        def run(*given: Any) -> Any:
            calls.append(name)
            if len(calls) == after:
                raise KeyboardInterrupt
            return measure(*given)

        return run, count

    broken = replace(suite, measures={name: stopping(name, 6) for name in suite.measures})
    out = tmp_path / "r.json"
    with pytest.raises(KeyboardInterrupt):
        run_suite(broken, model, seeds=2, limit=3, out=out)
    with pytest.raises(InputError, match=r"other settings \(limit\)"):
        run_suite(suite, model, seeds=2, limit=2, out=out, resume=True)
    before = len(calls)
    again = replace(suite, measures={name: stopping(name, -1) for name in suite.measures})
    assert run_suite(again, model, seeds=2, limit=3, out=out, resume=True) == whole
    assert len(calls) - before == 2 * len(suite.measures) - 5
    with pytest.raises(InputError, match="complete"):
        run_suite(suite, model, seeds=2, limit=3, out=out, resume=True)


def test_results_that_cannot_be_resumed(model: mmada.MMaDA, drawings: Mixture, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="do not exist"):
        run_suite(data_suite(drawings, "validation"), model, out=tmp_path / "none.json", resume=True)


def test_a_split_without_examples_names_the_others(drawings: Mixture) -> None:
    with pytest.raises(InputError, match="split 'test' has no examples; choose from train, validation"):
        data_suite(drawings, "test")


def test_a_group_that_no_row_has(drawings: Mixture, model: mmada.MMaDA) -> None:
    one = sets_of(drawings, "validation")["draw"]
    with pytest.raises(InputError, match="'color' is no field of the set 'draw'; its rows have kind"):
        one.field(0, "color")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("data",), "needs the file"),
        (("data", "none.yaml"), "'none.yaml' does not exist"),
        (("nano", "mine.yaml"), "for data, and the suite is nano"),
        (("nano", "--group", "style"), "--group 'style' is for data"),
        (("dta",), "data"),
    ],
)
def test_the_command_says_what_is_wrong(words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", *words]) == 2
    assert said in capsys.readouterr().err


def test_the_command_measures_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_folder(tmp_path / "model")
    files = pictures(tmp_path / "pictures")
    lines = [json.dumps({"image": f"pictures/{file.name}", "caption": name, "hue": name[0]}) for name, file in files.items()]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    (tmp_path / "mine.yaml").write_text(
        "drawn: {use: pair, ways: draw, files: rows.jsonl, image: image, caption: caption, split: test}"
    )
    out = tmp_path / "r.json"
    words = ["eval", "data", str(tmp_path / "mine.yaml"), "--model", str(tmp_path / "model"), "--seeds", "1", "--out", str(out)]
    assert main(words) == 2  # it has no validation split
    assert "choose from test" in capsys.readouterr().err
    assert not out.exists()
    assert main([*words, "--split", "test", "--group", "hue", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["drawn: retrieval top 5"]["value"] == 1
    assert rows["drawn: retrieval top 1 of its hue"]["n"] == 5
    stored = json.loads(out.read_text())
    assert stored["settings"]["data"] == str(tmp_path / "mine.yaml")
    assert set(stored["settings"]["weights"]) == {"model.safetensors", "image_tokenizer/model.safetensors"}


def test_an_unfinished_run_of_other_weights_is_not_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_folder(tmp_path / "model")
    (tmp_path / "lines.txt").write_text("tom has 3 red pens\na red circle\n")
    (tmp_path / "mine.yaml").write_text("lines: {use: text, files: lines.txt, split: validation}")
    out = tmp_path / "r.json"
    words = ["eval", "data", str(tmp_path / "mine.yaml"), "--model", str(tmp_path / "model"), "--seeds", "1", "--out", str(out)]
    assert main(words) == 0
    stored = json.loads(out.read_text())
    out.write_text(json.dumps({**stored, "complete": False, "done": []}))
    assert main([*words, "--resume"]) == 0
    assert json.loads(out.read_text())["rows"] == stored["rows"]
    out.write_text(json.dumps({**stored, "complete": False, "done": []}))
    weights = load_file(tmp_path / "model" / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    assert main([*words, "--resume"]) == 2
    assert "other settings (weights)" in capsys.readouterr().err


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = tmp_path / "clip"
    folder.mkdir()
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "a": 3}
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    torch.manual_seed(0)
    text = {**sizes, "vocab_size": 8, "max_position_embeddings": 8}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    return folder


def test_clip_looks_too_where_it_is_given(drawings: Mixture, model: mmada.MMaDA, clip: Path, tmp_path: Path) -> None:
    painter: Any = Painter(model, {p.stem: p for p in (tmp_path / "pictures").iterdir()})
    suite = data_suite(drawings, "validation", clip=str(clip))
    chosen = replace(suite, measures={"retrieval of pair": suite.measures["retrieval of pair"]})
    found = values(run_suite(chosen, painter, seeds=1, out=tmp_path / "r.json"))
    assert found["draw: CLIP retrieval top 5"] == 1
    assert found["draw: CLIP retrieval top 1"] >= 0.8  # random weights tell most of the colours apart


def test_an_answer_longer_than_the_preset_is_given_room(model: mmada.MMaDA) -> None:
    short, long = (
        Example(objective="chat", messages=(Message("user", "a"), Message("assistant", "tom has 3 red pens " * times)))
        for times in (1, 4)
    )
    assert [length_for(model, one) for one in (short, long)] == [8, 24]
    assert model.preset.answer.length == 8


def test_conversations_too_long_for_the_model_are_counted(model: mmada.MMaDA, tmp_path: Path) -> None:
    turns = [(Message("user", "tom " * n), Message("assistant", "pens")) for n in (1, 400)]
    sets = {"ask": Rows("chat", [Example(objective="chat", messages=one) for one in turns])}
    found = values(run_suite(data_suite(Mixture(sets), "validation", samples=1), model, seeds=1, out=tmp_path / "r.json"))
    assert found["ask: left out, too long for the model"] == 1
    assert "ask: exact match" in found


def test_what_cannot_be_used_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_folder(tmp_path / "model")
    files = pictures(tmp_path / "pictures")
    (tmp_path / "pictures" / "broken.png").write_bytes(b"no picture")
    lines = [{"image": f"pictures/{file.name}", "caption": name} for name, file in files.items()]
    lines += [{"image": "pictures/broken.png", "caption": "broken"}, {"image": "pictures/red.png", "caption": ""}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    described = "drawn: {use: pair, ways: draw, files: rows.jsonl, image: image, caption: caption, split: validation, max_bad: 1}"
    (tmp_path / "mine.yaml").write_text(described)
    words = ["eval", "data", str(tmp_path / "mine.yaml"), "--model", str(tmp_path / "model"), "--seeds", "1"]
    out = tmp_path / "r.json"
    assert main([*words, "--out", str(out), "--group", "style"]) == 2
    assert "'style' is no field of the set 'drawn'; its rows have image, caption" in capsys.readouterr().err
    assert not out.exists()
    assert main([*words, "--out", str(out)]) == 0
    assert "data 'drawn': 1 rows not used: no caption" in capsys.readouterr().out
    rows = {row["name"]: row["n"] for row in json.loads(out.read_text())["rows"]}
    assert rows["drawn: left out, picture cannot be read"] == 1
    assert rows["drawn: nats a token"] == rows["drawn: retrieval top 1"] == len(files)
