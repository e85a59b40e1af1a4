"""Convert: other types, LLaDA's rows widened, adapters merged; what is written loads, and nothing is half-written."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.parity import checkpoint
from torch import Tensor

from mmada.errors import InputError
from mmada.model.reading import read_model
from mmada.model.widen import widen
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


def test_widening_repeats_and_does_not_shrink(llada: Path) -> None:
    first, second = (widen(read_model(llada, device=CPU), 126_500, noise=1.0, seed=2) for _ in range(2))
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)
    with pytest.raises(InputError, match="rows 100 are fewer"):
        widen(first, 100)


def test_nano_converts_and_answers_the_same(folder: Path, model: MMaDA, tmp_path: Path) -> None:
    out = convert(folder, tmp_path / "copy")
    assert "model.transformer.wte.weight" in state(out)
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
        ({"shard_size": "big"}, "shard_size 'big'"),
        ({"adapter": "nowhere"}, "no adapter_config.json"),
        ({"preset": "mixcott"}, "did you mean 'mixcot'"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(folder: Path, tmp_path: Path, options: dict[str, object], named: str) -> None:
    with pytest.raises(InputError, match=named):
        convert(folder, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_full_folder_is_not_written_to(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match="not empty"):
        convert(folder, tmp_path)
