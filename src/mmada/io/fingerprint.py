"""Fingerprints: one hash of contents (texts, bytes, files, arrays, tensors, settings), to recognise stored work again.

Two values have the same fingerprint exactly when their contents are equal. A `Path` stands for the content of that file, not for
its name; give a name as text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

__all__ = ["file_sample", "fingerprint", "weights_fingerprint"]

CHUNK = 2**20


def fingerprint(*values: object) -> str:
    """32 hexadecimal digits of the contents of ``values``, in their order.

    Takes None, numbers, texts, bytes, paths of files (their content), arrays, tensors, pictures, sequences, mappings (their order
    does not matter) and dataclasses (their class and fields). Raises TypeError for anything else.
    """
    digest = hashlib.sha256()
    for value in values:
        add(digest, value)
    return digest.hexdigest()[:32]


def add(digest: hashlib._Hash, value: Any) -> None:
    """Feed one value, its kind and length first, so that neighbouring values never run into each other."""
    if isinstance(value, Path):
        feed(digest, "file", value.stat().st_size)
        with value.open("rb") as opened:
            while piece := opened.read(CHUNK):
                digest.update(piece)
    elif isinstance(value, bytes | bytearray):
        feed(digest, "bytes", len(value))
        digest.update(value)
    elif isinstance(value, str):
        data = value.encode(errors="surrogatepass")
        feed(digest, "text", len(data))
        digest.update(data)
    elif isinstance(value, Image.Image):
        add(digest, (value.mode, np.asarray(value)))
    elif isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous()
        feed(digest, "tensor", str(flat.dtype), tuple(flat.shape))
        digest.update(flat.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray):
        feed(digest, "array", value.dtype.str, value.shape)
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        feed(digest, "mapping", len(value))
        for key in sorted(value, key=repr):
            add(digest, (key, value[key]))
    elif is_dataclass(value) and not isinstance(value, type):
        feed(digest, "dataclass", type(value).__qualname__)
        add(digest, {field.name: getattr(value, field.name) for field in fields(value)})
    elif isinstance(value, list | tuple | frozenset | set):
        items = sorted(value, key=repr) if isinstance(value, frozenset | set) else value
        feed(digest, "sequence", len(items))
        for item in items:
            add(digest, item)
    elif value is None or isinstance(value, bool | int | float | np.generic | torch.dtype):
        feed(digest, type(value).__name__, repr(value))
    else:
        raise TypeError(f"a {type(value).__name__} has no fingerprint")


def feed(digest: hashlib._Hash, *facts: object) -> None:
    """Feed a kind and what bounds the content that follows."""
    digest.update(f"{facts!r}\0".encode())


def weights_fingerprint(folder: Path, *settings: object) -> str:
    """Fingerprint of all weights in a folder, those of its image tokenizer too, and of the settings they are used with."""
    files = sorted(folder.rglob("*.safetensors"))
    return fingerprint([(file.relative_to(folder).as_posix(), file) for file in files], *settings)


def file_sample(file: Path, pieces: int = 512, count: int = 2**16) -> str:
    """Fingerprint of a file's size and of ``pieces`` pieces of ``count`` bytes, spread evenly over it; of all of it where it is
    no longer than that.

    It tells trained weights from others without reading 16 GB: training changes every matrix, if not every row of the embedding.
    """
    size = file.stat().st_size
    found = []
    with file.open("rb") as opened:
        for start in range(0, size, max(count, size // pieces)):
            opened.seek(start)
            found.append(opened.read(count))
    return fingerprint(size, found)
