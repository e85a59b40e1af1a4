"""Pictures of rows: bytes, a struct of bytes and path, or a name that is looked up below some folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmada.data.dataset import UnusableRow
from mmada.data.reasoning import safe_path
from mmada.data.row_fields import kind_of
from mmada.data.sources.fields import is_blank
from mmada.io.images import ImageSource

__all__ = ["SUFFIXES", "find_picture", "picture_from", "pictures_from"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
"""Suffixes of pictures; what a file is, its content says."""


def find_picture(name: str, folders: Sequence[Path]) -> Path | None:
    """The first file of that name below the folders, or else one of the same name with another suffix of pictures.

    None if there is none, or the name leads out of the folders. An absolute name is accepted within one of them.
    """
    below = safe_path(name)
    if below is None:
        try:
            path = Path(name).resolve()
            root = next((folder for folder in folders if path.is_relative_to(folder.resolve())), None)
        except (OSError, ValueError):
            root = None
        if root is None:
            return None
        folders, below = [root], safe_path(path.relative_to(root.resolve()).as_posix())
    if below is None:
        return None
    stem = below.with_suffix("") if below.suffix.lower() in SUFFIXES else below
    others = [f"{stem}{suffix}" for suffix in (*SUFFIXES, *(one.upper() for one in SUFFIXES))]
    for candidate in (str(below), *others):
        for folder in folders:
            try:
                if (folder / candidate).is_file():
                    return folder / candidate
            except (OSError, ValueError):  # a name that no file can have
                return None
    return None


def picture_from(value: Any, folders: Sequence[Path]) -> ImageSource:
    """A picture as a path or bytes. Raises UnusableRow."""
    if isinstance(value, Mapping):
        held, path = value.get("bytes"), value.get("path")
        if not held and not path:
            raise UnusableRow("picture has neither bytes nor a path")
        value = held or path
    if isinstance(value, Path):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        if not len(value):
            raise UnusableRow("picture is empty")
        return bytes(value)
    if not isinstance(value, str):
        raise UnusableRow(f"picture is {kind_of(value)}, not a file name or bytes")
    name = value.strip()
    if name[:5].lower() == "data:":
        return name
    if name[:8].lower().startswith(("http://", "https://")):
        raise UnusableRow("picture is a web address")
    found = find_picture(name, folders)
    if found is None:
        inside = safe_path(name) is not None
        raise UnusableRow("picture is missing" if inside else "picture name is not a path inside the folder")
    return found


def pictures_from(value: Any, folders: Sequence[Path]) -> tuple[ImageSource, ...]:
    """The pictures of a field that holds one, several or none. Raises UnusableRow."""
    if is_blank(value):
        return ()
    some = value if isinstance(value, (list, tuple)) else [value]
    if any(is_blank(one) for one in some):
        raise UnusableRow("no picture named")
    return tuple(picture_from(one, folders) for one in some)
