"""Toy policies, canvases and views that the tests of policy optimisation share."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from tests.helpers import SMALL, generator, tiny_model
from torch import Tensor

from mmada.canvas import Canvas, Segment
from mmada.model.mmada import MMaDAModel
from mmada.rl import FrozenCopy, MaskedViews, Method, Update, draw_views, prepare
from mmada.rl.masked_views import completion

ADVANTAGE = torch.tensor([1.25, -0.5, 0.75, -1.5])


def a_model(seed: int = 0) -> MMaDAModel:
    """A toy policy in float64, sharp enough for its ratios to leave the clip range when it moves a little."""
    torch.manual_seed(seed)
    model = tiny_model(SMALL.size).double()
    with torch.no_grad():
        model.lm_head.weight *= 20
    return model


def moved(model: MMaDAModel, seed: int, by: float) -> MMaDAModel:
    other = deepcopy(model)
    masking = generator(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=masking, dtype=torch.float64))
    return other


def a_canvas() -> Canvas:
    """Two prompts of two completions of 4 to 11 positions: text, text in a row with padding, pictures, text before a picture."""
    text = Segment([12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22], editable=True)
    return Canvas.stack(
        [
            Canvas.join([Segment([0, 30, 31, 2]), text]),
            Canvas.join([Segment([0, 30, 31, 2]), Segment([39, 25, 1, 38], editable=True), Segment([4])]),
            Canvas.join([Segment([8, 33, 6]), Segment([40, 63, 50, 51, 52, 45], editable=True, modality="image"), Segment([7])]),
            Canvas.join(
                [
                    Segment([8, 33]),
                    Segment([22, 23], editable=True),
                    Segment([6]),
                    Segment([41, 62, 44, 44], editable=True, modality="image"),
                    Segment([7]),
                ]
            ),
        ]
    )


def updates_of(method: Method, model: MMaDAModel, canvas: Canvas, reference: MMaDAModel | None = None) -> tuple[Update, ...]:
    steps_BL = (1 + torch.arange(canvas.length) * 7 % 5) * canvas.editable_BL
    return prepare(
        model,
        canvas,
        method=method,
        vocabulary=SMALL,
        group=2 if canvas.rows % 2 == 0 else 1,
        generator=generator(3),
        reference=FrozenCopy(reference or model),
        steps_BL=steps_BL,
    )


def gradients(model: MMaDAModel, loss: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), found, strict=True)]


def assert_same(model: MMaDAModel, ours: Tensor, plain: Tensor) -> None:
    """Loss and every gradient. Log-softmax runs in float32 in the package, so it is not the last digits."""
    assert ours.item() == pytest.approx(plain.item(), rel=1e-5, abs=1e-6)
    left, right = gradients(model, ours), gradients(model, plain)
    scale = max(float(g.abs().max()) for g in right)
    assert scale > 1e-4, "a gradient of zero proves nothing"
    for g, h in zip(left, right, strict=True):
        assert float((g - h).abs().max()) < 2e-5 * scale


class Recorder:
    """A model that records its inputs."""

    def __init__(self, model: MMaDAModel) -> None:
        self.model, self.inputs = model, list[bytes]()

    def hidden(self, tokens_BL: Tensor, *, valid_BL: Tensor | None = None) -> Tensor:
        self.inputs.append(tokens_BL.numpy().tobytes())
        return self.model.hidden(tokens_BL, valid_BL=valid_BL)

    def head(self, vocab: range) -> Tensor:
        return self.model.head(vocab)


def rows(*sizes: int, prompt: int = 4) -> Canvas:
    pieces = ([Segment([30] * prompt), Segment([20] * size, editable=True), Segment([4])] for size in sizes)
    return Canvas.stack([Canvas.join(p) for p in pieces])


def drawn(plan: Any, canvas: Canvas, updates: int = 1, group: int = 1, seed: int = 0) -> tuple[MaskedViews, ...]:
    steps_BL = (1 + torch.arange(canvas.length) * 3 % 7) * completion(canvas)
    return draw_views(
        plan, canvas, mask_id=SMALL.mask, updates=updates, group=group, generator=generator(seed), steps_BL=steps_BL
    )
