"""Formulas compared where a comparison that hangs can be ended: what sympy is given comes from strangers, or from a model."""

from __future__ import annotations

from threading import Lock

from mmada.rewards.isolation import START, OwnProcess, TimedOut
from mmada.tasks.mathematics import need_math_verify, same_formula

__all__ = ["Formulas"]


class Formulas:
    """Compares formulas in a process of its own, which is ended where it takes longer than ``seconds``; `close` when done.

    Any thread may call it; one comparison runs at a time. A thread would not do: one huge power keeps all others waiting.
    """

    def __init__(self, seconds: float = 10.0) -> None:
        self.seconds = seconds
        self.worker = OwnProcess(same_formula)  # type: ignore[arg-type]  # it takes any sequence
        self.lock = Lock()

    def __call__(self, gold: str, answer: str) -> str:
        """What is wrong with an answer, in two or three words; empty if nothing is. Raises InputError where math-verify is
        missing."""
        need_math_verify()
        try:
            with self.lock:
                if self.worker.pipe is None:  # its first call imports math-verify, which is no time of the answer's
                    self.worker.run([("1", "1")], START)  # type: ignore[list-item]
                same = self.worker.run([(gold, answer)], self.seconds)[0]  # type: ignore[list-item]
        except TimedOut:
            return "comparing took too long"
        except RuntimeError:  # what is raised there, and its death
            return "answer cannot be compared"
        return "" if same else "wrong answer"

    def close(self) -> None:
        """End the process."""
        self.worker.close()
