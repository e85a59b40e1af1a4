"""Pictures are encoded once, and again as soon as the encoder or the pictures change."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.helpers import TINY_IMAGE

from mmada.data.code_cache import encode_pictures
from mmada.tokenizers.image import ImageTokenizer, to_pixels


@pytest.fixture
def tokenizer() -> ImageTokenizer:
    torch.manual_seed(0)
    return ImageTokenizer(TINY_IMAGE).eval()


def picture(index: int, shift: int = 0) -> np.ndarray:
    return np.random.default_rng(index + shift).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def codes(tokenizer: ImageTokenizer, cache: Path, *, shift: int = 0, facts: object = "a scene", count: int = 10) -> torch.Tensor:
    return encode_pictures(tokenizer, lambda i: picture(i, shift), count, cache=cache, name="x", facts=facts, batch=4)


def test_the_file_is_read_again(tokenizer: ImageTokenizer, tmp_path: Path) -> None:
    first = codes(tokenizer, tmp_path)
    assert first.shape == (10, 64)
    (kept,) = tmp_path.iterdir()
    written = kept.stat().st_mtime_ns
    assert torch.equal(codes(tokenizer, tmp_path), first)
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == [written]


def test_a_new_decoder_keeps_the_codes(tokenizer: ImageTokenizer, tmp_path: Path) -> None:
    codes(tokenizer, tmp_path)
    torch.nn.init.zeros_(tokenizer.decoder.conv_out.weight)
    codes(tokenizer, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("change", ["encoder", "renderer", "facts", "count"])
def test_what_changes_the_codes_is_encoded_anew(tokenizer: ImageTokenizer, tmp_path: Path, change: str) -> None:
    codes(tokenizer, tmp_path)
    if change == "encoder":
        torch.nn.init.zeros_(tokenizer.encoder.conv_in.weight)
    new = {"renderer": {"shift": 1}, "facts": {"facts": "another"}, "count": {"count": 9}}.get(change, {})
    codes(tokenizer, tmp_path, **new)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("bits", [5, 15, 16, 17, 18])
def test_codes_of_any_number_of_bits_are_stored_whole(bits: int, tmp_path: Path) -> None:
    """int16 ends at 32,767: with more bits half of the codes came back negative, and were taken for text."""
    torch.manual_seed(0)
    tokenizer = ImageTokenizer(replace(TINY_IMAGE, code_bits=bits)).eval()
    found = codes(tokenizer, tmp_path)
    pixels = to_pixels(np.stack([picture(i) for i in range(10)]))
    assert torch.equal(found, tokenizer.encode(pixels).flatten(1).to(found.dtype))
    assert torch.equal(codes(tokenizer, tmp_path), found)  # from the file
    assert found.dtype == torch.int32
    assert 0 <= int(found.min()) <= int(found.max()) < 2**bits
    assert int(found.max()) > 2 ** (bits - 1)
