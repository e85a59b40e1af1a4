"""One trainer in a run folder at a time: tried with real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmada.errors import InputError
from mmada.io.lock import LOCK, folder_lock

HOLD = """
import sys, time
from pathlib import Path
from mmada.io.lock import folder_lock
from mmada.errors import InputError
try:
    with folder_lock(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(float(sys.argv[2]))
except InputError as error:
    print(error)
    sys.exit(2)
"""
TRAIN = """
import sys
from pathlib import Path
from tests.training.test_checkpoint import Regression, plan
from mmada.errors import InputError
from mmada.training.loop import train
try:
    train(Regression(), plan(int(sys.argv[2])), name="toy", out=Path(sys.argv[1]), resume=Path(sys.argv[1]).exists())
except InputError as error:
    print(error)
    sys.exit(2)
"""
pytestmark = pytest.mark.multiprocess


def start(code: str, *arguments: object, quiet: bool = False) -> subprocess.Popen[str]:
    """A process; a ``quiet`` one has no pipe that it could fill."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *map(os.path.abspath, sys.path)])}
    words = [sys.executable, "-c", code, *map(str, arguments)]
    pipe = subprocess.DEVNULL if quiet else subprocess.PIPE
    return subprocess.Popen(words, env=environment, stdout=pipe, stderr=pipe, text=True)


def holding(folder: Path, seconds: float = 60) -> subprocess.Popen[str]:
    process = start(HOLD, folder, seconds)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_rejected_and_names_the_first(tmp_path: Path) -> None:
    first = holding(tmp_path)
    second = start(HOLD, tmp_path, 0)
    said, _ = second.communicate(timeout=60)
    assert second.returncode == 2
    assert f"is in use by process {first.pid} on " in said
    with (
        pytest.raises(InputError, match=f"out folder .* is in use by process {first.pid} on .*; wait for it"),
        folder_lock(tmp_path),
    ):
        pytest.fail("the lock is held")
    first.kill()
    first.communicate()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_lock_of_a_process_that_is_gone_is_free(tmp_path: Path, number: int) -> None:
    first = holding(tmp_path)
    first.send_signal(number)
    first.communicate(timeout=60)
    with folder_lock(tmp_path):
        assert (tmp_path / LOCK).is_file()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"null", b'{"pid": "x"}', b"\xff"])
def test_a_lock_file_of_any_content_is_taken_over(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCK).write_bytes(content)
    with folder_lock(tmp_path), pytest.raises(InputError, match="is in use by process"), folder_lock(tmp_path):
        pytest.fail("the lock is held by this process")
    assert not (tmp_path / LOCK).exists()


@pytest.mark.slow
def test_two_trainers_of_one_folder(tmp_path: Path) -> None:
    """The first continues undisturbed, its log has each step once; the other fails with one sentence."""
    out = tmp_path / "run"
    first = start(TRAIN, out, 10**6, quiet=True)
    until = time.monotonic() + 60
    while not (out / "checkpoint.safetensors").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert first.poll() is None
    second = start(TRAIN, out, 10**6)
    said, errors = second.communicate(timeout=60)
    assert (second.returncode, errors) == (2, "")
    assert f"is in use by process {first.pid}" in said
    assert said.count("\n") == 1
    assert first.poll() is None
    first.kill()
    first.communicate()
    rows = (out / "log.jsonl").read_text().splitlines()
    steps = [row.split(",")[0] for row in rows]
    assert len(set(steps)) == len(steps)
    third = start(TRAIN, out, len(rows) + 3, quiet=True)
    assert third.wait(60) == 0
    assert not [p.name for p in out.iterdir() if p.name.startswith(".")]
