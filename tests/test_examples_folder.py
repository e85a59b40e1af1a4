"""The programs of `examples/` run, and documentation code too."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_an_example_runs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(path), run_name="__main__")
    assert "passes" in capsys.readouterr().out


def test_the_code_of_the_decoding_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "decoding.md").read_text(encoding="utf-8")
    told = []
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.S):
        exec(block, {})
        told.append(capsys.readouterr().out)
    passes = [int(n) for n in re.findall(r"\b\d+\b", told[0])]
    assert passes[2] < passes[0]
    assert told[1].splitlines()[-1] == "green"
