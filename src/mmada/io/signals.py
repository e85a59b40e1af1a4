"""Termination signals as exceptions, so that every ``finally`` runs and no writer leaves anything behind.

Python turns SIGINT (Ctrl-C) into KeyboardInterrupt but lets SIGTERM, which Slurm, Docker, systemd and Kubernetes send, end the
process on the spot. `signals_as_exceptions` treats it, and SIGHUP of a closed terminal, like an exit.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Terminated", "signals_as_exceptions"]


class Terminated(SystemExit):
    """The process was asked to end; its exit status is 128 + the number of the signal, 143 for SIGTERM."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number

    def __str__(self) -> str:
        return f"terminated by {signal.Signals(self.number).name}"


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Raise `Terminated` in the main thread on SIGTERM and SIGHUP inside the block; the handlers before are restored after it.

    In another thread than the main one, where handlers cannot be set, nothing changes. A signal that was set to be ignored
    (nohup) stays ignored. Processes that are forked inside end as they would have without this.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        for other in before:  # a second signal must not interrupt the cleaning up
            signal.signal(other, signal.SIG_IGN)
        raise Terminated(number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: handler for number in numbers if (handler := signal.getsignal(number)) == signal.SIG_DFL}
    try:
        for number in before:
            signal.signal(number, handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
