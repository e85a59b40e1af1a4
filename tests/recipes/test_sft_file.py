"""``sft --data FILE.yaml``: from a folder of pictures or a JSON of questions to a model that knows them, with nothing tuned."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from tests.helpers import PRESET, SIZE, tiny_folder
from tests.parity import checkpoint

import mmada
from mmada.cli.main import main
from mmada.data import load
from mmada.errors import InputError
from mmada.io.images import load_image
from mmada.pipeline import MMaDA
from mmada.pipeline.grids import fit
from mmada.recipes.run import run
from mmada.tokenizers.image import ImageTokenizer
from mmada.tokenizers.magvit import ImageTokenizerConfig
from mmada.training.log import read_log

COLOURS = ("crimson", "navy", "teal", "gold", "plum", "coral", "olive", "black")
SHORT = {"plan.steps": "6", "samples": "2", "device": "cpu", "batch": "4"}


def draw_pictures(folder: Path, captions: list[str]) -> None:
    """A folder of pictures of several sizes with a caption beside each."""
    folder.mkdir()
    rng = np.random.default_rng(3)
    for number, caption in enumerate(captions):
        image = Image.new("RGB", (int(rng.integers(60, 90)), int(rng.integers(60, 90))), COLOURS[number % 8])
        pen = ImageDraw.Draw(image)
        for _ in range(4):
            x, y, r = (int(v) for v in rng.integers(5, 50, 3))
            pen.ellipse([x, y, x + r, y + r], fill=COLOURS[int(rng.integers(8))])
        image.save(folder / f"p{number:02d}.png")
        (folder / f"p{number:02d}.txt").write_text(caption)


def words(seed: int, count: int) -> str:
    """Words of the vocabulary of the checkpoint in the released layout."""
    return " ".join(f"w{n}" for n in np.random.default_rng(seed).integers(20, 120_000, count))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("start") / "model"
    tiny_folder(path)
    replace(PRESET, image_size=SIZE).save(path)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    draw_pictures(tmp_path / "photos", [f"a red circle {n}" for n in range(8)])
    return tmp_path


def written(folder: Path, text: str) -> Path:
    path = folder / "data.yaml"
    path.write_text(text)
    return path


def drawn_back(model: MMaDA, data: Path) -> float:
    """Share of the codes of the pictures of a file that the model draws from their captions."""
    shares = []
    engine = model.engine
    for dataset in load(data).split("train").values():
        for index in range(len(dataset)):
            example = dataset[index]
            if example.objective != "text_to_image":
                continue
            real = engine.encode([fit(load_image(example.images[0]), engine.size, model.preset.fit)])[0]
            seen: list[Any] = []
            model.draw(example.text, callback=seen.append)
            shares.append(float((engine.codes(seen[-1].canvas, real.shape)[0] == real).mean()))
    assert len(shares) >= 8
    return float(np.mean(shares))


def final_loss(out: Path) -> float:
    return float(np.mean([row["loss"] for row in read_log(out / "log.jsonl")][-20:]))


def commands(said: str) -> list[list[str]]:
    """The commands that a run printed to try next."""
    return [shlex.split(line) for line in said.splitlines() if line.startswith("  mmada ")]


def test_a_run_says_what_it_did_and_its_next_commands_work(
    start: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (pictures / "photos" / "bad.png").write_bytes(b"no picture")
    (pictures / "photos" / "bad.txt").write_text("a red circle")
    (pictures / "photos" / "alone.png").write_bytes((pictures / "photos" / "p00.png").read_bytes())
    data = written(pictures, "mixture: {max_bad: 0.5}\nphotos: {use: pair, files: photos}\n")
    folder = run("sft", overrides={**SHORT, "data_file": str(data)}, out=tmp_path / "run", start_from=start)
    engine = mmada.load(folder, device="cpu").engine
    asked, real = (
        engine.encode([fit(load_image(file), engine.size, "crop")])[0]
        for file in (tmp_path / "run/samples/picture.png", pictures / "photos/p00.png")
    )
    assert (asked == real).all(), "the picture to ask about has the codes that were trained on"
    said = capsys.readouterr().out
    assert re.search(r"data 'photos' \(pair\): 10 rows, 16 examples to train on, 0 to validate; not used: .*picture", said)
    assert "trained 6 steps: 24 examples (1.5 epochs of 16)" in said
    found = commands(said)
    assert {one[1] for one in found} == {"draw", "ask"}
    monkeypatch.chdir(tmp_path)
    for command in found:
        assert main(command[1:]) == 0
    assert (tmp_path / "drawn.png").is_file()
    assert "of the codes" in (tmp_path / "run" / "samples" / "step_000006.txt").read_text()


def test_many_broken_pictures_stop_a_run_before_its_first_step(start: Path, pictures: Path, tmp_path: Path) -> None:
    (pictures / "photos" / "bad.png").write_bytes(b"no picture")
    (pictures / "photos" / "bad.txt").write_text("a red circle")
    data = written(pictures, "photos: {use: pair, files: photos}\n")
    with pytest.raises(InputError, match=r"'photos' has pictures that cannot be read in 2 of 18 examples, more than 0\.02"):
        run("sft", overrides={**SHORT, "data_file": str(data)}, out=tmp_path / "run", start_from=start)
    assert not (tmp_path / "run").exists()


def test_adapters_are_a_model_by_themselves(start: Path, pictures: Path, tmp_path: Path) -> None:
    data = written(pictures, "photos: {use: pair, files: photos, ways: draw}\n")
    settings = {**SHORT, "data_file": str(data), "lora.rank": "4", "image_size": "16", "samples": "0"}
    folder = run("sft", overrides=settings, out=tmp_path / "run", start_from=start)
    model = mmada.load(folder, device="cpu")
    assert model.preset.image_size == 16
    assert model.draw("a red circle 1", steps=1).size == (16, 16)


def test_validation_by_set_and_use_and_an_early_stop(
    start: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_pictures(pictures / "held", ["a red circle"] * 3)
    (pictures / "lines.jsonl").write_text("\n".join(json.dumps({"text": f"tom has {n} red pens"}) for n in range(6)))
    data = written(
        pictures,
        "photos: {use: pair, files: photos, ways: draw, split: train}\n"
        "held: {use: pair, files: held, split: validation}\n"
        "lines: {use: text, files: lines.jsonl, text: text, split: train}\n",
    )
    settings = {**SHORT, "data_file": str(data), "plan.steps": "30", "plan.validate_every": "2", "plan.patience": "2"}
    settings |= {"plan.optim.lr": "0.3", "plan.optim.warmup": "0", "plan.average": "0.5"}  # far too high: it gets worse at once
    folder = run("sft", overrides=settings, out=tmp_path / "run", start_from=start)
    rows = read_log(tmp_path / "run" / "validation.jsonl")
    assert {"loss", "loss_set_held", "loss_use_pair", "loss_text_to_image", "loss_chat"} < set(rows[0])
    assert len(rows) < 15
    best = min(rows, key=lambda row: row["loss"])
    assert rows[-1]["step"] == best["step"] + 4
    assert f"stopped at step {rows[-1]['step']:.0f}: the validation loss was lowest" in capsys.readouterr().out
    before = (folder / "model.safetensors").read_bytes()
    run("sft", overrides=settings, out=tmp_path / "run", start_from=start, resume=True)
    assert (folder / "model.safetensors").read_bytes() == before, "a run that is over stays so"
    assert len(read_log(tmp_path / "run" / "validation.jsonl")) == len(rows)


def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(start: Path, pictures: Path, tmp_path: Path) -> None:
    data = written(pictures, "photos: {use: pair, files: photos}\n")
    settings = {**SHORT, "data_file": str(data), "lora.rank": "4", "lora.dropout": "0.1", "samples": "0", "plan.save_every": "3"}
    settings |= {"plan.optim.decay": "0", "activation_checkpointing": "true"}
    run("sft", overrides=settings, out=tmp_path / "whole", start_from=start)
    run("sft", overrides=settings | {"plan.steps": "3"}, out=tmp_path / "half", start_from=start)
    run("sft", overrides=settings, out=tmp_path / "half", start_from=start, resume=True)
    whole, half = ([row["loss"] for row in read_log(tmp_path / name / "log.jsonl")] for name in ("whole", "half"))
    assert half == pytest.approx(whole, rel=1e-5)


def test_activation_checkpointing_and_micro_batches_change_nothing(start: Path, pictures: Path, tmp_path: Path) -> None:
    data = written(pictures, "photos: {use: pair, files: photos}\n")
    losses = []
    for number, more in enumerate(({"micro_batch": "0"}, {"activation_checkpointing": "true"}, {"micro_batch": "1"})):
        out = tmp_path / str(number)
        run("sft", overrides={**SHORT, "data_file": str(data), "samples": "0", "batch": "16"} | more, out=out, start_from=start)
        losses.append([row["loss"] for row in read_log(out / "log.jsonl")])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[2] == pytest.approx(losses[0], rel=2e-2)  # sums in bfloat16, in another order


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data_file": "X/gone.yaml"}, "gone.yaml"),
        ({"data_file": "X/data.yaml", "data": "{text: X/a.txt}"}, "given by --data and by the setting data"),
        ({"data_file": "X/data.yaml", "plan.patience": "2"}, "plan.patience 2 needs a validation split"),
        ({"data_file": "X/data.yaml", "losses": "papers"}, "losses"),
        ({"data_file": "X/data.yaml", "caption_dropout": "2"}, "caption_dropout"),
        ({"data_file": "X/data.yaml", "plan.optim.schedule": "linear"}, "schedule"),
    ],
)
def test_wrong_settings_are_refused_and_nothing_is_left(
    settings: dict[str, str], message: str, start: Path, pictures: Path, tmp_path: Path
) -> None:
    written(pictures, "photos: {use: pair, files: photos}\n")
    given = {name: value.replace("X", str(pictures)) for name, value in settings.items()}
    with pytest.raises(InputError, match=message):
        run("sft", overrides=SHORT | given, out=tmp_path / "runs" / "run", start_from=start)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").glob("run"))


def test_nano_stages_have_data_of_their_own(pictures: Path, tmp_path: Path) -> None:
    data = written(pictures, "photos: {use: pair, files: photos}\n")
    with pytest.raises(InputError, match="recipe cot has data of its own; take recipe sft for --data"):
        run("cot", overrides={"data_file": str(data)}, out=tmp_path / "run", start_from="nano")


# The proof: data never seen, everything at its default but the device and the size of the pictures.


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny transformer in the layout of the 8B model, with a small image tokenizer of as many codes."""
    path = tmp_path_factory.mktemp("released")
    checkpoint.write_transformer(path, 0)
    sizes = ImageTokenizerConfig(
        channels=8, encoder_mult=(1,) * 5, decoder_mult=(1,) * 5, encoder_blocks=(0,) * 5, decoder_blocks=(0,) * 5,
        code_bits=13, groups=4, image_size=512,
    )  # fmt: skip
    ImageTokenizer(sizes).save(path / "image_tokenizer")
    return path


@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 16])
def test_pictures_are_drawn_back_from_their_captions(rank: int, released: Path, tmp_path: Path) -> None:
    draw_pictures(tmp_path / "photos", [words(n, 4 + n % 3) for n in range(16)])
    data = written(tmp_path, "photos: {use: pair, files: photos, ways: draw}\n")
    settings = {"data_file": str(data), "lora.rank": str(rank), "image_size": "64", "device": "cpu"}
    folder = run("sft", overrides=settings, out=tmp_path / "run", start_from=released)
    assert final_loss(tmp_path / "run") < 0.1
    assert drawn_back(mmada.load(folder, device="cpu"), data) >= 0.9


@pytest.mark.long
def test_answers_are_given_back_word_for_word(released: Path, tmp_path: Path) -> None:
    draw_pictures(tmp_path / "photos", [words(n, 3) for n in range(16)])
    turns = [(f"<image>\n{words(100 + n, 4)}", words(200 + n, 1 + n)) for n in range(16)]
    rows = [
        {"id": n, "image": f"p{n:02d}.png", "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
        for n, (q, a) in enumerate(turns)
    ]
    (tmp_path / "talk.json").write_text(json.dumps(rows))
    data = written(tmp_path, "talk: {use: chat, files: talk.json, turns: conversations, image: image, images: [photos]}\n")
    settings = {"data_file": str(data), "lora.rank": "16", "image_size": "64", "device": "cpu", "samples": "0"}
    folder = run("sft", overrides=settings, out=tmp_path / "run", start_from=released)
    assert final_loss(tmp_path / "run") < 0.1
    model = mmada.load(folder, device="cpu")
    for number, (question, answer) in enumerate(turns[:6]):
        picture = tmp_path / "photos" / f"p{number:02d}.png"
        found = model.ask(picture, question.removeprefix("<image>\n"), thinking=False)
        assert list(found.tokens) == model.engine.parts.text.encode(answer)
