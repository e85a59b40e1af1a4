"""Inputs in the conventions of transformers: rejected by field, or computed as intended."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import tiny_model
from transformers import AutoModelForCausalLM

from mmada.errors import InputError
from mmada.model.mmada import MMaDAConfig, MMaDAModel

IDS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
MASK = torch.tensor([[1, 1, 1, 1, 0], [0, 1, 1, 1, 1]])


@pytest.fixture(scope="module")
def model() -> MMaDAModel:
    torch.manual_seed(0)
    return tiny_model(40)


@torch.no_grad()
def logits(model: MMaDAModel, **inputs: Any) -> torch.Tensor:
    return model(**{"input_ids": IDS, **inputs}).logits


def edited(tensor: torch.Tensor, value: float) -> torch.Tensor:
    tensor = tensor.clone() if isinstance(value, int) else tensor.float()
    tensor[1, 2] = value
    return tensor


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.int64, torch.float32, torch.bfloat16])
def test_masks_of_zeros_and_ones_of_any_type_are_one(model: MMaDAModel, dtype: torch.dtype) -> None:
    assert torch.equal(logits(model, attention_mask=MASK.to(dtype)), logits(model, attention_mask=MASK))
    assert not torch.allclose(logits(model, attention_mask=MASK)[MASK == 1], logits(model)[MASK == 1], atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_ids_of_any_whole_type_are_one(model: MMaDAModel, dtype: torch.dtype) -> None:
    assert torch.equal(logits(model, input_ids=IDS.to(dtype)), logits(model))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("attention_mask", edited(MASK, 2), "attention_mask holds 2; give 1 for tokens and 0 for padding"),
        ("attention_mask", edited(MASK, -1), "attention_mask holds -1"),
        ("attention_mask", edited(MASK, -10000.0), "attention_mask holds -10000"),
        ("attention_mask", edited(MASK, float("-inf")), "attention_mask holds -inf"),
        ("attention_mask", edited(MASK, float("nan")), "attention_mask holds nan"),
        ("attention_mask", edited(MASK, 0.5), "attention_mask holds 0.5"),
        ("attention_mask", MASK[0], r"attention_mask has shape \[5\]; give that of input_ids, \[2, 5\]"),
        ("attention_mask", MASK[:1], r"attention_mask has shape \[1, 5\]"),
        ("attention_mask", MASK[:, :4], r"attention_mask has shape \[2, 4\]"),
        ("attention_mask", MASK[:, None, None], r"attention_mask has shape \[2, 1, 1, 5\]"),
        ("attention_mask", torch.ones(2, 1, 5, 5), r"attention_mask has shape"),
        ("attention_mask", MASK.tolist(), "attention_mask is a list"),
        ("attention_mask", MASK.numpy(), "attention_mask is a ndarray"),
        ("attention_mask", MASK.to(torch.complex64), "attention_mask is a tensor of complex64"),
        ("input_ids", IDS[0], r"input_ids have shape \[5\]"),
        ("input_ids", IDS[None], r"input_ids have shape \[1, 2, 5\]"),
        ("input_ids", IDS[:0], r"input_ids have shape \[0, 5\]"),
        ("input_ids", IDS[:, :0], r"input_ids have shape \[2, 0\]"),
        ("input_ids", torch.tensor(3), r"input_ids have shape \[\]"),
        ("input_ids", edited(IDS, 40), "input_ids hold 40; give token ids of the model's 40 rows"),
        ("input_ids", edited(IDS, -1), "input_ids hold -1"),
        ("input_ids", edited(IDS, 2**40), f"input_ids hold {2**40}"),
        ("input_ids", IDS.float(), "input_ids is a tensor of float32; give whole numbers"),
        ("input_ids", IDS.bool(), "input_ids is a tensor of bool"),
        ("input_ids", IDS.tolist(), "input_ids is a list"),
        ("input_ids", "a red circle", "input_ids is a str"),
        ("input_ids", None, "input_ids are missing"),
        ("position_ids", torch.arange(5), r"position_ids have shape \[5\]"),
        ("position_ids", torch.arange(6)[None], r"position_ids have shape \[1, 6\]"),
        ("position_ids", torch.arange(5)[None] - 1, "position_ids hold -1"),
        ("position_ids", torch.arange(5)[None].float(), "position_ids is a tensor of float32"),
        ("labels", IDS[:, :4], r"labels have shape \[2, 4\]"),
        ("labels", IDS.flatten(), r"labels have shape \[10\]"),
        ("labels", edited(IDS, 40), "labels hold 40; give token ids of the model's 40 rows, or -100 for no loss"),
        ("labels", edited(IDS, -1), "labels hold -1"),
        ("labels", IDS.float(), "labels is a tensor of float32"),
        ("token_type_ids", torch.ones_like(IDS), "token_type_ids is not supported"),
        ("token_type_ids", [0], "token_type_ids is not supported"),
        ("inputs_embeds", torch.zeros(2, 5, 8), "inputs_embeds is not supported"),
        ("past_key_values", (), "past_key_values is not supported"),
    ],
)
def test_wrong_inputs_are_named(model: MMaDAModel, name: str, value: object, said: str) -> None:
    with pytest.raises(InputError, match=f"^{said}"):
        logits(model, **{name: value})


def test_features_of_causal_models_name_what_to_use_instead(model: MMaDAModel, tmp_path: Path) -> None:
    assert not hasattr(model, "generate")
    assert not hasattr(model, "prepare_inputs_for_generation")
    model.save_pretrained(tmp_path)
    said = r"AutoModel, train adapters with peft's task_type=None, and generate by mmada\.load"
    for attempt in (
        lambda: model.prepare_inputs_for_generation,
        lambda: model.generate(IDS),
        lambda: AutoModelForCausalLM.from_config(MMaDAConfig()),
        lambda: AutoModelForCausalLM.from_pretrained(tmp_path),
    ):
        with pytest.raises(InputError, match=said):
            attempt()
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = model.nonsense


def test_saving_prints_nothing_and_all_may_read(model: MMaDAModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model.save_pretrained(str(tmp_path), max_shard_size="20KB")
    assert capfd.readouterr() == ("", "")
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {(tmp_path / "config.json").stat().st_mode & 0o777}
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
