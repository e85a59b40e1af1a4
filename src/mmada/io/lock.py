"""A lock on a run folder: one process at a time writes to it.

The lock is held by the operating system (flock) on the file ``.lock``, so it ends with its process, however that ends: a lock of
a killed run is free at once. The file says who holds it, for the error. It is removed when the lock is given back.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmada.errors import InputError, quote, system_reason

try:
    import fcntl
except ImportError:  # Windows, where folders are not locked
    fcntl = None  # type: ignore[assignment]

__all__ = ["LOCK", "folder_lock"]

LOCK = ".lock"
"""Name of the lock file in a run folder."""


@contextmanager
def folder_lock(folder: Path, field: str = "out") -> Iterator[None]:
    """Hold the lock on an existing folder for the block. Raises InputError where another process or thread has it."""
    path = folder / LOCK
    try:
        handle = _locked(path)
    except BlockingIOError as error:
        raise InputError(
            f"{field} folder {quote(folder)} is in use by {_holder(path)}; wait for it, end it, or choose another folder"
        ) from error
    except OSError as error:
        raise InputError(f"{field} folder {quote(folder)} cannot be locked ({system_reason(error)}); give another") from error
    try:
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # while the lock is held, so that nobody else's is removed
        os.close(handle)


def _locked(path: Path) -> int:
    """An open and locked file at ``path``. Raises BlockingIOError where it is locked already."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before may have removed the file after it was opened here: then the lock is on a file that is gone.
            if path.exists() and os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _holder(path: Path) -> str:
    """Who holds a lock, in words."""
    try:
        said = json.loads(path.read_text())
        return f"process {int(said['pid'])} on {said['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
