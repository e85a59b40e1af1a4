"""Atomic writing: signals, threads, links, permissions, odd paths, full disks; and damaged logs."""

import errno
import json
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mmada.cli import main
from mmada.cli.train import Train
from mmada.errors import InputError, check_is_folder, make_folder, quote
from mmada.io.atomic import (
    atomic_file,
    atomic_folder,
    remove_leftovers,
    system_sentence,
    write_json,
    write_tensors,
    write_text,
)
from mmada.io.images import save_gif, save_image
from mmada.training.log import RunLog, read_log


@pytest.fixture
def little_room() -> Iterator[None]:
    """No file may grow beyond 4 kB, which the system tells like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(tmp_path: Path, little_room: None) -> None:
    text, tensors = tmp_path / "a.txt", tmp_path / "b.safetensors"
    write_text(text, "old")
    write_tensors(tensors, {"a": torch.ones(3)}, {"state": "old"})
    with pytest.raises(OSError, match="too large") as of_text:
        write_text(text, "new " * 5000)
    with pytest.raises(OSError, match="too large") as of_tensors:
        write_tensors(tensors, {"a": torch.ones(5000)})
    for told, path in ((of_text, text), (of_tensors, tensors)):
        assert (
            system_sentence(told.value)
            == f"{quote(path)} cannot be written (File too large); free some space, or choose another folder"
        )
    assert (text.read_text(), load_file(tensors)["a"].tolist()) == ("old", [1.0, 1.0, 1.0])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "b.safetensors"]


KILLED = """
import os, signal, sys
from pathlib import Path
from mmada.io.atomic import atomic_file, atomic_folder
from mmada.io.signals import signals_as_exceptions
def write(opened):
    with opened as part:
        (part if part.suffix == ".png" else part / "config.json").write_text("half")
        print("ready", flush=True)
        signal.pause()
with signals_as_exceptions():
    write(atomic_file("a.png") if sys.argv[1] == "file" else atomic_folder("model"))
"""


def killed(folder: Path, kind: str, number: int) -> int:
    """The exit status of a process that gets a signal while it writes."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    process = subprocess.Popen([sys.executable, "-c", KILLED, kind], cwd=folder, env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    process.communicate(timeout=30)
    return process.returncode


@pytest.mark.multiprocess
@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, -2)])
def test_a_signal_leaves_nothing(tmp_path: Path, kind: str, number: int, status: int) -> None:
    assert killed(tmp_path, kind, number) == status
    assert list(tmp_path.iterdir()) == []


@pytest.mark.multiprocess
def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    for kind in ("file", "folder"):
        assert killed(tmp_path, kind, signal.SIGKILL) == -9
    others = (".film.mp4.part", ".log.jsonl", ".run.x1.part/log.jsonl", ".reason.12.part/log.jsonl")
    for name in others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert len(list(tmp_path.iterdir())) == len(others) + 1  # the second writer removed what the first one left
    with atomic_file(tmp_path / "log.jsonl") as running:
        running.write_text("{")
        write_text(tmp_path / "b.txt", "b")
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == {*others, "log.jsonl", "b.txt"}


def test_leftovers_of_this_process_number_before_it_and_of_other_machines(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a.txt") as part:
        part.write_text("a")
        start, own, _ = part.parent.name.rsplit(".", 2)
        host, process, _ = own.split("-")
        restarted, here, there = (
            tmp_path / f"{start}.{name}.part"
            for name in (f"{host}-{process}-00000000", f"{host}-{os.getppid()}-00000000", f"00000000-{process}-00000000")
        )
        for folder in (restarted, here, there):
            folder.mkdir()
        remove_leftovers(tmp_path)
        assert (part.exists(), restarted.exists(), here.exists(), there.exists()) == (True, False, True, True)
        os.utime(there, (0, 0))
        remove_leftovers(tmp_path)
        assert not there.exists()


def test_threads_do_not_share_a_name(tmp_path: Path) -> None:
    image, path = Image.new("RGB", (8, 8)), tmp_path / "a.png"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: save_image(image, path), range(200)))
        list(pool.map(lambda n: write_text(tmp_path / "a.txt", str(n)), range(200)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "a.txt"]


def everything(path: Path) -> None:
    """Write a file by the writer of its suffix."""
    writers: dict[str, Callable[[], object]] = {
        ".txt": lambda: write_text(path, "new"),
        ".json": lambda: write_json(path, {"a": Path("b")}),
        ".safetensors": lambda: write_tensors(path, {"a": torch.ones(3)}),
        ".png": lambda: save_image(Image.new("RGB", (8, 8)), path),
        ".gif": lambda: save_gif([Image.new("RGB", (8, 8))], path),
    }
    writers[path.suffix]()


@pytest.mark.parametrize("suffix", [".txt", ".json", ".safetensors", ".png", ".gif"])
def test_permissions_links_and_long_names(tmp_path: Path, suffix: str) -> None:
    before = os.umask(0o027)
    try:
        everything(new := tmp_path / f"new{suffix}")
        (old := tmp_path / f"old{suffix}").write_text("old")
        old.chmod(0o604)
        (tmp_path / "sub").mkdir()
        (link := tmp_path / f"link{suffix}").symlink_to(old)
        (dangling := tmp_path / f"dangling{suffix}").symlink_to(Path("sub") / f"there{suffix}")
        (through := tmp_path / "folder").symlink_to("sub")
        for path in (link, dangling, through / f"inside{suffix}"):
            everything(path)
        everything(tmp_path / ("é" * ((200 - len(suffix)) // 2) + suffix))
    finally:
        os.umask(before)
    assert [stat.S_IMODE(p.stat().st_mode) for p in (new, old, dangling)] == [0o640, 0o604, 0o640]
    assert link.is_symlink()
    assert dangling.is_symlink()
    assert old.read_bytes() == new.read_bytes() == dangling.read_bytes() != b"old"
    assert sorted(p.name for p in (tmp_path / "sub").iterdir()) == [f"inside{suffix}", f"there{suffix}"]
    assert len(list(tmp_path.iterdir())) == 7


def test_a_device_and_a_pipe_are_written_to(tmp_path: Path) -> None:
    write_text("/dev/null", "x")
    assert not Path("/dev/null").is_file()
    os.mkfifo(pipe := tmp_path / "pipe.txt")
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_text)
        write_text(pipe, "through")
        assert read.result(30) == "through"
    assert pipe.is_fifo()


def odd_paths(folder: Path) -> dict[str, tuple[str, str]]:
    """Paths that cannot be written to, and what is said of each."""
    (folder / "file").write_text("")
    (folder / "loop").symlink_to("loop")
    return {
        "empty": ("", "is empty; give a path"),
        "blank": ("  ", "is empty; give a path"),
        "NUL": (f"{folder}/a\0b", "has a NUL character"),
        "surrogate": (f"{folder}/\ud800", "is not valid text"),
        "long name": (f"{folder}/{'n' * 5000}", "is a name of 5000 bytes"),
        "long path": (f"{folder}/{'n/' * 4000}x", "bytes, above the limit"),
        "loop": (f"{folder}/loop", "loop of symbolic links"),
        "in a loop": (f"{folder}/loop/a", "loop of symbolic links"),
        "in a file": (f"{folder}/file/a", "a part of the path is a file"),
    }


@pytest.mark.parametrize(
    "name", ["empty", "blank", "NUL", "surrogate", "long name", "long path", "loop", "in a loop", "in a file"]
)
@pytest.mark.parametrize("writer", ["file", "folder", "make", "is_folder"])
def test_paths_that_cannot_be_are_one_short_sentence(tmp_path: Path, name: str, writer: str) -> None:
    path, said = odd_paths(tmp_path)[name]
    writers: dict[str, Callable[[], object]] = {
        "file": lambda: write_text(path, "x"),
        "folder": lambda: atomic_folder(path).__enter__(),
        "make": lambda: make_folder("out", path),
        "is_folder": lambda: check_is_folder("out", path),
    }
    with pytest.raises((InputError, OSError)) as refused:
        writers[writer]()
    error = refused.value
    sentence = str(error) if isinstance(error, InputError) else system_sentence(error)
    assert said in sentence
    assert len(sentence) < 260
    assert sentence.isprintable()
    assert "Errno" not in sentence
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "loop"]


def test_a_folder_appears_whole_replaces_or_is_refused(tmp_path: Path) -> None:
    def write(text: str, **options: bool) -> None:
        with atomic_folder(tmp_path / "a" / "model", **options) as part:
            (part / "config.json").write_text(text)
            if text == "fails":
                raise RuntimeError(text)

    write("1")
    for options, error, match in (
        ({}, InputError, "is not empty; give a new folder"),
        ({"replace": True}, RuntimeError, "fails"),
    ):
        with pytest.raises(error, match=match):
            write("fails", **options)
    assert (tmp_path / "a/model/config.json").read_text() == "1"
    (tmp_path / "a/model/old.json").write_text("")
    write("2", replace=True)
    assert [p.read_text() for p in (tmp_path / "a/model").iterdir()] == ["2"]
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["model"]


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """A command that raises."""

    def fail(command: Train) -> None:
        raise error

    monkeypatch.setattr(Train, "run", fail)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/log.jsonl"),
            "'runs/log.jsonl' cannot be written (the disk is",
        ),
        (OSError(errno.EROFS, "Read-only file system", "out"), "'out' cannot be opened (the file system is read-only"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), "'out' cannot be opened (permission denied)"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "a file cannot be written"),
    ],
)
def test_no_room_and_no_permission_are_one_sentence(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, error)
    assert main(["train", "--list"]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), ValueError("shapes (os error)")])
def test_other_faults_are_not_hidden(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, error)
    with pytest.raises(type(error)):
        main(["train", "--list"])


@pytest.mark.parametrize("damage", [b"{", b"[1]", b"3", b"{}", b'{"step": "a"}', b'{"batch": 1}', b"\xff\xfe", b"[" * 9999, b""])
def test_a_damaged_line_is_named_and_a_last_one_cut_off_is_left_out(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rows = [json.dumps({"step": n, "loss": 1.0}).encode() for n in range(3)]
    path.write_bytes(b"\n".join([*rows, damage]))
    assert [row["step"] for row in read_log(path)] == [0, 1, 2]
    path.write_bytes(b"\n".join([rows[0], damage, rows[1]]))
    with pytest.raises(InputError, match=r"line 2 of the log .*log\.jsonl' is damaged"):
        RunLog(tmp_path, "x", 3, 1)
    assert path.read_bytes() == b"\n".join([rows[0], damage, rows[1]])
