"""ModelCalls as CUDA graphs: a pass that comes often is recorded once and replayed, one launch in place of some hundreds.

A graph reads and writes fixed memory, so a recorded pass has its own copies of everything that goes in: the tokens, and the
tensors in which passes of one shape differ, such as those of two blocks. They are filled before each replay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from typing import Protocol, Self

import torch
from torch import Tensor

__all__ = ["Capture", "Graphs", "Recordable"]

RUNS = 16
"""Plain runs of a shape before it is recorded: recording takes as long as several runs, and a short job is over by then."""

Capture = Callable[[Callable[[], Tensor]], tuple[Tensor, Callable[[], None]]]
"""Records a function without arguments; returns its result's memory and a function that computes it there again."""


class Recordable(Protocol):
    """A forward pass that never synchronises and reads only its tokens and tensors of fixed address."""

    @property
    def shape(self) -> Hashable:
        """ModelCalls of one shape do the same work on the same shapes and differ in ``tensors`` alone."""
        ...

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors in which passes of one shape differ."""
        ...

    def copied(self) -> Self:
        """The same pass with ``tensors`` of its own."""
        ...

    def __call__(self, tokens_BL: Tensor) -> Tensor:
        """Logits (N, V) float32."""
        ...


class Graphs:
    """Recorded passes of one job, by shape. The next run of a pass overwrites its logits."""

    def __init__(self, capture: Capture | None = None, runs: int = RUNS) -> None:
        self.capture = Recorder() if capture is None else capture
        self.runs = runs
        self.seen: Counter[Hashable] = Counter()
        self.recorded: dict[Hashable, Recorded] = {}

    def run(self, call: Recordable, tokens_BL: Tensor) -> Tensor:
        """``call(tokens_BL)``, replayed where the shape is recorded; recorded when it has come often enough."""
        key = (call.shape, tuple(tokens_BL.shape))
        if key not in self.recorded:
            self.seen[key] += 1
            if self.seen[key] <= self.runs:
                return call(tokens_BL)
            self.recorded[key] = Recorded(call, tokens_BL, self.capture)
        return self.recorded[key](call, tokens_BL)


class Recorded:
    """A recorded pass and the memory it works in."""

    def __init__(self, call: Recordable, tokens_BL: Tensor, capture: Capture) -> None:
        self.call, self.tokens_BL = call.copied(), tokens_BL.clone()
        self.logits_NV, self.replay = capture(lambda: self.call(self.tokens_BL))

    def __call__(self, call: Recordable, tokens_BL: Tensor) -> Tensor:
        """The logits of a pass of the same shape."""
        for mine, given in zip((self.tokens_BL, *self.call.tensors), (tokens_BL, *call.tensors), strict=True):
            mine.copy_(given)
        self.replay()
        return self.logits_NV


class Recorder:
    """`Capture` on the current GPU.

    All recordings share a stream and a memory pool: they run one after another, and only the logits of one that has run are read,
    which stay its own.
    """

    def __init__(self) -> None:
        self.stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        """Raises RuntimeError where the work cannot be recorded."""
        here = torch.cuda.current_stream()
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            function()  # libraries initialise on the first work of a stream, which a recording does not allow
        here.wait_stream(self.stream)
        graph = torch.cuda.CUDAGraph()
        try:
            # Thread-local: other threads may use the GPU meanwhile, and their work must not break this recording.
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
                found = function()
        except RuntimeError as error:
            raise RuntimeError("the forward pass cannot be recorded as a CUDA graph; use FixedShape(graphs=False)") from error
        return found, graph.replay
