"""Supervised training on one's own data: any mixture, from any start, without the nano world."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers import PRESET, SIZE, tiny_folder

import mmada
from mmada.data.packing import Batch
from mmada.errors import InputError
from mmada.recipes.run import run
from mmada.recipes.sft import CurriculumPhase, DataSource, SftRecipe, sft
from mmada.training.log import read_log
from mmada.training.loop import Plan
from mmada.training.masked_diffusion import MaskedDiffusionLearner

OWN = replace(PRESET, image_size=SIZE)
SHORT = {
    "plan.steps": "2",
    "plan.sample_every": "2",
    "rows": "2",
    "row_length": "96",
    "answer_lengths": "[8, 16]",
    "device": "cpu",
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("start") / "model"
    tiny_folder(path)
    OWN.save(path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Captioned pictures of another size than the model's, not square; conversations with and without them; texts."""
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(4):
        Image.fromarray(rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)).save(folder / f"{n}.png")
        (folder / f"{n}.txt").write_text(f"a red circle {n}")
    turns = [{"role": "user", "content": "tom has 3 red pens"}, {"role": "assistant", "content": "7"}]
    rows = [{"messages": turns}, {"messages": turns, "image": "1.png"}]
    (folder / "chat.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "lines.txt").write_text("tom has 3 red pens\nand 4 blue pens")
    return folder


def sources(data: Path) -> str:
    return f"{{captions: {data}, chat: {data / 'chat.jsonl'}, more: {{kind: text, path: {data / 'lines.txt'}, weight: 2}}}}"


def test_any_data_from_any_start(start: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nano pictures are rendered")

    monkeypatch.setattr("mmada.nano.image_sets.ImageSets.build", refuse)
    seen: list[Batch] = []
    plain = MaskedDiffusionLearner.corrupted

    def watched(self: MaskedDiffusionLearner, batch: Batch, step: int) -> object:
        seen.append(batch)
        return plain(self, batch, step)

    monkeypatch.setattr(MaskedDiffusionLearner, "corrupted", watched)
    settings = SHORT | {"data": sources(data), "sample_prompts": "[a red circle]"}
    written = run("sft", overrides=settings, out=tmp_path / "run", start_from=start)
    assert [row["step"] for row in read_log(tmp_path / "run" / "log.jsonl")] == [0, 1]
    model = mmada.load(written, device="cpu")
    assert model.preset == OWN  # the shipped preset stays as it was: no size of the nano world in it
    assert model.draw("a red circle", steps=1).size == (SIZE, SIZE)
    assert all(int((batch.modality_BL == 1).sum()) % 16 == 0 for batch in seen)  # 4 x 4 codes: pictures of the model's own size
    assert any(bool(batch.positions("image").any()) for batch in seen)
    with Image.open(tmp_path / "run" / "samples" / "step_000002.png") as sample:
        assert min(sample.size) >= SIZE


def test_weights_in_bfloat16_and_micro_batches(start: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[MaskedDiffusionLearner] = []

    def keep(learner: MaskedDiffusionLearner, *_: object, **__: object) -> Path:
        found.append(learner)
        return tmp_path

    monkeypatch.setattr("mmada.recipes.sft.train", keep)
    for more in ({"weights": "bfloat16", "micro_batch": "1"}, {}):
        run("sft", overrides=SHORT | {"data": sources(data)} | more, out=tmp_path / "run", start_from=start)
    half, plain = found
    assert {p.dtype for p in half.module.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in plain.module.parameters()} == {torch.float32}
    losses = [[sum(float(v.detach()) for v in part.values()) for part in learner.losses(0)] for learner in found]
    assert [len(parts) for parts in losses] == [2, 1]
    assert sum(losses[0]) == pytest.approx(sum(losses[1]), rel=0.05)


def test_own_size_of_pictures_is_in_the_preset(start: Path, data: Path, tmp_path: Path) -> None:
    settings = SHORT | {"data": f"{{captions: {data}}}", "image_size": "16"}
    written = run("sft", overrides=settings, out=tmp_path / "run", start_from=start)
    assert mmada.load(written, device="cpu").preset.image_size == 16


def test_what_is_not_used_is_said(start: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "9.png").write_bytes(b"no picture")
    (data / "9.txt").write_text("a red circle")
    (data / "8.png").write_bytes((data / "1.png").read_bytes())
    (data / "7.png").write_bytes((data / "1.png").read_bytes())
    (data / "7.txt").write_text("a red circle " * 50)
    run("sft", overrides=SHORT | {"data": f"{{captions: {data}}}"}, out=tmp_path / "run", start_from=start)
    said = capsys.readouterr().out
    for reason in ("1 no caption", "1 over 96 tokens", "1 picture is not in a known format"):
        assert reason in said


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "recipe sft has no data; give --data FILE.yaml, or --set data="),
        ({"data": "{text: X/lines.txt}", "device": "tpu"}, "device 'tpu' is not available"),
        ({"data": "{a: {kind: text}}"}, r"path is missing; give it \(at a\)"),
        ({"data": "{a: {kind: text, path: X/lines.txt, wieght: 1}}"}, r"wieght is not a field of it; .* \(at a.wieght\)"),
        ({"data": "{a: {kind: text, path: [1]}}"}, r"it should be a valid string \(at a.path\)"),
        ({"data.text": "X/lines.txt"}, r"set 'data' itself, as in data=\{text: \.\.\.\}"),
        ({"data": "{a: 3}"}, r"it should be a valid string or .* \(at a\)"),
        ({"data": "{pictures: X}"}, "data 'pictures' is of kind 'pictures'; choose from captions, chat"),
        ({"data": "{captions: X/gone}"}, "data 'X/gone' does not exist"),
        ({"data": "{chat: X/gone.jsonl}"}, "does not exist"),
        ({"data": "{a: {kind: text, path: X/lines.txt, weight: -1}}"}, "weight of data a must be a number of at least 0"),
        ({"data": "{a: {kind: text, path: X/lines.txt, weight: 0}}"}, "no weight above 0"),
        (
            {"data": "{a: {kind: text, path: X/lines.txt, options: {colour: red}}}"},
            "'colour' of data 'a' is unknown to the kind text; it has none",
        ),
        ({"data": "{a: {kind: captions, path: X, options: {describ: x}}}"}, "'describ' of data 'a' .*; choose from describe"),
        ({"data": "{a: {kind: captions, path: X, options: {describe: 3}}}"}, "'describe' of data 'a' must be a str, got 3"),
        ({"data": "{a: {kind: chat, path: X/c.jsonl, options: {reasoning: x}}}"}, "'reasoning' of data 'a' must be a bool"),
        ({"data": "{text: X/lines.txt}", "row_length": "3"}, "has no example that can be used .*raise row_length"),
        ({"data": "{captions: X}", "image_size": "20"}, "image_size 20 is not a multiple of 8"),
        ({"weights": "float16"}, "weights"),
        ({"curriculum": "[{until: 0.5, mixture: {text: 1}}]", "data": "{text: X/lines.txt}"}, "ends at 0.5"),
        (
            {"curriculum": "[{until: 1, mixture: {vqa: 1}}]", "data": "{text: X/lines.txt}"},
            "mixture names 'vqa'; choose from text",
        ),
        ({"micro_batch": "-1"}, "micro_batch must be a whole number"),
        ({"sizes.heads": "3"}, "not a multiple of sizes.heads 3"),
    ],
)
def test_wrong_settings_are_refused_and_nothing_is_left(
    settings: dict[str, str], message: str, start: Path, data: Path, tmp_path: Path
) -> None:
    given = {name: value.replace("X", str(data)) for name, value in settings.items()}
    with pytest.raises(InputError, match=message.replace("X", str(data))):
        run("sft", overrides=SHORT | given, out=tmp_path / "runs" / "run", start_from=start)
    assert not (tmp_path / "runs").exists()


def test_an_image_tokenizer_alone_needs_a_text_tokenizer(start: Path, data: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "image_tokenizer").symlink_to(start / "image_tokenizer")
    settings = SHORT | {"data": sources(data), "sizes.width": "16", "sizes.layers": "1", "sizes.mlp": "16", "sizes.heads": "2"}
    with pytest.raises(InputError, match="set text_tokenizer=FOLDER"):
        run("sft", overrides=settings, out=tmp_path / "run", start_from=bare)
    written = run("sft", overrides=settings | {"text_tokenizer": str(start)}, out=tmp_path / "run", start_from=bare)
    assert mmada.load(written, device="cpu").generate("a red circle", length=4, steps=2, block=4).tokens


def test_mixtures_over_the_run() -> None:
    phases = (CurriculumPhase(until=0.5, mixture={"a": 1.0}), CurriculumPhase(until=1.0, mixture={"a": 3.0, "b": 1.0}))
    data = {name: DataSource(path=".", kind="text", weight=weight) for name, weight in (("a", 1), ("b", 1), ("c", 3), ("d", 1))}
    recipe = SftRecipe(name="x", plan=Plan(steps=10), data=data, curriculum=phases, data_share=0.4, rows=1, row_length=8)
    assert recipe.mixture(0) == pytest.approx({"a": 0.6, "b": 0.08, "c": 0.24, "d": 0.08})
    assert recipe.mixture(9) == pytest.approx({"a": 0.45, "b": 0.15, "c": 0.3, "d": 0.1})
    plain = SftRecipe(name="x", plan=Plan(steps=10), data=data)
    assert plain.mixture(3) == {"a": 1, "b": 1, "c": 3, "d": 1}
    assert sft().sample_prompts == ()
