"""Features that need torchao or peft; run where they are installed: pip install 'mmada[quant,peft]'."""

import shutil
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity import checkpoint
from torch import Tensor

from mmada.errors import InputError
from mmada.model import lora
from mmada.model.mmada import MMaDAModel
from mmada.model.quantize import memory, quantize
from mmada.model.trainable import read_model
from mmada.pipeline import MMaDA
from mmada.pipeline.convert import convert

CPU = torch.device("cpu")
TOKENS = torch.tensor([[5, 126336, 7, 130000]])


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("released")
    checkpoint.write_transformer(path, 2, width=128, heads=4, layers=2, mlp=256)
    return path


def logits(model: MMaDAModel) -> Tensor:
    with torch.no_grad():
        return model(TOKENS).logits.float()


def test_eight_bit_floats_are_close_and_smaller(released: Path) -> None:
    pytest.importorskip("torchao", exc_type=ImportError)
    exact = logits(read_model(released, device=CPU, dtype=torch.bfloat16))
    model = quantize(read_model(released, device=CPU, dtype=torch.bfloat16), "fp8", CPU)
    assert float((logits(model) - exact).norm() / exact.norm()) < 0.1
    assert not torch.equal(logits(model), exact)
    assert memory(model)["fp8"] < memory(model)["bfloat16"]
    loaded = MMaDA.load(released, device="cpu", quantisation="fp8")
    assert loaded.generate("a red circle", length=4, steps=2, block=4).tokens
    with pytest.raises(InputError, match="model is quantised already, so quantisation 'int4'"):
        quantize(model, "int4", CPU)


def test_weights_quantised_by_torchao_are_not_half_saved(released: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchao", exc_type=ImportError)
    model = quantize(read_model(released, device=CPU, dtype=torch.bfloat16), "fp8", CPU)
    with pytest.raises(InputError, match="quantised for a GPU and cannot be saved"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_2_SEQ_LM"])
def test_peft_tasks_of_causal_models_say_what_to_use(released: Path, task: str) -> None:
    peft = pytest.importorskip("peft", exc_type=ImportError)
    with pytest.raises(InputError, match="task_type=None"):
        peft.get_peft_model(read_model(released, device=CPU), peft.LoraConfig(r=2, target_modules=["q_proj"], task_type=task))


@pytest.mark.parametrize("found", ["0.17.1", "0.9", None])
def test_a_missing_or_old_peft_is_named(released: Path, monkeypatch: pytest.MonkeyPatch, found: str | None) -> None:
    def version(name: str) -> str:
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(lora, "version", version)
    with pytest.raises(InputError, match=r"lora needs peft 0\.\d+\.0 or later.*pip install .*mmada\[peft\]"):
        lora.add_lora(read_model(released, device=CPU), lora.Lora(rank=2))


def test_adapters_are_saved_apart_and_merged(released: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", exc_type=ImportError)
    model = read_model(released, device=CPU)
    try:
        lora.peft("adapter")
    except InputError as error:
        pytest.skip(str(error))
    model.add_adapter(peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    before = logits(model)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    after = logits(model)
    assert float((after - before).abs().max()) > 0.1
    model.save_pretrained(tmp_path / "adapter")
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    shutil.copytree(tmp_path / "adapter", tmp_path / "half")
    whole = load_file(weights)
    save_file({name: whole[name] for name in sorted(whole)[2:]}, tmp_path / "half" / weights.name)
    with pytest.raises(InputError, match=r"does not fit the model .*missing adapter keys"):
        convert(released, tmp_path / "no", adapter=tmp_path / "half")
    merged = convert(released, tmp_path / "merged", adapter=tmp_path / "adapter")
    torch.testing.assert_close(logits(read_model(merged, device=CPU)), after, atol=1e-4, rtol=0)


def test_without_torchao_the_fix_is_named(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchao", None)
    with pytest.raises(InputError, match=r"pip install 'mmada\[quant\]'"):
        quantize(read_model(released, device=CPU), "fp8", CPU)
    with pytest.raises(InputError, match="int8, fp8, int4"):
        quantize(read_model(released, device=CPU), "int3", CPU)
