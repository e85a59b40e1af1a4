"""The forward pass of decoding equals the one of training: ragged rows, chosen positions, and a cache of earlier passes."""

import pytest
import torch
from tests.helpers import tiny_model

from mmada.model.inference import ForwardLayout, forward
from mmada.model.mmada import MMaDAConfig, MMaDAModel


@pytest.fixture(scope="module")
def model() -> MMaDAModel:
    torch.manual_seed(0)
    return tiny_model(40).double()


def batch(rows: int, length: int, *, ragged: bool, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(0, 40, (rows, length))
    valid = torch.ones(rows, length, dtype=torch.bool)
    if ragged:
        for row in range(rows):
            valid[row, : row + 1] = not left
            if not left:
                valid[row, length - row :] = row == 0
    return tokens, valid


@pytest.mark.parametrize(("ragged", "left"), [(False, False), (True, False), (True, True)])
def test_equal_to_the_hidden_states_of_training(model: MMaDAModel, ragged: bool, left: bool) -> None:
    torch.manual_seed(1)
    tokens, valid = batch(4, 11, ragged=ragged, left=left)
    at = (torch.rand(4, 11) < 0.4) & valid
    at[2] = False  # a row that asks for nothing
    whole = model.hidden(tokens, valid_BL=valid)[at]
    assert torch.allclose(forward(model.model, tokens, ForwardLayout.of(model.model, at, valid)), whole, atol=1e-12)


def test_all_positions_of_equal_rows(model: MMaDAModel) -> None:
    tokens, valid = batch(3, 7, ragged=False)
    assert torch.allclose(
        forward(model.model, tokens, ForwardLayout.of(model.model, valid)), model.hidden(tokens).flatten(0, 1), atol=1e-12
    )


@pytest.mark.parametrize("ragged", [False, True])
def test_cache_of_the_same_tokens_changes_nothing(model: MMaDAModel, ragged: bool) -> None:
    torch.manual_seed(2)
    tokens, valid = batch(3, 10, ragged=ragged)
    at = (torch.rand(3, 10) < 0.5) & valid
    at[:, 1] = True
    memory = model.kv_cache(3)
    first = model.predict(tokens, query_BL=at, vocab=range(40), valid_BL=valid, cache=memory)
    assert memory.drift.tolist() == [0, 0, 0]
    again = model.predict(tokens, query_BL=at, vocab=range(40), valid_BL=valid, recompute_BL=at, cache=memory)
    assert torch.allclose(first, again, atol=1e-6)
    assert float(memory.drift.max()) < 1e-6


def test_cache_keeps_what_is_left_out_and_takes_in_what_is_not(model: MMaDAModel) -> None:
    torch.manual_seed(3)
    tokens, _ = batch(2, 8, ragged=False)
    at = torch.zeros(2, 8, dtype=torch.bool)
    at[:, 5] = True
    memory = model.kv_cache(2)
    before = model.predict(tokens, query_BL=at, vocab=range(40), cache=memory)
    changed = tokens.clone()
    changed[:, 2] = (changed[:, 2] + 1) % 40
    left_out = model.predict(changed, query_BL=at, vocab=range(40), recompute_BL=at, cache=memory)
    assert torch.allclose(left_out, before, atol=1e-6)
    whole = model.predict(changed, query_BL=at, vocab=range(40), recompute_BL=None, cache=memory)
    assert torch.allclose(whole, model.predict(changed, query_BL=at, vocab=range(40)), atol=1e-6)
    assert not torch.allclose(whole, before, atol=1e-3)


def test_cache_of_some_rows_in_another_order(model: MMaDAModel) -> None:
    torch.manual_seed(4)
    tokens, valid = batch(3, 9, ragged=True)
    at = torch.zeros_like(valid)
    at[:, 4:6] = True
    memory = model.kv_cache(3)
    whole = model.predict(tokens, query_BL=at, vocab=range(40), valid_BL=valid, cache=memory).view(3, 2, -1)
    some = torch.tensor([2, 0])
    part = model.predict(
        tokens[some], query_BL=at[some], vocab=range(40), valid_BL=valid[some], recompute_BL=at[some], cache=memory.only(some)
    )
    assert torch.allclose(part.view(2, 2, -1), whole[some], atol=1e-6)


@pytest.mark.parametrize("remembered", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
def test_a_verification_token_sees_all_but_the_position_it_verifies(model: MMaDAModel, ragged: bool, remembered: bool) -> None:
    torch.manual_seed(5)
    tokens, valid = batch(3, 9, ragged=ragged)
    at, shadow = torch.zeros_like(valid), torch.zeros_like(valid)
    at[:, 4] = True
    shadow[0, 5] = shadow[2, 3] = shadow[2, 5] = True
    memory = {"cache": model.kv_cache(3)} if remembered else {}
    ask = {"query_BL": at, "vocab": range(40), "valid_BL": valid}
    without = model.predict(tokens, **ask)
    both = model.predict(tokens, **ask, verify_BL=shadow, mask=7, **memory)
    assert both.shape == (3 + 3, 40)
    assert torch.allclose(both[:3], without, atol=1e-6)  # nothing sees a verification token
    # One layer deep it is what a masked canvas says; with more layers the others have seen the token that it verifies.
    shallow = tiny_model(40).double()
    shallow.model.layers = shallow.model.layers[:1]
    shallow.config.num_hidden_layers = shallow.model.config.num_hidden_layers = 1
    memory = {"cache": shallow.kv_cache(3)} if remembered else {}
    shadows = shallow.predict(tokens, **ask, verify_BL=shadow, mask=7, **memory)[3:]
    for number, (row, place) in enumerate(shadow.nonzero().tolist()):
        masked, here = tokens.clone(), torch.zeros_like(valid)
        masked[row, place], here[row, place] = 7, True
        assert torch.allclose(
            shadows[number], shallow.predict(masked, query_BL=here, vocab=range(40), valid_BL=valid)[0], atol=1e-6
        )


@pytest.mark.gpu
def test_ragged_rows_in_one_kernel() -> None:
    torch.manual_seed(4)
    model = MMaDAModel(MMaDAConfig(vocab_size=40, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                                   num_key_value_heads=2, intermediate_size=48)).eval().to("cuda", torch.bfloat16)  # fmt: skip
    tokens, valid = (x.cuda() for x in batch(4, 30, ragged=True))
    at = (torch.rand(4, 30) < 0.4).cuda() & valid
    at[2] = False
    memory = model.kv_cache(4)
    together = [
        model.predict(tokens, query_BL=at, vocab=range(40), valid_BL=valid),
        model.predict(tokens, query_BL=at, vocab=range(40), valid_BL=valid, cache=memory),
        model.predict(tokens, query_BL=at, vocab=range(40), valid_BL=valid, cache=memory, recompute_BL=at),
    ]
    alone = torch.cat(
        [model.predict(tokens[i : i + 1], query_BL=at[i : i + 1], vocab=range(40), valid_BL=valid[i : i + 1]) for i in range(4)]
    )
    for logits in together:
        torch.testing.assert_close(logits, alone, atol=3e-2, rtol=3e-2)
