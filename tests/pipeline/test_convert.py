"""Convert: other types, LLaDA's rows widened, adapters merged; what is written loads, and nothing is half-written."""

import json
import shutil
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity import checkpoint
from torch import Tensor

from mmada.errors import InputError
from mmada.model.mmada import MMaDAModel
from mmada.model.resize_embeddings import resize_embeddings
from mmada.model.trainable import read_model
from mmada.pipeline import MMaDA
from mmada.pipeline.convert import convert

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llada")
    checkpoint.write_transformer(path, 3, width=8, heads=2, layers=1, mlp=12, llada=True)
    return path


def state(folder: Path) -> dict[str, Tensor]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def test_llada_answers_but_has_no_pictures(llada: Path) -> None:
    model = MMaDA.load(llada, device="cpu")
    assert model.engine.parts.vocabulary.codebook_size == 115  # LLaDA's spare rows
    assert len(model.generate("a red circle", length=4, steps=4, block=4).frames) > 1
    with pytest.raises(InputError, match="no image tokenizer"):
        model.draw("a red circle")


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_llada_is_widened(llada: Path, tmp_path: Path, noise: float) -> None:
    out = convert(llada, tmp_path / "wide", rows=checkpoint.ROWS, noise=noise, seed=4)
    before, after = state(llada), state(out)
    for name, old in before.items():
        assert torch.equal(after[name][: len(old)], old)
    for name in ("model.transformer.wte.weight", "model.transformer.ff_out.weight"):
        old, new = before[name], after[name][checkpoint.LLADA_ROWS :]
        assert len(new) == 8192
        deviation = (new - old.mean(0)) / old.std(0)
        assert float(deviation.std()) == pytest.approx(noise, abs=2e-3)
        assert float(deviation.abs().max()) < 6 * noise + 1e-4
    fields = json.loads((out / "config.json").read_text())
    assert (fields["vocab_size"], fields["embedding_size"], fields["model_type"]) == (checkpoint.ROWS, checkpoint.ROWS, "mmada")
    assert (fields["llm_vocab_size"], fields["codebook_size"]) == (checkpoint.LLADA_ROWS, 8192)
    assert MMaDA.load(out, device="cpu").engine.parts.vocabulary.codebook_size == 8192


def test_each_tensor_keeps_its_type(llada: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(llada, mixed)
    first = mixed / "model-00001-of-00002.safetensors"
    save_file({name: value.bfloat16() for name, value in load_file(first).items()}, first)
    before, after = state(mixed), state(convert(mixed, tmp_path / "out"))
    assert all(after[name].dtype == value.dtype and torch.equal(after[name], value) for name, value in before.items())
    assert {p.dtype for p in cast(MMaDAModel, MMaDA.load(mixed, device="cpu").engine.parts.model).parameters()} == {torch.float32}


def test_the_tokenizer_is_copied_and_the_image_tokenizer_beside_it_too(llada: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "magvitv2").mkdir()
    (tmp_path / "magvitv2" / "config.json").write_text("{}")
    shutil.copytree(llada, tmp_path / "model")
    fields = json.loads((llada / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(fields | {"model_type": "mmada"}))
    (tmp_path / "model" / "special_tokens_map.json").write_text("{}")
    out = convert(tmp_path / "model", tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (out / name).read_bytes() == (tmp_path / "model" / name).read_bytes()
    assert (out / "image_tokenizer" / "config.json").read_text() == "{}"


def test_config_says_what_the_reference_looks_for(llada: Path, folder: Path, model: MMaDA, tmp_path: Path) -> None:
    fields = json.loads((convert(llada, tmp_path / "wide", rows=checkpoint.ROWS) / "config.json").read_text())
    assert (fields["bos_token_id"], fields["eos_token_id"], fields["mask_token_id"]) == (126080, 126081, 126336)
    assert (fields["num_vq_tokens"], fields["num_new_special_tokens"], fields["torch_dtype"]) == (1024, 0, "float32")
    own = json.loads((convert(folder, tmp_path / "own") / "config.json").read_text())
    v = model.engine.parts.vocabulary
    assert (own["bos_token_id"], own["eos_token_id"], own["mask_token_id"]) == (v.bos, v.eos, v.mask)


@pytest.mark.parametrize(("field", "value"), [("mask_token_id", 5), ("codebook_size", 100)])
def test_ids_that_disagree_with_the_tokenizers_are_named(llada: Path, tmp_path: Path, field: str, value: int) -> None:
    shutil.copytree(llada, tmp_path / "model")
    fields = json.loads((llada / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(fields | {field: value}))
    with pytest.raises(InputError, match=f"{field} {value} of config.json is not the .* of its tokenizers"):
        MMaDA.load(tmp_path / "model", device="cpu")


def test_the_mean_of_three_models(llada: Path, tmp_path: Path) -> None:
    others = [tmp_path / name for name in ("b", "c")]
    for seed, other in enumerate(others):
        checkpoint.write_transformer(other, seed, width=8, heads=2, layers=1, mlp=12, llada=True)
    models = [state(path) for path in (llada, *others)]
    mean = state(convert(llada, tmp_path / "mean", dtype=torch.float32, mean=others))
    for name, value in mean.items():
        expected = sum(model[name].float() for model in models) / 3
        assert torch.allclose(value, expected, atol=1e-6)
        assert not torch.allclose(value, models[0][name].float(), atol=1e-6)
    checkpoint.write_transformer(tmp_path / "wider", 0, width=16, heads=2, layers=1, mlp=12, llada=True)
    with pytest.raises(InputError, match="wider has weights of other names or shapes"):
        convert(llada, tmp_path / "none", mean=[tmp_path / "wider"])
    assert not (tmp_path / "none").exists()


def test_widening_repeats_and_does_not_shrink(llada: Path) -> None:
    first, second = (resize_embeddings(read_model(llada, device=CPU), 126_500, noise=1.0, seed=2) for _ in range(2))
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)
    with pytest.raises(InputError, match="rows 100 are fewer"):
        resize_embeddings(first, 100)


def test_nano_converts_and_answers_the_same(folder: Path, model: MMaDA, tmp_path: Path) -> None:
    out = convert(folder, tmp_path / "copy")
    assert "model.transformer.wte.weight" in state(out)
    assert {file.stat().st_mode for file in out.rglob("*.safetensors")} == {(out / "config.json").stat().st_mode}
    again = MMaDA.load(out, device="cpu")
    assert again.generate("pens").tokens == model.generate("pens").tokens
    assert again.draw("pens").tobytes() == model.draw("pens").tobytes()
    half = convert(folder, tmp_path / "half", dtype=torch.bfloat16)
    assert all(value.dtype == torch.bfloat16 for value in state(half).values())
    assert MMaDA.load(half, device="cpu").engine.parts.model.dtype == torch.bfloat16  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rows": 5}, "rows 5 are fewer"),
        ({"noise": -1.0, "rows": 10_000}, "noise"),
        ({"noise": 1e300, "rows": 10_000}, "noise must be a number of 0 to 100"),
        ({"noise": 0.5}, "give rows too"),
        ({"rows": 10**11}, "rows must be a whole number of 1 to"),
        ({"shard_size": "big"}, "shard_size 'big'"),
        ({"shard_size": "0GB"}, "shard_size '0GB'"),
        ({"shard_size": "-5MB"}, "shard_size '-5MB'"),
        ({"adapter": "nowhere"}, "adapter 'nowhere' does not exist"),
        ({"preset": "mixcott"}, "did you mean 'mixcot'"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(folder: Path, tmp_path: Path, options: dict[str, object], named: str) -> None:
    with pytest.raises(InputError, match=named):
        convert(folder, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_cannot_be_written_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(InputError, match="file/out' cannot be a folder"):
        convert(folder, tmp_path / "file" / "out")


def test_a_full_folder_is_not_written_to(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match="not empty"):
        convert(folder, tmp_path)
