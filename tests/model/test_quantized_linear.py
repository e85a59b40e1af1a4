"""Quantised linear layers: the integer product against its slow twin and against the weights before quantisation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.parity import checkpoint
from torch import Tensor, nn

from mmada.errors import InputError
from mmada.model import int8_product as product
from mmada.model.int8_product import QuantizedRows
from mmada.model.quantize import memory, quantize
from mmada.model.quantized_linear import Int4Linear, Int8Linear, QuantizedLinear
from mmada.model.trainable import empty_model, read_config, read_model
from mmada.pipeline import MMaDA
from mmada.pipeline.convert import convert

CPU = torch.device("cpu")
SIZES = [(64, 64), (128, 320), (70, 100), (200, 64)]
"""(inputs, outputs), of whole blocks and not."""
BOUND = {Int8Linear: 0.02, Int4Linear: 0.1}
"""Relative error of the output for normal weights and inputs."""
both = pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
needs_product = pytest.mark.skipif(not product.fast_product(), reason="this CPU has no exact product of int8")


def layer_of(kind: type[QuantizedLinear], sizes: tuple[int, int], fast: bool = True) -> tuple[QuantizedLinear, Tensor, Tensor]:
    """A layer, the weights that it was made from, and inputs."""
    generator = torch.Generator().manual_seed(sum(sizes))
    weight_NK = torch.randn(sizes[1], sizes[0], generator=generator) * 0.02
    x_MK = torch.randn(9, sizes[0], generator=generator)
    layer = kind(*sizes)
    layer.fast &= fast
    layer.take("weight", weight_NK)
    return layer, weight_NK, x_MK


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


@both
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("fast", [True, False])
def test_the_output_is_close_to_that_of_the_weights(kind: type[QuantizedLinear], sizes: tuple[int, int], fast: bool) -> None:
    layer, weight_NK, x_MK = layer_of(kind, sizes, fast)
    assert relative(layer(x_MK), x_MK @ weight_NK.T) < BOUND[kind]
    assert relative(layer.dequantized(), weight_NK) < BOUND[kind]


@needs_product
@both
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_integer_product_equals_its_slow_twin(
    kind: type[QuantizedLinear], sizes: tuple[int, int], dtype: torch.dtype
) -> None:
    layer, _, x_MK = layer_of(kind, sizes)
    assert layer.fast
    rows = QuantizedRows.of(x_MK.to(dtype))
    fast = layer(rows)
    layer.fast = False
    slow = layer(rows.dequantized().float())
    assert fast.dtype == dtype
    assert relative(fast, slow) < (0.005 if dtype == torch.bfloat16 else 1e-6)


@both
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("vocab", [range(320), range(3, 5), range(60, 70), range(64, 128), range(5, 319), range(319, 320)])
def test_a_part_of_the_outputs_is_that_part(kind: type[QuantizedLinear], fast: bool, vocab: range) -> None:
    layer, _, x_MK = layer_of(kind, (128, 320), fast)
    x = x_MK.bfloat16()
    assert torch.equal(layer.columns(x, vocab), layer(x)[:, vocab.start : vocab.stop])


@both
def test_rows_do_not_influence_each_other_and_zeros_stay_zero(kind: type[QuantizedLinear]) -> None:
    layer, _, x_MK = layer_of(kind, (128, 64))
    x_MK[4] *= 1e4
    x_MK[5] = 0
    assert torch.equal(layer(x_MK)[:4], layer(x_MK[:4]))
    assert torch.equal(layer(x_MK)[5], torch.zeros(64))
    assert layer(x_MK[:0]).shape == (0, 64)
    assert torch.equal(layer(x_MK[None]), layer(x_MK)[None])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_activations_are_quantised_row_by_row(dtype: torch.dtype) -> None:
    x_MK = torch.randn(6, 48, generator=torch.Generator().manual_seed(0)).to(dtype)
    x_MK[1] *= 100
    rows = QuantizedRows.of(x_MK)
    assert rows.scale_M1.dtype == dtype
    assert rows.value_MK.dtype == torch.uint8
    assert int((rows.value_MK.int() - 128).abs().amax(1).min()) >= 125
    half_step = rows.scale_M1.float() * 0.51
    assert bool((((rows.value_MK.float() - 128) * rows.scale_M1.float() - x_MK.float()).abs() <= half_step).all())


def test_many_rows_are_quantised_as_few(monkeypatch: pytest.MonkeyPatch) -> None:
    x_MK = torch.randn(3000, 512, generator=torch.Generator().manual_seed(0))
    many, few = QuantizedRows.of(x_MK), QuantizedRows.of(x_MK[:7])
    assert torch.equal(many.value_MK[:7], few.value_MK)
    assert torch.equal(many.scale_M1[:7], few.scale_M1)


def test_int4_is_exact_where_weights_lie_on_its_grid() -> None:
    generator = torch.Generator().manual_seed(0)
    level_NK = torch.randint(0, 16, (64, 128), generator=generator)
    level_NK[:, ::32], level_NK[:, 1::32] = 0, 15
    weight_NK = (level_NK * 15 - 120).float()
    weight_NK[:, 0] = 127  # fixes the scale of the channel at 1
    layer = Int4Linear(128, 64)
    layer.take("weight", weight_NK)
    assert torch.equal(layer.dequantized()[:, 32:], weight_NK[:, 32:])


def test_blocks_are_in_the_order_of_the_formula() -> None:
    weight_NK = torch.arange(128 * 128).view(128, 128).remainder(251).sub(125).to(torch.int8)
    blocks = product.blocked(weight_NK)
    assert int(blocks[1, 5, 7, 2]) == int(weight_NK[64 + 7, 4 * 5 + 2])
    assert torch.equal(product.unblocked(blocks), weight_NK)


def test_a_product_that_saturates_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    right = product.product
    monkeypatch.setattr(product, "product", lambda *a: right(*a).clamp(max=100.0))
    assert not product.fast_product.__wrapped__()
    monkeypatch.setattr(product, "template", missing)
    assert not product.fast_product.__wrapped__()


def missing(*_: Any) -> None:
    raise AttributeError("'_OpNamespace' 'onednn' object has no attribute 'qlinear_prepack'")


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("fast", [True, False])
def test_models_are_quantised_as_they_are_read(
    folder: Path, tmp_path: Path, kind: Any, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = fast and product.fast_product()
    monkeypatch.setattr("mmada.model.quantized_linear.fast_product", lambda: found)
    streamed = read_model(folder, device=CPU, dtype=torch.bfloat16, quantisation=kind)
    whole = quantize(read_model(folder, device=CPU), kind, CPU)
    stored = read_model(convert(folder, tmp_path / "out", quantisation=kind), device=CPU, dtype=torch.bfloat16)
    states = [model.state_dict() for model in (streamed, whole, stored)]
    assert not any(isinstance(part, nn.Linear) for part in streamed.modules())
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[name].to(value.dtype), value) for name, value in states[0].items())
    tokens = torch.tensor([[5, 6, 7, 8]])
    logits = [model.predict(tokens, query_BL=tokens > 6, vocab=range(3, 20)) for model in (streamed, whole, stored)]
    assert torch.equal(logits[0], logits[2])
    exact = read_model(folder, device=CPU).predict(tokens, query_BL=tokens > 6, vocab=range(3, 20))
    assert relative(logits[0], exact) < (0.05 if kind == "int8" else 0.3)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_quantised_folders_load_whole_and_refuse_the_rest(folder: Path, tmp_path: Path, kind: Any) -> None:
    out = convert(folder, tmp_path / "out", quantisation=kind)
    loaded, made = MMaDA.load(out, device="cpu"), MMaDA.load(folder, device="cpu", quantisation=kind)
    assert loaded.generate("2 + 3", length=8, steps=4, seed=1).tokens == made.generate("2 + 3", length=8, steps=4, seed=1).tokens
    other = "int4" if kind == "int8" else "int8"
    with pytest.raises(InputError, match=f"quantisation '{other}' does not go with .* whose weights are {kind}"):
        MMaDA.load(out, device="cpu", quantisation=other)
    with pytest.raises(InputError, match=f"is {kind}, which cannot be converted"):
        convert(out, tmp_path / "again")
    with pytest.raises(InputError, match="model is quantised already"):
        quantize(read_model(out, device=CPU), kind, CPU)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_the_memory_that_is_told_is_what_the_tensors_take(kind: Any, tmp_path: Path) -> None:
    checkpoint.write_transformer(tmp_path, 2, width=128, heads=4, layers=2, mlp=256)
    model = read_model(tmp_path, device=CPU, dtype=torch.bfloat16, quantisation=kind)
    taken = sum(value.nbytes for name, value in model.state_dict().items() if not name.endswith((".scale", ".total")))
    assert memory(empty_model(read_config(tmp_path)))[kind] == taken
