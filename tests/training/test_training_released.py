"""A stage of ours started from a checkpoint of the released layout, in full and by adapters."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.helpers import TINY_IMAGE
from tests.parity import checkpoint
from tests.training.test_training import SMALL, losses

from mmada.errors import InputError
from mmada.pipeline import MMaDA
from mmada.recipes.run import run
from mmada.tokenizers.image import ImageTokenizer
from mmada.tokenizers.magvit import RELEASED_IMAGE

SHORT = {**SMALL, "plan.steps": "2", "plan.sample_every": "2", "row_length": "192", "losses.whole_vocabulary": "true"}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny transformer of the released layout with a full-size image tokenizer."""
    path = tmp_path_factory.mktemp("released")
    checkpoint.write_transformer(path, 4, width=16, heads=2, layers=1, mlp=24)
    torch.manual_seed(0)
    ImageTokenizer(RELEASED_IMAGE).save(path / "image_tokenizer")
    return path


@pytest.mark.slow
def test_a_released_checkpoint_is_trained_on(released: Path, tmp_path: Path) -> None:
    written = run("cot", overrides=SHORT, out=tmp_path / "cot", start_from=released)
    assert len(losses(tmp_path / "cot")) == 2
    after = load_file(written / "model.safetensors")
    assert after["model.transformer.wte.weight"].shape == (checkpoint.ROWS, 16)
    model = MMaDA.load(written, device="cpu")
    assert model.engine.parts.vocabulary.is_released
    assert model.draw("a red circle", steps=2).size == (64, 64)
    # What it was stays: type, tokenizer files, and the card but for the pictures' size.
    assert after["model.transformer.wte.weight"].dtype == torch.float32
    assert (written / "tokenizer_config.json").read_bytes() == (released / "tokenizer_config.json").read_bytes()
    assert model.preset == replace(MMaDA.load(released, device="cpu").preset, image_size=64)


def test_adapters_alone_are_trained_and_resumed(released: Path, tmp_path: Path) -> None:
    lora = {**SHORT, "lora.rank": "2", "plan.save_every": "1"}
    written = run("cot", overrides=lora, out=tmp_path / "cot", start_from=released)
    assert {path.name for path in written.iterdir()} == {"adapter_config.json", "adapter_model.safetensors", "preset.json"}
    assert not any("embed_tokens.weight" in name for name in load_file(tmp_path / "cot" / "checkpoint.safetensors"))
    assert MMaDA.load(released, adapter=written, device="cpu").draw("a red circle", steps=1, size=(64, 64)).size == (64, 64)
    more = {**lora, "plan.steps": "3", "plan.sample_every": "3"}
    run("cot", overrides=more, out=tmp_path / "cot", start_from=released, resume=True)
    assert len(losses(tmp_path / "cot")) == 3


@pytest.mark.parametrize("recipe", ["cot", "rl_math"])
def test_a_rank_above_the_models_width_is_refused(recipe: str, released: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lora\.rank must be a whole number of 1 to 16, got 17"):
        run(recipe, overrides={"plan.steps": "1", "lora.rank": "17"}, out=tmp_path / "out", start_from=released)
    assert not (tmp_path / "out").exists()


def test_an_image_tokenizer_of_another_model_is_named_before_any_step(released: Path, tmp_path: Path) -> None:
    shutil.copytree(released, tmp_path / "start", ignore=shutil.ignore_patterns("image_tokenizer"))
    ImageTokenizer(TINY_IMAGE).save(tmp_path / "start" / "image_tokenizer")
    path = tmp_path / "start" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"codebook_size": 8192}))
    with pytest.raises(InputError, match=r"codebook_size 8192 of config\.json is not the 32 of its tokenizers"):
        run("cot", overrides=SHORT, out=tmp_path / "cot", start_from=tmp_path / "start")


def test_llada_must_be_widened_first(tmp_path: Path, released: Path) -> None:
    start = tmp_path / "llada"
    checkpoint.write_transformer(start, 4, width=16, heads=2, layers=1, mlp=24, llada=True)
    os.symlink(released / "image_tokenizer", start / "image_tokenizer")
    with pytest.raises(InputError, match="--rows 134656"):
        run("cot", overrides=SHORT, out=tmp_path / "cot", start_from=start)
