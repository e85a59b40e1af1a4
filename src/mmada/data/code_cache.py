"""Pictures encoded once: codes beside whatever each picture came from, kept in a file named by what made them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from safetensors.torch import load_file
from torch import Tensor

from mmada.io.atomic import write_tensors
from mmada.tokenizers.image import ImageTokenizer, to_pixels

__all__ = ["encode_pictures"]

PROBED = 8  # pictures that are drawn to see whether their renderer is still the same


def encode_pictures(
    tokenizer: ImageTokenizer,
    picture: Callable[[int], np.ndarray],
    count: int,
    *,
    cache: Path,
    name: str,
    facts: object = None,
    batch: int = 256,
) -> Tensor:
    """Codes (count, h * w) int16 of ``picture(0)`` .. ``picture(count - 1)`` (uint8, H x W x 3).

    Kept in ``cache/codes_<name>_<fingerprint>.safetensors`` and read from there as long as the encoder, ``facts`` (what the
    pictures show), ``count`` and the first few pictures stay what they were; the decoder has no part in codes.
    """
    first = [picture(i) for i in range(min(count, PROBED))]
    path = cache / f"codes_{name}_{fingerprint(tokenizer, first, count, facts)}.safetensors"
    if path.is_file():
        return load_file(path)["codes"]
    rows = []
    for start in track(range(0, count, batch), description=f"encoding {count} pictures", transient=True):
        pixels = to_pixels(np.stack([picture(i) for i in range(start, min(count, start + batch))]))
        rows.append(tokenizer.encode(pixels.contiguous(memory_format=torch.channels_last)).flatten(1).short())
    codes = torch.cat(rows)
    cache.mkdir(parents=True, exist_ok=True)
    write_tensors(path, {"codes": codes})
    return codes


def fingerprint(tokenizer: ImageTokenizer, pictures: Sequence[np.ndarray], *facts: object) -> str:
    """16 hexadecimal digits of (encoder weights, pictures, facts): equal exactly when all of them are."""
    digest = hashlib.sha256(repr((tokenizer.config, facts)).encode())
    for value in tokenizer.encoder.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    for picture in pictures:
        digest.update(picture.tobytes())
    return digest.hexdigest()[:16]
