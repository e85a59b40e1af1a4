"""The objective against its plain twin and against exact values."""

import math

import pytest
import torch
from torch import Tensor

from mmada.canvas import Canvas, Segment
from mmada.diffusion.loss import chunked_cross_entropy, likelihood_bound, plain_cross_entropy, weighted_mean
from mmada.testing import Unigram, generator


def test_chunked_cross_entropy_equals_the_plain_one_with_its_gradients() -> None:
    hidden = torch.randn(37, 8, generator=generator(), dtype=torch.float64)
    weight = torch.randn(11, 8, generator=generator(1), dtype=torch.float64)
    target = torch.randint(0, 11, (37,), generator=generator(2))
    grads = []
    for chunk in (5, 1000):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        loss = chunked_cross_entropy(h, w, target, chunk=chunk)
        assert torch.allclose(loss, plain_cross_entropy(hidden, weight, target))
        loss.square().sum().backward()
        grads.append((h.grad, w.grad))
    assert torch.allclose(grads[0][0], grads[1][0])
    assert torch.allclose(grads[0][1], grads[1][1])


def test_normalisers_by_hand() -> None:
    loss, weight = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2.0, 2.0, 4.0])
    segment, positions = torch.tensor([0, 0, 1]), torch.tensor([4.0, 8.0])
    by = {n: weighted_mean(loss, weight, segment, positions, normaliser=n).item() for n in ("example", "token", "masked")}
    assert by["example"] == pytest.approx(((2 + 4) / 4 + 16 / 8) / 2)
    assert by["token"] == pytest.approx(22 / 12)
    assert by["masked"] == pytest.approx(22 / 8)


def test_likelihood_bound_is_exact_for_independent_tokens() -> None:
    probability = torch.tensor([0.1, 0.2, 0.3, 0.4])
    rows = [
        Canvas.join([Segment([0]), Segment([1, 2, 3, 3], editable=True)]),
        Canvas.join([Segment([0]), Segment([2], editable=True)]),
    ]
    bound = likelihood_bound(
        Unigram(probability), Canvas.stack(rows), mask_id=0, vocab=range(4), samples=512, generator=generator()
    )
    exact = [math.log(0.2 * 0.3 * 0.4 * 0.4), math.log(0.3)]
    assert bound.tolist() == pytest.approx(exact, abs=0.12)


class CountingDenoiser:
    """Its log-probability of every token depends on the number of masks that it sees in the row: -(k^2)."""

    def __init__(self, mask_id: int) -> None:
        self.mask_id = mask_id

    def predict(self, tokens_BL: Tensor, *, query_BL: Tensor, vocab: range, valid_BL: Tensor | None = None) -> Tensor:
        masks_N = (tokens_BL == self.mask_id).sum(1, keepdim=True).expand_as(query_BL)[query_BL]
        target_N = -(masks_N.double() ** 2)
        rest_N = torch.log1p(-target_N.exp()) - math.log(len(vocab) - 1)
        logits_NV = rest_N[:, None].expand(-1, len(vocab)).clone()
        logits_NV[:, 1] = target_N  # every token of the test is column 1
        return logits_NV


@pytest.mark.parametrize("positions", [1, 2, 3, 5, 8])
def test_likelihood_bound_draws_every_number_of_masks_alike(positions: int) -> None:
    canvas = Canvas.join([Segment([7]), Segment([1] * positions, editable=True), Segment([7])])
    bound = likelihood_bound(
        CountingDenoiser(0), canvas, mask_id=0, vocab=range(8), samples=3 * positions, generator=generator(positions)
    )
    # n/k times k masked positions of -k^2 each, averaged over k = 1..n
    exact = -positions * sum(k**2 for k in range(1, positions + 1)) / positions
    assert bound.item() == pytest.approx(exact, rel=1e-6)


def test_likelihood_bound_never_masks_context() -> None:
    class Watching(CountingDenoiser):
        def predict(self, tokens_BL: Tensor, *, query_BL: Tensor, vocab: range, valid_BL: Tensor | None = None) -> Tensor:
            assert tokens_BL[0, 0] == 7
            assert tokens_BL[0, -1] == 7
            assert torch.equal(query_BL, tokens_BL == 0)
            return super().predict(tokens_BL, query_BL=query_BL, vocab=vocab, valid_BL=valid_BL)

    canvas = Canvas.join([Segment([7]), Segment([1] * 4, editable=True), Segment([7])])
    likelihood_bound(Watching(0), canvas, mask_id=0, vocab=range(8), samples=8, generator=generator())
