"""Atomic writing: a file or a folder appears whole or not at all, and nothing else is left behind.

Every writer of the project goes through `atomic_file` or `atomic_folder`. What is written goes into a temporary folder next to
the target, named ``.NAME.HOST-PID-RANDOM.part``: unique per call, so threads and processes never share one. At the end it is
renamed onto the target. On an exception, which SIGINT and SIGTERM are too (`mmada.io.signals`), the temporary is removed; what a
writer that was killed left is recognised by its process, which is gone, and removed by the next writer in that folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import stat
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from errno import EACCES, EDQUOT, EFBIG, EISDIR, ELOOP, ENAMETOOLONG, ENOSPC, ENOTDIR, ENOTEMPTY, EPERM, EROFS
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from mmada.errors import InputError, check_folder, check_path, quote, system_reason

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "atomic_file",
    "atomic_folder",
    "remove_leftovers",
    "sync",
    "system_sentence",
    "write_bytes",
    "write_json",
    "write_tensors",
    "write_text",
]

_FULL = (ENOSPC, EDQUOT, EFBIG)
_FORBIDDEN = (EACCES, EPERM, EROFS)
_UNUSABLE = (ELOOP, ENAMETOOLONG, ENOTDIR, EISDIR)
_HOST = f"{zlib.crc32(socket.gethostname().encode()):08x}"
_PART = re.compile(r"\..*\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.part")
_FOREIGN_AGE = 24 * 3600.0
"""Seconds after which a temporary of another machine, whose processes cannot be seen, counts as left behind."""

_own: set[Path] = set()  # temporaries that this process is writing now
_swept: dict[Path, tuple[float, float]] = {}  # folder -> (when it was last looked through, how long that took)


@contextmanager
def atomic_file(path: str | Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary file name with the suffix of ``path``; what is written there replaces ``path`` when the block ends.

    A symbolic link stays one: the file that it leads to is replaced. Permissions are those of the file before, else the usual
    ones. A device or pipe is written to, not replaced. ``durable``: survives a power cut (fsync). An OSError names ``path``.
    """
    path = check_path("file", path)
    try:
        target = _behind_links(path)
        if _is_special(target):
            with tempfile.TemporaryDirectory() as name:
                yield (part := Path(name) / target.name)
                target.write_bytes(part.read_bytes())
            return
        with _temporary(target) as folder:
            yield (part := folder / target.name)
            mode = target.stat().st_mode if target.exists() else folder.stat().st_mode & 0o666
            part.chmod(stat.S_IMODE(mode))
            if durable:
                sync(part)
            os.replace(part, target)
            if durable:
                sync(target.parent)
    except Exception as error:
        if number := _system_number(error):
            raise OSError(number, os.strerror(number), str(path)) from error
        raise


@contextmanager
def atomic_folder(out: str | Path, field: str = "out", *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``out`` when the block ends, in the place of a folder there with ``replace``.

    Raises InputError where ``out`` cannot be a folder, or is not empty and ``replace`` is not set, before anything is done.
    """
    path = check_folder(field, out)
    if path.name in ("", ".."):
        raise InputError(f"{field} {quote(path)} is not the name of a new folder; give one")
    try:
        target = _behind_links(path)
        if not replace and target.exists() and any(target.iterdir()):
            raise InputError(f"{field} {quote(path)} is not empty; give a new folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        opened = _temporary(target)
        parent = opened.__enter__()
    except OSError as error:
        raise InputError(f"{field} {quote(path)} cannot be written ({system_reason(error)}); give another folder") from error
    try:
        folder = parent / target.name
        folder.mkdir()
        yield folder
        for file in (file for file in folder.rglob("*") if file.is_file()):
            sync(file)
        old = parent / f"{target.name}.old"
        if replace and target.exists():
            os.replace(target, old)
        try:
            os.replace(folder, target)
        except OSError as error:
            if old.exists():
                os.replace(old, target)
            if error.errno != ENOTEMPTY:
                raise
            raise InputError(f"{field} {quote(path)} was filled by another program meanwhile; give a new folder") from error
        sync(target.parent)
    finally:
        opened.__exit__(None, None, None)


def write_bytes(path: str | Path, data: bytes, *, durable: bool = False) -> None:
    """Write a file of bytes."""
    with atomic_file(path, durable=durable) as part:
        part.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: object) -> None:
    """Write a JSON file that people can read; what JSON does not know is written as its text."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file."""
    from safetensors.torch import save_file

    with atomic_file(path, durable=True) as part:
        save_file(dict(tensors), part, metadata=None if metadata is None else dict(metadata))


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in ``folder``. Temporaries of running processes stay."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if (found := _PART.fullmatch(entry.name)) and _is_abandoned(Path(entry.path), found[1], int(found[2])):
                shutil.rmtree(entry.path, ignore_errors=True)


def system_sentence(error: Exception) -> str:
    """One sentence for an error of the disk or of permissions; empty for errors of other kinds, which are faults."""
    number, file = _system_number(error), getattr(error, "filename", None)
    named = quote(Path(os.fsdecode(file))) if isinstance(file, (str, bytes, os.PathLike)) else "a file"
    reason = system_reason(OSError(number, os.strerror(number))) if number else ""
    if number in _FULL:
        return f"{named} cannot be written ({reason}); free some space, or choose another folder"
    if number in _FORBIDDEN:
        return f"{named} cannot be opened ({reason}); change its permissions, or choose another path"
    if number in _UNUSABLE:
        return f"{named} cannot be used ({reason}); give another path"
    return ""


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A folder next to ``target`` that is removed at the end, whatever happens."""
    _sweep(target.parent)
    start = os.fsencode(target.name)[:80].decode("utf-8", "ignore")  # a long name would leave no room for the rest
    folder = target.with_name(f".{start}.{_HOST}-{os.getpid()}-{uuid4().hex[:8]}.part")
    _own.add(folder)
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _own.discard(folder)


def _sweep(folder: Path) -> None:
    """`remove_leftovers`, but for at most 2 % of the time: a folder of a hundred thousand files takes a while to look through."""
    began = time.monotonic()
    last, took = _swept.get(folder, (0.0, 0.0))
    if began - last > 50 * took:
        remove_leftovers(folder)
        _swept[folder] = (began, time.monotonic() - began)


def _is_abandoned(path: Path, host: str, process: int) -> bool:
    """Whether the writer of a temporary is gone."""
    if host != _HOST:
        with suppress(OSError):
            return time.time() - path.stat().st_mtime > _FOREIGN_AGE
        return False
    if process == os.getpid():  # of this process, or of one that had its number before, as is usual in a container
        return path not in _own
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's process
        return False
    return False


def _behind_links(path: Path) -> Path:
    """The file that a path leads to. Raises OSError for a loop of links."""
    if not path.is_symlink():
        return path
    real = Path(os.path.realpath(path))
    if real.is_symlink():
        raise OSError(ELOOP, os.strerror(ELOOP), str(path))
    return real


def _is_special(path: Path) -> bool:
    """Whether a path is a device, a pipe or a socket."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk; file systems that cannot say so are left alone."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _system_number(error: Exception) -> int:
    """The system's number of an error, 0 where it has none; safetensors and tokenizers put it in words: "... (os error 28)"."""
    if isinstance(error, OSError):
        return error.errno or 0
    said = re.search(r"\(os error (\d+)\)", str(error))
    return int(said[1]) if said else 0
