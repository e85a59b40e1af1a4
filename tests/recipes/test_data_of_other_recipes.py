"""``--data`` for the image tokenizer and for policy optimisation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.helpers import PRESET, tiny_folder

from mmada.cli.main import main
from mmada.errors import InputError
from mmada.recipes.overrides import override
from mmada.recipes.rl import RLRecipe
from mmada.recipes.rl_prompts import read_prompts, tasks_of
from mmada.recipes.run import run
from mmada.registry import RECIPES
from mmada.tokenizers.image import ImageTokenizer
from mmada.training.log import read_log

TINY = (
    "{channels: 8, encoder_mult: [1, 1, 1, 1], decoder_mult: [1, 1, 1, 1], encoder_blocks: [0, 0, 0, 0], "
    "decoder_blocks: [0, 0, 0, 0], code_bits: 5, groups: 4, image_size: 32}"
)
PICTURES = {"plan.steps": "4", "model": TINY, "batch": "2", "device": "cpu", "plan.sample_every": "4"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Pictures with captions to train on and to validate, and one that is broken."""
    rng = np.random.default_rng(0)
    for name in ("photos", "held"):
        (tmp_path / name).mkdir()
        for n in range(4):
            Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / name / f"{n}.png")
            (tmp_path / name / f"{n}.txt").write_text("a red circle")
    (tmp_path / "photos" / "bad.png").write_bytes(b"none")
    (tmp_path / "photos" / "bad.txt").write_text("a red circle")
    path = tmp_path / "data.yaml"
    path.write_text(
        "mixture: {max_bad: 0.5}\n"
        "photos: {use: pair, files: photos, split: train}\n"
        "held: {use: pair, files: held, split: validation}\n"
    )
    return path


def test_an_image_tokenizer_on_own_pictures(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [f"--set={name}={value}" for name, value in PICTURES.items()]
    assert main(["train", "image_tokenizer", "--data", str(data), *settings, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    rows = read_log(tmp_path / "run" / "validation.jsonl")
    assert f"held-out pictures: {rows[-1]['psnr']:.1f} dB" in said
    assert rows[-1]["psnr"] == pytest.approx(-10 * np.log10(rows[-1]["loss"]), abs=1.5)
    written = tmp_path / "run" / "model"
    assert f"mmada train sft --data {data} --start-from {written}" in said
    assert ImageTokenizer.load(written / "image_tokenizer").config.code_bits == 5
    more = run("image_tokenizer", overrides=PICTURES | {"data_file": str(data)}, out=tmp_path / "more", start_from=written)
    assert len(read_log(tmp_path / "more" / "log.jsonl")) == 4, more


def test_a_model_from_an_image_tokenizer_alone(data: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    tiny_folder(tmp_path / "whole")
    bare.mkdir()
    (bare / "image_tokenizer").symlink_to(tmp_path / "whole" / "image_tokenizer")
    sizes = {"sizes.width": "16", "sizes.layers": "1", "sizes.mlp": "16", "sizes.heads": "2", "samples": "0", "device": "cpu"}
    written = run("sft", overrides={**sizes, "data_file": str(data), "plan.steps": "2"}, out=tmp_path / "run", start_from=bare)
    assert (written / "tokenizer.json").is_file(), "a text tokenizer was trained on the captions"
    assert main(["draw", "a red circle", "--model", str(written), "--steps", "1", "-o", str(tmp_path / "x.png")]) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": "X"}, "given by --data and by the setting images"),
        ({"learn": "decoder"}, "there is none; give --start-from"),
        ({"data_file": "X/lines.yaml"}, "no pictures in the split train"),
    ],
)
def test_wrong_settings_of_a_tokenizer(settings: dict[str, str], message: str, data: Path, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("one\ntwo\n")
    (tmp_path / "lines.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / "lines.yaml").write_text("lines: {use: text, files: lines.jsonl, text: text}\n")
    given = {name: value.replace("X", str(tmp_path)) for name, value in settings.items()}
    with pytest.raises(InputError, match=message):
        run("image_tokenizer", overrides=PICTURES | {"data_file": str(data)} | given, out=tmp_path / "run")


def test_a_recipe_without_data_says_so(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = [name for name in RECIPES if not hasattr(RECIPES.find(name)(), "data_file")]
    for name in found[:1]:
        assert main(["train", name, "--data", str(data)]) == 2
        assert "takes no --data" in capsys.readouterr().err


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    rows = [{"question": f"what is {n} + 2?", "answer": f"it is ... #### {n + 2}"} for n in range(6)]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = tmp_path / "prompts.yaml"
    path.write_text(
        "sums: {use: prompts, files: sums.jsonl, reader: gsm8k, weight: 3}\n"
        "other: {use: prompts, files: sums.jsonl, reader: gsm8k}\n"
    )
    return path


def test_prompts_of_a_file_are_tasks(prompts: Path) -> None:
    recipe: RLRecipe = override(RECIPES.find("rl_math")(), {"data_file": str(prompts), "tasks": "{math: 8}"})
    found = recipe.with_data()
    assert found.tasks == {"sums": 6, "other": 2}
    assert found.rewards["sums"] == recipe.rewards["math"]
    (task,) = tasks_of("sums", found.prompts["sums"])
    assert task.output == "text"
    pool: Any = read_prompts(found.prompts)["sums"]
    assert [(one.prompt, one.gold) for one in pool.examples][:2] == [("what is 0 + 2?", "2"), ("what is 1 + 2?", "3")]
    own = override(
        RECIPES.find("rl_math")(), {"data_file": str(prompts), "rewards": "{math: {format: 1}, other: {correctness: 1}}"}
    )
    assert own.with_data().rewards == {"sums": {"format": 1}, "other": {"correctness": 1}}


def test_policy_optimisation_on_own_prompts(prompts: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    tiny_folder(start)
    PRESET.save(start)
    settings = {"data_file": str(prompts), "tasks": "{math: 2}", "plan.steps": "1", "group_size": "2", "plan.optim.warmup": "0"}
    settings |= {"sampling.text.length": "8", "sample_prompts": "[]", "device": "cpu", "rewards.math": "{format: 1}"}
    settings = {n: v for n, v in settings.items() if n != "rewards.math"} | {"rewards": "{math: {correctness: 1, format: 1}}"}
    run("rl_math", overrides=settings, out=tmp_path / "run", start_from=start)
    assert len(read_log(tmp_path / "run" / "log.jsonl")) == 1


def test_data_without_prompts_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no set of use prompts"):
        override(RECIPES.find("rl_math")(), {"data_file": str(data)}).with_data()
