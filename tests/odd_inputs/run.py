"""Run a command on odd input inside this process, and say what is wrong with how it ended."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmada.cli import main

__all__ = ["RAW", "Late", "Outcome", "Tally", "limit", "run_command"]

LIMIT = 20
"""Seconds of one input on a busy core."""
RAW = (
    "Traceback",
    "[Errno",
    "<class",
    " object at 0x",
    "NoneType",
    "instance_from",
    "'utf-8' codec",
    "not subscriptable",
    "positional argument",
    "RecursionError",
    "KeyError",
    "has no attribute",
)
"""Signs that something internal came out."""


class Late(BaseException):
    """A command takes too long. Nobody catches it by accident, as TimeoutError, which is an OSError."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended. ``fault`` is empty where it ended well: with 0, or with 2 and one clean sentence."""

    status: int
    sentence: str
    fault: str


class Tally:
    """Counts inputs and collects faults; `check` fails the test with all of them."""

    def __init__(self) -> None:
        self.inputs = 0
        self.faults: list[str] = []

    def add(self, what: object, fault: str) -> None:
        """Count an input, and note its fault if there is one."""
        self.inputs += 1
        if fault:
            self.faults.append(f"{what!a:.200}: {fault}")

    def check(self) -> None:
        """Fail with every fault that was found."""
        assert not self.faults, f"{len(self.faults)} of {self.inputs} inputs:\n" + "\n".join(self.faults)


def run_command(arguments: Sequence[str], *, field: str = "", must_fail: bool = False, stdin: bytes = b"") -> Outcome:
    """Run ``mmada`` in the current folder.

    ``field``: a word of the error where the input is refused. ``must_fail``: the input is wrong without doubt.
    """
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True) for _ in range(2))
    before, fault = snapshot(Path()), ""
    with _streams(out, err, stdin), limit(LIMIT):
        try:
            status = main(arguments)
        except SystemExit as end:
            status = int(end.code or 0) if isinstance(end.code, (int, type(None))) else 1
        except BaseException as error:
            status, fault = 1, "".join(traceback.format_exception(error)[-3:]).replace("\n", " | ")[-500:]
    said, printed = (stream.buffer.getvalue().decode() for stream in (err, out))
    return Outcome(status, said, fault or _fault(status, said, printed, field, must_fail) or _left(status, before))


@contextlib.contextmanager
def limit(seconds: int) -> Iterator[None]:
    """Raise `Late` in the block after so many seconds: an input that makes a command wait or work for ever is a fault."""

    def late(number: int, frame: object) -> None:
        raise Late(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _streams(out: io.TextIOWrapper, err: io.TextIOWrapper, stdin: bytes) -> Iterator[None]:
    before = sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin))
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield
    finally:
        sys.stdin = before


def _fault(status: int, said: str, printed: str, field: str, must_fail: bool) -> str:
    if status not in (0, 2):
        return f"exit status {status}: {said[-300:]}"
    if status == 0:
        return "accepted" if must_fail else ""
    if printed:
        return f"printed {printed[:80]!r} before the error"
    if not said.startswith("mmada: error: ") or said.count("\n") != 1 or not said.endswith("\n"):
        return f"not one sentence: {said[:300]!r}"
    if not all(char.isprintable() for char in said[:-1]) or len(said) > 1300:
        return f"not clean: {said[:300]!r}"
    if raw := [sign for sign in RAW if sign in said]:
        return f"raw text {raw[0]!r}: {said[:300]!r}"
    plain = said.replace("-", " ").replace("_", " ")
    if field and not any(word in plain for word in field.replace("-", " ").replace("_", " ").split("|")):
        return f"does not name {field}: {said[:300]!r}"
    return ""


def _left(status: int, before: dict[str, int]) -> str:
    after = snapshot(Path())
    hidden = [name for name in after if Path(name).name.startswith(".") or ".part" in name]
    if hidden:
        return f"left {hidden}"
    return f"changed {sorted(set(after.items()) ^ set(before.items()))[:4]}" if status == 2 and after != before else ""


def snapshot(folder: Path) -> dict[str, int]:
    """The files below a folder with their times of change."""
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}
