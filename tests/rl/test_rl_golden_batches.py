"""Golden tests of policy optimisation: chunks, rows that read alike or run together and parts of a batch change nothing."""

from __future__ import annotations

import math
from copy import deepcopy
from functools import partial

import pytest
import torch
from tests.helpers import SMALL, generator
from tests.plain_policies import COMBINATIONS, plain_log_p
from tests.toy_policies import ADVANTAGE, Recorder, a_canvas, a_model, assert_same, moved, updates_of

from mmada.canvas import Canvas, Segment
from mmada.rl import (
    FullMask,
    Iid,
    MaskedViews,
    RandomMasks,
    diffu_grpo,
    draw_views,
    log_probabilities,
    parts,
    policy_loss,
    prepare,
)
from mmada.rl.likelihood import at_positions


def test_golden_chunked_log_probabilities_are_log_softmax() -> None:
    canvas, model = a_canvas(), a_model()
    views = draw_views(RandomMasks(Iid(), samples=2), canvas, mask_id=SMALL.mask, updates=1, group=1, generator=generator())[0]
    plain = plain_log_p(model, canvas, views)
    for chunk in (2, 1024):
        log_KBL = log_probabilities(model, canvas, views, vocabulary=SMALL, chunk=chunk)
        for k, rows in enumerate(plain):
            for b, row in enumerate(rows):
                assert row
                for position, value in row.items():
                    assert log_KBL[k, b, position].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-6)
        assert not log_KBL[~views.scored_KBL].any()
    whole = math.log(SMALL.codebook_size)  # an even policy: the code slice alone is normalised over
    flat = deepcopy(model)
    with torch.no_grad():
        flat.lm_head.weight.zero_()
    log_KBL = log_probabilities(flat, canvas, views, vocabulary=SMALL)
    picture_KBL = views.scored_KBL & (canvas.modality_BL == 1)
    torch.testing.assert_close(log_KBL[picture_KBL], torch.full_like(log_KBL[picture_KBL], -whole))


@pytest.mark.parametrize("together", [1, 32])
def test_golden_rows_that_read_alike_are_computed_once(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full mask hides in what completions differ, and a view drawn twice is the same: two inputs for twelve rows."""
    monkeypatch.setattr("mmada.rl.likelihood.MAX_ROWS", together)
    inputs = [8, 33, 6]
    rows = [Canvas.join([Segment(inputs), Segment([12 + i, 13, 14 + 2 * i], editable=True)]) for i in range(4)]
    rows += [
        Canvas.join([Segment([30, 31]), Segment([41 + i, 62], editable=True, modality="image"), Segment([7])]) for i in (0, 0)
    ]
    canvas, model = Canvas.stack(rows), a_model()
    once = draw_views(FullMask(0.0), canvas, mask_id=SMALL.mask, updates=1, group=2, generator=generator())[0]
    again = MaskedViews(*(torch.cat([x, x]) for x in (once.tokens_KBL, once.scored_KBL, once.weight_KBL)))
    again.scored_KBL[1, 0, 3:5] = False  # the same input may be inputs about other positions
    recorder = Recorder(model)
    log_KBL = log_probabilities(recorder, canvas, again, vocabulary=SMALL)
    short, wide = 2 + 2 + 1, len(inputs) + 3
    assert [len(call) // 8 for call in recorder.inputs] == ([short, wide] if together == 1 else [2 * wide])  # int64
    plain = [row for view in plain_log_p(model, canvas, again) for row in view]
    ours = [(log_KBL[divmod(i, canvas.rows)][position], value) for i, row in enumerate(plain) for position, value in row.items()]
    assert len(ours) == int(again.scored_KBL.sum())
    share = torch.linspace(-1, 2, len(ours))
    assert_same(model, *(sum(s * pair[i] for s, pair in zip(share, ours, strict=True)) for i in (0, 1)))


def test_golden_gradients_of_repeated_positions_are_deterministic() -> None:
    """Bit by bit on two threads, where indexing adds them up in any order."""
    hidden_CLD = torch.randn(1, 3, 1024, generator=generator()).requires_grad_()
    row_M, column_M = torch.zeros(1024, dtype=torch.long), torch.arange(1024) % 3
    weight_MD = torch.randn(1024, 1024, generator=generator())
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        picked_MD = at_positions(hidden_CLD, row_M, column_M)
        assert torch.equal(picked_MD, hidden_CLD[row_M, column_M])
        loss = (picked_MD * weight_MD).sum()
        found = [torch.autograd.grad(loss, hidden_CLD, retain_graph=True)[0] for _ in range(30)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0], other) for other in found)
    plain = torch.zeros(3, 1024).index_add(0, column_M, weight_MD)
    torch.testing.assert_close(found[0][0], plain, atol=1e-4, rtol=1e-4)


def test_golden_rows_that_run_together_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    method, plain = COMBINATIONS["coupled_grpo"]
    canvas, old = a_canvas(), a_model()
    new, ref = moved(old, 1, 0.01), moved(old, 2, 0.01)
    for rows in (1, 3):
        monkeypatch.setattr("mmada.rl.likelihood.MAX_ROWS", rows)
        update = updates_of(method, old, canvas, ref)[-1]
        found = [plain_log_p(m, canvas, update.views) for m in (new, old, ref)]
        loss = policy_loss(new, canvas, ADVANTAGE, update, method=method, vocabulary=SMALL)[0]
        assert_same(new, loss, plain(*found, canvas))


@pytest.mark.parametrize("micro_batch", [1, 3])
@pytest.mark.parametrize("name", COMBINATIONS)
def test_golden_parts_of_a_batch_add_up_to_it(name: str, micro_batch: int) -> None:
    """Loss, statistics and gradients, whatever the aggregation averages over."""
    method, _ = COMBINATIONS[name]
    canvas, old = a_canvas(), a_model()
    new, ref = moved(old, 1, 0.01), moved(old, 2, 0.01)
    update = updates_of(method, old, canvas, ref)[-1]
    loss = partial(policy_loss, new, canvas, ADVANTAGE, update, method=method, vocabulary=SMALL)
    spans = parts(canvas, update.views, micro_batch=micro_batch)
    assert len(spans) > 1
    assert [row for span in spans for row in range(span.start, span.stop)] == list(range(canvas.rows))
    found = [loss(rows=span) for span in spans]
    whole, statistics = loss()
    assert_same(new, torch.stack([value for value, _ in found]).sum(), whole)
    for key, value in statistics.items():
        assert sum(float(one[key]) for _, one in found) == pytest.approx(float(value), rel=1e-6, abs=1e-6), key


@pytest.mark.parametrize("micro_batch", [1, 3, 128])
def test_golden_the_old_policy_has_the_inputs_of_the_update(micro_batch: int) -> None:
    """Byte for byte, so that the ratio is 1 before the policy moves, in bfloat16 too."""
    method, recorder, canvas = diffu_grpo(updates=2, kl=0.0), Recorder(a_model()), a_canvas()
    drawn = prepare(recorder, canvas, method=method, vocabulary=SMALL, group=2, generator=generator(), micro_batch=micro_batch)
    inputs, recorder.inputs = recorder.inputs, []
    for update in drawn:
        for rows in parts(canvas, update.views, micro_batch=micro_batch):
            policy_loss(recorder, canvas, ADVANTAGE, update, method=method, vocabulary=SMALL, rows=rows)
    assert len(inputs) >= (2 if micro_batch == 128 else 4)
    assert inputs == recorder.inputs


def test_golden_parts_keep_rows_that_read_alike_together() -> None:
    """A full mask hides in what completions of a prompt differ: two prompts are two rows to compute, whatever the group."""
    rows = [Canvas.join([Segment([8, 33, 6 + i // 4]), Segment([12 + i, 13, 14], editable=True)]) for i in range(8)]
    canvas = Canvas.stack([*rows, Canvas.join([Segment([8, 33, 6, 1, 1, 1])])])
    views = draw_views(FullMask(0.0), canvas, mask_id=SMALL.mask, updates=1, group=3, generator=generator())[0]
    assert parts(canvas, views, micro_batch=1) == [slice(0, 4), slice(4, 9)]
    assert parts(canvas, views) == [slice(0, 9)]
    nothing = MaskedViews(views.tokens_KBL, views.scored_KBL & False, views.weight_KBL * 0)
    assert parts(canvas, nothing, micro_batch=1) == [slice(0, 9)]
