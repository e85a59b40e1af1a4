"""Cache of image codes: pictures are encoded once and stored in a file named by the fingerprint of what made them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from safetensors.torch import load_file
from torch import Tensor

from mmada.io.atomic import write_tensors
from mmada.io.fingerprint import fingerprint
from mmada.tokenizers.image import ImageTokenizer, to_pixels

__all__ = ["encode_pictures"]

PROBED = 8
"""Pictures that are made to see whether their source is still the same."""


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
    """Codes (count, h * w) int32 of ``picture(0)`` .. ``picture(count - 1)`` (uint8, H x W x 3).

    Stored in ``cache/codes_<name>_<fingerprint>.safetensors`` and read from there as long as the encoder, ``facts`` (what the
    pictures show), ``count`` and the first few pictures stay what they were; the decoder has no part in codes.
    """
    first = [picture(i) for i in range(min(count, PROBED))]
    made_by = fingerprint("int32", tokenizer.config, dict(tokenizer.encoder.state_dict()), first, count, facts)[:16]
    path = cache / f"codes_{name}_{made_by}.safetensors"
    if path.is_file():
        return load_file(path)["codes"]
    rows = []
    for start in track(range(0, count, batch), description=f"encoding {count} pictures", transient=True):
        pixels = to_pixels(np.stack([picture(i) for i in range(start, min(count, start + batch))]))
        # int32 holds codes of any number of bits that a tokenizer may have; int16 ends at 15.
        rows.append(tokenizer.encode(pixels.contiguous(memory_format=torch.channels_last)).flatten(1).int())
    codes = torch.cat(rows)
    cache.mkdir(parents=True, exist_ok=True)
    write_tensors(path, {"codes": codes})
    return codes
