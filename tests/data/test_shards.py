"""Shards: an example comes back whole, many rows at once, and nothing damaged or foreign is read."""

import json
import os
import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers import CORPUS, TINY_IMAGE

from mmada.data.dataset import Dataset, Example, Formatter, UnusableRow
from mmada.data.encoded import encoder_fingerprint
from mmada.data.shard_files import LISTING, TOKENIZER, Listing, SetEntry, ShardEntry, write_listing
from mmada.data.shard_rows import RowFormat
from mmada.data.shard_writer import ShardLimits, Unit, units_of, write_shards
from mmada.data.shards import ShardedDataset, check_tokenizers, is_shards, text_fingerprint
from mmada.errors import InputError
from mmada.tokenizers.image import ImageTokenizer
from mmada.tokenizers.prompt import Message, Prompter
from mmada.tokenizers.text import TextTokenizer, train_text_tokenizer
from mmada.tokenizers.vocabulary import Vocabulary

BITS = 17


@pytest.fixture(scope="module")
def text() -> TextTokenizer:
    return train_text_tokenizer(CORPUS, vocab_size=400, min_frequency=2)


@pytest.fixture(scope="module")
def image() -> ImageTokenizer:
    torch.manual_seed(0)
    return ImageTokenizer(TINY_IMAGE).eval()


def grid(*shape: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, size, shape)


def every_kind(size: int = 32) -> list[Example]:
    """Examples that use every field, with texts of all sorts."""
    hole = np.zeros((3, 3), bool)
    hole[1, 1:] = True
    said = (Message("system", "Be brief."), Message("user", "tom has 3 pens"), Message("assistant", "7"))
    odd = "Ünïcode 漢字 🙂 <|eot_id|> <think> x</think>\n\ttom  has \0 3"
    return [
        Example(objective="text", text="tom has 3 red pens"),
        Example(objective="text", text=odd),
        Example(objective="infill", parts=(("tom has", False), (" 3", True), (" Pens", False), ("", True))),
        Example(objective="chat", messages=said, reasoning=True, padding=3),
        Example(
            objective="chat", messages=(*said, Message("user", odd), Message("assistant", "")), codes=(grid(4, 4), grid(2, 8))
        ),
        Example(objective="text_to_image", text="a red circle", codes=(grid(3, 3, size=size),), hole=hole),
        Example(objective="text_to_image", text="", codes=(grid(16),), thought="3 + 4", learn="thought"),
        Example(objective="text_to_image", text="A Red circle", codes=(torch.arange(12).reshape(3, 4),), masked_words=(0, 2)),
        Example(objective="edit", text="make it red", codes=(grid(2, 2), grid(4, 4))),
    ]


def same(one: Example, other: Example) -> bool:
    """Whether all fields are equal, codes by their numbers and shapes."""
    for f in fields(Example):
        a, b = getattr(one, f.name), getattr(other, f.name)
        if f.name in ("codes", "hole"):
            pairs = list(zip(a, b, strict=True)) if f.name == "codes" else [(a, b)]
            if not all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in pairs):
                return False
        elif a != b:
            return False
    return True


@dataclass(frozen=True)
class Listed:
    """Examples of a list, or reasons why there is none."""

    items: Sequence[Example | str]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Example:
        found = self.items[index]
        if isinstance(found, str):
            raise UnusableRow(found)
        return found


def build(out: Path, sets: dict[str, Dataset], text: TextTokenizer, image: str = "i", *, size: int = 32, rows: int = 4) -> Path:
    """Shards of examples without pictures."""
    shards: list[ShardEntry] = []
    format = RowFormat(text, size)
    for number, (name, dataset) in enumerate(sets.items()):
        for unit in units_of(name, number, "train", len(dataset), (), rows):
            shards += write_shards(unit, dataset, lambda i: f"row {i}", no_codes, out, format, ShardLimits(rows=rows, batch=2))
    text.save(out / TOKENIZER)
    entries = {name: SetEntry(use="chat", weight=1.0, rows={"train": len(dataset)}) for name, dataset in sets.items()}
    listing = Listing(
        text=text_fingerprint(text), image=image, codebook_size=size, sets=entries, shards=shards, complete=True
    )  # fmt: skip
    write_listing(out, listing)
    return out


def no_codes(images: Sequence[object]) -> list[Any]:
    assert not images
    return []


@pytest.mark.parametrize("size", [32, 2**16, 2**BITS])
def test_every_example_comes_back_whole(text: TextTokenizer, tmp_path: Path, size: int) -> None:
    examples = every_kind(size)
    found = ShardedDataset(build(tmp_path, {"a": Listed(examples)}, text, size=size))["a"]
    assert len(found) == len(examples)
    assert all(same(found[i], one) for i, one in enumerate(examples))
    assert same(found[-1], examples[-1])
    assert [found.id(i) for i in range(3)] == ["row 0", "row 1", "row 2"]
    kinds = {path.stat().st_size for path in tmp_path.rglob("codes.bin")}
    codes = sum(np.asarray(one).size for example in examples for one in example.codes)
    assert sum(kinds) == codes * (2 if size <= 2**16 else 4)
    with pytest.raises(IndexError):
        found[len(examples)]


def test_a_text_is_ids_where_they_are_exact_and_else_itself(text: TextTokenizer) -> None:
    format = RowFormat(text, 32)
    exact, other = "tom has 3 red pens", "Tom has 3 red pens"
    record = format.record(Example(objective="text", text=exact), "x")
    assert record.text.tolist() == text.encode(exact)
    assert json.loads(record.meta) == ["x", len(text.encode(exact)), {"objective": "text", "text": {"t": len(record.text)}}]
    record = format.record(Example(objective="text", text=other), "x")
    assert record.text.tobytes().rstrip(b"\0").decode() == other
    assert record.tokens == len(text.encode(other))  # counted as tokens all the same


def test_any_prompt_format_can_use_what_comes_back(text: TextTokenizer, tmp_path: Path) -> None:
    """Another instruction, other lengths, other padding: the canvases are those of the examples themselves."""
    examples = every_kind()
    found = ShardedDataset(build(tmp_path, {"a": Listed(examples)}, text))["a"]
    vocabulary = Vocabulary.of(text.ids(), 32)
    for instruction, lengths, thought in (("think first.", (), 12), ("Reason step by step.", (16, 32), 20)):
        make = Formatter(Prompter(text, vocabulary, instruction, 16), lengths, thought)
        for index, example in enumerate(examples):
            one, other = make.canvas(example), make.canvas(found[index])
            assert all(torch.equal(a, b) for a, b in zip(one.tensors, other.tensors, strict=True))


def test_many_rows_at_once(text: TextTokenizer, tmp_path: Path) -> None:
    sizes = [1, 5, 0, 9, 3, 2, 7]
    examples = [
        Example(objective="chat", messages=(Message("assistant", f"pens {n}"),), codes=(grid(size),) if size else ())
        for n, size in enumerate(sizes)
    ]
    found = ShardedDataset(build(tmp_path, {"a": Listed(["bad", *examples[:3], "bad", *examples[3:]])}, text))["a"]
    rows = np.array([6, 0, 0, 3, -2, 2])
    batch = found.batch(rows)
    for place, row in enumerate(rows.tolist()):
        codes = batch.codes[batch.codes_at[place] : batch.codes_at[place + 1]]
        ids = batch.text[batch.text_at[place] : batch.text_at[place + 1]]
        assert codes.tolist() == [code for one in examples[row].codes for code in one.tolist()]
        assert text.decode(ids.tolist()) == f"pens {row % 7}"
    assert found.tokens().tolist() == [size + len(text.encode(f"pens {n}")) for n, size in enumerate(sizes)]
    assert found.tokens([3, -1]).tolist() == [found.tokens()[3], found.tokens()[6]]
    texts = ShardedDataset(build(tmp_path / "texts", {"a": Listed([Example(objective="text", text="pens")])}, text))["a"]
    assert len(texts.batch([0, 0]).codes) == 0
    assert texts.batch([0, 0]).text.tolist() == text.encode("pens") * 2
    empty = found.batch([])
    assert len(empty.codes) == len(empty.text) == 0
    with pytest.raises(IndexError, match="rows 0 to 7 of 7"):
        found.batch([0, 7])


def test_shards_are_pickled_without_their_files_and_few_stay_open(
    text: TextTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmada.data.shards.OPEN_SHARDS", 2)
    examples = [Example(objective="text", text=f"pens {n}") for n in range(12)]
    found = ShardedDataset(build(tmp_path, {"a": Listed(examples)}, text, rows=2))["a"]
    assert [found[i].text for i in (0, 11, 5, 0, 7)] == [f"pens {i}" for i in (0, 11, 5, 0, 7)]
    assert len(found.opened) == 2
    other = pickle.loads(pickle.dumps(found))
    assert len(other.opened) == 0
    assert other[11].text == "pens 11"


def test_rows_that_cannot_be_used_are_counted(text: TextTokenizer, tmp_path: Path) -> None:
    half = Example(objective="infill", parts=(("\ud800", True),))
    outside = Example(objective="text_to_image", text="a", codes=(np.array([40]),))
    good = Example(objective="text", text="pens")
    items: list[Example | str] = ["no caption", good, half, outside, "no caption", good, "picture is missing"]
    mixture = ShardedDataset(build(tmp_path, {"a": Listed(items)}, text)).mixture
    reasons = {"no caption": 2, "picture is missing": 1, "text is not valid Unicode": 1, "codes outside the codebook of 32": 1}
    assert mixture.rejected == {"a": Counter(reasons)}
    assert {name: len(one) for name, one in mixture.split("train").items()} == {"a": 2}
    assert mixture.split("test") == {}
    mixture.check_rejected()  # they were judged when the shards were built


def test_a_shard_ends_at_its_size(text: TextTokenizer, tmp_path: Path) -> None:
    examples = [Example(objective="text_to_image", text="", codes=(grid(100),)) for _ in range(10)]
    unit = Unit("a/b ü", 3, "train", 0, 10)
    limits = ShardLimits(rows=10, bytes=600, batch=2)
    shards = list(write_shards(unit, Listed(examples), str, no_codes, tmp_path, RowFormat(text, 32), limits))
    assert [(one.first, one.last) for one in shards] == [(0, 4), (4, 8), (8, 10)]
    assert [one.folder for one in shards] == [f"003-a_b_-train-{first:010d}" for first in (0, 4, 8)]
    left = [(one.first, one.last) for one in units_of("a", 3, "train", 25, shards[:2], 10)]
    assert left == [(8, 10), (10, 20), (20, 25)]


def damage_listing(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        listing = json.loads((folder / LISTING).read_text())
        change(listing)
        (folder / LISTING).write_text(json.dumps(listing))

    return damage


def cut(name: str, count: int = 1) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = next(folder.glob(f"*/{name}"))
        os.truncate(path, path.stat().st_size - count)

    return damage


def overwrite(name: str, data: bytes, at: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = next(folder.glob(f"*/{name}"))
        whole = bytearray(path.read_bytes())
        whole[at : at + len(data)] = data
        path.write_bytes(whole)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / LISTING).unlink(), r"has no shards\.json"),
        (lambda folder: (folder / LISTING).write_text("{"), "is damaged"),
        (damage_listing(lambda x: x.update(version=2)), "has version 2, not 1"),
        (damage_listing(lambda x: x.update(complete=False)), "are not complete; run the same mmada data build again"),
        (damage_listing(lambda x: x["shards"][0].update(folder="../x")), r"is damaged \(shards\.0\.folder"),
        (damage_listing(lambda x: x["shards"][0].update(rows=-1)), r"is damaged \(shards\.0\.rows"),
        (damage_listing(lambda x: x["shards"][0].update(rows=10**12)), r"index\.npy' of a shard is damaged"),
        (damage_listing(lambda x: x.update(text="other")), "is not the one they were built with"),
        (cut("codes.bin"), r"codes\.bin' of a shard is damaged"),
        (cut("text.bin", 4), r"text\.bin' of a shard is damaged"),
        (cut("index.npy", 8), r"index\.npy' of a shard is damaged"),
        (overwrite("index.npy", b"\xff" * 8, 160), r"index\.npy' of a shard is damaged"),
        (overwrite("index.npy", b"\x7f", 1), r"index\.npy' of a shard is damaged"),
        (overwrite("meta.bin", b"{{{{", 0), "a row of a shard is damaged"),
        (overwrite("text.bin", b"\xff" * 4, 0), "an id is not of the tokenizer"),
        (lambda folder: next(folder.glob("*/text.bin")).unlink(), "cannot be read"),
    ],
)
def test_what_is_damaged_is_said(text: TextTokenizer, tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    examples = [Example(objective="text_to_image", text="red pens", codes=(grid(4),))]
    build(tmp_path, {"a": Listed(examples)}, text)
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        ShardedDataset(tmp_path)["a"][0]


def test_shards_of_other_tokenizers_are_refused(text: TextTokenizer, image: ImageTokenizer, tmp_path: Path) -> None:
    examples = [Example(objective="text", text="pens")]
    mixture = ShardedDataset(build(tmp_path, {"a": Listed(examples)}, text, encoder_fingerprint(image))).mixture
    assert is_shards(tmp_path)
    check_tokenizers(mixture, text, image)
    check_tokenizers(mixture, text, None)
    check_tokenizers(replace(mixture, sets={}), text, image)
    other = ImageTokenizer(TINY_IMAGE)
    with pytest.raises(InputError, match="were built with another image tokenizer than the model's"):
        check_tokenizers(mixture, text, other)
    with pytest.raises(InputError, match="were built with another text tokenizer than the model's"):
        check_tokenizers(mixture, train_text_tokenizer([*CORPUS, "abc abc abc"], vocab_size=400, min_frequency=2), image)
