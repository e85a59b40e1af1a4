"""Fast decoding: rules for parallel unmasking, reuse between steps, and looking ahead, on a small random transformer."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tests.helpers import SMALL as V
from tests.helpers import tiny_model
from torch import Tensor

from mmada.canvas import Canvas, Segment
from mmada.diffusion.schedule import Cosine
from mmada.errors import InputError
from mmada.model.mmada import MMaDAModel
from mmada.sampling import (
    Acceleration,
    BlockCache,
    Blocks,
    CacheRule,
    CacheState,
    Candidates,
    DelayedCache,
    DraftVerify,
    DriftCache,
    EntropyBound,
    Factor,
    Frame,
    Greedy,
    Guidance,
    GumbelConfidence,
    Hierarchical,
    Lookahead,
    LowConfidence,
    MarginThreshold,
    MaskSchedule,
    Phase,
    PrefixCache,
    Stable,
    StopAtEos,
    Temperature,
    Threshold,
    UniformSchedule,
    UnmaskingRule,
    denoise,
    row_generators,
)
from mmada.sampling.parallel import Rule

TEXT = Phase(modality="text", schedule=UniformSchedule(4), remasking=LowConfidence(), token_sampler=Greedy(), blocks=Blocks(4))
IMAGE = Phase(modality="image", schedule=MaskSchedule(Cosine(), 5), remasking=GumbelConfidence(), token_sampler=Temperature(1.0))
RULES = [
    Threshold(0.2),
    MarginThreshold(0.1),
    Factor(1.5),
    EntropyBound(2.0),
    Hierarchical(0.1, 0.3),
    Stable(0.5, 1, 0.05),
    DraftVerify(0.1, 0.0),
    DraftVerify(0.1, 0.3),
]
REUSE = [PrefixCache(), BlockCache(), BlockCache(2, 3), DelayedCache(2), DriftCache(0.01, 1), DelayedCache()]


@pytest.fixture(scope="module")
def model() -> MMaDAModel:
    torch.manual_seed(0)
    network = tiny_model(V.size)
    with torch.no_grad():
        network.lm_head.weight.mul_(40)  # sure enough for rules to have something to do
    return network


def answer_row(name: int, context: int, length: int) -> Canvas:
    return Canvas.join([Segment([name] + [20] * context), Segment([V.mask] * length, editable=True)])


def gaps_row() -> Canvas:
    parts = [
        Segment([21, 22]),
        Segment([V.mask] * 3, editable=True),
        Segment([23]),
        Segment([V.mask] * 4, editable=True),
        Segment([24]),
    ]
    return Canvas.join(parts)


def picture_row(prompt: list[int], known: int) -> Canvas:
    codes = [Segment([V.image_offset + i], modality="image") for i in range(known)]
    return Canvas.join(
        [Segment([V.t2i, *prompt, V.soi]), *codes, Segment([V.mask] * (9 - known), True, "image"), Segment([V.eoi])]
    )


def frames(model: MMaDAModel, canvas: Canvas, phase: Phase, seeds: list[int] | None = None, **more: Canvas) -> list[Frame]:
    generators = row_generators(seeds or list(range(canvas.rows)))
    return list(denoise(model, canvas, [phase], vocabulary=V, generators=generators, **more))


def candidates(p: list[float], row: list[int] | None = None, position: list[int] | None = None) -> Candidates:
    """Two columns, the first with the given probability."""
    first = torch.tensor(p, dtype=torch.float64)
    logits = torch.stack((first.log(), (1 - first).log()), 1).float()
    rows = torch.tensor(row or [0] * len(p))
    return Candidates(logits, torch.zeros(len(p), dtype=torch.long), rows, torch.tensor(position or list(range(len(p)))))


def test_threshold_and_margin_take_what_is_sure() -> None:
    seen = candidates([0.95, 0.5, 0.91, 0.89])
    assert Threshold(0.9).accept(seen).tolist() == [True, False, True, False]
    assert MarginThreshold(0.8).accept(seen).tolist() == [True, False, True, False]


def test_factor_takes_the_longest_prefix_of_each_row() -> None:
    # Row 0: (n + 1)(1 - c_n) is 0.02, 0.3, 0.8, 1.75 for n = 1..4; row 1: 1.2.
    seen = candidates([0.9, 0.99, 0.65, 0.8, 0.4], row=[0, 0, 0, 0, 1])
    assert Factor(1.0).accept(seen).tolist() == [True, True, False, True, False]
    assert Factor(0.35).accept(seen).tolist() == [True, True, False, False, False]


def test_entropy_bound_adds_up_without_the_largest() -> None:
    seen = candidates([0.5, 0.9, 0.9, 0.99, 0.7], row=[0, 0, 0, 0, 1])
    h9, h99 = 0.32508, 0.05600
    assert EntropyBound(h99 + 1e-4).accept(seen).tolist() == [False, True, False, True, True]
    assert EntropyBound(h99 + h9 + 1e-4).accept(seen).tolist() == [False, True, True, True, True]
    assert EntropyBound(0.0).accept(seen).tolist() == [False, False, False, True, True]


def test_hierarchical_takes_the_best_of_every_run() -> None:
    seen = candidates([0.7, 0.8, 0.5, 0.95, 0.65], row=[0, 0, 0, 0, 1], position=[2, 3, 5, 6, 7])
    assert Hierarchical(0.6, 0.92).accept(seen).tolist() == [False, True, False, True, True]
    assert Hierarchical(0.85, 0.92).accept(seen).tolist() == [False, False, False, True, False]


def test_stable_waits_until_distributions_stand_still() -> None:
    first = candidates([0.9, 0.6, 0.7, 0.9])
    second = replace(candidates([0.9, 0.95, 0.9], position=[0, 1, 3]), before=first)
    third = replace(candidates([0.9, 0.95, 0.3], position=[0, 1, 3]), before=second)
    assert Stable(0.01, 1, 0.6).accept(first).tolist() == [False] * 4
    assert Stable(0.01, 1, 0.6).accept(second).tolist() == [True, False, True]
    assert Stable(0.01, 2, 0.6).accept(second).tolist() == [False] * 3
    assert Stable(0.01, 2, 0.6).accept(third).tolist() == [True, False, False]


@pytest.mark.parametrize("rule", RULES, ids=lambda r: type(r).__name__)
def test_a_rule_fills_everything_and_rows_do_not_meet(model: MMaDAModel, rule: object) -> None:
    phase = replace(TEXT, parallel=rule, schedule=UniformSchedule(1))
    rows = [answer_row(21, 2, 9), answer_row(22, 5, 6), answer_row(23, 0, 11)]
    together = frames(model, Canvas.stack(rows), phase)
    assert not bool(((together[-1].tokens_BL == V.mask) & together[-1].canvas.valid_BL).any())
    for i, row in enumerate(rows):
        alone = frames(model, row, phase)
        assert torch.equal(alone[-1].tokens_BL[0], together[-1].row(i).tokens_BL[0])
        assert all(bool(f.changed_BL.any()) for f in alone[1:])
        assert alone[-1].nfe == (len(alone) - 1,) == together[-1].row(i).nfe
        assert len(alone) - 1 <= int(row.editable_BL.sum())


def test_a_rule_that_takes_all_needs_a_pass_a_block_and_one_that_takes_none_a_pass_a_token(model: MMaDAModel) -> None:
    row = answer_row(21, 2, 9)
    assert frames(model, row, replace(TEXT, parallel=Threshold(0.0)))[-1].nfe == (3,)
    assert frames(model, row, replace(TEXT, parallel=Threshold(1.0)))[-1].nfe == (9,)
    plain = frames(model, row, replace(TEXT, schedule=UniformSchedule(4)))
    none = frames(model, row, replace(TEXT, parallel=Threshold(1.0)))
    assert torch.equal(plain[-1].tokens_BL, none[-1].tokens_BL)


def test_draft_takes_at_most_a_share_of_what_is_left() -> None:
    seen = candidates([0.9 - i / 100 for i in range(40)] + [0.9, 0.4], row=[0] * 40 + [1, 1])
    assert DraftVerify(0.5).accept(seen).tolist() == [True] * 20 + [False] * 20 + [True, False]
    assert DraftVerify(0.5).accept(candidates([0.9] * 10)).sum() == 7


def test_tokens_that_fail_are_taken_back_fewer_than_are_committed() -> None:
    class Doubter:
        """Sure of column 30 everywhere, and of column 31 where it is asked again, unless that stands there already."""

        def predict(self, tokens_BL: torch.Tensor, *, query_BL: torch.Tensor, vocab: range, **more: object) -> torch.Tensor:
            verify_BL = more.get("verify_BL")
            logits = torch.zeros(int(query_BL.sum()), len(vocab))
            logits[:, 30] = 9.0
            if not isinstance(verify_BL, torch.Tensor):
                return logits
            again = torch.zeros(int(verify_BL.sum()), len(vocab))
            again[:, 31] = 9.0
            return torch.cat((logits, again))

    row = answer_row(21, 1, 12)
    phase = replace(TEXT, blocks=Blocks(12), schedule=UniformSchedule(12), parallel=DraftVerify(0.5, 0.9))
    steps = list(denoise(Doubter(), row, [phase], vocabulary=V, generators=row_generators([0])))
    left = [int((f.tokens_BL == V.mask).sum()) for f in steps]
    assert left[:2] == [12, 4]  # 70 % of 12 are drafted
    assert all(b < a for a, b in pairwise(left))  # every step gets somewhere
    back = [int(((f.tokens_BL == V.mask) & f.changed_BL).sum()) for f in steps]
    assert back[2] == 3  # four are committed, three taken back
    assert left[-1] == 0


@pytest.mark.parametrize("reuse", REUSE, ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("kind", ["answers", "gaps", "pictures"])
def test_reuse_gives_rows_what_they_get_alone(model: MMaDAModel, reuse: CacheRule, kind: str) -> None:
    blanks: list[Canvas] = []
    if kind == "pictures":
        phase = replace(IMAGE, reuse=reuse, guidance=Guidance(1.5))
        rows, blanks = [picture_row([21, 22, 23], 0), picture_row([25], 4)], [picture_row([], 0), picture_row([], 4)]
    else:
        phase = replace(TEXT, reuse=reuse, blocks=Blocks(3), schedule=UniformSchedule(3))
        rows = [gaps_row(), gaps_row()] if kind == "gaps" else [answer_row(21, 2, 9), answer_row(22, 5, 6)]
    unconditional = {"unconditional": Canvas.stack(blanks)} if blanks else {}
    together = frames(model, Canvas.stack(rows), phase, **unconditional)
    for i, row in enumerate(rows):
        alone = frames(model, row, phase, [i], **({"unconditional": blanks[i]} if blanks else {}))
        assert torch.equal(alone[-1].tokens_BL[0], together[-1].row(i).tokens_BL[0])


def test_a_cache_that_is_always_refreshed_is_none(model: MMaDAModel) -> None:
    canvas = Canvas.stack([answer_row(21, 2, 9), answer_row(22, 5, 6)])
    plain = frames(model, canvas, TEXT)
    for reuse in (PrefixCache(refresh=1), BlockCache(refresh=1), DelayedCache(refresh=1), BlockCache(vicinity=99)):
        assert torch.equal(frames(model, canvas, replace(TEXT, reuse=reuse))[-1].tokens_BL, plain[-1].tokens_BL)
    picture, blank = picture_row([21, 22], 2), picture_row([], 2)
    phase = replace(IMAGE, guidance=Guidance(2.0))
    plain = frames(model, picture, phase, unconditional=blank)
    again = frames(model, picture, replace(phase, reuse=DelayedCache(refresh=1)), unconditional=blank)
    assert torch.equal(again[-1].tokens_BL, plain[-1].tokens_BL)


def test_a_cache_leaves_positions_out(model: MMaDAModel) -> None:
    now = CacheState(
        block_RL=torch.tensor([[0, 0, 0, 1, 1, 1, 0, 0]]).bool(), left_RL=torch.tensor([[0, 0, 0, 0, 1, 1, 0, 0]]).bool(),
        new_RL=torch.tensor([[0, 0, 0, 1, 0, 0, 0, 0]]).bool(), valid_RL=torch.tensor([[1, 1, 1, 1, 1, 1, 1, 0]]).bool(),
        passes=1, since=1, drift_R=torch.tensor([0.1]),
    )  # fmt: skip

    def recomputed(reuse: CacheRule, now: CacheState = now) -> list[int] | None:
        positions = reuse.recompute(now)
        return None if positions is None else positions[0].nonzero()[:, 0].tolist()

    assert recomputed(PrefixCache()) == [3, 4, 5, 6]
    assert recomputed(BlockCache()) == [3, 4, 5]
    assert recomputed(BlockCache(vicinity=2)) == [1, 2, 3, 4, 5, 6]
    assert recomputed(DelayedCache()) == [3, 4, 5]
    assert recomputed(DelayedCache(), replace(now, new_RL=torch.zeros_like(now.new_RL))) == [4, 5]
    assert recomputed(DriftCache(limit=0.2)) == [3, 4, 5]
    assert recomputed(DriftCache(limit=0.05)) == [0, 1, 2, 3, 4, 5, 6]  # all of this row, whatever others do
    assert recomputed(BlockCache(), replace(now, passes=0)) is None
    assert recomputed(BlockCache(refresh=2), replace(now, since=2)) is None


@pytest.mark.parametrize("guesses", [1, 3, 8])
@pytest.mark.parametrize(
    "phase", [TEXT, replace(TEXT, schedule=UniformSchedule(2)), replace(TEXT, token_sampler=Temperature(0.7))]
)
def test_looking_ahead_changes_no_token(model: MMaDAModel, guesses: int, phase: Phase) -> None:
    canvas = Canvas.stack([answer_row(21, 2, 9), answer_row(22, 5, 6), gaps_row()])
    blank = canvas.with_tokens(torch.where(canvas.editable_BL, canvas.tokens_BL, V.mask))
    for guidance in (Guidance(0.0), Guidance(1.0)):
        plain = frames(model, canvas, replace(phase, guidance=guidance), unconditional=blank)
        ahead = frames(model, canvas, replace(phase, guidance=guidance, lookahead=Lookahead(guesses)), unconditional=blank)
        assert [f.tokens_BL.tolist() for f in ahead] == [f.tokens_BL.tolist() for f in plain]
        assert all(a <= p for a, p in zip(ahead[-1].nfe, plain[-1].nfe, strict=True))


def test_looking_ahead_saves_passes_where_the_order_is_plain() -> None:
    class Sure:
        """The last position first, whatever the rest is."""

        def predict(
            self, tokens_BL: torch.Tensor, *, query_BL: torch.Tensor, vocab: range, valid_BL: object = None
        ) -> torch.Tensor:
            logits = torch.zeros(*tokens_BL.shape, len(vocab))
            logits[:, :, 30] = torch.arange(tokens_BL.shape[1]).float()
            return logits[query_BL]

    row = answer_row(21, 2, 12)
    phase = replace(TEXT, blocks=Blocks(12), schedule=UniformSchedule(12), lookahead=Lookahead(3))
    ahead = list(denoise(Sure(), row, [phase], vocabulary=V, generators=row_generators([0])))
    assert len(ahead) == 13
    assert ahead[-1].nfe == (4,)  # one alone, then each with three guesses that come true


def test_lookahead_is_exact_or_refused() -> None:
    for more in ({"parallel": Threshold()}, {"reuse": BlockCache()}):
        with pytest.raises(InputError, match="lookahead"):
            replace(TEXT, lookahead=Lookahead(), **more)


def test_a_row_ends_once_its_end_is_decided_and_nothing_before_it_is_masked() -> None:
    stop = StopAtEos((V.eot,))
    tokens = torch.tensor([[20, 21, V.eot, V.mask], [20, V.mask, V.eot, V.mask]])
    inside = torch.tensor([[False, True, True, True]] * 2)
    assert stop.ended(tokens, inside, tokens == V.mask).tolist() == [True, False]


def test_choices_by_name() -> None:
    assert Acceleration.of("threshold=0.8") == Acceleration(parallel=Threshold(0.8))
    assert Acceleration.of("hierarchical=0.5,0.9").parallel == Hierarchical(0.5, 0.9)
    assert Acceleration.of("stable=0.02,3").parallel == Stable(0.02, 3)
    assert Acceleration.of("entropy", "block=2,8") == Acceleration(EntropyBound(), BlockCache(2, 8))
    assert Acceleration.of(reuse="delayed=4") == Acceleration(reuse=DelayedCache(4))
    assert Acceleration.of(lookahead=2) == Acceleration(lookahead=Lookahead(2))
    for wrong in ("treshold=0.8", "threshold=a", "threshold=1,2", "threshold=1.5", "threshold=nan", "stable=0.1,2.5", "="):
        with pytest.raises(InputError, match=r"parallel|confidence"):
            Acceleration.of(wrong)
    for wrong in ("blocks", "block=-1", "block=1.5", "steps=0", "drift=inf"):
        with pytest.raises(InputError):
            Acceleration.of(reuse=wrong)
    with pytest.raises(InputError, match="lookahead"):
        Acceleration.of("threshold", lookahead=2)
    with pytest.raises(InputError, match="lookahead"):
        Acceleration.of(lookahead=-1)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (lambda seen: seen.confidence_N, "a tensor of float64 and shape"),
        (lambda seen: (seen.confidence_N > 0).long(), "a tensor of int64 and shape"),
        (lambda seen: (seen.confidence_N > 0)[:-1], "a tensor of bool and shape"),
        (lambda seen: (seen.confidence_N > 0)[:, None], "a tensor of bool and shape"),
        (lambda seen: [True] * len(seen.confidence_N), "a list"),
        (lambda seen: None, "None"),
    ],
)
def test_a_rule_that_returns_something_else_is_told_so(
    model: MMaDAModel, returned: Callable[[Candidates], Tensor], said: str
) -> None:
    class Odd(Rule):
        def accept(self, seen: Candidates) -> Tensor:
            return returned(seen)

    with pytest.raises(InputError, match=rf"parallel Odd accepts with {said}.*let accept return a bool tensor of shape"):
        frames(model, answer_row(21, 2, 9), replace(TEXT, parallel=Odd()))


@pytest.mark.parametrize("choice", [{"parallel": Threshold}, {"reuse": BlockCache}])
def test_a_class_in_place_of_a_rule_is_told_so(choice: dict[str, type]) -> None:
    with pytest.raises(InputError, match=r"is the class (\w+); give an instance, such as \1\(\)"):
        Acceleration(**choice)


def test_a_rule_without_the_defaults_is_refused_before_any_step() -> None:
    class Bare(UnmaskingRule):
        def accept(self, seen: Candidates) -> Tensor:
            return seen.confidence_N > 0.5

    with pytest.raises(InputError, match=r"parallel Bare has no history or verify; derive it from parallel\.Rule"):
        Acceleration(parallel=Bare())  # type: ignore[abstract]
