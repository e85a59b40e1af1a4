"""Where a reward runs, so that one that hangs or crashes stops nothing: a thread of this process, or a process of its own."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
from collections.abc import Mapping, Sequence, Set
from multiprocessing.connection import Connection
from queue import Empty, Queue
from typing import Any, Protocol

from mmada.errors import InputError
from mmada.rewards.completion import Completion, Reward

__all__ = ["START", "OwnProcess", "OwnThread", "TimedOut", "Worker"]

START = 120.0
"""Seconds that a process may take to start, before any time-out counts."""
LOADING = 3600.0
"""The same where its reward has a model to read, or to download."""


class TimedOut(Exception):
    """A reward took longer than it may."""


class Worker(Protocol):
    """Runs a reward."""

    def prepare(self) -> None:
        """Have the reward read its model, if it has one. Raises InputError where that fails."""
        ...

    def run(self, completions: Sequence[Completion], timeout: float) -> list[float]:
        """The rewards. Raises `TimedOut` after ``timeout`` seconds, and whatever the reward raises."""
        ...

    def close(self) -> None:
        """End what was started."""
        ...


class OwnThread:
    """In a thread. One that hangs cannot be ended: it is left behind, and the next call has another."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward

    def prepare(self) -> None:
        """As `Worker.prepare`, in this thread."""
        prepared(self.reward)

    def run(self, completions: Sequence[Completion], timeout: float) -> list[float]:
        """As `Worker.run`."""
        answers: Queue[Any] = Queue()
        threading.Thread(target=answer, args=(self.reward, completions, answers.put), daemon=True).start()
        try:
            return opened(answers.get(timeout=timeout))
        except Empty:
            raise TimedOut from None

    def close(self) -> None:
        """As `Worker.close`: there is nothing to end."""


class OwnProcess:
    """In a process that is started when first asked; one that hangs is ended, and the next call starts another.

    The reward and its completions are pickled. A program that uses it needs the usual ``if __name__ == "__main__"``. Raises
    InputError for a reward that cannot be.
    """

    def __init__(self, reward: Reward) -> None:
        try:
            pickle.dumps(reward)
        except RuntimeError:  # locks and the like, which pickle only while a process starts
            pass
        except Exception as error:  # whatever its parts raise
            raise InputError(f"it cannot be sent to a process ({error}); give judge=thread") from error
        self.reward = reward
        self.process: Any = None
        self.pipe: Connection | None = None

    def prepare(self) -> None:
        """As `Worker.prepare`: the process starts with it, if the reward has a model."""
        if not hasattr(self.reward, "prepare"):
            return
        try:
            self.started()
        except InputError:
            raise
        except Exception as error:  # it takes too long or dies
            self.close()
            raise InputError(f"its process did not start ({type(error).__name__}: {error}); try judge=thread") from error

    def run(self, completions: Sequence[Completion], timeout: float) -> list[float]:
        """As `Worker.run`. Raises RuntimeError where the process dies, and what pickling raises."""
        try:
            pipe = self.started()
            pipe.send(list(completions))
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
        """The pipe to the process, started if it is not. Raises InputError where its reward cannot read its model."""
        if self.pipe is None:
            context = multiprocessing.get_context("spawn")
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(target=serve, args=(self.reward, theirs), daemon=True)
            self.process.start()
            theirs.close()
            if not self.pipe.poll(LOADING if hasattr(self.reward, "prepare") else START):
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


def prepared(reward: Reward) -> None:
    """Have a reward read its model, if it has one. Raises InputError where that fails."""
    if (prepare := getattr(reward, "prepare", None)) is None:
        return
    try:
        prepare()
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {error}"
        raise InputError(f"it cannot be prepared ({said}); mend it or leave it out") from error


def answer(reward: Reward, completions: Sequence[Completion], put: Any) -> None:
    """Put (rewards, None) or (None, what was raised). What would end a program, such as SystemExit, is put as RuntimeError."""
    try:
        put((numbers(reward(completions)), None))
    except BaseException as error:
        put((None, error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")))


def numbers(given: Any) -> list[float]:
    """What a reward gave, if it is numbers in order: a list, an array or a tensor of them. Raises TypeError for anything else."""
    if isinstance(given, (str, bytes, Mapping, Set)):
        raise TypeError(f"it should give a list of numbers, and gave a {type(given).__name__}")
    values = list(given)
    if any(isinstance(value, (str, bytes)) for value in values):
        raise TypeError("it should give numbers, and gave texts")
    return [float(value) for value in values]


def opened(given: tuple[list[float] | None, Exception | None]) -> list[float]:
    """The rewards of an answer. Raises what it holds."""
    rewards, error = given
    if rewards is None:
        raise error or RuntimeError("it gave nothing")
    return rewards


def serve(reward: Reward, pipe: Connection) -> None:
    """What the process does: say that it is there (None), or why not, then answer until the pipe is closed."""
    try:
        prepared(reward)
    except InputError as error:
        pipe.send(str(error))
        return
    pipe.send(None)

    def put(given: tuple[list[float] | None, Exception | None]) -> None:
        rewards, error = given
        # What was raised may not survive pickling; its words do.
        pipe.send((rewards, None if error is None else RuntimeError(f"{type(error).__name__}: {error}")))

    while True:
        try:
            completions = pipe.recv()
        except EOFError:
            return
        answer(reward, completions, put)
