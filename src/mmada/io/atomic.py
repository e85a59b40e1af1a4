"""Files that appear whole or not at all, and what the system says where they cannot."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["beside", "drop_parts", "no_place", "write_tensors", "write_text"]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A file to write, in a folder of its own beside ``path``, which takes the place of ``path`` at the end; nothing is left of
    it where that is not reached. An OSError names ``path``."""
    folder = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        folder.mkdir(exist_ok=True)
        yield folder / path.name
        os.replace(folder / path.name, path)
    except Exception as error:
        if number := number_of(error):
            raise OSError(number, os.strerror(number), str(path)) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    with beside(path) as part:
        part.write_text(text)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file."""
    from safetensors.torch import save_file

    with beside(path) as part:
        save_file(dict(tensors), part, metadata=None if metadata is None else dict(metadata))


def drop_parts(folder: Path, *names: str) -> None:
    """Remove what writers of these files left that were killed; nobody may be writing them now. ``names`` are patterns."""
    for name in names:
        for part in folder.glob(f".{name}.*.part"):
            shutil.rmtree(part, ignore_errors=True)


def number_of(error: Exception) -> int:
    """The system's number of an error, 0 where it has none; safetensors and tokenizers say it in words: "... (os error 28)"."""
    if isinstance(error, OSError):
        return error.errno or 0
    said = re.search(r"\(os error (\d+)\)", str(error))
    return int(said[1]) if said else 0


def no_place(error: Exception) -> str:
    """One sentence on a file for which there is no room or no permission; empty where the error is of another kind."""
    number, file = number_of(error), getattr(error, "filename", None)
    named = "a file" if file is None else f"'{file}'"
    if number in FULL:
        return f"{named} cannot be written ({os.strerror(number)}); make room, or choose another place"
    if number in FORBIDDEN:
        return f"{named} cannot be opened ({os.strerror(number)}); change its permissions, or choose another place"
    return ""
