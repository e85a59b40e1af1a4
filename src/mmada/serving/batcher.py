"""Continuous batching: requests come and go at any step, and what is cheaper together runs together.

Every request runs the ordinary loop in a thread of its own; what it asks of the model arrives here. Steps that reuse keys and
values are bound by reading the weights, so those of all requests become one pass. Full passes and pictures are bound by
arithmetic and gain nothing from company: they take turns, a pass each. Rows do not see each other, so a request gets what it gets
alone.
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

from mmada.canvas import KVCache
from mmada.errors import InputError, check_whole
from mmada.model.inference import JoinedKVCache
from mmada.model.mmada import MMaDAModel
from mmada.pipeline import MMaDA
from mmada.pipeline.engine import Engine, Watch
from mmada.sampling import Frame

__all__ = ["Batcher", "Cancelled", "Ticket"]

Result = TypeVar("Result")
WAIT = 0.05  # seconds between looks whether a request that waits for its turn is still wanted
PATIENCE = 0.002  # seconds that a pass waits for requests that are between two steps


class Cancelled(Exception):
    """The request was cancelled before its end."""


@dataclass
class Ticket(Generic[Result]):
    """A request on its way."""

    done: Future[Result] = field(default_factory=Future)
    shown: SimpleQueue[Frame | None] = field(default_factory=SimpleQueue)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def frames(self) -> Iterator[Frame]:
        """The frames as they come, until the request has ended."""
        while (frame := self.shown.get()) is not None:
            yield frame

    def result(self, timeout: float | None = None) -> Result:
        """What the request gives. Raises what it raised, `Cancelled`, or TimeoutError."""
        return self.done.result(timeout)

    def cancel(self) -> None:
        """End the request at its next step."""
        self.cancelled.set()

    def check(self) -> None:
        """Raise `Cancelled` if it is."""
        if self.cancelled.is_set():
            raise Cancelled

    def watch(self, frame: Frame) -> None:
        """Show a frame, or stop here."""
        self.check()
        self.shown.put(frame)


@dataclass(eq=False)
class Question:
    """One pass that a request waits for."""

    tokens_BL: Tensor
    query_BL: Tensor
    vocab: range
    more: dict[str, Any]
    answer: Future[Tensor] = field(default_factory=Future)

    @property
    def cheap(self) -> bool:
        """Whether it computes a part of the places only."""
        return self.more.get("recompute_BL") is not None and self.more.get("verify_BL") is None


class Batcher:
    """Runs requests on a model, at most ``rows`` at a time; others wait their turn. Use it as a context, or `close` it."""

    def __init__(self, model: MMaDA, *, rows: int = 8) -> None:
        network = model.engine.parts.model
        if not isinstance(network, MMaDAModel):
            raise InputError(f"batcher needs a model of ours, got {type(network).__name__}")
        self.network, self.free = network, threading.Semaphore(check_whole("rows", rows, 1))
        self.model = MMaDA(Engine(model.engine.parts, model.engine.device), model.source)
        self.model.engine.denoiser = self
        self.model.text_speed, self.model.image_speed = model.text_speed, model.image_speed
        self.waiting: deque[Question] = deque()
        self.live, self.open = 0, True
        self.passes: list[int] = []
        """Rows of every pass so far."""
        self.change = threading.Condition()
        self.worker = threading.Thread(target=self.work, name="mmada-batcher", daemon=True)
        self.worker.start()

    def submit(self, job: Callable[[MMaDA, Watch], Result]) -> Ticket[Result]:
        """Start a request: ``job`` calls one method of the model it is given, with that ``watch``.

        Raises InputError once it is closed.
        """
        if not self.open:
            raise InputError("batcher is closed; make another one")
        ticket: Ticket[Result] = Ticket()
        threading.Thread(target=self.run, args=(job, ticket), daemon=True).start()
        return ticket

    def run(self, job: Callable[[MMaDA, Watch], Result], ticket: Ticket[Result]) -> None:
        """A request's thread."""
        try:
            with self.turn(ticket):
                ticket.done.set_result(job(self.model, ticket.watch))
        except BaseException as error:
            ticket.done.set_exception(error)
        finally:
            ticket.shown.put(None)

    @contextmanager
    def turn(self, ticket: Ticket[Any]) -> Iterator[None]:
        """A place among the requests that run; one that is cancelled while it waits, or a batcher that closes, ends the wait."""
        while not self.free.acquire(timeout=WAIT):
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
        """Raise `Cancelled` for a request that is to end."""
        ticket.check()
        if not self.open:
            raise Cancelled

    def count(self, change: int) -> None:
        """Requests that are running, one more or less."""
        with self.change:
            self.live += change
            self.change.notify_all()

    def kv_cache(self, rows: int) -> KVCache:
        """As the model's."""
        return self.network.kv_cache(rows)

    def predict(self, tokens_BL: Tensor, *, query_BL: Tensor, vocab: range, **more: Any) -> Tensor:
        """As the model's, when its turn comes."""
        question = Question(tokens_BL, query_BL, vocab, more)
        with self.change:
            if not self.open:
                raise Cancelled
            self.waiting.append(question)
            self.change.notify_all()
        return question.answer.result()

    def work(self) -> None:
        """The worker's thread: one pass after another."""
        while questions := self.next():
            try:
                self.passes.append(sum(len(q.tokens_BL) for q in questions))
                for question, logits in zip(questions, self.together(questions), strict=True):
                    question.answer.set_result(logits)
            except BaseException as error:  # the request that asked is told; the others go on
                for question in questions:
                    with suppress(Exception):
                        question.answer.set_exception(error)

    def next(self) -> list[Question]:
        """What to run in one pass: all cheap questions over the same vocab, or the oldest other one; none at the end."""
        with self.change:
            self.change.wait_for(lambda: self.waiting or not self.open)
            if not self.open:
                return []
            self.change.wait_for(lambda: len(self.waiting) >= self.live or not self.open, PATIENCE)
            if not self.open:
                return []
            first = self.waiting[0]
            alike = [q for q in self.waiting if q.cheap and q.vocab == first.vocab] if first.cheap else [first]
            for question in alike:
                self.waiting.remove(question)
            return alike

    def together(self, questions: list[Question]) -> list[Tensor]:
        """The answers of one pass."""
        if len(questions) == 1:
            q = questions[0]
            return [self.network.predict(q.tokens_BL, query_BL=q.query_BL, vocab=q.vocab, **q.more)]
        length = max(q.tokens_BL.shape[1] for q in questions)

        def joined(tensors: list[Tensor]) -> Tensor:
            return torch.cat([torch.nn.functional.pad(x, (0, length - x.shape[1])) for x in tensors])

        logits_NV = self.network.predict(
            joined([q.tokens_BL for q in questions]),
            query_BL=joined([q.query_BL for q in questions]),
            vocab=questions[0].vocab,
            valid_BL=joined([q.more["valid_BL"] for q in questions]),
            recompute_BL=joined([q.more["recompute_BL"] for q in questions]),
            cache=JoinedKVCache([(q.more["cache"], len(q.tokens_BL)) for q in questions]),
        )
        return list(torch.split(logits_NV, [int(q.query_BL.sum()) for q in questions]))

    def close(self) -> None:
        """Take no more questions; requests on their way end with `Cancelled`."""
        with self.change:
            self.open = False
            for question in self.waiting:
                question.answer.set_exception(Cancelled())
            self.waiting.clear()
            self.change.notify_all()
        self.worker.join()

    def __enter__(self) -> Batcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
