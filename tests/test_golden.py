"""Texts, answers, drawings, prompts and losses are what they were: see `tests/golden/make.py`, which made the stored values."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.golden.make import FAMILIES

STORED = Path(__file__).parent / "golden"
CLOSE = 3e-4
"""Relative tolerance of losses and gradient norms: another CPU adds up in another order (seen: 1.5e-4 after two steps)."""
SHADE = 2e-3
"""The same of colours of decoded pictures."""


def differences(stored: Any, found: Any, close: float, at: str = "") -> list[str]:
    """Differences of two values, by path; fractions may differ by ``close``."""
    if isinstance(stored, dict) and isinstance(found, dict):
        names = [*stored, *(name for name in found if name not in stored)]
        pairs = [(stored.get(name, "nothing"), found.get(name, "nothing"), f"{at} > {name}") for name in names]
        return [line for one, two, place in pairs for line in differences(one, two, close, place)]
    if isinstance(stored, list) and isinstance(found, list) and len(stored) == len(found):
        pairs = [(one, two, f"{at}[{i}]") for i, (one, two) in enumerate(zip(stored, found, strict=True))]
        return [line for one, two, place in pairs for line in differences(one, two, close, place)]
    if isinstance(stored, float) and isinstance(found, float):
        return [] if found == pytest.approx(stored, rel=close, abs=1e-6) else [f"{at}: {stored} is now {found}"]
    return [] if stored == found else [f"{at}: {stored!r} is now {found!r}"]


@pytest.mark.parametrize("name", FAMILIES)
def test_as_it_was(name: str) -> None:
    torch.set_num_threads(1)
    stored = json.loads((STORED / f"{name}.json").read_text(encoding="utf-8"))
    assert stored
    found = json.loads(json.dumps(FAMILIES[name]()))
    wrong = differences(stored, found, CLOSE if name.startswith("losses") else SHADE)
    assert not wrong, f"{len(wrong)} values differ:\n" + "\n".join(wrong[:20])


def test_every_stored_file_is_compared() -> None:
    assert {path.stem for path in STORED.glob("*.json")} == set(FAMILIES)


def test_differences_are_seen() -> None:
    stored = {"a": [1, 2], "b": 0.5, "c": "x", "d": {"e": None}}
    assert not differences(stored, json.loads(json.dumps(stored)) | {"b": 0.5 + 1e-6}, 1e-4)
    wrongs: list[dict[str, Any]] = [{"a": [1, 3]}, {"a": [1]}, {"b": 0.501}, {"c": "y"}, {"d": {}}, {"f": 1}, {"b": 1}]
    for wrong in wrongs:
        assert len(differences(stored, stored | wrong, 1e-4)) == 1
