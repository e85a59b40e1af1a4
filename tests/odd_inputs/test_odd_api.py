"""Every parameter of every method of `MMaDA`, given odd values: a result, or one InputError that names it."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.odd_inputs.run import RAW, Tally, limit
from tests.odd_inputs.tables import TEXTS

import mmada
from mmada import InputError
from mmada.pipeline import MMaDA

pytestmark = pytest.mark.slow

CLOSED = open(__file__, "rb")  # noqa: SIM115 - closed on the next line, as a user's may be
CLOSED.close()
VALUES: dict[str, Any] = {
    "None": None,
    "True": True,
    "0": 0,
    "-1": -1,
    "2.5": 2.5,
    "nan": math.nan,
    "inf": math.inf,
    "huge": 10**26,
    "complex": 1j,
    "bytes": b"x",
    "blank": " ",
    "nul": "\0",
    "surrogate": "\ud800",
    "list": [],
    "list of None": [None],
    "list of numbers": [1, 2.5],
    "nested": [[["x"]]],
    "tuple": (),
    "dict": {},
    "dict of text": {"role": "user"},
    "set": {1},
    "object": object(),
    "type": int,
    "function": len,
    "generator": (x for x in "ab"),
    "array": np.array([0, 1]),
    "empty array": np.zeros((0, 0)),
    "array of objects": np.array([None, "x"], dtype=object),
    "float array": np.array([[1.5, math.nan]]),
    "array of 4 axes": np.zeros((1, 2, 3, 4)),
    "tensor": torch.tensor([0, 1]),
    "meta tensor": torch.zeros(3, device="meta"),
    "closed file": CLOSED,
    "path": Path("missing"),
    "path of a folder": Path(),
    "path with nul": Path("a\0b"),
    "no image": Image.new("L", (0, 0)),
    "url": "data:image/png;base64,!!!!",
    "remote": "http://localhost:1/x.png",
}
PICTURE = Image.new("RGB", (32, 32), "red")
MASK = np.ones((32, 32), dtype=bool)
USUAL: dict[str, dict[str, Any]] = {
    "generate": {"prompt": "hi"},
    "chat": {"messages": [{"role": "user", "content": "hi"}]},
    "ask": {"image": PICTURE, "question": "what?"},
    "infill": {"text": "2 + [MASK]"},
    "score": {"prompt": "hi", "completion": "7", "samples": 1},
    "draw": {"prompt": "a red circle", "steps": 1},
    "inpaint": {"image": PICTURE, "mask": MASK, "prompt": "a", "steps": 1},
    "extend": {"image": PICTURE, "right": 1, "prompt": "a", "steps": 1},
}
METHODS = [
    (name, parameter)
    for name in USUAL
    for parameter in inspect.signature(getattr(MMaDA, name)).parameters
    if parameter not in ("self", "options")
]


def fault(call: Callable[[], object], field: str) -> str:
    """What is wrong with how a call ended: nothing if it returned or raised one clean InputError that names the field."""
    try:
        with warnings.catch_warnings(), limit(30):
            warnings.simplefilter("error")
            call()
    except InputError as error:
        said = str(error)
        if "\n" in said or len(said) > 600 or not said.isprintable():
            return f"not clean: {said[:300]!r}"
        if raw := [sign for sign in RAW if sign in said]:
            return f"raw text {raw[0]!r}: {said[:300]!r}"
        return "" if any(word in said for word in field.split("|")) else f"does not name {field}: {said[:300]!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]!r}"
    return ""


WORDS = {
    "question": "question|prompt",
    "messages": "message|prompt",
    "text": "text|[MASK]",
    "size": "size|width|height",
    "parallel": "parallel|lookahead",
    "reuse": "reuse|lookahead",
    "lookahead": "lookahead",
    "seed": "seed",
    "mask": "mask|image",
    "images": "image",
    "left": "left|edge",
}


@pytest.mark.parametrize(("method", "parameter"), METHODS)
def test_an_odd_argument_of_a_method(model: MMaDA, method: str, parameter: str) -> None:
    tally = Tally()
    for name, value in VALUES.items():
        if parameter == "callback" and callable(value):
            continue  # what it raises is its own
        arguments = {**USUAL[method], parameter: value}
        tally.add(
            f"{method}({parameter}={name})",
            fault(partial(getattr(model, method), **arguments), WORDS.get(parameter, parameter)),
        )
    tally.check()


@pytest.mark.parametrize("parameter", [name for name in inspect.signature(MMaDA.load).parameters if name != "source"])
def test_an_odd_argument_of_load(folder: Path, parameter: str) -> None:
    tally = Tally()
    for name, value in VALUES.items():
        tally.add(f"load({parameter}={name})", fault(partial(mmada.load, str(folder), **{parameter: value}), parameter))
    for value in ("meta", "cuda:99", "gpu", "int8", torch.int8, torch.complex64, "float", "bf16"):
        if parameter in ("device", "dtype"):
            tally.add(
                f"load({parameter}={value})",
                fault(partial(mmada.load, str(folder), **{parameter: value}), f"{parameter}|int8"),
            )
    tally.check()


def test_an_odd_source() -> None:
    tally = Tally()
    for name, value in VALUES.items():
        tally.add(f"load({name})", fault(partial(mmada.load, value), "model"))
    tally.check()


@pytest.mark.parametrize("method", ["generate", "infill", "draw", "score"])
def test_odd_texts(model: MMaDA, method: str) -> None:
    tally = Tally()
    first = next(iter(USUAL[method]))
    for value in TEXTS:
        tally.add(
            f"{method}({value[:30]!a})",
            fault(partial(getattr(model, method), **{**USUAL[method], first: value}), "prompt|text|MASK"),
        )
    tally.check()


@pytest.mark.parametrize("method", USUAL)
def test_an_unknown_argument_is_named(model: MMaDA, method: str) -> None:
    for name in ("stepz", "speed", "watch", "temprature", "Seed"):
        with pytest.raises((InputError, TypeError), match=name):
            getattr(model, method)(**USUAL[method], **{name: 1})
