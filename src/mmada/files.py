"""Files that appear whole or not at all, and what the system says where they cannot."""

from __future__ import annotations

import errno
import os
import re
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
    """A name in the same folder to write to, renamed to ``path`` at the end; where that fails nothing is left of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    with beside(path) as part:
        part.write_text(text)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file."""
    from safetensors.torch import save_file

    with beside(path) as part:
        save_file(dict(tensors), part, metadata=None if metadata is None else dict(metadata))


def drop_parts(folder: Path) -> None:
    """Remove what writers left in a folder that were killed; nobody may be writing there now."""
    for pattern in (".*.part", ".tmp??????"):  # ours, safetensors'
        for part in folder.glob(pattern):
            part.unlink(missing_ok=True)


def no_place(error: Exception) -> str:
    """One sentence on a file for which there is no room or no permission; empty where the error is of another kind.

    safetensors and tokenizers say the system's error in words: "... (os error 28)".
    """
    if isinstance(error, OSError):
        number, file = error.errno, error.filename
    else:
        said = re.search(r"\(os error (\d+)\)", str(error))
        number, file = (int(said[1]) if said else None), None
    named = "a file" if file is None else f"'{file}'"
    if number in FULL:
        return f"{named} cannot be written ({os.strerror(number)}); make room, or choose another place"
    if number in FORBIDDEN:
        return f"{named} cannot be opened ({os.strerror(number)}); change its permissions, or choose another place"
    return ""
