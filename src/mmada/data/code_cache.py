"""Cache of image codes: pictures are encoded once and stored in a file named by the fingerprint of what made them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from safetensors.torch import load_file
from torch import Tensor

from mmada.data.dataset import Dataset, Example
from mmada.data.encoded import facts_of
from mmada.data.readers import Examples
from mmada.errors import InputError
from mmada.io.atomic import write_tensors
from mmada.io.fingerprint import fingerprint
from mmada.io.images import ImageSource, load_image
from mmada.tokenizers.image import ImageTokenizer, to_pixels

__all__ = ["encode_dataset", "encode_pictures"]

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


def encode_dataset(
    dataset: Dataset, tokenizer: ImageTokenizer, fit: Callable[[Image.Image], Image.Image], *, cache: Path, name: str
) -> Examples:
    """The examples with their pictures as codes; ``fit`` makes a picture the size that the model works on.

    Examples with a picture that cannot be read are counted in ``rejected``.
    """
    examples: list[Example] = []
    rejected = Counter[str]()
    for index in range(len(dataset)):
        example = dataset[index]
        if all(readable(image) for image in example.images):
            examples.append(example)
        else:
            rejected["picture cannot be read"] += 1
    images = [image for example in examples for image in example.images]
    if not images:
        return Examples(tuple(examples), rejected)

    def pixels(index: int) -> np.ndarray:
        return np.asarray(fit(load_image(images[index], "picture")))

    facts = [facts_of(image) for image in images]
    rows = iter(encode_pictures(tokenizer, pixels, len(images), cache=cache, name=name, facts=facts, batch=32))
    encoded = [replace(example, images=(), codes=tuple(next(rows) for _ in example.images)) for example in examples]
    return Examples(tuple(encoded), rejected)


def readable(image: ImageSource) -> bool:
    """Whether a picture can be read."""
    try:
        load_image(image, "picture")
    except InputError:
        return False
    return True
