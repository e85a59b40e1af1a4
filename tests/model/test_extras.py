"""Features that need torchao or peft; run where they are installed: pip install 'mmada[quant,peft]'."""

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity import checkpoint
from torch import Tensor

from mmada.errors import InputError
from mmada.model import adapters, lora
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
def test_a_missing_or_old_peft_is_named(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: str | None
) -> None:
    def version(name: str) -> str:
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(adapters, "version", version)
    other = {"peft_type": "LORA", "r": 2, "use_dora": True, "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(other))
    with pytest.raises(InputError, match=r"needs peft 0\.\d+\.0 or later.*pip install .*mmada\[peft\]"):
        adapters.merged(read_model(released, device=CPU), tmp_path)


def adapted(released: Path, folder: Path, **options: object) -> tuple[MMaDAModel, Tensor]:
    """A model with random adapters, written to ``folder``, and its logits."""
    model = read_model(released, device=CPU)
    before = logits(model)
    lora.add_lora(model, lora.Lora(rank=4, **options))
    assert torch.equal(logits(model), before), "new adapters change nothing"
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    after = logits(model)
    assert float((after - before).abs().max()) > 0.1
    with lora.adapters_off(model):
        assert torch.equal(logits(model), before)
    assert torch.equal(logits(model), after)
    adapters.save_adapters(model, folder, str(released))
    return model, after


@pytest.mark.parametrize("embeddings", [False, True])
def test_adapters_are_saved_apart_and_merged(released: Path, tmp_path: Path, embeddings: bool) -> None:
    model, after = adapted(released, tmp_path / "adapter", embeddings=embeddings)
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    whole = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert len(whole) == 2 * len(lora.lora_layers(model)) == 2 * (14 + 2 * embeddings)
    merged = convert(released, tmp_path / "merged", adapter=tmp_path / "adapter")
    torch.testing.assert_close(logits(read_model(merged, device=CPU)), after, atol=1e-3, rtol=0)


def test_the_adapters_folder_is_a_model_that_knows_its_base(released: Path, tmp_path: Path) -> None:
    adapted(released, tmp_path / "adapter")
    one, other = MMaDA.load(tmp_path / "adapter", device="cpu"), MMaDA.load(released, adapter=tmp_path / "adapter", device="cpu")
    asked = {"length": 4, "steps": 2, "block": 4}
    assert one.generate("a red circle", **asked).tokens == other.generate("a red circle", **asked).tokens
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "some/where"}))
    with pytest.raises(InputError, match="names 'some/where', which is not here; give that model, and this folder as adapter"):
        MMaDA.load(tmp_path / "adapter", device="cpu")


def spoiled(weights: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    """Weights of adapters with one thing wrong."""
    first = sorted(weights)[0]
    other = sorted(weights)[1]
    return {
        "half": {name: value for name, value in weights.items() if name != first},
        "layer": {name: value for name, value in weights.items() if not name.startswith(first.rpartition(".lora")[0])},
        "shape": weights | {first: torch.zeros(4, 3)},
        "rank": weights | {first: torch.zeros(5, weights[first].shape[1])},
        "finite": weights | {other: torch.full_like(weights[other], float("nan"))},
        "name": weights | {"x.weight": torch.zeros(2)},
    }[how]


@pytest.mark.parametrize("how", ["half", "layer", "shape", "rank", "finite", "name"])
def test_adapters_that_do_not_fit_change_nothing(released: Path, tmp_path: Path, how: str) -> None:
    adapted(released, tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    save_file(spoiled(load_file(weights), how), weights)
    model = read_model(released, device=CPU)
    before = logits(model)
    with pytest.raises(InputError, match="does not fit the model"):
        adapters.merged(model, tmp_path)
    assert torch.equal(logits(model), before)


def test_a_frozen_base_in_half_precision_has_adapters_in_full(released: Path) -> None:
    model = read_model(released, device=CPU, dtype=torch.bfloat16)
    lora.add_lora(model, lora.Lora(rank=4))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    loss = model(TOKENS).logits.float().square().mean()
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters() if p.requires_grad)


def test_without_torchao_the_fix_is_named(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchao", None)
    with pytest.raises(InputError, match=r"pip install 'mmada\[quant\]'"):
        quantize(read_model(released, device=CPU), "fp8", CPU)
    with pytest.raises(InputError, match="int8, fp8, int4"):
        quantize(read_model(released, device=CPU), "int3", CPU)
