"""JSON and YAML of users: every kind of damage is one sentence that names the file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import tiny_folder

import mmada
from mmada.errors import InputError
from mmada.io.documents import parse_json, parse_yaml, read_fields, read_json, read_yaml

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132735\n"
DEEP = b"[" * 200_000
DAMAGES: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "does not exist"),
    "empty": (b"", "not JSON"),
    "cut": (b'{"a": [1, 2', "not JSON"),
    "text": (b"hello", "not JSON"),
    "binary": (b"\xff\xfe\x00", "not UTF-8"),
    "deep": (DEEP, "nested too deeply"),
    "deep object": (b'{"a":' * 100_000, "nested too deeply"),
    "pointer": (POINTER, "is a git-lfs pointer, not the file; run git lfs pull"),
    "folder": (b"folder", "is a folder, not a file"),
}


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("reader", [read_json, read_fields, read_yaml])
def test_damage_is_one_sentence(tmp_path: Path, name: str, reader: Callable[[Path, str], Any]) -> None:
    path = tmp_path / "a.json"
    damage, said = DAMAGES[name]
    if name == "folder":
        path.mkdir()
    elif damage is not None:
        path.write_bytes(damage)
    if reader is read_yaml and name in ("empty", "text", "cut"):
        if name == "cut":
            said = "not valid YAML"
        else:
            assert reader(path, "settings") == (None if name == "empty" else "hello")
            return
    with pytest.raises(InputError, match=said) as refused:
        reader(path, "settings")
    sentence = str(refused.value)
    assert sentence.startswith(f"settings '{path}' ")
    assert "Errno" not in sentence
    assert "\n" not in sentence
    assert len(sentence) < 400 + len(str(path))


@pytest.mark.parametrize("value", ["null", "[]", "3", '"a"', "true"])
def test_fields_are_an_object(tmp_path: Path, value: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(value)
    with pytest.raises(InputError, match="not an object of fields"):
        read_fields(path, "settings")


def test_text_is_parsed_and_refused_alike() -> None:
    assert parse_json('{"a": 1}', "x") == parse_yaml("a: 1", "x") == {"a": 1}
    for parse in (parse_json, parse_yaml):
        with pytest.raises(InputError, match="x is nested too deeply; fix it"):
            parse("[" * 200_000, "x")


@pytest.mark.parametrize("file", ["config.json", "preset.json", "image_tokenizer/config.json"])
@pytest.mark.parametrize("damage", [DEEP, b"\xff\xfe", b"{", b"[]", POINTER])
def test_files_of_a_model_folder(tmp_path: Path, file: str, damage: bytes) -> None:
    tiny_folder(tmp_path)
    (tmp_path / file).write_bytes(damage)
    with pytest.raises(InputError, match="|".join(["damaged", "nested too deeply", "git-lfs pointer", "it needs an object"])):
        mmada.load(tmp_path, device="cpu")


@pytest.mark.parametrize(
    "file", ["model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json", "image_tokenizer/model.safetensors"]
)
def test_a_git_lfs_pointer_is_named_wherever_it_is(tmp_path: Path, file: str) -> None:
    tiny_folder(tmp_path)
    (tmp_path / file).write_bytes(POINTER)
    with pytest.raises(InputError, match=f"{Path(file).name}' is a git-lfs pointer, not the file; run git lfs pull"):
        mmada.load(tmp_path, device="cpu")
