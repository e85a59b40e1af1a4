"""Processes that are stopped, and two at once: nothing is left behind, and the exit status says what happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]

PROGRAM = [sys.executable, "-m", "mmada"]


def start(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    source = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [*PROGRAM, *arguments], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition: str, folder: Path, process: subprocess.Popen[str], seconds: float = 60) -> None:
    """Wait until a file that matches the pattern ``condition`` is in the folder, or the process has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None and not list(folder.glob(condition)):
        time.sleep(0.01)


LONG_ONES = {
    "draw": ["draw", "a red circle", "--steps", "4", "--count", "5000", "--model", "MODEL"],
    "collect": ["collect", "nano:math:1000000", "--out", "reason"],
    "convert": ["convert", "nano", "out", "--dtype", "float32"],
}
BEGUN = {"draw": "out-3.png", "collect": ".reason*part*", "convert": ".*part*"}


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("command", LONG_ONES)
def test_a_signal_ends_a_command_and_nothing_is_left(
    command: str, number: signal.Signals, status: int, tmp_path: Path, folder: Path
) -> None:
    process = start([str(folder) if word == "MODEL" else word for word in LONG_ONES[command]], tmp_path)
    wait_for(BEGUN[command], tmp_path, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("the command was done before the signal came")
    assert (process.returncode, said.count("\n")) == (status, 1), said
    assert "Traceback" not in said
    left = [path.name for path in tmp_path.iterdir() if not path.name.startswith("out-")]
    assert left == []


def test_a_signal_before_the_model_is_read(tmp_path: Path) -> None:
    for wait in (0.05, 0.3, 0.8):
        process = start(["generate", "x", "--length", "64", "--steps", "64"], tmp_path)
        time.sleep(wait)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        assert process.returncode in (143, -signal.SIGTERM, 0), said  # before our code runs the system ends it
        assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_two_processes_write_one_file(tmp_path: Path, folder: Path) -> None:
    """The file is whole, of one of them, and no temporary stays."""
    from PIL import Image

    both = [start(["draw", "a", "--steps", "2", "--seed", str(seed), "--model", str(folder)], tmp_path) for seed in range(3)]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0, 0], said
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
    with Image.open(tmp_path / "out.png") as image:
        image.load()


def test_two_processes_make_one_folder(tmp_path: Path, folder: Path) -> None:
    """One makes it, the other is refused in one sentence; or it was first and the other found it filled."""
    both = [start(["collect", "nano:math:300", "--out", "reason"], tmp_path) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], said
    assert [path.name for path in tmp_path.iterdir()] == ["reason"]
    refused = next(text for text, process in zip(said, both, strict=True) if process.returncode)
    assert refused.startswith("mmada: error: out") or "--out" in refused
    assert refused.count("\n") == 1


def test_a_closed_reader_is_not_an_error(tmp_path: Path, folder: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [*PROGRAM, "info", str(folder)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": source},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_streams_that_are_closed(tmp_path: Path, folder: Path) -> None:
    """A prompt from a standard input that is closed is refused; output that is closed is no reason to fail with a traceback."""
    source = str(Path(__file__).parents[2] / "src")
    line = f"{sys.executable} -m mmada generate - --model {folder} <&-"
    done = subprocess.run(
        line, shell=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": source}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("mmada: error: prompt is '-' but standard input is ")
