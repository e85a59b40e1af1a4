"""The documentation agrees with the package: its menu, its commands with their settings, the pages written from the code."""

import itertools
import pkgutil
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmada.cli import parse
from mmada.recipes.overrides import override
from mmada.registry import RECIPES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
PREFIX = re.compile(r"(?:\$ )?(?:[A-Z]+=\S+ )*mmada ")
HOOKS: dict[str, Any] = runpy.run_path(str(DOCS / "hooks.py"))


def commands(page: Path) -> Iterator[str]:
    """The lines of a page's shell blocks that call ``mmada``, continuation lines joined."""
    for block in re.findall(r"^ *```(?:sh|console)\n(.*?)^ *```", page.read_text(encoding="utf-8"), flags=re.S | re.M):
        for line in block.replace("\\\n", " ").splitlines():
            if start := PREFIX.match(line.strip()):
                yield line.strip()[start.end() :]


LINES = [pytest.param(line, id=f"{page.name}: {line[:50]}") for page in PAGES for line in commands(page)]


def leaves(tree: Any) -> Iterator[str]:
    """The pages of a menu, however deep."""
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from leaves(child)
    if isinstance(tree, str):
        yield tree


def test_there_are_commands_to_test() -> None:
    assert len(LINES) > 40


@pytest.mark.parametrize("line", LINES)
def test_a_command_is_accepted(line: str) -> None:
    """It parses, what can be checked before any work is right, and a recipe takes its settings."""
    words = shlex.split(line, comments=True)
    command = parse(words)
    command.check()
    if words[0] == "train" and len(words) > 1 and words[1] in RECIPES:
        pairs = [word.partition("=")[::2] for before, word in itertools.pairwise(words) if before == "--set"]
        override(RECIPES[words[1]](), dict(pairs))


def test_the_menu_names_every_page() -> None:
    written = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    generated = {"reference/commands.md", "reference/recipes.md", "reference/python.md"}
    assert set(leaves(SITE["nav"])) == written | generated


def test_nothing_is_fetched_from_elsewhere() -> None:
    assert SITE["theme"]["font"] is False
    assert not any(str(path).startswith("http") for key in ("extra_css", "extra_javascript") for path in SITE.get(key, ()))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"!\[[^\]]*\]\(http|<(?:img|script|link|iframe)\b", text), f"{page} shows something from elsewhere"


def test_links_of_the_readme_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert target.startswith("https://") or (ROOT / target).exists(), target


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_modules_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    folder = ROOT
    for code in re.findall(r"`([^`\n]+)`", text):
        if re.fullmatch(r"(?:src|tests|benchmarks|examples|experiments|docs)/[\w./-]*", code):
            folder = (ROOT / code).parent
            assert (ROOT / code).exists(), code
        elif re.fullmatch(r"\w+\.py", code) and folder != ROOT:  # `src/mmada/model/mmada.py`, `inference.py`
            assert (folder / code).exists(), f"{code} in {folder}"
        elif re.fullmatch(r"mmada(?:\.\w+)+", code) and code != "mmada.plugins":  # that is the entry-point group
            pkgutil.resolve_name(code)


def test_the_page_of_commands_has_every_command() -> None:
    from mmada.cli.commands import COMMANDS

    page = HOOKS["commands_page"]()
    for name in COMMANDS:
        assert f"## mmada {name}\n" in page
        assert f"usage: mmada {name}" in page


def test_the_page_of_recipes_has_every_recipe_and_field() -> None:
    page = HOOKS["recipes_page"]()
    assert re.findall(r"^## (\w+)$", page, flags=re.M) == list(RECIPES)
    assert "| `plan.optim.lr` | `" in page
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in page.splitlines() if line.startswith("|")}
    assert widths == {4}, "a cell holds a bar that is not escaped"


def test_every_module_is_in_the_reference() -> None:
    pages = HOOKS["python_pages"]()
    named = set(re.findall(r"^::: (\S+)$", "\n".join(pages.values()), flags=re.M))
    source = ROOT / "src"
    for path in (source / "mmada").rglob("*.py"):
        name = ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        if name.count(".") and not path.name.startswith("__main__") and path.read_text(encoding="utf-8").strip():
            assert name in named
