"""Dependencies of an installation: lower bounds for users, and exact versions for development only."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def requirements() -> list[Requirement]:
    """Of the plain install and of the extras that `make` installs."""
    texts = [*PROJECT["dependencies"], *(text for extra in ("nano", "reason", "docs", "dev") for text in EXTRAS[extra])]
    return [requirement for requirement in map(Requirement, texts) if requirement.name != "mmada"]


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_the_pinned_version_fits_the_bounds(requirement: Requirement) -> None:
    pinned = pins()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pinned), f"constraints.txt has {requirement.name} {pinned}"


@pytest.mark.parametrize("version", ["2.9.0", "2.13.0", "2.13.0+cpu", "2.15.0", "2.15.0+cu130", "3.0.0"])
def test_no_newer_torch_is_locked_out(version: str) -> None:
    torch = next(r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "torch")
    assert torch.specifier.contains(Version(version))


def test_no_pin_brings_the_cuda_libraries() -> None:
    assert not [name for name in pins() if name.startswith(("nvidia", "cuda", "triton"))]


def test_every_extra_has_lower_bounds() -> None:
    stubs = {"types-pyyaml"}
    for extra, texts in EXTRAS.items():
        for requirement in map(Requirement, texts):
            bounded = any(one.operator == ">=" for one in requirement.specifier)
            assert bounded or requirement.name in ("mmada", "transformers") or requirement.name.lower() in stubs, (
                f"{extra}: {requirement}"
            )


IMPORTED_AS = {"pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn", "math-verify": "math_verify", "peft": "peft"}
WITH_TORCH = {"triton"}
"""Comes with the CUDA builds of torch, and is imported only there."""


def imported() -> set[str]:
    """Top-level names of other packages that the source imports, inside functions too."""
    names: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"mmada"}


def declared(texts: list[str]) -> set[str]:
    return {IMPORTED_AS.get(name := Requirement(text).name.lower(), name.replace("-", "_")) for text in texts}


def test_what_is_imported_is_declared() -> None:
    extras = [text for extra in ("nano", "quant", "peft", "reason", "parquet", "ray") for text in EXTRAS[extra]]
    assert imported() <= declared([*PROJECT["dependencies"], *extras]) | WITH_TORCH


def test_what_everybody_installs_is_imported() -> None:
    assert declared(PROJECT["dependencies"]) <= imported()


def test_make_and_ci_install_by_the_constraints() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    installs = [line for line in makefile.splitlines() if re.search(r"\$\(PIP\) .* -e ", line)]
    assert installs
    assert all("$(CONSTRAINTS)" in line for line in installs)


def test_the_extras_are_documented() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    for extra in set(EXTRAS) - {"dev"}:
        assert re.search(rf"`{extra}`|mmada\[{extra}\]|\.\[{extra}\]", text), f"no page says what [{extra}] is for"
