"""Formulas compared by math-verify in a process of its own, which is ended when a comparison takes too long.

What is simplified comes from a model or from strangers: one huge power keeps a thread busy for ever and holds the interpreter,
so neither a thread nor a signal handler bounds it. The process is a plain interpreter that reads and writes lines of JSON: it
needs no ``if __name__ == "__main__"`` in the program that uses it, and works within daemonic workers.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
from contextlib import suppress
from threading import Lock, Timer

__all__ = ["SECONDS", "FormulaProcess", "same_formula"]

SECONDS = 5.0
"""Longest time of one comparison."""
START_SECONDS = 60.0
"""Longest time that the process may take to import math-verify."""
MAX_MEMORY = 4 << 30


class FormulaProcess:
    """A worker process that compares formulas; started when first asked, started anew after one that had to be ended.

    Threads may share it: one comparison runs at a time. Forked children start their own.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self.lock = Lock()
        self.process: subprocess.Popen[str] | None = None
        self.owner = 0

    def compare(self, gold: str, answer: str) -> bool | None:
        """Whether math-verify finds two formulas equal; None where it took too long or failed."""
        with self.lock:
            if self.process is None or self.owner != os.getpid():
                self.start()
                if self.ask({}, START_SECONDS) is None:
                    return None
            return self.ask({"gold": gold, "answer": answer, "seconds": self.seconds}, self.seconds)

    def start(self) -> None:
        """Start the process, with the import path of this one."""
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self.owner = os.getpid()
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from mmada.tasks.formula_process import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env=os.environ | {"PYTHONPATH": path, "PYTHONUTF8": "1"},
        )

    def ask(self, request: dict[str, object], seconds: float) -> bool | None:
        """Send one request and wait for its answer; on a failure the process is ended."""
        process = self.process
        if process is None or process.stdin is None or process.stdout is None:
            return None
        timer = Timer(seconds, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except (OSError, ValueError):
            line = ""
        finally:
            timer.cancel()
        if not line:
            self.close()
            return None
        found = json.loads(line)
        return None if found is None else bool(found)

    def close(self) -> None:
        """End the process."""
        process, self.process = self.process, None
        if process is not None and self.owner == os.getpid():
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()


PROCESS = FormulaProcess()
atexit.register(PROCESS.close)


def same_formula(gold: str, answer: str) -> bool:
    """Whether math-verify finds two formulas equal in time; False where it is not installed."""
    return importlib.util.find_spec("math_verify") is not None and PROCESS.compare(gold, answer) is True


def compare(gold: str, answer: str) -> bool:
    """One comparison, without any bound."""
    from math_verify import parse, verify

    wanted, given = (parse(f"${text}$", parsing_timeout=None) for text in (gold, answer))
    return bool(wanted and given and verify(wanted, given, timeout_seconds=None))


def serve() -> None:
    """Loop of the process: one line of JSON in, one out. It ends by itself when its time is over, whoever started it is gone."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    import math_verify  # noqa: F401  # before any time counts

    logging.disable(logging.CRITICAL)  # it says for each call that its own time-out is off
    for line in sys.stdin:
        request = json.loads(line)
        found: bool | None = True
        if request:
            if hasattr(signal, "setitimer"):
                signal.setitimer(signal.ITIMER_REAL, 2 * request["seconds"])  # the default action ends the process
            try:
                found = compare(request["gold"], request["answer"])
            except Exception:
                found = None
            if hasattr(signal, "setitimer"):
                signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(found), flush=True)
