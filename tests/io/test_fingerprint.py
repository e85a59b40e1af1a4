"""Fingerprints: equal exactly for equal contents."""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mmada.io.fingerprint import file_sample, fingerprint, weights_fingerprint


@dataclass(frozen=True)
class Choice:
    a: int = 1
    b: str = "x"


@dataclass(frozen=True)
class Other:
    a: int = 1
    b: str = "x"


def values(folder: Path) -> list[object]:
    (folder / "one.bin").write_bytes(b"abc")
    (folder / "two.bin").write_bytes(b"abd")
    array = np.arange(6, dtype=np.int32)
    return [
        (), (None,), ("",), ("", ""), ("a", "b"), ("ab",), (b"ab",), (["a", "b"],), (["a"], ["b"]), (1,), (1.0,), (True,), ("1",),
        (array,), (array.reshape(2, 3),), (array.astype(np.int64),), (torch.from_numpy(array),), (torch.zeros(3),),
        (torch.zeros(3, dtype=torch.bfloat16),), ({"a": 1},), ({"a": 2},), (Choice(),), (Choice(a=2),), (Other(),),
        (folder / "one.bin",), (folder / "two.bin",), (str(folder / "one.bin"),), (Image.new("RGB", (2, 2)),),
        (Image.new("RGB", (2, 2), "red"),), (Image.new("L", (2, 2)),), ("\ud800",), (torch.zeros(0),), (torch.tensor(0.0),),
    ]  # fmt: skip


def test_other_contents_have_other_fingerprints(tmp_path: Path) -> None:
    found = [fingerprint(*value) for value in values(tmp_path)]  # type: ignore[misc]
    for (i, one), (j, two) in combinations(enumerate(found), 2):
        assert one != two, (values(tmp_path)[i], values(tmp_path)[j])
    assert all(len(one) == 32 for one in found)


def test_equal_contents_have_the_same(tmp_path: Path) -> None:
    assert [fingerprint(*v) for v in values(tmp_path)] == [fingerprint(*v) for v in values(tmp_path)]  # type: ignore[misc]
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({1, 2, 3}) == fingerprint({3, 2, 1})
    (tmp_path / "copy.bin").write_bytes(b"abc")
    assert fingerprint(tmp_path / "copy.bin") == fingerprint(tmp_path / "one.bin")  # a file is its content
    strided = np.arange(12).reshape(3, 4)[:, ::2]
    assert fingerprint(strided) == fingerprint(strided.copy())
    with pytest.raises(TypeError, match="object has no fingerprint"):
        fingerprint(object())


def test_weights_of_a_folder(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "model.safetensors")
    first = weights_fingerprint(tmp_path, "x")
    assert first != weights_fingerprint(tmp_path, "y")
    (tmp_path / "preset.json").write_text("{}")
    assert first == weights_fingerprint(tmp_path, "x")
    (tmp_path / "image_tokenizer").mkdir()
    save_file({"a": torch.ones(3)}, tmp_path / "image_tokenizer" / "model.safetensors")
    assert first != weights_fingerprint(tmp_path, "x")


def test_a_sample_sees_the_size_and_spread_changes(tmp_path: Path) -> None:
    file, data = tmp_path / "big", bytearray(50_000)
    file.write_bytes(data)
    first = file_sample(file, pieces=10, count=100)
    for change in (0, 5000, 45_050):
        other = data.copy()
        other[change] = 1
        file.write_bytes(other)
        assert file_sample(file, pieces=10, count=100) != first
    file.write_bytes(data + b"\0")
    assert file_sample(file, pieces=10, count=100) != first
