"""Conditions on rows, as in ``where: json.width >= 256 and status == "success"``.

The words are those of Python's expressions, of which only these are known: names and dotted paths, ``row["odd name"]``, numbers,
texts, lists, ``and or not``, ``== != < <= > >= in not in is``, ``+ - * / // %`` of numbers, and the functions of `FUNCTIONS`. A
condition is parsed and walked here; nothing is executed, so it can do nothing but compare. A field that is not there is ``null``:
it equals only ``null``, is neither less nor greater than anything, and arithmetic with it is ``null``.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmada.data.dataset import UnusableRow
from mmada.data.row_fields import kind_of
from mmada.data.sources.fields import value_at
from mmada.data.sources.tables import Row
from mmada.errors import InputError, quote

__all__ = ["FUNCTIONS", "Where", "parse_where"]

MAX_LENGTH = 2_000
MAX_NODES = 300
CONSTANTS = {"null": None, "none": None, "true": True, "false": False}
ORDER: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip
Evaluate = Callable[[Row], Any]


def length(value: Any) -> int:
    """Characters of a text or elements of a list; 0 for null."""
    if value is None:
        return 0
    if isinstance(value, (str, bytes, list, tuple, dict)):
        return len(value)
    raise UnusableRow("where cannot be answered")


def lowered(value: Any) -> Any:
    """A text in lower case."""
    return value.lower() if isinstance(value, str) else value


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "len": length,
    "lower": lowered,
    "startswith": lambda value, start: isinstance(value, str) and isinstance(start, str) and value.startswith(start),
    "endswith": lambda value, end: isinstance(value, str) and isinstance(end, str) and value.endswith(end),
    "words": lambda value: len(value.split()) if isinstance(value, str) else 0,
}
"""Name -> function: ``len``, ``lower``, ``words`` of one value, ``startswith`` and ``endswith`` of two."""
ARGUMENTS = {"len": 1, "lower": 1, "words": 1, "startswith": 2, "endswith": 2}


@dataclass(frozen=True)
class Where:
    """A condition. ``names``: the fields that it reads."""

    names: frozenset[str]
    evaluate: Evaluate

    def holds(self, row: Row) -> bool:
        """Whether it is true of a row. Raises UnusableRow where it cannot be answered: a text plus a number, say."""
        try:
            return bool(self.evaluate(row))
        except (TypeError, ZeroDivisionError, OverflowError, ValueError) as error:
            if isinstance(error, UnusableRow):
                raise
            raise UnusableRow("where cannot be answered") from error


def parse_where(text: str, what: str) -> Where:
    """Read a condition. Raises InputError, which begins with ``what``, for anything that it may not hold."""
    label = f"{what} {quote(text)}"
    if len(text) > MAX_LENGTH:
        raise InputError(f"{label} has {len(text)} characters, more than {MAX_LENGTH}; give a shorter one")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{label} is not an expression; write it as in: json.width >= 256 and lang == 'en'") from error
    if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
        raise InputError(f"{label} has too many parts; give a shorter one")
    reader = Reader(label, set())
    evaluate = reader.read(tree)
    return Where(frozenset(reader.names), evaluate)


def same_kind(left: Any, right: Any) -> tuple[Any, Any]:
    """Both as numbers where one is and the other is the text of one, as tables of text have them."""
    for one, other in ((left, right), (right, left)):
        if isinstance(one, (int, float)) and isinstance(other, str):
            try:
                number = float(other)
            except ValueError:
                return left, right
            return (left, number) if one is left else (number, right)
    return left, right


def compared(sign: ast.cmpop, left: Any, right: Any) -> bool:
    """One comparison."""
    if isinstance(sign, (ast.In, ast.NotIn)):
        inside = right is not None and left is not None and left in right
        return inside if isinstance(sign, ast.In) else not inside
    left, right = same_kind(left, right)
    if isinstance(sign, (ast.Eq, ast.Is)):
        return bool(left == right)
    if isinstance(sign, (ast.NotEq, ast.IsNot)):
        return bool(left != right)
    if left is None or right is None:
        return False
    return bool(ORDER[type(sign)](left, right))


@dataclass(frozen=True)
class Reader:
    """Turns the parts of an expression into functions of a row; ``names`` collects the fields."""

    label: str
    names: set[str]

    def refuse(self, node: ast.AST) -> InputError:
        """The error for a part that a condition may not have."""
        return InputError(
            f"{self.label} may not have {quote(ast.unparse(node))}; use fields, numbers, texts, and, or, not, comparisons and "
            f"{', '.join(FUNCTIONS)}"
        )

    def read(self, node: ast.expr) -> Evaluate:
        """A part of the expression."""
        if isinstance(node, ast.Constant) and isinstance(node.value, (str, int, float, type(None))):
            value: object = node.value
            return lambda row: value
        if isinstance(node, (ast.Name, ast.Attribute, ast.Subscript)):
            return self.field(node)
        if isinstance(node, (ast.List, ast.Tuple)):
            items = [self.read(one) for one in node.elts]
            return lambda row: [item(row) for item in items]
        if isinstance(node, ast.BoolOp):
            parts = [self.read(one) for one in node.values]
            every = isinstance(node.op, ast.And)
            return lambda row: all(p(row) for p in parts) if every else any(p(row) for p in parts)
        if isinstance(node, ast.UnaryOp):
            return self.unary(node)
        if isinstance(node, ast.BinOp):
            return self.arithmetic(node)
        if isinstance(node, ast.Compare):
            return self.comparison(node)
        if isinstance(node, ast.Call):
            return self.call(node)
        raise self.refuse(node)

    def path_of(self, node: ast.expr) -> str:
        """A name, ``a.b``, or ``row["odd name"]`` as the path of a field."""
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Attribute):
            return f"{self.path_of(node.value)}.{node.attr}"
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and type(node.slice.value) in (str, int):
            if isinstance(node.value, ast.Name) and node.value.id == "row":
                return str(node.slice.value)
            return f"{self.path_of(node.value)}.{node.slice.value!s}"
        raise self.refuse(node)

    def field(self, node: ast.expr) -> Evaluate:
        """A field, or one of the words for constants."""
        if isinstance(node, ast.Name) and node.id.lower() in CONSTANTS:
            constant = CONSTANTS[node.id.lower()]
            return lambda row: constant
        path = self.path_of(node)
        self.names.add(path)
        return lambda row: value_at(row, path)

    def unary(self, node: ast.UnaryOp) -> Evaluate:
        """``not x`` and ``-x``."""
        inside = self.read(node.operand)
        if isinstance(node.op, ast.Not):
            return lambda row: not inside(row)
        if isinstance(node.op, ast.USub):
            return lambda row: None if (value := inside(row)) is None else -number_of(value)
        raise self.refuse(node)

    def arithmetic(self, node: ast.BinOp) -> Evaluate:
        """Arithmetic of numbers."""
        operation = ARITHMETIC.get(type(node.op))
        if operation is None:
            raise self.refuse(node)
        left, right = self.read(node.left), self.read(node.right)

        def evaluate(row: Row) -> Any:
            values = left(row), right(row)
            return None if None in values else operation(*map(number_of, values))

        return evaluate

    def comparison(self, node: ast.Compare) -> Evaluate:
        """Comparisons, also in chains: 1 < x < 3."""
        values = [self.read(one) for one in (node.left, *node.comparators)]
        signs = node.ops

        def evaluate(row: Row) -> bool:
            found = [value(row) for value in values]
            return all(compared(sign, found[i], found[i + 1]) for i, sign in enumerate(signs))

        return evaluate

    def call(self, node: ast.Call) -> Evaluate:
        """One of the functions."""
        if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS or node.keywords:
            raise self.refuse(node)
        if len(node.args) != ARGUMENTS[node.func.id]:
            raise InputError(f"{self.label} gives {node.func.id} {len(node.args)} values; it takes {ARGUMENTS[node.func.id]}")
        function, arguments = FUNCTIONS[node.func.id], [self.read(one) for one in node.args]
        return lambda row: function(*(argument(row) for argument in arguments))


def number_of(value: Any) -> float:
    """A value as a number. Raises UnusableRow."""
    if isinstance(value, (int, float)):
        return value
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UnusableRow(f"where needs a number and finds {kind_of(value)}") from error
