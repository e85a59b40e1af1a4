"""Pictures are encoded when they are asked for, once, and again only where something changed."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers import TINY_IMAGE

from mmada.data.dataset import Example, UnusableRow
from mmada.data.encoded import CodeStore, EncodedDataset, encode_images
from mmada.errors import InputError
from mmada.io.images import ImageSource, load_image
from mmada.pipeline.grids import fit
from mmada.tokenizers.image import ImageTokenizer, to_pixels
from mmada.tokenizers.prompt import Message

SMALL = partial(fit, size=32)


@pytest.fixture
def tokenizer() -> ImageTokenizer:
    torch.manual_seed(0)
    return ImageTokenizer(TINY_IMAGE).eval()


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Twelve pictures of different shapes."""
    paths = []
    for n in range(12):
        pixels = np.random.default_rng(n).integers(0, 256, (40 + n, 70 - n, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{n}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


@dataclass(frozen=True)
class Shown:
    """A question about each picture."""

    images: Sequence[ImageSource]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        if self.images[index] == "":
            raise UnusableRow("no picture named")
        turns = (Message("user", "what?"), Message("assistant", str(index)))
        images = () if self.images[index] == "none" else (self.images[index],)
        return Example(objective="chat", messages=turns, images=images)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call encoded."""
    sizes: list[int] = []
    plain = ImageTokenizer.encode

    def watched(self: ImageTokenizer, pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        return plain(self, pixels)

    monkeypatch.setattr(ImageTokenizer, "encode", watched)
    return sizes


def test_pictures_are_encoded_when_they_are_asked_for_and_once(
    tokenizer: ImageTokenizer, pictures: list[Path], tmp_path: Path, counted: list[int]
) -> None:
    encoded = EncodedDataset(Shown(pictures), tokenizer, SMALL, tmp_path / "cache", batch=4)
    assert len(encoded) == 12
    assert counted == []
    first = encoded[3]
    assert counted == [1]
    assert first.images == ()
    assert first.messages[1].content == "3"
    pixels = to_pixels(np.stack([np.asarray(SMALL(load_image(pictures[3])))]))
    assert np.array_equal(first.codes[0], tokenizer.encode(pixels)[0].numpy())
    counted.clear()
    many = [one for one in encoded.many(range(12)) if isinstance(one, Example)]
    assert counted == [4, 4, 3]  # the fourth picture was there
    assert np.array_equal(many[3].codes[0], first.codes[0])
    counted.clear()
    again = EncodedDataset(Shown(pictures), tokenizer, SMALL, tmp_path / "cache")  # another process
    assert all(np.array_equal(again[n].codes[0], many[n].codes[0]) for n in range(12))
    assert counted == []


def test_a_picture_alone_has_the_codes_it_has_among_others(tokenizer: ImageTokenizer, pictures: list[Path]) -> None:
    together = encode_images(pictures, tokenizer, SMALL, 12)
    alone = encode_images(pictures, tokenizer, SMALL, 1)
    assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("change", ["encoder", "fit", "how", "picture"])
def test_what_changes_the_codes_is_encoded_anew(
    tokenizer: ImageTokenizer, pictures: list[Path], tmp_path: Path, counted: list[int], change: str
) -> None:
    EncodedDataset(Shown(pictures), tokenizer, SMALL, tmp_path / "cache")[0]
    counted.clear()
    if change == "encoder":
        torch.nn.init.zeros_(tokenizer.encoder.conv_in.weight)
    if change == "picture":
        Image.new("RGB", (40, 70), "red").save(pictures[0])
        os.utime(pictures[0], ns=(1, 1))
    other = {"fit": partial(fit, size=64), "how": partial(fit, size=32, how="pad")}.get(change, SMALL)
    size = 64 if change == "fit" else 32
    encoded = EncodedDataset(Shown(pictures), tokenizer, other, tmp_path / "cache")
    assert encoded[0].codes[0].shape == (size // 8, size // 8)
    assert counted == [1]


def test_a_new_decoder_keeps_the_codes(
    tokenizer: ImageTokenizer, pictures: list[Path], tmp_path: Path, counted: list[int]
) -> None:
    EncodedDataset(Shown(pictures), tokenizer, SMALL, tmp_path / "cache")[0]
    torch.nn.init.zeros_(tokenizer.decoder.conv_out.weight)
    EncodedDataset(Shown(pictures), tokenizer, SMALL, tmp_path / "cache")[0]
    assert counted == [1]


def test_pictures_that_cannot_be_read_have_a_reason_and_harm_no_other(
    tokenizer: ImageTokenizer, pictures: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "cut.png").write_bytes(pictures[0].read_bytes()[:300])
    (tmp_path / "text.png").write_text("no picture")
    given: list[ImageSource] = [
        pictures[0], tmp_path / "gone.png", tmp_path / "cut.png", tmp_path / "text.png", "", pictures[1].read_bytes(), "none",
        tmp_path, "x\0y",
    ]  # fmt: skip
    encoded = EncodedDataset(Shown(given), tokenizer, SMALL, tmp_path / "cache")
    found = encoded.many(range(len(given)))
    reasons = [one.reason if isinstance(one, UnusableRow) else "" for one in found]
    assert reasons == [
        "", "picture is missing", "picture is damaged", "picture is not in a known format", "no picture named", "", "",
        "picture is missing", "picture is missing",
    ]  # fmt: skip
    assert isinstance(found[6], Example)
    assert found[6].codes == ()
    with pytest.raises(UnusableRow, match="picture is damaged"):
        encoded[2]
    assert encoded.many([]) == []


def test_a_damaged_cache_is_said(tmp_path: Path) -> None:
    store = CodeStore(tmp_path / "codes.sqlite")
    store.write({"a": np.arange(6, dtype=np.int32).reshape(2, 3)})
    assert store.read(["a", "b"])["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert store.read([str(n) for n in range(2000)]) == {}
    store.path.write_bytes(b"x" * 5000)
    with pytest.raises(InputError, match=r"cache of codes .* cannot be used \(file is not a database\); remove it"):
        store.read(["a"])
