"""Every field of a frozen dataclass is read somewhere in the package, by its own class rather than by its name.

A setting that nothing reads is a lie, and many classes share names of fields (`steps`, `length`), so the reads are resolved with
mypy's types: ``x.steps`` counts for the class of ``x``, for the bases that define the field, and, where ``x`` is a protocol or a
union, for every class that it may be.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from mypy.build import BuildResult, build
from mypy.modulefinder import BuildSource
from mypy.nodes import MemberExpr, TypeInfo
from mypy.options import Options
from mypy.subtypes import is_subtype
from mypy.types import Instance, TupleType, Type, TypeType, TypeVarType, UnionType, get_proper_type
from mypy.typevars import fill_typevars

SOURCE = Path(__file__).parents[1] / "src"
CHECKS = ("__post_init__", "check")
"""Reading a field only to check it does not count."""
FOR_USERS = {
    "mmada.canvas.Trajectory",
    "mmada.data.shards.Rows",
    "mmada.pipeline.results.LikelihoodBound",
    "mmada.sampling.phase.Frame",
}
"""Results that are handed out: users read what the package itself does not."""


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted((SOURCE / "mmada").rglob("*.py"))}


def without_checks(text: str) -> str:
    """A source whose methods that only check fields do nothing."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name in CHECKS:
            first, last = node.body[0].lineno, node.end_lineno or 0
            lines[first - 1 : last] = [" " * node.body[0].col_offset + "pass", *[""] * (last - first)]
    return "\n".join(lines)


def sources(changes: dict[str, str]) -> dict[str, str]:
    """Module -> source of the whole package, as it is or changed."""
    texts = {module: path.read_text(encoding="utf-8") for module, path in MODULES.items()}
    return {module: without_checks(text) for module, text in (texts | changes).items()}


def checked(texts: dict[str, str]) -> BuildResult:
    """The package with the types of its expressions. Other packages are not followed: their values are of any type."""
    options = Options()
    options.python_version = (3, 11)
    options.incremental = False
    options.export_types = True
    options.preserve_asts = True
    options.follow_imports = "skip"
    options.check_untyped_defs = True
    options.mypy_path = [str(SOURCE)]
    return build([BuildSource(str(MODULES[module]), module, text, str(SOURCE)) for module, text in texts.items()], options)


def frozen_fields(texts: dict[str, str], result: BuildResult) -> dict[tuple[str, str], TypeInfo]:
    """(class, field) -> class, of every frozen dataclass of the package that itself declares the field."""
    found = {}
    for module, text in texts.items():
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and any("frozen=True" in ast.unparse(d) for d in node.decorator_list):
                info = result.files[module].names[node.name].node
                assert isinstance(info, TypeInfo)
                for child in node.body:
                    if isinstance(child, ast.AnnAssign) and "ClassVar" not in ast.unparse(child.annotation):
                        if any(ast.unparse(child.target) in base.names for base in info.mro[1:]):
                            continue  # another default of an inherited field: it is read as the base's
                        found[info.fullname, ast.unparse(child.target)] = info
    return found


def instances(receiver: Type) -> Iterator[Instance]:
    """The classes that a receiver may be an instance of."""
    proper = get_proper_type(receiver)
    if isinstance(proper, UnionType):
        for item in proper.items:
            yield from instances(item)
    elif isinstance(proper, TypeVarType):
        yield from instances(proper.upper_bound)
    elif isinstance(proper, TupleType):
        yield proper.partial_fallback
    elif isinstance(proper, TypeType):
        yield from instances(proper.item)
    elif isinstance(proper, Instance):
        yield proper


def read_by_name(texts: dict[str, str]) -> set[str]:
    """Classes that read their own fields by computed names, ``getattr(self, name)``, outside of checks."""
    found = set()
    for module, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and re.search(r"getattr\(self, (?![\"'])", ast.unparse(node)):
                found.add(f"{module}.{node.name}")
    return found


def unread_fields(texts: dict[str, str]) -> set[tuple[str, str]]:
    """Fields that nothing reads."""
    result = checked(texts)
    fields, by_name = frozen_fields(texts, result), read_by_name(texts)
    named: dict[str, list[tuple[str, TypeInfo]]] = {}
    for (owner, name), info in fields.items():
        named.setdefault(name, []).append((owner, info))
    read: set[tuple[str, str]] = set()
    for expression in result.types:
        if not isinstance(expression, MemberExpr) or expression.name not in named or expression.expr not in result.types:
            continue
        candidates = named[expression.name]
        for instance in instances(result.types[expression.expr]):
            definers = {info.fullname for info in instance.type.mro}
            read |= {(owner, expression.name) for owner, _ in candidates if owner in definers}
            if instance.type.is_protocol:
                read |= {(owner, expression.name) for owner, info in candidates if is_subtype(fill_typevars(info), instance)}
    for (owner, name), info in fields.items():
        # A subclass may read by name what its base declares, and a base what its subclasses do.
        family = {base.fullname for base in info.mro} | {other.fullname for other in fields.values() if info in other.mro}
        if family & by_name:
            read.add((owner, name))
    return {(owner, name) for owner, name in set(fields) - read if owner not in FOR_USERS}


@pytest.mark.slow
def test_every_field_of_a_choice_is_read() -> None:
    module = "mmada.sampling.parallel"
    text = (SOURCE / "mmada" / "sampling" / "parallel.py").read_text(encoding="utf-8")
    head = "class Threshold(Rule):"
    assert head in text
    before, _, after = text.partition(head)
    docstring_end = after.index('"""', after.index('"""') + 3) + 3
    changed = before + head + after[:docstring_end] + "\n\n    steps: int = 3\n    length: int = 7" + after[docstring_end:]
    unread = unread_fields(sources({module: changed}))
    added = {(f"{module}.Threshold", "steps"), (f"{module}.Threshold", "length")}
    assert added <= unread, "the test sees a field that nothing reads, though others share its name"
    assert not unread - added
