"""Continuous batching: requests come and go at any step, and passes that are cheaper together run together.

Every request runs the ordinary loop in a thread of its own; its calls of the model arrive here. Passes that reuse keys and values
are bound by reading the weights, so those of all requests are joined into one. Full passes, of texts and images, are bound by
arithmetic and gain nothing from being joined: they take turns. Rows do not attend to each other, so a request gets the result
that it gets alone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from mmada.canvas import DenoiserCache
from mmada.errors import InputError, check_whole, kind_of
from mmada.model.kv_cache import JoinedKVCache
from mmada.model.predictor import Predictor
from mmada.pipeline import Engine, Frame, MMaDA
from mmada.pipeline.engine import Callback

__all__ = ["Batcher", "Cancelled", "Ticket"]

Result = TypeVar("Result")
POLL = 0.05  # seconds between checks of whether a waiting request was cancelled
GATHER = 0.002  # seconds that a pass waits for requests that are between two steps
HISTORY = 1024  # passes of which the number of rows is remembered


class Cancelled(Exception):
    """The request was cancelled before its end."""


@dataclass
class Ticket(Generic[Result]):
    """A request that was submitted."""

    done: Future[Result] = field(default_factory=Future)
    queue: SimpleQueue[Frame | None] = field(default_factory=SimpleQueue)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def frames(self) -> Iterator[Frame]:
        """The frames as they come, until the request has ended."""
        while (frame := self.queue.get()) is not None:
            yield frame

    def result(self, timeout: float | None = None) -> Result:
        """The value that the request returned. Raises what it raised, `Cancelled`, or TimeoutError."""
        return self.done.result(timeout)

    def cancel(self) -> None:
        """End the request at its next step."""
        self.cancelled.set()

    def check(self) -> None:
        """Raise `Cancelled` if the request was cancelled."""
        if self.cancelled.is_set():
            raise Cancelled

    def callback(self, frame: Frame) -> None:
        """Queue a frame for `frames`, or end a request that was cancelled."""
        self.check()
        self.queue.put(frame)


@dataclass(eq=False)
class Request:
    """One forward pass that a request waits for."""

    tokens_BL: Tensor
    query_BL: Tensor
    vocab: range
    more: dict[str, Any]
    answer: Future[Tensor] = field(default_factory=Future)

    @property
    def partial(self) -> bool:
        """Whether it recomputes a part of the positions only, so that joining it with others saves time."""
        return self.more.get("recompute_BL") is not None and self.more.get("verify_BL") is None


class Batcher:
    """Runs requests on a model, at most ``rows`` at a time; others wait. Use it as a context manager, or `close` it."""

    def __init__(self, model: MMaDA, *, rows: int = 8) -> None:
        if not isinstance(model, MMaDA):
            raise InputError(f"model is {kind_of(model)}; give one that mmada.load returned")
        network = model.engine.parts.model
        if not isinstance(network, Predictor):
            raise InputError(f"batcher needs an MMaDAModel, got {type(network).__name__}")
        self.network, self.free = network, threading.Semaphore(check_whole("rows", rows, 1))
        self.model = MMaDA(Engine(model.engine.parts, model.engine.device), model.source, model.preset)
        self.model.engine.denoiser = self
        self.waiting: deque[Request] = deque()
        self.running, self.open = 0, True
        self.passes: deque[int] = deque(maxlen=HISTORY)
        """Rows of each of the latest passes."""
        self.change = threading.Condition()
        self.worker = threading.Thread(target=self.work, name="mmada-batcher", daemon=True)
        self.worker.start()

    def submit(self, job: Callable[[MMaDA, Callback], Result]) -> Ticket[Result]:
        """Start a request: ``job`` calls one method of the model that it is given, with that ``callback``.

        Raises InputError for what cannot be called, and once the batcher is closed.
        """
        if not callable(job):
            raise InputError(f"job is {kind_of(job)}; give a function of a model and a callback")
        if not self.open:
            raise InputError("batcher is closed; make another one")
        ticket: Ticket[Result] = Ticket()
        threading.Thread(target=self.run, args=(job, ticket), daemon=True).start()
        return ticket

    def run(self, job: Callable[[MMaDA, Callback], Result], ticket: Ticket[Result]) -> None:
        """Run a request to its end, in its own thread."""
        try:
            with self.turn(ticket):
                ticket.done.set_result(job(self.model, ticket.callback))
        except BaseException as error:
            ticket.done.set_exception(error)
        finally:
            ticket.queue.put(None)

    @contextmanager
    def turn(self, ticket: Ticket[Any]) -> Iterator[None]:
        """One of the ``rows`` places for running requests; cancelling the request or closing the batcher ends the wait."""
        while not self.free.acquire(timeout=POLL):
            self.check(ticket)
        try:
            self.check(ticket)
            self.count(1)
            try:
                yield
            finally:
                self.count(-1)
        finally:
            self.free.release()

    def check(self, ticket: Ticket[Any]) -> None:
        """Raise `Cancelled` for a request that should end."""
        ticket.check()
        if not self.open:
            raise Cancelled

    def count(self, change: int) -> None:
        """Add to the number of running requests."""
        with self.change:
            self.running += change
            self.change.notify_all()

    def kv_cache(self, rows: int) -> DenoiserCache:
        """An empty KV cache, as of the model."""
        return self.network.kv_cache(rows)

    def predict(self, tokens_BL: Tensor, *, query_BL: Tensor, vocab: range, **more: Any) -> Tensor:
        """Logits, as of the model, once the worker has run the pass."""
        request = Request(tokens_BL, query_BL, vocab, more)
        with self.change:
            if not self.open:
                raise Cancelled
            self.waiting.append(request)
            self.change.notify_all()
        return request.answer.result()

    def work(self) -> None:
        """Run one pass after another, in the worker's thread."""
        while requests := self.next():
            try:
                self.passes.append(sum(len(r.tokens_BL) for r in requests))
                for request, logits in zip(requests, self.together(requests), strict=True):
                    request.answer.set_result(logits)
            except BaseException as error:  # the requests of this pass get it; the others continue
                for request in requests:
                    with suppress(Exception):
                        request.answer.set_exception(error)

    def next(self) -> list[Request]:
        """The requests of the next pass: all partial ones over the same vocabulary slice, or the oldest other one.

        Empty once the batcher is closed.
        """
        with self.change:
            self.change.wait_for(lambda: self.waiting or not self.open)
            if not self.open:
                return []
            self.change.wait_for(lambda: len(self.waiting) >= self.running or not self.open, GATHER)
            if not self.open:
                return []
            first = self.waiting[0]
            joined = [r for r in self.waiting if r.partial and r.vocab == first.vocab] if first.partial else [first]
            for request in joined:
                self.waiting.remove(request)
            return joined

    def together(self, requests: list[Request]) -> list[Tensor]:
        """The logits of each request, from one pass."""
        if len(requests) == 1:
            r = requests[0]
            return [self.network.predict(r.tokens_BL, query_BL=r.query_BL, vocab=r.vocab, **r.more)]
        length = max(r.tokens_BL.shape[1] for r in requests)

        def joined(tensors: list[Tensor]) -> Tensor:
            return torch.cat([torch.nn.functional.pad(x, (0, length - x.shape[1])) for x in tensors])

        logits_NV = self.network.predict(
            joined([r.tokens_BL for r in requests]),
            query_BL=joined([r.query_BL for r in requests]),
            vocab=requests[0].vocab,
            valid_BL=joined([r.more["valid_BL"] for r in requests]),
            recompute_BL=joined([r.more["recompute_BL"] for r in requests]),
            cache=JoinedKVCache([(r.more["cache"], len(r.tokens_BL)) for r in requests]),
        )
        return list(torch.split(logits_NV, [int(r.query_BL.sum()) for r in requests]))

    def close(self) -> None:
        """Stop taking requests; those that are running end with `Cancelled`."""
        with self.change:
            self.open = False
            for request in self.waiting:
                request.answer.set_exception(Cancelled())
            self.waiting.clear()
            self.change.notify_all()
        self.worker.join()

    def __enter__(self) -> Batcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
