"""Settings of known checkpoints for a folder: its own preset first, then its hub name, then its config."""

import json
from pathlib import Path

import pytest

from mmada.errors import InputError
from mmada.pipeline.known_checkpoints import known_checkpoint, known_checkpoints
from mmada.pipeline.loading import find_folder, image_source, read_image_tokenizer

RELEASED = {"model_type": "mmada", "d_model": 32, "embedding_size": 134656, "num_vq_tokens": 1024}


def folder(path: Path, **fields: object) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(fields))
    return path


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("copy", RELEASED, "mixcot"),
        ("copy", RELEASED | {"num_vq_tokens": 256}, "pretrain"),
        ("copy", {"model_type": "mmada", "vocab_size": 134656}, "mixcot"),
        ("copy", {"model_type": "llada", "embedding_size": 126464}, "llada"),
        ("MMaDA-8B-Base", RELEASED, "base"),
        ("models--Gen-Verse--MMaDA-8B-Base/snapshots/0a1b2c", RELEASED, "base"),
        ("LLaDA-8B-Instruct", RELEASED, "mixcot"),
        ("copy", RELEASED | {"embedding_size": None, "vocab_size": 134656}, "mixcot"),
        ("models--GSAI-ML--LLaDA-8B-Instruct/snapshots/0a1b2c", {"model_type": "llada", "embedding_size": 126464}, "llada"),
    ],
)
def test_a_folder_gets_its_card(tmp_path: Path, name: str, fields: dict[str, object], expected: str) -> None:
    assert known_checkpoint(folder(tmp_path / name, **fields)) == known_checkpoints()[expected]


def test_a_folders_own_preset_comes_first(tmp_path: Path) -> None:
    path = folder(tmp_path / "MMaDA-8B-Base", **RELEASED)
    (path / "preset.json").write_text('{"cot_instruction": "think.", "image_size": 128}')
    card = known_checkpoint(path)
    assert (card.preset.image_size, card.image_tokenizer) == (128, "showlab/magvitv2")
    assert known_checkpoint(path, "pretrain") == known_checkpoints()["pretrain"]


def test_wrong_names_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'mixcot'"):
        known_checkpoint(folder(tmp_path / "a", **RELEASED), "mixcott")
    with pytest.raises(InputError, match=r"no preset\.json"):
        known_checkpoint(folder(tmp_path / "b", d_model=32, embedding_size=4915))  # one of ours
    with pytest.raises(InputError, match=r"num_vq_tokens of config\.json must be"):
        known_checkpoint(folder(tmp_path / "c", **(RELEASED | {"num_vq_tokens": -4})))
    (tmp_path / "b" / "config.json").write_text("[]")
    with pytest.raises(InputError, match="damaged"):
        known_checkpoint(tmp_path / "b")


def test_cards_hold_what_the_authors_use() -> None:
    known = known_checkpoints()
    assert set(known) == {"base", "llada", "mixcot", "pretrain"}
    images = {name: (card.preset.image.steps, card.preset.image.guidance) for name, card in known.items()}
    assert images == {"mixcot": (50, 3.5), "base": (15, 3.5), "pretrain": (12, 3.0), "llada": (50, 3.5)}
    assert {card.preset.image.annealing for card in known.values()} == {"compounding"}
    assert {card.preset.dtype for card in known.values()} == {"stored"}
    reasoning = known["mixcot"].preset.reasoning
    assert (reasoning.length, reasoning.steps, reasoning.block) == (1024, 512, 64)
    assert known["pretrain"].preset.image_size == 256
    assert known["pretrain"].preset.prompt_format.literal_eot


def test_the_image_tokenizer_is_in_beside_or_on_the_hub(tmp_path: Path) -> None:
    path, card = folder(tmp_path / "model", **RELEASED), known_checkpoints()["mixcot"]
    assert image_source(path, card) == "showlab/magvitv2"
    (tmp_path / "magvitv2").mkdir()
    assert image_source(path, card) == tmp_path / "magvitv2"
    (path / "image_tokenizer").mkdir()
    assert image_source(path, card) == path / "image_tokenizer"
    assert image_source(folder(tmp_path / "other"), known_checkpoints()["llada"]) is None


def test_a_models_name_stands_for_its_image_tokenizer_too() -> None:
    own = read_image_tokenizer(find_folder("nano") / "image_tokenizer")
    assert read_image_tokenizer("nano").config == own.config
    with pytest.raises(InputError, match="does not exist"):
        read_image_tokenizer("./nowhere")
