"""Golden tests of policy optimisation at its edges: equal rewards, empty completions, no masked position, a far policy."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.helpers import SMALL
from tests.plain_policies import COMBINATIONS
from tests.toy_policies import ADVANTAGE, a_canvas, a_model, gradients, moved, updates_of

from mmada.rl import (
    CentredReward,
    LeaveOneOut,
    MaskedViews,
    Systematic,
    Update,
    ZScore,
    advantages,
    espo,
    policy_loss,
    spg,
    unigrpo,
)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_golden_equal_rewards_give_no_gradient(name: str) -> None:
    method, _ = COMBINATIONS[name]
    canvas, model = a_canvas(), a_model()
    equal_B = method.advantages(torch.tensor([0.1, 0.1, 0.7, 0.7]), group=2)
    assert torch.equal(equal_B, torch.zeros(4))
    for update in updates_of(method, model, canvas):  # the KL is to the policy itself: 0, with gradient 0
        loss = policy_loss(model, canvas, equal_B, update, method=method, vocabulary=SMALL)[0]
        assert loss.isfinite()
        assert all(float(g.abs().max()) < 1e-6 for g in gradients(model, loss))


@pytest.mark.parametrize("choice", [ZScore(), ZScore(0.0), ZScore(0.0, 1), CentredReward(), LeaveOneOut()])
@pytest.mark.parametrize("group", [1, 3])
def test_golden_equal_rewards_have_advantage_zero(choice: Any, group: int) -> None:
    for reward in (0.1, 1e30, -7.0):
        assert torch.equal(advantages(choice, torch.full((3,), reward), group=group), torch.zeros(3))


@pytest.mark.parametrize("name", COMBINATIONS)
def test_golden_a_completion_of_length_zero_is_harmless(name: str) -> None:
    method, _ = COMBINATIONS[name]
    model = a_model()
    full = a_canvas()
    editable_BL = full.editable_BL.clone()
    editable_BL[1] = False
    canvas = replace(full, editable_BL=editable_BL)
    new, ref = moved(model, 1, 0.01), moved(model, 2, 0.01)
    for update in updates_of(method, model, canvas, ref):
        loss, statistics = policy_loss(new, canvas, ADVANTAGE, update, method=method, vocabulary=SMALL)
        assert all(s.isfinite() for s in (loss, *statistics.values()))
        left = gradients(new, loss)
        assert all(g.isfinite().all() for g in left)
        elsewhere = ADVANTAGE.clone()
        elsewhere[1] = 40.0  # nothing depends on what an empty completion was worth
        other = policy_loss(new, canvas, elsewhere, update, method=method, vocabulary=SMALL)[0]
        assert other.item() == loss.item()
        assert all(torch.equal(g, h) for g, h in zip(left, gradients(new, other), strict=True))


@pytest.mark.parametrize("name", COMBINATIONS)
def test_golden_a_batch_without_completions_is_harmless(name: str) -> None:
    method, _ = COMBINATIONS[name]
    model = a_model()
    canvas = replace(a_canvas(), editable_BL=torch.zeros_like(a_canvas().editable_BL))
    for update in updates_of(method, model, canvas, moved(model, 2, 0.01)):
        loss, statistics = policy_loss(model, canvas, ADVANTAGE, update, method=method, vocabulary=SMALL)
        assert loss.item() == 0
        assert statistics["masked"] == 0
        assert loss.requires_grad
        assert all(not g.any() for g in gradients(model, loss))


def test_golden_a_view_without_masked_tokens_is_harmless() -> None:
    """By hand, as no plan draws it for every row: a completion that has positions, none of them scored."""
    canvas, model = a_canvas(), a_model()
    method = unigrpo(Systematic())
    update = updates_of(method, model, canvas)[2]
    views = update.views
    none = MaskedViews(canvas.tokens_BL[None], torch.zeros_like(views.scored_KBL), torch.zeros_like(views.weight_KBL))
    for choice in (method, replace(spg(), masking=method.masking), espo()):
        empty = Update(none, torch.zeros(none.scored_KBL.shape), torch.zeros(none.scored_KBL.shape))
        loss = policy_loss(model, canvas, ADVANTAGE, empty, method=choice, vocabulary=SMALL)[0]
        assert loss.item() == 0
        assert all(not g.any() for g in gradients(model, loss))


def test_golden_a_far_policy_gives_no_nan() -> None:
    """Log-ratios of hundreds, with an advantage of 0 beside: exp would overflow to inf * 0."""
    canvas, old = a_canvas(), a_model()
    far = deepcopy(old)
    with torch.no_grad():
        far.lm_head.weight *= -300
    advantage_B = torch.tensor([0.0, 0.0, 1.0, -1.0])
    for method, _ in COMBINATIONS.values():
        for update in updates_of(method, far, canvas, old):
            loss = policy_loss(old, canvas, advantage_B, update, method=method, vocabulary=SMALL)[0]
            assert loss.isfinite()
            assert all(g.isfinite().all() for g in gradients(old, loss))
