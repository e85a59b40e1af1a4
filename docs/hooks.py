"""Pages of the reference, written from the code when the site is built, so that they cannot fall behind it.

- ``reference/commands.md``: the help of every command;
- ``reference/recipes.md``: every recipe with its settings and their defaults;
- ``reference/python.md`` and ``reference/python/UNIT.md``: the public names of each folder of ``src/mmada``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

__all__ = ["commands_page", "on_files", "python_pages", "recipes_page"]

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "mmada"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those of ``docs/``."""
    from mkdocs.structure.files import File

    sys.path.insert(0, str(ROOT / "src"))
    pages = {"commands.md": commands_page(), "recipes.md": recipes_page(), **python_pages()}
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}", content=text))
    # The pages of the modules follow the index of modules in the menu.
    reference = next(section["Reference"] for section in config.nav or [] if "Reference" in section)
    reference.append({"Modules": [f"reference/{name}" for name in pages if "/" in name]})
    return files


def help_of(*arguments: str) -> str:
    """Standard output of ``mmada ARGUMENTS --help``."""
    environment = {**os.environ, "COLUMNS": "100", "PYTHONIOENCODING": "utf-8", "NO_COLOR": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-m", "mmada", *arguments, "--help"], capture_output=True, encoding="utf-8", env=environment, check=True
    )
    return done.stdout.strip()


def commands_page() -> str:
    """The help of every command, in the order of the help page."""
    from mmada.cli.commands import COMMANDS

    with ThreadPoolExecutor(max_workers=2) as pool:
        helps = list(pool.map(help_of, COMMANDS))
    parts = [f"## mmada {name}\n\n```text\n{text}\n```" for name, text in zip(COMMANDS, helps, strict=True)]
    intro = (
        "Every command, as `mmada COMMAND --help` prints it. Exit status: 0 done, 1 a bug, 2 bad input, 130 interrupted,\n"
        "143 terminated."
    )
    return "\n\n".join(["# Commands", intro, *parts]) + "\n"


def recipes_page() -> str:
    """Every recipe of the registry: its first paragraph, and its fields as ``mmada train RECIPE --fields`` lists them."""
    from mmada.recipes.overrides import describe_fields
    from mmada.registry import RECIPES

    parts = []
    for name, recipe in RECIPES.items():
        first = (recipe.__doc__ or "").strip().partition("\n\n")[0]
        rows = []
        for field in describe_fields(recipe()):
            doc = field.doc.replace("|", "\\|") or f"*{field.type}*".replace("|", "\\|")
            rows.append(f"| `{field.name}` | {cell(field.default)} | {doc} |")
        table = "\n".join(["| field | default | meaning, or type |", "|---|---|---|", *rows])
        parts.append(f"## {name}\n\n{first}\n\n{table}")
    intro = (
        "Start one with `mmada train RECIPE`. Every field can be changed with `--set`, as in\n"
        "`mmada train cot --set plan.steps=500 --set plan.optim.lr=1e-3`; `mmada train RECIPE --fields` prints these tables.\n"
        "What a run used is in its `recipe.yaml`."
    )
    return "\n\n".join(["# Recipes", intro, *parts]) + "\n"


def cell(text: str) -> str:
    """Code in a cell of a table; a long value is cut, as `mmada train RECIPE --fields` shows it whole."""
    short = text if len(text) <= 40 else f"{text[:37]}..."
    return "`" + short.replace("|", "\\|") + "`" if short else ""


def python_pages() -> dict[str, str]:
    """One page for each folder or module of ``src/mmada``, and an index of them."""
    units = sorted(path for path in SOURCE.iterdir() if path.name[0] not in "_." and (path.suffix == ".py" or path.is_dir()))
    pages = {}
    rows = ["| module | contents |", "|---|---|"]
    for unit in units:
        modules = [unit] if unit.is_file() else sorted(p for p in unit.rglob("*.py") if p.read_text(encoding="utf-8").strip())
        rows += [f"| [`{dotted(path)}`](python/{unit.stem}.md) | {summary(path)} |" for path in modules]
        body = "\n\n".join(f"::: {dotted(path)}" for path in modules)
        pages[f"python/{unit.stem}.md"] = f"# mmada.{unit.stem}\n\n{body}\n"
    intro = (
        "The public names of each part of the package, from their docstrings. Start with `mmada.load` and the class `MMaDA`\n"
        "of [`mmada.pipeline.api`](python/pipeline.md)."
    )
    pages["python.md"] = "# Python\n\n" + intro + "\n\n" + "\n".join(rows) + "\n"
    return pages


def dotted(path: Path) -> str:
    """``src/mmada/model/lora.py`` is ``mmada.model.lora``; a package is named by its folder."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def summary(path: Path) -> str:
    """First line of a module's docstring."""
    import ast

    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0].replace("|", "\\|")
