"""Pictures encoded once: codes beside whatever each picture came from, kept in a file named by what made them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmada.tokenizers.image import ImageTokenizer
from mmada.tokenizers.pixels import to_pixels

__all__ = ["encode_pictures", "fingerprint"]


def fingerprint(tokenizer: ImageTokenizer, *facts: object) -> str:
    """A name for (tokenizer weights, facts): equal exactly when both are."""
    digest = hashlib.sha256(repr((tokenizer.config, facts)).encode())
    for value in tokenizer.state_dict().values():
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()[:16]


def encode_pictures(
    tokenizer: ImageTokenizer,
    picture: Callable[[int], np.ndarray],
    count: int,
    *,
    cache: Path,
    name: str,
    batch: int = 256,
) -> Tensor:
    """Codes (count, h * w) int16 of ``picture(0)`` .. ``picture(count - 1)`` (uint8, H x W x 3).

    Kept in ``cache/codes_<name>.safetensors``; ``name`` must name the pictures and the tokenizer (`fingerprint`).
    """
    path = cache / f"codes_{name}.safetensors"
    if path.is_file():
        return load_file(path)["codes"]
    rows = []
    for start in track(range(0, count, batch), description=f"encoding {count} pictures", transient=True):
        pixels = to_pixels(np.stack([picture(i) for i in range(start, min(count, start + batch))]))
        rows.append(tokenizer.encode(pixels.contiguous(memory_format=torch.channels_last)).flatten(1).short())
    codes = torch.cat(rows)
    cache.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    save_file({"codes": codes}, beside)
    os.replace(beside, path)
    return codes
