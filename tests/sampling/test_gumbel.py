"""GumbelNoise by (seed, step, position, column): its law, and that company changes nothing."""

import math

import pytest
import torch
from tests.helpers import SMALL, tiny_model
from torch import Tensor

from mmada.canvas import Canvas, Segment
from mmada.sampling import LowConfidence, Phase, RandomRemasking, Temperature, UniformSchedule, complete, row_generators
from mmada.sampling.logits_ops import gumbel, mixed


def keys(count: int, seed: int = 0) -> Tensor:
    return mixed(torch.tensor(seed), torch.arange(count))


@pytest.mark.parametrize("seed", [0, 1, 2**62 - 1])
def test_the_law_is_gumbels(seed: int) -> None:
    drawn = gumbel(keys(500, seed), 400).flatten().sort().values
    steps = (torch.arange(len(drawn)) + 0.5) / len(drawn)
    distance = (torch.exp(-torch.exp(-drawn)) - steps).abs().max()  # Kolmogorov and Smirnov's
    assert float(distance) < 1.63 / math.sqrt(len(drawn))  # passed by 99 %
    assert torch.isfinite(drawn).all()


def test_neither_positions_nor_columns_nor_seeds_go_together() -> None:
    drawn = gumbel(torch.cat([keys(40), keys(40, seed=1)]), 20_000)
    correlation = torch.corrcoef(drawn) - torch.eye(80)
    assert float(correlation.abs().max()) < 5 / math.sqrt(20_000)
    assert float((torch.corrcoef(drawn[:, :200].T) - torch.eye(200)).abs().max()) < 5.5 / math.sqrt(80)


def test_a_narrower_question_hears_the_same() -> None:
    assert torch.equal(gumbel(keys(7), 30)[2:5, :11], gumbel(keys(7)[2:5], 11))


@pytest.mark.parametrize("order", [LowConfidence(), RandomRemasking()])
def test_a_position_draws_the_same_whatever_the_other_queries(order: LowConfidence | RandomRemasking) -> None:
    """A model without attention between positions: the answer at a position may not hang on how many others there are."""

    class Alone:
        def predict(self, tokens_BL: Tensor, *, query_BL: Tensor, vocab: range, valid_BL: Tensor | None = None) -> Tensor:
            return torch.zeros(int(query_BL.sum()), len(vocab))

    phase = Phase(
        modality="text", schedule=UniformSchedule(1), remasking=order, token_sampler=Temperature(1.0), open_vocabulary=True
    )
    texts = []
    for positions in (3, 9):
        canvas = Canvas.join([Segment([1, 2]), Segment([SMALL.mask] * positions, editable=True)])
        texts.append(complete(Alone(), canvas, [phase], vocabulary=SMALL, generators=row_generators([5])).tokens_BL[0, 2:5])
    assert torch.equal(*texts)


def test_steps_and_seeds_draw_anew() -> None:
    torch.manual_seed(0)
    model = tiny_model(SMALL.size)
    phase = Phase(modality="text", schedule=UniformSchedule(8), remasking=LowConfidence(), token_sampler=Temperature(1.0))
    canvas = Canvas.join([Segment([1, 2]), Segment([SMALL.mask] * 8, editable=True)])
    texts = {
        tuple(complete(model, canvas, [phase], vocabulary=SMALL, generators=row_generators([seed])).tokens_BL[0].tolist())
        for seed in range(8)
    }
    assert len(texts) == 8
