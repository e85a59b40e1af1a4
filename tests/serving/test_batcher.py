"""Continuous batching: a request gets what it gets alone, cheap passes run together, requests end and fail by themselves."""

import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from tests.helpers import SIZE, tiny_folder

import mmada
from mmada.errors import InputError
from mmada.pipeline import MMaDA, TextSampling
from mmada.serving import Batcher, Cancelled

PROMPTS = ["how many pens?", "tom has 3 red pens and 4 blue pens", "a red circle"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MMaDA:
    folder: Path = tmp_path_factory.mktemp("model")
    tiny_folder(folder)
    return mmada.load(folder)


@pytest.mark.parametrize(
    "sampling",
    [TextSampling(), TextSampling(parallel="threshold=0.5"), TextSampling(reuse="block"), TextSampling(reuse="delayed=3")],
)
def test_requests_get_what_they_get_alone(model: MMaDA, sampling: TextSampling) -> None:
    alone = [model.generate(p, sampling=sampling, length=8).tokens for p in PROMPTS]
    with Batcher(model) as batcher:
        tickets = [batcher.submit(lambda m, w, p=p: m.generate(p, sampling=sampling, length=8, callback=w)) for p in PROMPTS]  # type: ignore[misc]
        assert [t.result(60).tokens for t in tickets] == alone
        assert len(batcher.passes) <= sum(t.result().nfe for t in tickets)
    if sampling.reuse is not None:
        assert max(batcher.passes) > 1


def test_texts_and_pictures_at_the_same_time(model: MMaDA) -> None:
    fast = TextSampling(reuse="block")
    picture, text = model.draw("a red circle", seed=4), model.generate(PROMPTS[0], sampling=fast).tokens
    with Batcher(model, rows=2) as batcher:
        drawn = [batcher.submit(lambda m, w: m.draw("a red circle", seed=4, callback=w)) for _ in range(2)]
        told = [batcher.submit(lambda m, w: m.generate(PROMPTS[0], sampling=fast, callback=w)) for _ in range(3)]
        assert all((np.asarray(t.result(60)) == np.asarray(picture)).all() for t in drawn)
        assert [t.result(60).tokens for t in told] == [text] * 3
    assert picture.size == (SIZE, SIZE)


def test_frames_stream_and_a_request_can_be_cancelled(model: MMaDA) -> None:
    with Batcher(model) as batcher:
        ticket = batcher.submit(lambda m, w: m.generate(PROMPTS[0], length=8, callback=w))
        frames = list(ticket.frames())
        assert [f.step for f in frames][:3] == [0, 1, 2]
        assert frames[-1].nfe == (ticket.result().nfe,)
        other = batcher.submit(lambda m, w: m.generate(PROMPTS[1], length=64, steps=64, block=64, callback=w))
        next(other.frames())
        other.cancel()
        with pytest.raises(Cancelled):
            other.result(60)
        assert (
            batcher.submit(lambda m, w: m.generate(PROMPTS[0], length=8, callback=w)).result(60).tokens == ticket.result().tokens
        )


def test_a_request_that_fails_leaves_the_others(model: MMaDA) -> None:
    with Batcher(model) as batcher:
        bad = batcher.submit(lambda m, w: m.generate("", callback=w))
        good = batcher.submit(lambda m, w: m.generate(PROMPTS[0], callback=w))
        with pytest.raises(InputError, match="prompt"):
            bad.result(60)
        assert good.result(60).tokens == model.generate(PROMPTS[0]).tokens


def test_closing_ends_what_is_on_its_way(model: MMaDA) -> None:
    batcher = Batcher(model)
    ticket = batcher.submit(lambda m, w: m.generate(PROMPTS[1], length=96, steps=96, block=96, callback=w))
    next(ticket.frames())
    batcher.close()
    with pytest.raises(Cancelled):
        ticket.result(60)


def test_closing_at_any_moment_ends_every_request(model: MMaDA) -> None:
    """A thread that dies of an exception is an error here (pytest's warnings are)."""
    for pause in (0.0, 0.002, 0.005, 0.01, 0.02, 0.03):
        batcher = Batcher(model, rows=8)
        tickets = [batcher.submit(lambda m, w: m.generate("user", callback=w)) for _ in range(6)]
        time.sleep(pause)
        batcher.close()
        for ticket in tickets:
            with suppress(Cancelled):
                ticket.result(10)
    with pytest.raises(InputError, match="closed"):
        batcher.submit(lambda m, w: 1)


def test_a_request_that_waits_for_its_turn_can_be_cancelled(model: MMaDA) -> None:
    hold, started = threading.Event(), threading.Event()
    with Batcher(model, rows=1) as batcher:
        busy = batcher.submit(lambda m, w: (started.set(), hold.wait(10)))
        assert started.wait(10)
        waiting = batcher.submit(lambda m, w: "done")
        waiting.cancel()
        with pytest.raises(Cancelled):
            waiting.result(5)
        hold.set()
        assert busy.result(10)


@pytest.mark.parametrize("job", [None, 5, "generate", []])
def test_what_cannot_be_called_is_refused(model: MMaDA, job: object) -> None:
    with Batcher(model) as batcher, pytest.raises(InputError, match=r"^job is "):
        batcher.submit(job)


@pytest.mark.parametrize("network", [None, 5, "nano"])
def test_what_is_not_a_model_is_refused(network: object) -> None:
    with pytest.raises(InputError, match=r"^model is "):
        Batcher(network)


def test_a_batcher_keeps_nothing_of_requests_that_ended(model: MMaDA) -> None:
    with Batcher(model) as batcher:
        for _ in range(3):
            batcher.submit(lambda m, callback: m.generate(PROMPTS[0], callback=callback)).result(60)
        assert not batcher.waiting
        assert batcher.passes.maxlen is not None
        assert not vars(batcher.model.engine)["observers"]
        assert batcher.model.preset == model.preset


def test_defaults_of_the_model_hold_for_its_requests(model: MMaDA) -> None:
    fast = model.with_defaults(text=TextSampling(reuse="block", length=4))
    with Batcher(fast) as batcher:
        result = batcher.submit(lambda m, callback: m.generate(PROMPTS[0], callback=callback)).result(60)
    assert result == fast.generate(PROMPTS[0])
    assert len(result.tokens) <= 4
