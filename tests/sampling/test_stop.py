"""When a row ends: not while a position before its end token is still masked."""

import itertools
from dataclasses import replace

import pytest
import torch

from mmada.sampling import (
    Blocks,
    Frame,
    Greedy,
    LowConfidence,
    MarginThreshold,
    Phase,
    StopAtEos,
    UniformSchedule,
    denoise,
    row_generators,
)
from mmada.testing import TINY_VOCABULARY as V
from mmada.testing import Oracle, masked_row

LENGTH = 6
STOP = StopAtEos((V.eot, V.eos))
PHASE = Phase(modality="text", schedule=UniformSchedule(LENGTH), remasking=LowConfidence(), token_sampler=Greedy(), stop=STOP)


def frames_of(answer: list[int], order: tuple[int, ...], phase: Phase) -> list[Frame]:
    """Frames of a model that is sure of ``answer``, of the positions in ``order`` the most of the first."""
    certainty = [2.0 * (len(order) - order.index(i)) for i in range(len(order))]
    oracle = Oracle({20: [20, *answer]}, [0, *certainty])
    return list(denoise(oracle, masked_row([20], len(answer)), [phase], vocabulary=V, generators=row_generators([0])))


def ended_slowly(tokens: list[int], inside: list[bool], masked: list[bool]) -> bool:
    """The definition, position by position."""
    for token, here, hidden in zip(tokens, inside, masked, strict=True):
        if hidden:
            return False
        if here and token in STOP.ids:
            return True
    return False


def test_a_row_has_ended_where_nothing_before_its_end_token_is_masked() -> None:
    """Every row of four positions of text, end token or mask, of which any may be outside of the phase."""
    kinds = [(30, False), (V.eot, False), (V.eos, False), (V.mask, True)]
    rows = list(itertools.product(itertools.product(kinds, repeat=4), itertools.product([True, False], repeat=4)))
    tokens_BL = torch.tensor([[token for token, _ in row] for row, _ in rows])
    masked_BL = torch.tensor([[hidden for _, hidden in row] for row, _ in rows])
    inside_BL = torch.tensor([inside for _, inside in rows])
    expected = [ended_slowly(*row) for row in zip(tokens_BL.tolist(), inside_BL.tolist(), masked_BL.tolist(), strict=True)]
    assert STOP.ended(tokens_BL, inside_BL, masked_BL).tolist() == expected
    assert 0 < sum(expected) < len(expected)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
@pytest.mark.parametrize("end", [V.eot, V.eos])
def test_text_before_an_early_end_token_is_decided_first(order: tuple[int, ...], end: int) -> None:
    """Two tokens, the end, and one position that is never asked for once the three before it stand."""
    answer = [25, 26, end, 27]
    frames = frames_of(answer, order, replace(PHASE, schedule=UniformSchedule(4)))
    final = frames[-1].tokens_BL[0, 1:].tolist()
    assert final[:3] == answer[:3]
    late = order.index(3) > max(order.index(i) for i in range(3))
    assert final[3] == (V.eos if late else 27)
    assert len(frames) - 1 == (3 if late else 4)


@pytest.mark.parametrize(
    "phase",
    [
        PHASE,
        replace(PHASE, blocks=Blocks(3), schedule=UniformSchedule(3)),
        replace(PHASE, parallel=MarginThreshold(0.999)),
    ],
    ids=["one block", "blocks", "parallel"],
)
def test_an_end_token_that_is_surest_ends_nothing_before_its_time(phase: Phase) -> None:
    answer = [25, 26, 28, 29, V.eot, 27]
    frames = frames_of(answer, (4, 5, 3, 2, 1, 0), phase)
    assert frames[-1].tokens_BL[0, 1:6].tolist() == answer[:5]
