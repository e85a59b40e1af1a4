"""Isolated calls with a time limit: a thread of this process, or a process of its own.

A function that is not ours, such as a reward, may hang, crash or end the program. Both workers turn that into an exception.
Only a process can be killed when it hangs; a thread starts at once and shares memory.

A function takes a list and returns a number for each of its items. One with a method ``prepare()`` is asked to read its model
first, under no time limit.
"""

from __future__ import annotations

import multiprocessing
import pickle
import threading
from collections.abc import Callable, Mapping, Sequence, Set
from multiprocessing.connection import Connection
from queue import Empty, Queue
from typing import Any, Literal, Protocol

from mmada.errors import InputError

__all__ = ["ISOLATION", "START", "Isolation", "ProcessWorker", "ThreadWorker", "TimedOut", "Worker", "isolated"]

Isolation = Literal["thread", "process"]
ISOLATION: tuple[Isolation, ...] = ("thread", "process")
Numbers = Callable[[Sequence[Any]], Any]
"""A function of a list that returns a number for each item, as a list, an array or a tensor."""

START = 120.0
"""Seconds that a process may take to start; the time limit of a call counts from then."""
LOADING = 3600.0
"""The same where the function has a model to read or to download."""


class TimedOut(Exception):
    """A call took longer than its limit."""


class Worker(Protocol):
    """Runs one function."""

    def prepare(self) -> None:
        """Let the function read its model, if it has one. Raises InputError if that fails."""
        ...

    def run(self, items: Sequence[Any], timeout: float) -> list[float]:
        """The numbers of the items. Raises `TimedOut` after ``timeout`` seconds, and whatever the function raises."""
        ...

    def close(self) -> None:
        """Stop what was started."""
        ...


def isolated(function: Numbers, isolation: Isolation) -> Worker:
    """A worker for a function. Raises InputError if the function cannot be sent to a process."""
    return ProcessWorker(function) if isolation == "process" else ThreadWorker(function)


class ThreadWorker:
    """Runs in a thread. A call that hangs cannot be stopped: its thread is abandoned, and the next call has a new one."""

    def __init__(self, function: Numbers) -> None:
        self.function = function

    def prepare(self) -> None:
        """As `Worker.prepare`, in this thread."""
        prepared(self.function)

    def run(self, items: Sequence[Any], timeout: float) -> list[float]:
        """As `Worker.run`."""
        answers: Queue[Any] = Queue()
        threading.Thread(target=answer, args=(self.function, items, answers.put), daemon=True).start()
        try:
            return opened(answers.get(timeout=timeout))
        except Empty:
            raise TimedOut from None

    def close(self) -> None:
        """As `Worker.close`: there is nothing to stop."""


class ProcessWorker:
    """Runs in a process, started at the first call; one that hangs is killed, and the next call starts another.

    The function and its items are pickled, and the program needs the usual ``if __name__ == "__main__"``. Raises InputError for a
    function that cannot be pickled.
    """

    def __init__(self, function: Numbers) -> None:
        try:
            pickle.dumps(function)
        except RuntimeError:  # locks and the like pickle only while a process starts
            pass
        except Exception as error:  # whatever its parts raise
            raise InputError(f"it cannot be sent to a process ({error}); use isolation=thread") from error
        self.function = function
        self.process: Any = None
        self.pipe: Connection | None = None

    def prepare(self) -> None:
        """As `Worker.prepare`: a function with a model starts its process now."""
        if not hasattr(self.function, "prepare"):
            return
        try:
            self.started()
        except InputError:
            raise
        except Exception as error:  # it takes too long or dies
            self.close()
            raise InputError(f"its process did not start ({type(error).__name__}: {error}); try isolation=thread") from error

    def run(self, items: Sequence[Any], timeout: float) -> list[float]:
        """As `Worker.run`. Raises RuntimeError if the process dies, and what pickling raises."""
        try:
            pipe = self.started()
            pipe.send(list(items))
            if not pipe.poll(timeout):
                raise TimedOut
            given = pipe.recv()
        except Exception as error:
            self.close()
            if isinstance(error, (EOFError, OSError)):
                raise RuntimeError("its process died") from error
            raise
        return opened(given)

    def started(self) -> Connection:
        """The pipe to the process, which is started if needed. Raises InputError if the function cannot read its model."""
        if self.pipe is None:
            context = multiprocessing.get_context("spawn")
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(target=serve, args=(self.function, theirs), daemon=True)
            self.process.start()
            theirs.close()
            if not self.pipe.poll(LOADING if hasattr(self.function, "prepare") else START):
                raise TimedOut
            if (trouble := self.pipe.recv()) is not None:
                self.close()
                raise InputError(trouble)
        return self.pipe

    def close(self) -> None:
        """As `Worker.close`."""
        if self.pipe is not None:
            self.pipe.close()
        if self.process is not None and self.process.pid is not None:
            self.process.kill()
            self.process.join()
            self.process.close()
        self.pipe = self.process = None


def prepared(function: Numbers) -> None:
    """Let a function read its model, if it has one. Raises InputError if that fails."""
    if (prepare := getattr(function, "prepare", None)) is None:
        return
    try:
        prepare()
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {error}"
        raise InputError(f"it cannot be prepared ({said}); fix it or leave it out") from error


def answer(function: Numbers, items: Sequence[Any], put: Any) -> None:
    """Put (numbers, None) or (None, the exception). What would end the program, such as SystemExit, becomes a RuntimeError."""
    try:
        put((numbers(function(items)), None))
    except BaseException as error:
        put((None, error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")))


def numbers(given: Any) -> list[float]:
    """A list of floats from a list, an array or a tensor of numbers. Raises TypeError for anything else."""
    if isinstance(given, (str, bytes, Mapping, Set)):
        raise TypeError(f"it should return a list of numbers, and returned a {type(given).__name__}")
    values = list(given)
    if any(isinstance(value, (str, bytes)) for value in values):
        raise TypeError("it should return numbers, and returned texts")
    return [float(value) for value in values]


def opened(given: tuple[list[float] | None, Exception | None]) -> list[float]:
    """The numbers of an answer. Raises the exception that it holds instead."""
    found, error = given
    if found is None:
        raise error or RuntimeError("it returned nothing")
    return found


def serve(function: Numbers, pipe: Connection) -> None:
    """Main function of the process: report that it is ready (None) or why not, then answer until the pipe is closed."""
    try:
        prepared(function)
    except InputError as error:
        pipe.send(str(error))
        return
    pipe.send(None)

    def put(given: tuple[list[float] | None, Exception | None]) -> None:
        found, error = given
        # An exception may not survive pickling; its text does.
        pipe.send((found, None if error is None else RuntimeError(f"{type(error).__name__}: {error}")))

    while True:
        try:
            items = pipe.recv()
        except EOFError:
            return
        answer(function, items, put)
