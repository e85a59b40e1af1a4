"""Company changes nothing: rows of a batch, frames in other hands, and masks that are drawn as tokens."""

from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch
from tests.helpers import SMALL, strong_model
from torch import Tensor

from mmada.canvas import Canvas, Denoiser, Segment
from mmada.diffusion.schedule import Cosine
from mmada.errors import InputError
from mmada.sampling import (
    Acceleration,
    BlockCache,
    Blocks,
    DelayedCache,
    DriftCache,
    Factor,
    Greedy,
    Guidance,
    Lookahead,
    LowConfidence,
    MaskSchedule,
    Phase,
    Temperature,
    Threshold,
    UniformSchedule,
    UnmaskingRule,
    complete,
    denoise,
    row_generators,
)
from mmada.sampling.model_calls import UniqueRows
from mmada.sampling.parallel import Candidates, EntropyBound

MASK = SMALL.mask


def row(context: list[int], positions: int) -> Canvas:
    return Canvas.join([Segment(context), Segment([MASK] * positions, editable=True)])


class Coin:
    """Token 20 or the mask itself, half and half."""

    def predict(self, tokens_BL: Tensor, *, query_BL: Tensor, vocab: range, valid_BL: Tensor | None = None) -> Tensor:
        logits_NV = torch.full((int(query_BL.sum()), len(vocab)), -20.0)
        logits_NV[:, [MASK, 20]] = 0
        return logits_NV


def together_and_alone(model: Denoiser, rows: list[Canvas], phase: Phase, seed: int) -> tuple[list[list[int]], list[list[int]]]:
    seeds = range(seed, seed + len(rows))
    batch = complete(model, Canvas.stack(rows), [phase], vocabulary=SMALL, generators=row_generators(list(seeds)))
    alone = [
        complete(model, r, [phase], vocabulary=SMALL, generators=row_generators([s])) for r, s in zip(rows, seeds, strict=True)
    ]
    return [batch.row(i).tokens_BL[0].tolist() for i in range(len(rows))], [one.tokens_BL[0].tolist() for one in alone]


@pytest.mark.parametrize("limit", [0.005, 0.05])
def test_rows_drift_by_themselves(limit: float) -> None:
    rows = [row([21, 21], 9), row([30, 31, 32, 33, 13, 14, 15], 9), row([12], 9)]
    phase = Phase(
        modality="text", schedule=UniformSchedule(9), remasking=LowConfidence(), token_sampler=Greedy(), reuse=DriftCache(limit)
    )
    for seed in range(12):
        batch, alone = together_and_alone(strong_model(seed), rows, phase, seed)
        assert batch == alone


@pytest.mark.parametrize("accept", [None, Threshold(0.9), Factor(0.5)])
@pytest.mark.parametrize("count", [UniformSchedule(2), MaskSchedule(Cosine(), 3)])
def test_left_over_masks_get_no_more_steps_in_company(
    accept: UnmaskingRule | None, count: UniformSchedule | MaskSchedule
) -> None:
    phase = Phase(modality="text", schedule=count, remasking=LowConfidence(), token_sampler=Temperature(1.0), blocks=Blocks(3),
                  open_vocabulary=True, parallel=accept)  # fmt: skip
    left_over = 0
    for seed in range(25):
        batch, alone = together_and_alone(Coin(), [row([20, 21], 3), row([22], 12)], phase, seed)
        assert batch == alone
        left_over += MASK in alone[0]
    assert left_over > 5


@pytest.mark.parametrize("guesses", [1, 3])
def test_looking_ahead_where_the_mask_is_drawn(guesses: int) -> None:
    for seed, draw in product(range(10), (Greedy(), Temperature(1.0))):
        texts = []
        for lookahead in (None, Lookahead(guesses)):
            phase = Phase(modality="text", schedule=UniformSchedule(2), remasking=LowConfidence(), token_sampler=draw,
                blocks=Blocks(2),
                          open_vocabulary=True, lookahead=lookahead)  # fmt: skip
            done = complete(Coin(), row([20, 21], 6), [phase], vocabulary=SMALL, generators=row_generators([seed]))
            texts.append(done.tokens_BL[0].tolist())
        assert texts[0] == texts[1]


def test_what_a_watcher_does_to_a_frame_stays_there() -> None:
    phase = Phase(
        modality="text", schedule=UniformSchedule(8), remasking=LowConfidence(), token_sampler=Greedy(), reuse=DelayedCache(0)
    )
    for seed in range(5):
        model, texts = strong_model(seed), []
        for spoil in (False, True):
            for frame in denoise(model, row([21, 22], 8), [phase], vocabulary=SMALL, generators=row_generators([0])):
                last = frame.tokens_BL.clone()
                if spoil:
                    frame.changed_BL.zero_()
                    frame.tokens_BL.fill_(7)
            texts.append(last.tolist())
        assert texts[0] == texts[1]


@dataclass(frozen=True)
class Late(UniformSchedule):
    """The longest row sleeps in the first step."""

    def num_unmasked(self, unknown_B: Tensor, masked_B: Tensor, step: int) -> Tensor:
        ready_B = (unknown_B < unknown_B.max()) if step == 0 else torch.ones_like(unknown_B, dtype=torch.bool)
        return torch.where(ready_B, torch.minimum(masked_B, torch.full_like(masked_B, 3)), 0)


def test_a_memory_takes_in_a_longer_row_later() -> None:
    phase = Phase(modality="text", schedule=Late(6), remasking=LowConfidence(), token_sampler=Greedy(), reuse=BlockCache())
    rows = Canvas.stack([row([20], 3), row([21, 22, 23, 24, 25], 7)])
    done = complete(strong_model(0), rows, [phase], vocabulary=SMALL, generators=row_generators([0, 1]))
    assert not (done.tokens_BL[done.valid_BL] == MASK).any()


class Rows:
    """A model that notes the rows it computes."""

    def __init__(self, seed: int) -> None:
        self.model = strong_model(seed)
        self.seen: list[Tensor] = []

    def predict(self, tokens_BL: Tensor, **more: Any) -> Tensor:
        self.seen.append(tokens_BL)
        return self.model.predict(tokens_BL, **more)


@pytest.mark.parametrize("lookahead", [None, Lookahead(2)])
@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_rows_that_are_alike_are_computed_once_and_answer_as_alone(guidance: float, lookahead: Lookahead | None) -> None:
    """Four seeds of one prompt, two of a shorter one and one alone, mixed; with guidance, the other halves too."""
    prompts = [[21, 22, 23], [30], [21, 22, 23], [40, 31], [21, 22, 23], [30], [21, 22, 23]]
    phase = Phase(modality="text", schedule=UniformSchedule(6), remasking=LowConfidence(), token_sampler=Temperature(0.5),
        blocks=Blocks(3),
                  guidance=Guidance(guidance), lookahead=lookahead)  # fmt: skip
    for seed in range(3):
        model, rows, blanks = Rows(seed), [row(p, 6) for p in prompts], [row([9], 6) for _ in prompts]
        batch = complete(
            model, Canvas.stack(rows), [phase], vocabulary=SMALL, generators=row_generators(list(range(7))),
            unconditional=Canvas.stack(blanks),
        )  # fmt: skip
        for pass_RL in model.seen:
            assert lookahead is not None or len(pass_RL.unique(dim=0)) == len(pass_RL)
        assert len(model.seen[0]) == 3 + (guidance > 0)
        for i, one in enumerate(rows):
            alone = complete(Rows(seed), one, [phase], vocabulary=SMALL, generators=row_generators([i]), unconditional=blanks[i])
            assert batch.row(i).tokens_BL.tolist() == alone.tokens_BL.tolist()


def test_rows_are_alike_in_tokens_query_positions_and_validity() -> None:
    batch = Canvas.stack([row([21, 22], 3)] * 3 + [row([21], 4)] * 2)
    query_BL = batch.editable_BL.clone()
    query_BL[1, 2], query_BL[3] = False, False
    batch = Canvas(batch.tokens_BL, query_BL, batch.valid_BL, batch.modality_BL)
    alike = UniqueRows.of(batch)
    assert alike is not None
    assert alike.once.rows == 4, "rows 0 and 2; a row of which less is asked, or nothing, is another"
    model = strong_model()
    whole_NV, once_NV = (model.predict(c.tokens_BL, query_BL=c.editable_BL, vocab=range(40)) for c in (batch, alike.once))
    torch.testing.assert_close(once_NV[alike.index_N], whole_NV)
    valid_BL = batch.valid_BL.clone()
    valid_BL[2, -1] = False
    assert UniqueRows.of(Canvas(batch.tokens_BL, query_BL, valid_BL, batch.modality_BL)) is None


def test_all_bits_of_a_seed_count() -> None:
    phase = Phase(modality="text", schedule=UniformSchedule(1), remasking=LowConfidence(), token_sampler=Temperature(9.0))
    seeds = [1, 1 + 2**32, 1 + 2**62, 2**63 - 1]
    done = complete(Coin(), Canvas.stack([row([20], 12)] * 4), [phase], vocabulary=SMALL, generators=row_generators(seeds))
    assert len({tuple(line) for line in done.tokens_BL.tolist()}) == 4


def test_a_broken_row_leaves_the_entropies_of_others() -> None:
    logits_NV = torch.zeros(3, 5)
    logits_NV[0] = float("nan")
    logits_NV[1:, 2] = 50.0
    seen = Candidates(logits_NV, torch.full((3,), 2), torch.arange(3), torch.zeros(3, dtype=torch.long))
    assert EntropyBound(0.1).accept(seen).tolist()[1:] == [True, True]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Acceleration("threshold=0.9"), r"Acceleration\.of"),
        (lambda: Acceleration.of(BlockCache()), "give a rule, or its name"),
        (lambda: Acceleration.of("threshold="), "cannot be read"),
        (lambda: Acceleration.of(reuse="block=1_0"), "cannot be read"),
        (lambda: Acceleration.of("threshold=2"), "parallel 'threshold=2': confidence must be a number of 0 to 1"),
        (lambda: Blocks(2.5), "block must be a whole number"),
        (lambda: UniformSchedule(2.5), "steps must be a whole number"),
        (lambda: Temperature("a"), "temperature must be a number"),
    ],
)
def test_wrong_choices_are_named(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
