"""The model: bidirectional, packed = padded = single, logits only where asked, saved and loaded."""

from pathlib import Path

import pytest
import torch
from tests.helpers import tiny_model
from transformers import AutoModelForMaskedLM

from mmada.model.mmada import MMaDAModel


@pytest.fixture(scope="module")
def model() -> MMaDAModel:
    torch.manual_seed(0)
    return tiny_model(50)


def tokens(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 50, (1, length), generator=torch.Generator().manual_seed(seed))


def test_every_place_sees_every_other(model: MMaDAModel) -> None:
    ids = tokens(9)
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + 1) % 50
    with torch.no_grad():
        assert not torch.allclose(model.hidden(ids)[0, 0], model.hidden(other)[0, 0])


def test_predict_answers_only_the_places_and_columns_asked_for(model: MMaDAModel) -> None:
    ids = tokens(12)
    at = torch.zeros_like(ids, dtype=torch.bool)
    at[0, [2, 7]] = True
    part = model.predict(ids, at_BL=at, columns=range(10, 30))
    with torch.no_grad():
        whole = model(ids).logits
    assert torch.allclose(part, whole[0, [2, 7], 10:30], atol=1e-6)


def test_padding_and_packing_do_not_change_an_example(model: MMaDAModel) -> None:
    a, b = tokens(7), tokens(5, 1)
    with torch.no_grad():
        alone = [model.hidden(a)[0], model.hidden(b)[0]]
        padded = model.hidden(
            torch.cat([a, torch.nn.functional.pad(b, (0, 2), value=3)]),
            valid_BL=torch.tensor([[True] * 7, [True] * 5 + [False] * 2]),
        )
        packed = model.hidden(
            torch.cat([a, b, tokens(3, 2)], 1),
            segment_BL=torch.tensor([[1] * 7 + [2] * 5 + [0] * 3]),
            position_BL=torch.tensor([[*range(7), *range(5), *range(3)]]),
        )
    for single, in_padded, in_packed in ((alone[0], padded[0], packed[0, :7]), (alone[1], padded[1, :5], packed[0, 7:12])):
        assert torch.allclose(single, in_padded, atol=1e-5)
        assert torch.allclose(single, in_packed, atol=1e-5)


def test_written_out_attention_equals_the_fused_one(model: MMaDAModel) -> None:
    ids, segment = tokens(12), torch.tensor([[1] * 5 + [2] * 7])
    position = torch.tensor([[*range(5), *range(7)]])
    with torch.no_grad():
        fused = model.hidden(ids, segment_BL=segment, position_BL=position)
        model.set_attn_implementation("eager")
        written = model.hidden(ids, segment_BL=segment, position_BL=position)
        model.set_attn_implementation("sdpa")
    assert torch.allclose(fused, written, atol=1e-5)


def test_saved_and_loaded_by_the_auto_classes(model: MMaDAModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert isinstance(again, MMaDAModel)
    assert again.config.is_causal is False
    with torch.no_grad():
        assert torch.equal(again(tokens(6)).logits, model(tokens(6)).logits)
