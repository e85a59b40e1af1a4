"""The programs of `examples/` run, and so does the Python of the documentation."""

import re
import runpy
from pathlib import Path

import pytest
from PIL import Image

import mmada

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARKS = ("# not run by the tests", "# a sketch", "# my_")
"""First lines of blocks that are not run: they need large weights, or stand for a file of the reader's."""


def blocks(page: Path) -> list[str]:
    """The Python blocks of a page, those in lists too, that are not marked."""
    found = re.findall(r"^( *)```python\n(.*?)^ *```", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    texts = ["\n".join(line.removeprefix(indent) for line in text.splitlines()) for indent, text in found]
    return [text for text in texts if not text.startswith(MARKS)]


PROMISES = [
    pytest.param(program, promised, id=f"{page.relative_to(ROOT)}:{n}")
    for page in PAGES
    for n, (program, promised) in enumerate(
        re.findall(r"^```python\n([^`]*)^```\n\n```text\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    )
]
"""(Python block, the text block behind it)."""
CASES = [
    pytest.param(text, id=f"{page.relative_to(ROOT)}:{n}")
    for page in PAGES
    for n, text in enumerate(blocks(page))
    if text.rstrip() not in {str(case.values[0]).rstrip() for case in PROMISES}
]
"""The others."""


def test_the_pages_have_python() -> None:
    assert len(CASES) >= 3


@pytest.mark.parametrize("text", CASES)
def test_the_python_of_a_page_runs(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(text, "<page>", "exec"), {"__name__": "page"})


def test_pages_promise_outputs() -> None:
    assert len(PROMISES) >= 4


@pytest.mark.parametrize(("program", "promised"), PROMISES)
def test_a_page_promises_the_output_that_comes(
    program: str, promised: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Python block prints the text block behind it."""
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "<page>", "exec"), {})
    assert capsys.readouterr().out == promised


def test_the_fast_decoding_of_the_page_takes_fewer_forward_passes(capsys: pytest.CaptureFixture[str]) -> None:
    first, batched = blocks(ROOT / "docs" / "how-to" / "decoding.md")
    exec(first, {})
    exact, _, fast, _ = capsys.readouterr().out.split()
    assert int(fast) < int(exact)
    exec(batched, {})
    assert capsys.readouterr().out.splitlines()[-1] == "green"


def test_the_example_of_a_rule_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "own_rule.py"), run_name="__main__")
    assert "passes" in capsys.readouterr().out


def test_the_animation_of_the_readme_can_be_made(tmp_path: Path) -> None:
    program = runpy.run_path(str(ROOT / "examples" / "make_readme_images.py"))
    path = program["animation"](mmada.load("nano"), tmp_path / "a.gif", captions=("a red circle",))
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) > 4


@pytest.mark.parametrize("name", ["contact_sheet.png", "denoising.gif"])
def test_pictures_of_the_readme_are_small(name: str) -> None:
    path = ROOT / "docs" / "images" / name
    assert path.stat().st_size < 400_000
    assert f"docs/images/{name}" in (ROOT / "README.md").read_text(encoding="utf-8")
