"""Rows shared by the bits of image codes: how they add up, what they teach, and that what is written is a plain model."""

import torch
from tests.helpers import tiny_model

from mmada.model.factored_codes import factor_codes, plain_state
from mmada.model.mmada import MMaDAModel
from mmada.training.optim import Optim, build_optimisers

COLUMNS = range(10, 26)


def test_a_shared_start_of_zero_changes_nothing_and_one_code_teaches_its_neighbours() -> None:
    torch.manual_seed(0)
    model = tiny_model(26)
    tokens = torch.tensor([[1, 10, 25, 3]])
    before = model.hidden(tokens)
    factor_codes(model, COLUMNS, std=0.0)
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
    factor_codes(model, COLUMNS, std=0.5)
    state = plain_state(model)
    assert set(state) == names
    plain = MMaDAModel(model.config)
    plain.load_state_dict(state)
    tokens = torch.randint(0, 26, (2, 9))
    assert torch.allclose(plain.hidden(tokens), model.hidden(tokens))


def test_the_head_shares_too_and_what_a_code_has_to_itself_decays() -> None:
    torch.manual_seed(0)
    model = tiny_model(26)
    tokens, at = torch.tensor([[1, 10, 25, 3]]), torch.tensor([[False, True, True, False]])
    before = model.predict(tokens, query_BL=at, vocab=COLUMNS)
    factor_codes(model, COLUMNS, std=0.0)
    assert torch.equal(model.predict(tokens, query_BL=at, vocab=COLUMNS), before)
    rows = {name: p for name, p in model.named_parameters() if name.startswith("lm_head")}
    own = next(p for name, p in rows.items() if name.endswith("own_CD"))
    adam = build_optimisers(model, Optim(lr=0.1, weight_decay=0.5))[0]
    decay = {id(p): group["weight_decay"] for group in adam.param_groups for p in group["params"]}
    assert decay[id(own)] == 40.0  # the value that the figures in experiments/log.md were measured with
    assert all(decay[id(p)] == 0.5 for p in rows.values() if p is not own)
    assert len(decay) == len(list(model.parameters()))
    head = model.head(COLUMNS).detach().clone()
    logits = model.hidden(tokens)[:, 1] @ model.head(COLUMNS).T
    torch.nn.functional.cross_entropy(logits, torch.tensor([5])).backward()
    with torch.no_grad():
        for p in rows.values():
            p.sub_(p.grad if p.grad is not None else torch.zeros_like(p))
    nearer = (model.hidden(tokens)[:, 1] @ (model.head(COLUMNS) - head).T)[0]
    assert nearer.argmax() == 5
    one_bit_apart = torch.tensor([bin(code ^ 5).count("1") == 1 for code in range(16)])
    opposite = 5 ^ 15
    assert nearer[one_bit_apart].min() > nearer[opposite]
