"""Steps over fixed positions: the frames of ordinary steps, without a word from the host, and the same from recorded passes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from itertools import product
from typing import Any

import pytest
import torch
from tests.helpers import SMALL as V
from tests.helpers import strong_model
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from mmada.canvas import Canvas, Segment
from mmada.diffusion.schedule import Cosine
from mmada.errors import InputError
from mmada.model.mmada import MMaDAModel
from mmada.sampling import (
    BlockCache,
    Blocks,
    FixedShape,
    Frame,
    Greedy,
    Guidance,
    GumbelConfidence,
    LowConfidence,
    MarginConfidence,
    MaskSchedule,
    Phase,
    StopAtEos,
    Temperature,
    Threshold,
    UniformSchedule,
    denoise,
    row_generators,
)
from mmada.sampling.cuda_graphs import Graphs
from mmada.sampling.fixed_shape import FixedShapeCalls

loop = import_module("mmada.sampling.denoise")

TEXT = Phase(modality="text", schedule=UniformSchedule(3), remasking=LowConfidence(), token_sampler=Greedy(), blocks=Blocks(3))
IMAGE = Phase(
    modality="image",
    schedule=MaskSchedule(Cosine(), 5),
    remasking=GumbelConfidence(),
    token_sampler=Temperature(1.0),
    guidance=Guidance(1.5),
)
STOP = StopAtEos((V.eot, V.eos, *range(20, 32)))


def answer(context: list[int], length: int) -> Canvas:
    return Canvas.join([Segment(context), Segment([V.mask] * length, editable=True)])


def gaps() -> Canvas:
    parts = [
        Segment([21, 22]),
        Segment([V.mask] * 3, editable=True),
        Segment([23]),
        Segment([V.mask, 33, V.mask, V.mask], editable=True),
    ]
    return Canvas.join([*parts, Segment([24])])


def picture(prompt: list[int], known: int, pads: int = 0, thought: int = 0) -> Canvas:
    pieces = [
        Segment([V.eos] * pads, valid=False),
        Segment([V.t2i, *prompt]),
        Segment([V.mask] * thought, editable=True),
        Segment([V.soi]),
    ]
    codes = [Segment([V.image_offset + i], editable=True, modality="image") for i in range(known)]
    return Canvas.join([*pieces, *codes, Segment([V.mask] * (9 - known), True, "image"), Segment([V.eoi])])


ANSWERS = Canvas.stack([answer([21, 22], 9), answer([30, 31, 32, 33, 13], 7), gaps(), answer([12], 1)])
PICTURES = [Canvas.stack([picture(p, known, pads) for p in prompts])
            for prompts, known, pads in (([[21, 22, 23], [25]], 2, 1), ([[], []], 2, 0))]  # fmt: skip
BLANKS = ANSWERS.with_tokens(torch.full_like(ANSWERS.tokens_BL, V.mask))
OPEN = replace(TEXT, open_vocabulary=True, schedule=UniformSchedule(2))
CASES: dict[str, tuple[Canvas, list[Phase], Canvas | None]] = {
    "alone": (answer([21], 8), [TEXT], None),
    "a batch": (ANSWERS, [TEXT], None),
    "at a temperature": (ANSWERS, [replace(TEXT, token_sampler=Temperature(0.8), remasking=MarginConfidence())], None),
    "several positions a step": (ANSWERS, [replace(TEXT, schedule=UniformSchedule(2), blocks=Blocks(5))], None),
    "more steps than positions": (ANSWERS, [replace(TEXT, schedule=UniformSchedule(5))], None),
    "early ends": (ANSWERS, [replace(TEXT, token_sampler=Temperature(1.0), stop=STOP)], None),
    "open vocabulary": (ANSWERS, [replace(OPEN, token_sampler=Temperature(1.0))], None),
    "open, by the schedule": (ANSWERS, [replace(OPEN, schedule=MaskSchedule(Cosine(), 3), token_sampler=Temperature(1.0))], None),
    "open, greedy, ended": (ANSWERS, [replace(OPEN, stop=STOP)], None),
    "guidance": (ANSWERS, [replace(TEXT, guidance=Guidance(2.0))], BLANKS),
    "pictures": (PICTURES[0], [IMAGE], PICTURES[1]),
    "greedy picture": (picture([22], 0), [replace(IMAGE, token_sampler=Greedy(), remasking=LowConfidence())], picture([], 0)),
    "a thought before": (picture([22], 3, thought=4), [replace(TEXT, stop=STOP), IMAGE], picture([], 3)),
}  # fmt: skip


def frames(model: Any, case: str, static: FixedShape | None, seed: int = 0) -> list[Frame]:
    canvas, phases, blank = CASES[case]
    generators = row_generators(range(seed, seed + canvas.rows))
    return list(denoise(model, canvas, phases, vocabulary=V, generators=generators, unconditional=blank, fixed_shape=static))


def told(steps: Sequence[Frame]) -> list[object]:
    """Everything that a frame says."""
    return [(f.tokens_BL.tolist(), f.changed_BL.tolist(), f.phase, f.step, f.steps, f.nfe) for f in steps]


@pytest.mark.parametrize("case", CASES)
def test_fixed_positions_give_the_frames_of_ordinary_steps(case: str) -> None:
    for seed, mask in product(range(4), (0.0, 1.0)):
        model = strong_model(seed, mask)
        plain = told(frames(model, case, None, seed))
        for look in (1, 3, 8):
            assert told(frames(model, case, FixedShape(look), seed)) == plain


def test_the_cases_hold_what_they_are_for() -> None:
    """Rows that end early, masks that are left over, and steps after the end."""
    ended = frames(strong_model(0), "early ends", None)
    assert len(ended) < len(frames(strong_model(0), "at a temperature", None))
    left = [frames(strong_model(seed, 1.0), "open vocabulary", None, seed)[-1] for seed in range(3)]
    assert any(bool((f.tokens_BL == V.mask).any()) for f in left)
    late, at_once = Counting(strong_model(3)), Counting(strong_model(3))
    shown = frames(late, "early ends", FixedShape(8), 3)
    frames(at_once, "early ends", FixedShape(1), 3)
    assert late.runs > len(shown) - 1 == at_once.runs


class Counting:
    """A model that counts the passes it was prepared for."""

    def __init__(self, model: MMaDAModel) -> None:
        self.model, self.runs = model, 0

    def prepared(self, **more: Any) -> Callable[[Tensor], Tensor]:
        answer = self.model.prepared(**more)

        def run(tokens_BL: Tensor) -> Tensor:
            self.runs += 1
            return answer(tokens_BL)

        return run


class Unasked(TorchDispatchMode):
    """Raises at operations for which the host would wait for a GPU: numbers read, shapes that hang on data, marks as indices,
    tensors made of numbers of the host."""

    WAITING = frozenset({
        "_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "_unique", "_unique2", "unique_dim",
        "unique_consecutive", "bincount", "histc", "isin", "lift_fresh",
    })  # fmt: skip

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__.rstrip("_")
        indices = args[1] if name in ("index", "index_put", "_index_put_impl", "_unsafe_index") else ()
        marks = any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in indices)
        counted = name == "repeat_interleave" and not (kwargs or {}).get("output_size")
        waits = name in self.WAITING or marks or counted
        assert not waits, f"{function} makes the host wait"
        return function(*args, **(kwargs or {}))


class Unread(TorchFunctionMode):
    """The same for what reads a tensor of the host without any operation."""

    READING = frozenset({Tensor.tolist, Tensor.cpu, Tensor.numpy, Tensor.__array__})

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert function not in self.READING, f"{function} makes the host wait"
        return function(*args, **(kwargs or {}))


def steps_unasked(monkeypatch: pytest.MonkeyPatch, case: str, static: FixedShape | None) -> int:
    """Run all steps, the beginnings of blocks aside, with synchronisation forbidden; returns how many."""
    model, count = strong_model(0, 1.0), 0
    frames(model, case, static)  # what is read once and kept is there
    part, enter = loop.block_steps, FixedShapeCalls.enter

    def watched(*args: Any) -> Iterator[Any]:
        nonlocal count
        steps = part(*args)
        while True:
            with Unread(), Unasked():
                done = next(steps, None)
            if done is None:
                return
            count += 1
            yield done

    def entered(*args: Any) -> None:
        with disabled():
            enter(*args)

    monkeypatch.setattr(loop, "block_steps", watched)
    monkeypatch.setattr(FixedShapeCalls, "enter", entered)
    frames(model, case, static)
    return count


@contextmanager
def disabled() -> Iterator[None]:
    """No watching for a while."""
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        yield


@pytest.mark.parametrize("case", CASES)
def test_no_step_over_fixed_positions_waits(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    assert steps_unasked(monkeypatch, case, FixedShape(4)) >= 3


@pytest.mark.parametrize("case", CASES)
def test_ordinary_steps_do_wait(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    with pytest.raises(AssertionError, match="makes the host wait"):
        steps_unasked(monkeypatch, case, None)


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x.tolist(),
        lambda x: int(x.sum()),
        lambda x: bool(x.any()),
        lambda x: x[x > 1],
        lambda x: x.masked_scatter(x > 1, x[1:]) if x.nonzero().numel() else x,
        lambda x: x.index_put((x > 1,), torch.zeros(())),
        lambda x: x.new_tensor([1, 2]),
        lambda x: x.repeat_interleave(x),
        lambda x: x.unique(),
        lambda x: torch.equal(x, x),
    ],
)
def test_the_watch_sees_what_waits(ask: Callable[[Tensor], object]) -> None:
    ask(torch.arange(3))
    with pytest.raises(AssertionError, match="makes the host wait"), Unread(), Unasked():
        ask(torch.arange(3))


def again(function: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
    """A recording as a CPU can have it: computes anew what is in the same memory."""
    found = function()

    def replay() -> None:
        found.copy_(function())

    return found, replay


@pytest.mark.parametrize("case", CASES)
def test_recorded_passes_give_the_same_frames(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    recorders: list[Graphs] = []

    def recorder(self: FixedShape, device: torch.device) -> Graphs:
        recorders.append(Graphs(again, runs=1))
        return recorders[-1]

    model = strong_model(1)
    plain = told(frames(model, case, None))
    monkeypatch.setattr(FixedShape, "recorder", recorder)
    assert told(frames(model, case, FixedShape(2))) == plain
    (graphs,) = recorders
    assert graphs.recorded
    assert len(graphs.recorded) < sum(graphs.seen.values())  # most passes come from a recording


def test_a_recording_serves_all_blocks_of_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = Graphs(again, runs=2)
    monkeypatch.setattr(FixedShape, "recorder", lambda self, device: graphs)
    canvas = answer([21, 22], 12)
    list(denoise(strong_model(), canvas, [TEXT], vocabulary=V, generators=row_generators([0]), fixed_shape=FixedShape()))
    assert len(graphs.recorded) == 1
    assert graphs.seen.total() == 3  # two ordinary runs and the recording, of twelve


def test_a_recording_leaves_the_passes_that_it_serves_as_they_are() -> None:
    model, canvas, graphs = strong_model(), answer([21, 22], 6), Graphs(again, runs=0)
    masks_BL = canvas.editable_BL.cumsum(1)
    blocks = [canvas.editable_BL & (masks_BL > number) & (masks_BL <= number + 3) for number in (0, 3, 0)]
    asks = [model.prepared(query_BL=query_BL, vocab=V.ranges["text"]) for query_BL in blocks[:2]]
    for ask, query_BL in zip((*asks, asks[0]), blocks, strict=True):
        expected = model.predict(canvas.tokens_BL, query_BL=query_BL, vocab=V.ranges["text"])
        torch.testing.assert_close(graphs.run(ask, canvas.tokens_BL), expected)
    assert len(graphs.recorded) == 1


def test_what_cannot_be_fixed_runs_as_ever() -> None:
    class Bare:
        """A model that prepares nothing."""

        predict = strong_model().predict

    rule, reuse = replace(TEXT, parallel=Threshold(0.3)), replace(TEXT, reuse=BlockCache())
    for model, phase in ((Bare(), TEXT), (strong_model(), rule), (strong_model(), reuse)):
        both = [
            told(list(denoise(model, ANSWERS, [phase], vocabulary=V, generators=row_generators(range(4)), fixed_shape=static)))
            for static in (None, FixedShape())
        ]
        assert both[0] == both[1]
    with pytest.raises(InputError, match="sync_every"):
        FixedShape(0)


def test_only_a_gpu_records() -> None:
    assert FixedShape(graphs=True).recorder(torch.device("cpu")) is None
    assert FixedShape().recorder(torch.device("cuda")) is None


def on_gpu(case: str, static: FixedShape | None, model: MMaDAModel) -> list[Frame]:
    """The frames of a case computed on the GPU, told on the CPU."""
    canvas, phases, blank = CASES[case]
    blank = None if blank is None else blank.to("cuda")
    generators = row_generators(range(canvas.rows))
    steps = denoise(
        model, canvas.to("cuda"), phases, vocabulary=V, generators=generators, unconditional=blank, fixed_shape=static
    )
    return list(steps)


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_a_gpu_gives_the_frames_of_a_cpu(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    plain = told(frames(strong_model(), case, None))
    model = strong_model().to("cuda")
    assert told(on_gpu(case, None, model)) == plain
    assert told(on_gpu(case, FixedShape(3), model)) == plain
    graphs = Graphs(runs=1)
    monkeypatch.setattr(FixedShape, "recorder", lambda self, device: graphs)
    assert told(on_gpu(case, FixedShape(3, graphs=True), model)) == plain
    assert graphs.recorded


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_a_graph_replays_the_logits_of_the_pass(dtype: torch.dtype, error: float) -> None:
    """For each block of a shape, ragged rows included; other tokens or positions are further off by far."""
    model = strong_model().to("cuda", dtype)
    canvas = Canvas.stack([answer([21, 22], 20), answer([30, 31, 32, 33, 13], 20)]).to("cuda")
    graphs = Graphs(runs=2)
    for number in range(5):
        query_BL = canvas.editable_BL & (canvas.editable_BL.cumsum(1) > number) & (canvas.editable_BL.cumsum(1) <= number + 9)
        tokens_BL = torch.where(canvas.editable_BL, torch.randint_like(canvas.tokens_BL, 40), canvas.tokens_BL)
        ask = model.prepared(query_BL=query_BL, vocab=V.ranges["text"], valid_BL=canvas.valid_BL)
        replayed = graphs.run(ask, tokens_BL).clone()
        torch.testing.assert_close(replayed, ask(tokens_BL), atol=error, rtol=error)
    assert len(graphs.recorded) == 1


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("case", ["a batch", "early ends", "pictures"])
def test_cuda_itself_sees_no_wait(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """As the watch on the CPU, with CUDA's own; over fixed positions, the beginnings of parts and the looks aside."""
    model = strong_model().to("cuda")
    on_gpu(case, FixedShape(), model)  # kernels are compiled, and what is read once is there
    part, enter = loop.block_steps, FixedShapeCalls.enter

    def strictly(mode: str, function: Callable[..., Any], *args: Any) -> Any:
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode(mode)
        try:
            return function(*args)
        finally:
            torch.cuda.set_sync_debug_mode(before)

    def watched(*args: Any) -> Iterator[Any]:
        steps = part(*args)
        while (done := strictly("error", next, steps, None)) is not None:
            yield done

    monkeypatch.setattr(loop, "block_steps", watched)
    monkeypatch.setattr(FixedShapeCalls, "enter", lambda *args: strictly("default", enter, *args))
    assert len(on_gpu(case, FixedShape(), model)) > 3
    with pytest.raises(RuntimeError, match="synchroniz"):
        on_gpu(case, None, model)
