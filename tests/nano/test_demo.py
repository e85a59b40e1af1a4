"""The demo: what it marks as right, what it writes, and what it refuses before any work."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import mmada
from mmada.errors import InputError
from mmada.nano.demo import _Stage, run_demo


@pytest.mark.parametrize(
    ("text", "thinking", "truth", "sound", "right", "note"),
    [
        ("4", "1 + 3 = 4.", "4", True, True, "4  (right)"),
        ("4", "1 + 3 = 5.", "4", False, False, "4  (right, but not its reasoning)"),
        ("5", "1 + 3 = 4.", "4", True, False, "5  (wrong: 4)"),
        ("4", "", "4", False, True, "4  (right)"),  # nothing was reasoned
        ("a cat", "", None, False, None, "a cat"),
    ],
)
def test_an_answer_is_right_only_with_right_reasoning(
    text: str, thinking: str, truth: str | None, sound: bool, right: bool | None, note: str
) -> None:
    result: Any = SimpleNamespace(text=text, thinking=thinking)
    stage = _Stage(None, Console(quiet=True), [])
    tile = stage.answer("how many?", result, truth, lambda thinking: sound)
    assert (tile.right, tile.note) == (right, note)


def test_a_prompt_that_is_too_long_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("work was done")

    monkeypatch.setattr(mmada.pipeline.MMaDA, "generate", refuse)
    with pytest.raises(InputError, match="prompt takes"):
        run_demo(image=None, prompt="a red circle " * 300, out=tmp_path / "demo.png")
    assert not list(tmp_path.iterdir())
