"""Pictures are encoded once, and again as soon as the encoder or the pictures change."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.helpers import TINY_IMAGE

from mmada.data.code_cache import encode_pictures
from mmada.tokenizers.image import ImageTokenizer


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
