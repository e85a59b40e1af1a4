"""Bad input to the pipeline, and damaged model folders: each gets one sentence that names what is wrong."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers import SIZE, TINY_IMAGE

from mmada.errors import InputError
from mmada.model.released_names import CONFIG_NAMES
from mmada.pipeline import MMaDA
from mmada.pipeline.info import describe
from mmada.tokenizers.image import ImageTokenizer


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda m, s: m.generate(" "), "prompt is empty"),
        (lambda m, s: m.generate([]), "empty"),
        (lambda m, s: m.generate("pens", steps=0), "steps"),
        (lambda m, s: m.generate("pens", steps=3), "multiple of 2"),
        (lambda m, s: m.generate("pens", length=-1), "length"),
        (lambda m, s: m.generate("pens", block=9), "block 9"),
        (lambda m, s: m.generate("pens", block=0), "block"),
        (lambda m, s: m.generate("pens", temperature=-1.0), "temperature"),
        (lambda m, s: m.generate("pens", guidance=-1.0), "guidance"),
        (lambda m, s: m.generate("pens " * 300), "length of 192"),
        (lambda m, s: m.generate(["pens", "a"], seed=[1]), "seed"),
        (lambda m, s: m.generate("pens", seed=0.5), "seed"),
        (lambda m, s: m.ask(s, ""), "question is empty"),
        (lambda m, s: m.ask("nowhere.png", "what?"), "nowhere.png"),
        (lambda m, s: m.draw(""), "prompt is empty"),
        (lambda m, s: m.draw("pens", steps=-2), "steps"),
        (lambda m, s: m.draw("pens", guidance=float("nan")), "guidance"),
        (lambda m, s: m.inpaint(s, np.ones((8, 8), dtype=bool)), "8x8"),
        (lambda m, s: m.extend(s), "at least one side"),
        (lambda m, s: m.extend(s, left=-1), "left"),
        (lambda m, s: m.infill("no gap"), "no gap"),
        (lambda m, s: m.infill(""), "empty"),
        (lambda m, s: m.infill("pens " * 300 + "[MASK]"), "^text takes .* over the model's length of 192"),
        (lambda m, s: m.infill("[MASK] " * 300), "^text takes .* over the model's length of 192"),
        (lambda m, s: m.infill("a [MASK]", steps=0), "steps"),
        (lambda m, s: m.infill("a [MASK]", temperature="x"), "temperature"),
        (lambda m, s: m.generate("pens", length="3"), "length"),
        (lambda m, s: m.generate("pens", length=10**9), "length must be a whole number of 1 to 192"),
        (lambda m, s: m.generate("pens", steps=10**9), "steps must be a whole number of 1 to 10000"),
        (lambda m, s: m.generate("pens", temperature=[1.0]), "temperature"),
        (lambda m, s: m.generate("pens", guidance="x"), "guidance"),
        (lambda m, s: m.generate("pens", seed=2**64), "seed"),
        (lambda m, s: m.generate("pens", seed=-1), "seed"),
        (lambda m, s: m.generate("pens", parallel="treshold=0.9"), "parallel 'treshold=0.9' is not a known rule"),
        (lambda m, s: m.draw("pens", parallel=5), "parallel cannot be 5"),
        (lambda m, s: m.inpaint(s, np.ones((SIZE, SIZE), bool), "pens", reuse=5), "reuse cannot be 5"),
        (lambda m, s: m.generate("caf\udce9"), "not valid text"),
        (lambda m, s: m.draw("pens", steps=1.5), "steps"),
        (lambda m, s: m.draw("pens", temperature=-1), "^temperature must"),
        (lambda m, s: m.draw("pens", steps=10**9), "steps"),
        (lambda m, s: m.draw("pens", size=(64_000, 64_000)), "size 64000x64000 takes 64000000 codes, over"),
        (lambda m, s: m.draw("pens", size=(33, 32)), "width 33 is not a multiple of 8"),
        (lambda m, s: m.draw("pens", size=32), "size 32 is not a pair"),
        (lambda m, s: m.inpaint(s, np.ones((SIZE, SIZE), bool), None), "prompt is None"),
        (lambda m, s: m.extend(s, right=1.5), "right"),
        (lambda m, s: m.extend(s, ["a"], right=1), "prompt is a list"),
        (lambda m, s: MMaDA.load(""), "is not a name"),
        (lambda m, s: MMaDA.load(5), "is not a name"),
        (lambda m, s: MMaDA.load("x" * 5000), "is a name of 5000 bytes"),
        (lambda m, s: MMaDA.load("./nowhere"), "does not exist"),
        (lambda m, s: MMaDA.load("nano", device=[1]), "device"),
    ],
)  # fmt: skip
def test_bad_input_is_named(model: MMaDA, scene: Image.Image, call: object, named: str) -> None:
    assert callable(call)
    with pytest.raises(InputError, match=named):
        call(model, scene)


def test_an_image_tokenizer_of_another_model_is_named(folder: Path, tmp_path: Path) -> None:
    ImageTokenizer(replace(TINY_IMAGE, code_bits=4)).save(tmp_path)
    with pytest.raises(InputError, match=r"image tokenizer has 16 codes, but the model has 32; give the one it was trained with"):
        MMaDA.load(folder, device="cpu", image_tokenizer=tmp_path).draw("pens")
    with pytest.raises(InputError, match="image tokenizer has 16 codes"):
        describe(folder, image_tokenizer=tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        describe(folder, image_tokenizer="/nowhere/a")


def test_two_types_of_the_weights_are_one_too_many(folder: Path) -> None:
    with pytest.raises(InputError, match=r"dtype torch\.float32 and quantisation 'int8' are both types"):
        MMaDA.load(folder, device="cpu", dtype=torch.float32, quantisation="int8")


def test_a_hole_outside_the_middle_square_is_named(model: MMaDA) -> None:
    mask = np.zeros((SIZE, 3 * SIZE), dtype=bool)
    mask[:, 0] = True
    with pytest.raises(InputError, match="middle square"):
        model.inpaint(Image.new("RGB", (3 * SIZE, SIZE)), mask)


def test_an_unknown_model_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nano"):
        MMaDA.load("nanno")
    with pytest.raises(InputError, match="does not exist"):
        MMaDA.load(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"lacks config\.json"):
        MMaDA.load(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(InputError, match=rf"lacks .*; give {tmp_path / 'model'}$"):
        MMaDA.load(tmp_path)
    with pytest.raises(InputError, match=r"could not be downloaded .*; check the path or the hub id"):
        MMaDA.load("nobody/nothing")


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("model.safetensors", b"short", "damaged"),
        ("tokenizer.json", b"{", "damaged"),
        ("preset.json", b'{"cot_instruction": "x", "colour": 1}', "colour"),
        ("preset.json", b'{"cot_instruction": "x", "image": {"steps": 0}}', "steps"),
        ("preset.json", b'{"cot_instruction": "x", "image": {"schedule": "cosin"}}', "schedule must be one of cosine, linear"),
        ("preset.json", b'{"cot_instruction": 5}', "cot_instruction"),
        ("preset.json", b"[]", r"preset\.json.*: it holds \[\]"),
        ("preset.json", b'{"cot_instruction": "x", "max_length": "5"}', "max_length"),
        ("image_tokenizer/config.json", b"{}", "image tokenizer"),
    ],
)
def test_a_damaged_folder_is_named(folder: Path, tmp_path: Path, name: str, content: bytes, named: str) -> None:
    broken = tmp_path / "model"
    shutil.copytree(folder, broken)
    (broken / name).write_bytes(content)
    with pytest.raises(InputError, match=named):
        MMaDA.load(broken, device="cpu")


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("num_hidden_layers", 2, "missing"),
        ("num_hidden_layers", 0, "n_layers of config.json must be"),
        ("intermediate_size", 64, "of another shape"),
    ],
)
def test_weights_of_another_config_are_named(
    folder: Path, tmp_path: Path, field: str, value: int, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "model"
    shutil.copytree(folder, other)
    config = json.loads((other / "config.json").read_text())
    both = {name: value for pair in CONFIG_NAMES.items() if field in pair for name in pair}
    (other / "config.json").write_text(json.dumps(config | both))
    with pytest.raises(InputError, match=named):
        MMaDA.load(other, device="cpu")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"n_layers": 3}, "n_layers 3 but num_hidden_layers 1"),
        ({"alibi": True}, "alibi of config.json is True; only False"),
        ({"model_type": "bert"}, "model_type of .* is 'bert'"),
        ({"hidden_size": "wide", "d_model": "wide"}, "d_model of config.json must be a whole number"),
    ],
)
def test_a_config_of_another_model_is_named(folder: Path, tmp_path: Path, fields: dict[str, object], named: str) -> None:
    other = tmp_path / "model"
    shutil.copytree(folder, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | fields))
    with pytest.raises(InputError, match=named):
        MMaDA.load(other, device="cpu")
