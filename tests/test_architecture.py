"""The rules of CONTRIBUTING.md that a machine can check: layers, public names, sizes, lazy torch, commands of the pages.

Whether every field of a choice is read is tested in `test_used_fields`.
"""

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "mmada"
FILES = sorted(SOURCE.rglob("*.py"))
OTHERS = sorted(path for folder in ("benchmarks", "examples", "experiments", "tests") for path in (ROOT / folder).rglob("*.py"))

# Top to bottom. A module may import from rows below its own, and from its own package.
LAYERS = [
    {"cli", "transformers", "__init__", "__main__"},
    {"nano"},
    {"testing"},
    {"recipes"},
    {"training", "rl", "evaluation", "serving"},
    {"rewards"},
    {"pipeline", "tasks"},
    {"data", "sampling"},
    {"tokenizers", "model", "diffusion"},
    {"io"},
    {"canvas", "registry"},
    {"errors"},
]
# The command line is one row: these may use each other.
TOP = LAYERS[0]
# The table of built-in plugins names what stands above it: that is what a registry is for.
REGISTRIES = {"registry.py"}
# Who names the nano world outside of nano/ and cli/: the default of `load`, and the table of built-in plugins.
NAME_NANO = {"__init__.py", "pipeline/api.py", "registry.py"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def label(path: Path) -> str:
    return str(path.relative_to(SOURCE if path.is_relative_to(SOURCE) else ROOT))


def unit(module: str) -> str:
    """``mmada.model.cache`` is of the unit ``model``; ``mmada`` itself of ``__init__``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def row(name: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if name in names)


def runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Every node, function bodies included, but nothing under ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from runtime_nodes(other)
            continue
        yield child
        yield from runtime_nodes(child)


def imported_units(path: Path) -> set[str]:
    found: set[str] = set()
    for node in runtime_nodes(tree(path)):
        if isinstance(node, ast.Import):
            found |= {unit(alias.name) for alias in node.names if alias.name.split(".")[0] == "mmada"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mmada":
            if node.module != "mmada":
                found.add(unit(str(node.module)))
                continue
            for alias in node.names:  # `from mmada import model` is the package; the version may be read by all
                if alias.name != "__version__":
                    known = any(alias.name in names for names in LAYERS)
                    found.add(alias.name if known else "__init__")
    return found


TARGET = re.compile(r"(mmada(?:\.\w+)+)(?::\w+)?")


def named_units(path: Path) -> set[str]:
    """Units that strings name as "mmada.package.module" or "mmada.package.module:attribute", as registries import them."""
    found = {node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    modules = [match[1] for text in found if (match := TARGET.fullmatch(text))]
    return {unit(module) for module in modules if unit(module) in set().union(*LAYERS)}


def own_unit(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def test_every_module_has_a_layer() -> None:
    known = set().union(*LAYERS)
    assert {own_unit(path) for path in FILES} <= known


@pytest.mark.parametrize("path", FILES, ids=label)
def test_imports_point_down(path: Path) -> None:
    own = own_unit(path)
    others = imported_units(path) | (set() if label(path) in REGISTRIES else named_units(path))
    for other in others - {own}:
        if own in TOP and other in TOP:
            continue
        assert row(other) > row(own), f"{label(path)} imports mmada.{other}, which is not below it"


def test_nothing_but_the_command_line_names_nano() -> None:
    outside = [path for path in FILES if own_unit(path) not in ("nano", "cli")]
    naming = {label(path) for path in outside if "nano" in path.read_text(encoding="utf-8").casefold()}
    assert naming <= NAME_NANO, f"reach the nano world through mmada.registry in {sorted(naming - NAME_NANO)}"


def test_the_layer_test_sees_imports(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mmada.cli import main\n"
        "import mmada.canvas\nfrom mmada import model, __version__, load\n"
        "def f():\n    from mmada.training.loop import x\n"
    )
    assert imported_units(path) == {"canvas", "model", "__init__", "training"}
    path = tmp_path / "y.py"
    path.write_text('"""See mmada.rl."""\nA = {"x": "mmada.nano.plugin:all", "y": "mmada.plugins", "z": "mmada.rl.loss"}\n')
    assert named_units(path) == {"nano", "rl"}


@pytest.mark.parametrize("path", FILES, ids=label)
def test_public_names_are_declared_and_documented(path: Path) -> None:
    """``__all__`` names what exists and is meant for others; classes and functions in it have docstrings."""
    module = tree(path)
    if not module.body and path.name == "__init__.py":
        return  # a folder, nothing more
    assert ast.get_docstring(module), "the module has no docstring"
    declared: list[str] | None = None
    defined: dict[str, ast.AST] = {}
    for node in module.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
            defined |= dict.fromkeys(names, node)
            if "__all__" in names and node.value is not None:
                declared = ast.literal_eval(node.value)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            defined[node.name] = node
        elif isinstance(node, ast.Import | ast.ImportFrom | ast.If):
            for inner in ast.walk(node):
                if isinstance(inner, ast.alias):
                    defined.setdefault((inner.asname or inner.name).split(".")[0], inner)
    assert declared is not None, "the module has no __all__"
    assert len(declared) == len(set(declared))
    for name in declared:
        assert name in defined, f"__all__ names {name}, which does not exist"
        for node in _documented_nodes(defined[name]):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def _documented_nodes(node: ast.AST) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """The class or function and a class's public methods; signatures alone (``...``) may go without words."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node
    if isinstance(node, ast.ClassDef):
        for child in node.body:
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if not child.name.startswith("_") and ast.unparse(child.body[-1]) != "...":
                yield child


@pytest.mark.parametrize("path", FILES + OTHERS, ids=label)
def test_files_and_functions_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"


@pytest.mark.parametrize("code", ["import mmada", "from mmada.cli import main; main(['--help'])"])
def test_no_torch_before_it_is_needed(code: str) -> None:
    check = "import sys; heavy = {'torch', 'transformers', 'sklearn', 'matplotlib'} & set(sys.modules)"
    program = f"try:\n    {code}\nexcept SystemExit:\n    pass\n{check}\nassert not heavy, heavy"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_answer_imports_only_what_it_needs() -> None:
    unused = ["training", "rl", "evaluation", "rewards", "serving", "recipes", "data", "tasks", "nano.world", "nano.datasets"]
    packages = [
        "transformers",
        "sympy",
        "scipy",
        "torch._dynamo",
        "sklearn",
        "matplotlib",
        "pandas",
        *(f"mmada.{name}" for name in unused),
    ]
    program = (
        "import sys\nfrom mmada.cli.main import main\n"
        "assert main(['generate', 'what is 3 plus 4?', '--length', '4', '--steps', '1', '--device', 'cpu']) == 0\n"
        f"assert 'mmada.sampling.denoise' in sys.modules\nfound = set({packages}) & set(sys.modules)\nassert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_python_m_mmada_helps() -> None:
    done = subprocess.run([sys.executable, "-m", "mmada", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "inpaint" in done.stdout


PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def commands_of(page: Path) -> list[str]:
    """The lines of a page's shell blocks that call ``mmada``, continuation lines joined."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```(?:sh|bash|shell|console)[^\n]*\n(.*?)^ *```", text, flags=re.S | re.M)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip().removeprefix("$ ") for line in lines if re.match(r"(\$ )?mmada ", line.strip())]


def own_words(line: str) -> list[str]:
    """The words of a command up to a pipe, a redirection or another command."""
    words = shlex.split(line, comments=True)
    ends = [i for i, word in enumerate(words) if re.fullmatch(r"\||\|\||&&|;|&|\d?>{1,2}(?:&\d)?.*|<", word)]
    return words[1 : min(ends, default=len(words))]


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_commands_of_the_pages_parse(page: Path) -> None:
    from mmada.cli import parse

    for line in commands_of(page):
        words = own_words(line)
        if not {"-h", "--help", "--version", "--list"} & set(words):
            assert hasattr(parse(words), "run"), line


def test_the_pages_show_commands() -> None:
    assert len(commands_of(ROOT / "README.md")) >= 5
    assert sum(len(commands_of(page)) for page in PAGES) >= 20


def test_readme_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    used = set(re.findall(r"^\s*(?:\$ )?make ([a-z]+)", readme, flags=re.M))
    assert {"demo", "test"} <= used <= targets


def test_the_whole_check_runs_the_readme_test_command() -> None:
    assert re.search(r"^make .*\btest\b", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), flags=re.M)
