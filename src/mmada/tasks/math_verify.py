"""Formulas compared where a comparison that hangs can be ended: what sympy is given comes from strangers, or from a model."""

from __future__ import annotations

import multiprocessing
from threading import Lock

from mmada.io.isolation import START, ProcessWorker, TimedOut
from mmada.tasks.mathematics import need_math_verify, same_formula

__all__ = ["Formulas", "equal_formulas"]


class Formulas:
    """Compares formulas in a process of its own, which is ended where it takes longer than ``seconds``; `close` when done.

    Any thread may call it; one comparison runs at a time. A thread would not do: one huge power keeps all others waiting.
    """

    def __init__(self, seconds: float = 10.0) -> None:
        self.seconds = seconds
        self.worker = ProcessWorker(same_formula)
        self.lock = Lock()

    def __call__(self, gold: str, answer: str) -> str:
        """What is wrong with an answer, in two or three words; empty if nothing is. Raises InputError where math-verify is
        missing."""
        need_math_verify()
        try:
            with self.lock:
                if self.worker.pipe is None:  # its first call imports math-verify, which is no time of the answer's
                    self.worker.run([("1", "1")], START)
                same = self.worker.run([(gold, answer)], self.seconds)[0]
        except TimedOut:
            return "comparing took too long"
        except RuntimeError:  # what is raised there, and its death
            return "answer cannot be compared"
        return "" if same else "wrong answer"

    def close(self) -> None:
        """End the process."""
        self.worker.close()


FORMULAS = Formulas()
"""Its process starts at the first answer that needs it and ends with the program."""


def equal_formulas(gold: str, answer: str) -> bool:
    """Whether two formulas are equal, as math-verify finds; False if it takes too long. Raises InputError where it is missing."""
    if multiprocessing.current_process().daemon:  # a worker process, which is killed itself when it hangs and may start none
        return bool(same_formula([(gold, answer)])[0])
    return not FORMULAS(gold, answer)
