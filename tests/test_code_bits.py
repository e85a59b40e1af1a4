"""Rows shared by the bits of image codes: how they add up, what they teach, and that what is written is an ordinary embedding."""

import torch
from tests.helpers import tiny_model

from mmada.model.code_bits import plain_state, share_code_bits
from mmada.model.mmada import MMaDAModel

COLUMNS = range(10, 26)


def test_a_shared_start_of_zero_changes_nothing_and_one_code_teaches_its_neighbours() -> None:
    torch.manual_seed(0)
    model = tiny_model(26)
    tokens = torch.tensor([[1, 10, 25, 3]])
    before = model.hidden(tokens)
    share_code_bits(model, COLUMNS, std=0.0)
    assert torch.equal(model.hidden(tokens), before)
    rows = model.model.embed_tokens.weight.detach().clone()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model.hidden(torch.tensor([[10, 10, 1, 2]])).square().sum().backward()
    optimiser.step()
    moved = (model.model.embed_tokens.weight.detach() - rows).norm(dim=1)
    assert moved[11] > 0  # differs from the one seen in one bit
    assert moved[5] == 0  # text that was not seen
    bits_apart = torch.tensor([bin(code).count("1") for code in range(16)])
    assert moved[10] > moved[10 + 1 : 26][bits_apart[1:] == 1].max() * 0.99


def test_what_is_written_is_the_sum_under_plain_names() -> None:
    torch.manual_seed(0)
    model = tiny_model(26)
    names = set(model.state_dict())
    share_code_bits(model, COLUMNS, std=0.5)
    state = plain_state(model)
    assert set(state) == names
    plain = MMaDAModel(model.config)
    plain.load_state_dict(state)
    tokens = torch.randint(0, 26, (2, 9))
    assert torch.allclose(plain.hidden(tokens), model.hidden(tokens))
