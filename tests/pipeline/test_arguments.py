"""Arguments of the Python interface: odd values of every kind are refused by name, before anything is read or computed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers import SIZE, tiny_folder

import mmada
from mmada.errors import InputError
from mmada.model.predictor import Predictor
from mmada.pipeline import ImageSampling, MMaDA, TextSampling
from mmada.sampling import Frame


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MMaDA:
    folder: Path = tmp_path_factory.mktemp("model")
    tiny_folder(folder)
    return mmada.load(folder, device="cpu")


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    return Image.new("RGB", (SIZE, SIZE), "red")


METHODS: dict[str, Callable[..., Any]] = {
    "generate": lambda m, s, **o: m.generate("pens", **o),
    "ask": lambda m, s, **o: m.ask(s, "pens?", **o),
    "chat": lambda m, s, **o: m.chat([{"role": "user", "content": "pens?"}], **o),
    "infill": lambda m, s, **o: m.infill("2 + [MASK]", **o),
    "draw": lambda m, s, **o: m.draw("pens", **o),
    "inpaint": lambda m, s, **o: m.inpaint(s, np.ones((SIZE, SIZE), bool), **o),
    "extend": lambda m, s, **o: m.extend(s, right=1, **o),
}
ODD: dict[str, list[object]] = {
    "steps": [0, -1, 1.5, "3", True, 10**30, [4], np.array([1, 2]), torch.tensor([1, 2]), np.float32(2)],
    "temperature": [-1, "warm", float("nan"), float("inf"), True, [1.0], np.array([1.0, 2.0]), torch.tensor([1.0, 2.0]), 1j],
    "guidance": [-1, "x", float("nan"), np.array([1.0, 2.0]), {}],
    "parallel": ["boldly", "threshold=", "threshold=2", "threshold=0.9,1", 5, [], "=", "threshold=0_9"],
    "reuse": ["never", "block=-1", 5, "block=x"],
    "lookahead": [-1, 1.5, "3", 10**9, 10**30, [1]],
    "seed": [-1, 0.5, "0", 2**63, np.array([0, 1]), torch.tensor([0, 1, 2]), [0, 1], [], [0.5], None],
    "callback": ["x", 5, []],
    "sampling": [5, "fast", {}, Frame],
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("field", ODD)
def test_odd_values_are_named(model: MMaDA, scene: Image.Image, method: str, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def computed(*_: object, **__: object) -> None:
        raise AssertionError("the model was run before its options were checked")

    monkeypatch.setattr(model.engine, "denoiser", computed)
    for value in ODD[field]:
        with pytest.raises(InputError) as caught:
            METHODS[method](model, scene, **{field: value})
        assert field in str(caught.value), (value, str(caught.value))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "field", "values"),
    [
        ("generate", "thinking", ["x", 1, 0, []]),
        ("ask", "thinking", ["yes", 2]),
        ("chat", "thinking", [0, "no"]),
        ("draw", "thinking", ["x", 1]),
        ("ask", "fit", ["crops", 5, []]),
        ("chat", "fit", ["stretch"]),
        ("generate", "length", [0, -1, 1.5, "8", 193, 10**30, True]),
        ("generate", "block", [0, -1, 9, 10**30, 1.5]),
        ("generate", "stop", [5, [5], [""], "", {"a": 1}, ["a", None]]),
        ("generate", "stop_at_eos", ["x", 2, []]),
        ("generate", "open_vocabulary", ["x", 2]),
        ("infill", "length", [4]),
        ("infill", "block", [4]),
        ("infill", "stop", ["a"]),
        ("infill", "open_vocabulary", ["x"]),
        ("draw", "size", [32, (32,), (32, 33), "32x32", (0, 32), (32, -8), (1.5, 32)]),
        ("draw", "schedule", ["cosin", 5, []]),
        ("draw", "annealing", ["slow", 5]),
        ("draw", "order_noise", [-1, "x", np.array([1.0, 2.0])]),
        ("inpaint", "size", [(32, 32)]),
        ("extend", "size", [(32, 32)]),
    ],
)
def test_odd_values_of_one_method(model: MMaDA, scene: Image.Image, method: str, field: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(InputError) as caught:
            METHODS[method](model, scene, **{field: value})
        named = ("width", "height") if field == "size" and isinstance(value, tuple) and len(value) == 2 else (field,)
        assert any(name in str(caught.value) for name in (*named, field)), (value, str(caught.value))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("typed", "meant"), [("temprature", "temperature"), ("step", "steps"), ("guidence", "guidance")])
def test_a_misspelt_option_is_named_with_the_nearest(
    model: MMaDA, scene: Image.Image, method: str, typed: str, meant: str
) -> None:
    with pytest.raises(InputError, match=f"option '{typed}' is unknown; did you mean '{meant}'"):
        METHODS[method](model, scene, **{typed: 1})


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"dtype": torch.int8}, "dtype must be one of"),
        ({"dtype": torch.complex64}, "dtype must be one of"),
        ({"dtype": 16}, "dtype must be one of"),
        ({"dtype": "bfloat"}, "did you mean 'bfloat16'"),
        ({"dtype": "int8"}, "quantisation='int8'"),
        ({"device": "meta"}, "device 'meta'"),
        ({"device": "gpu"}, "device 'gpu'"),
        ({"device": 3.5}, "device"),
        ({"preset": 3}, "preset is an int"),
        ({"preset": "mixcott"}, "did you mean 'mixcot'"),
        ({"adapter": 3}, "adapter is an int"),
        ({"adapter": "nowhere/at/all"}, "adapter 'nowhere/at/all' does not exist"),
        ({"adapter": "a\0b"}, "adapter .* NUL"),
        ({"image_tokenizer": 3}, "image_tokenizer 3"),
        ({"image_tokenizer": "nope"}, "image_tokenizer 'nope'"),
        ({"image_tokenizer": ""}, "image_tokenizer ''"),
        ({"image_tokenizer": "./nope"}, "image_tokenizer folder './nope' does not exist"),
        ({"image_tokenizer": "a\ud800"}, "image_tokenizer .* not valid text"),
        ({"quantisation": "int5"}, "quantisation must be one of"),
        ({"quantisation": 8}, "quantisation must be one of"),
        ({"source": "a\0b"}, "NUL"),
        ({"source": "\ud800"}, "not valid text"),
        ({"source": 5}, "model 5 is not a name"),
    ],
)
def test_arguments_of_load_are_checked_before_anything_is_read(
    options: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("weights were read before the arguments were checked")

    monkeypatch.setattr("mmada.pipeline.loading.read_network", read)
    with pytest.raises(InputError, match=named) as caught:
        mmada.load(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_type_may_be_a_word(tmp_path: Path, name: str) -> None:
    tiny_folder(tmp_path)
    model = mmada.load(str(tmp_path), device="cpu", dtype=name)
    assert next(cast(Predictor, model.engine.parts.model).parameters()).dtype == getattr(torch, name)
    assert name in repr(model)
    assert "cpu" in repr(model)
    assert "parameters" in repr(model)


def test_a_loop_of_links_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError, match="does not exist"):
        mmada.load(tmp_path / "loop")


NESTED = "[" * 100_000


@pytest.mark.parametrize("name", ["config.json", "preset.json", "image_tokenizer/config.json"])
@pytest.mark.parametrize("content", [NESTED, '{"a": ' * 100_000, "", "\0", "[]", "5", '{"a": 1}', "{", "\ufeff{}"])
def test_damaged_json_is_one_sentence(tmp_path: Path, name: str, content: str) -> None:
    tiny_folder(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as caught:
        mmada.load(tmp_path, device="cpu")
    message = str(caught.value)
    assert "\n" not in message
    assert "Errno" not in message
    assert "<class" not in message
    assert len(message) < 900


def test_objects_and_names_give_the_same(model: MMaDA, scene: Image.Image) -> None:
    text = TextSampling(length=8, steps=4, temperature=0.7, parallel="threshold=0.5")
    named = {"length": 8, "steps": 4, "temperature": 0.7, "parallel": "threshold=0.5"}
    for method in ("generate", "ask", "chat"):
        one, other = METHODS[method](model, scene, sampling=text), METHODS[method](model, scene, **named)
        assert one == other
        assert one.tokens == other.tokens
    assert model.with_defaults(text=text).generate("pens") == model.generate("pens", sampling=text)
    assert model.generate("pens", sampling=text, length=4).tokens == model.generate("pens", **(named | {"length": 4})).tokens
    image = ImageSampling(steps=3, guidance=0.5, schedule="linear", order_noise=0.2)
    for method in ("draw", "inpaint", "extend"):
        one = METHODS[method](model, scene, sampling=image, seed=3)
        other = METHODS[method](model, scene, steps=3, guidance=0.5, schedule="linear", order_noise=0.2, seed=3)
        assert np.array_equal(np.asarray(one), np.asarray(other))
    assert np.array_equal(
        np.asarray(model.with_defaults(image=image).draw("pens")), np.asarray(model.draw("pens", sampling=image))
    )


def test_numbers_of_numpy_and_torch_are_numbers(model: MMaDA) -> None:
    plain = model.generate("pens", length=8, steps=8, seed=3, temperature=0.5)
    for kind in (np.int64, np.uint8, torch.tensor):
        same = model.generate("pens", length=kind(8), steps=kind(8), seed=kind(3), temperature=np.float32(0.5))
        assert same == plain
    pair = model.generate(["pens", "a circle"], seed=[3, 9], temperature=0.5)
    for seeds in (np.array([3, 9]), torch.tensor([3, 9]), (3, 9)):
        assert model.generate(["pens", "a circle"], seed=seeds, temperature=0.5) == pair


def test_rules_that_exclude_each_other_make_way(model: MMaDA) -> None:
    fast = model.with_defaults(text=TextSampling(parallel="threshold=0.5", reuse="block"))
    assert fast.generate("pens", lookahead=2).tokens == model.generate("pens").tokens  # speculation is exact
    assert fast.generate("pens", parallel="none", reuse="none") == model.generate("pens")
    drafts = model.with_defaults(text=TextSampling(lookahead=2))
    assert drafts.generate("pens", parallel="threshold=0.5") == model.generate("pens", parallel="threshold=0.5")
    with pytest.raises(InputError, match="lookahead is exact"):
        model.generate("pens", lookahead=2, parallel="threshold=0.5")


@pytest.mark.parametrize("options", [{"text": "x"}, {"image": TextSampling()}, {"preset": 5}, {"text": ImageSampling()}])
def test_defaults_of_another_kind_are_refused(model: MMaDA, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(options))} is a"):
        model.with_defaults(**options)
