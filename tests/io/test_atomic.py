"""Files appear whole or not at all; no room, no permission and damaged logs are told in a sentence."""

import errno
import json
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmada.cli import main
from mmada.cli.train import Train
from mmada.errors import InputError
from mmada.io.atomic import beside, drop_parts, no_place, write_tensors, write_text
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
        assert no_place(told.value) == f"'{path}' cannot be written (File too large); make room, or choose another place"
    assert (text.read_text(), load_file(tensors)["a"].tolist()) == ("old", [1.0, 1.0, 1.0])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "b.safetensors"]


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    with beside(tmp_path / "log.jsonl") as part:
        part.write_text("{")
        shutil.copytree(part.parent, tmp_path / part.parent.name.replace(str(os.getpid()), "1"))  # as of one that was killed
    (tmp_path / "log.jsonl").unlink()
    others = (".film.mp4.part", ".log.jsonl", ".run.x1.part/log.jsonl", ".reason.12.part/log.jsonl")
    for name in others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert len(list(tmp_path.rglob("log.jsonl"))) == 3
    drop_parts(tmp_path, "*.jsonl")
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == sorted(others)


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """A command that raises."""

    def fail(command: Train) -> None:
        raise error

    monkeypatch.setattr(Train, "run", fail)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/log.jsonl"), "'runs/log.jsonl' cannot be written (No space"),
        (OSError(errno.EROFS, "Read-only file system", "out"), "'out' cannot be opened (Read-only"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), "'out' cannot be opened (Permission denied)"),
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
    with pytest.raises(InputError, match=r"line 2 of the log .*log\.jsonl is damaged"):
        RunLog(tmp_path, "x", 3, 1)
    assert path.read_bytes() == b"\n".join([rows[0], damage, rows[1]])
