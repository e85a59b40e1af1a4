"""Numerical comparison of formulas: parse LaTeX or plain notation, evaluate it, compare values.

Numbers are exact (`fractions.Fraction`) as long as the operations allow it, otherwise complex floats. Two formulas with
variables are compared by evaluating both at the same random points (Schwartz-Zippel), so that no computer algebra is needed and
nothing here can take long: sizes of powers, factorials, nesting and text are bounded.
"""

from __future__ import annotations

import cmath
import math
import random
import re
from collections.abc import Callable, Mapping
from fractions import Fraction

__all__ = ["NAMES", "Expression", "NotAnExpression", "TooLarge", "parse_expression", "same_value"]

Number = Fraction | complex
Node = Callable[[Mapping[str, Number]], Number]

MAX_LENGTH, MAX_DEPTH, MAX_BITS = 400, 40, 20_000
POINTS = 5
MIN_DIGITS = 6
"""Significant digits that a rounded decimal needs to stand for a number that has no finite decimal form (as in math-verify)."""


class NotAnExpression(ValueError):
    """The text is not in the notation that is read here."""


class TooLarge(ArithmeticError):
    """The value is beyond any number that an answer states."""


CONSTANTS: dict[str, Number] = {"pi": complex(math.pi), "e": complex(math.e), "i": 1j, "infinity": complex(math.inf)}


def real(value: Number) -> Fraction | float:
    """A real value. Raises TooLarge for a complex one, whose order or rounding is not defined."""
    if isinstance(value, Fraction):
        return value
    if value.imag:
        raise TooLarge
    return value.real


def power(base: Number, exponent: Number) -> Number:
    """``base ** exponent``, exact for whole exponents of bounded size."""
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if bits <= 1 or bits * abs(exponent.numerator) <= MAX_BITS:
            return base ** int(exponent.numerator % 2 if bits <= 1 and base else exponent)
        raise TooLarge
    # The real root of a negative number: (-8)^(1/3) is -2 in school mathematics, not the principal complex root.
    if isinstance(base, Fraction) and base < 0 and isinstance(exponent, Fraction) and exponent.denominator % 2:
        sign = -1 if exponent.numerator % 2 else 1
        return complex(sign * math.pow(-base, exponent))
    return complex(base) ** complex(exponent)


def root(value: Number, degree: Number = Fraction(2)) -> Number:
    """The ``degree``-th root, exact for perfect squares."""
    if isinstance(value, Fraction) and value >= 0 and degree == 2:
        top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
        if top * top == value.numerator and bottom * bottom == value.denominator:
            return Fraction(top, bottom)
    return power(value, 1 / degree)


def factorial(value: Number) -> Number:
    """``value!`` for whole numbers up to 1,000."""
    if not isinstance(value, Fraction) or value.denominator != 1 or value < 0:
        raise NotAnExpression("factorial of what is not a whole number")
    if value > 1000:
        raise TooLarge
    return Fraction(math.factorial(int(value)))


_GREEK = "alpha beta gamma delta epsilon theta lambda mu nu rho sigma tau phi psi omega"
FUNCTIONS: dict[str, Callable[[Number], Number]] = {
    "sqrt": root,
    "cbrt": lambda x: root(x, Fraction(3)),
    "abs": lambda x: abs(x) if isinstance(x, Fraction) else complex(abs(x)),
    "sin": lambda x: cmath.sin(complex(x)),
    "cos": lambda x: cmath.cos(complex(x)),
    "tan": lambda x: cmath.tan(complex(x)),
    "cot": lambda x: 1 / cmath.tan(complex(x)),
    "sec": lambda x: 1 / cmath.cos(complex(x)),
    "csc": lambda x: 1 / cmath.sin(complex(x)),
    "arcsin": lambda x: cmath.asin(complex(x)),
    "arccos": lambda x: cmath.acos(complex(x)),
    "arctan": lambda x: cmath.atan(complex(x)),
    "exp": lambda x: cmath.exp(complex(x)),
    "ln": lambda x: cmath.log(complex(x)),
    "log": lambda x: cmath.log(complex(x)),
    "lg": lambda x: cmath.log10(complex(x)),
    "floor": lambda x: Fraction(math.floor(real(x))),
    "ceil": lambda x: Fraction(math.ceil(real(x))),
}
GREEK = _GREEK.split()
NAMES = sorted([*FUNCTIONS, *CONSTANTS, *GREEK], key=len, reverse=True)
TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)"
    rf"|(?P<name>(?:{'|'.join(NAMES)})(?![a-zA-Z])|[a-zA-Z](?:_\{{?\w+\}}?)?)"
    r"|(?P<operator>\*\*|[-+*/^()|!{}]))"
)


class Expression:
    """A parsed formula: evaluate it at values of its ``variables``."""

    def __init__(self, node: Node, variables: frozenset[str], decimals: int | None) -> None:
        self.node, self.variables = node, variables
        self.decimals = decimals
        """Digits after the point where the whole formula is one decimal number, else None."""

    def value(self, point: Mapping[str, Number] | None = None) -> Number:
        """The value. Raises TooLarge, and ZeroDivisionError or ValueError where it has none."""
        try:
            return self.node(point or {})
        except (OverflowError, RecursionError) as error:
            raise TooLarge from error


def number_of(literal: str) -> Number:
    """An exact number from digits, point and exponent."""
    mantissa, _, exponent = literal.lower().partition("e")
    if exponent and abs(int(exponent[:8])) > 400:
        raise TooLarge
    return Fraction(mantissa if mantissa[-1] != "." else mantissa[:-1]) * Fraction(10) ** int(exponent or 0)


class Parser:
    """Recursive descent over tokens: sum > product (written or implied) > sign > power > atom."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_LENGTH:
            raise NotAnExpression("too long")
        self.tokens: list[tuple[str, str]] = []
        self.variables: set[str] = set()
        self.at, self.depth = 0, 0
        position, text = 0, text.strip()
        while position < len(text):
            match = TOKEN.match(text, position)
            if match is None:
                raise NotAnExpression(text[position:])
            self.tokens.append((str(match.lastgroup), match[str(match.lastgroup)]))
            position = match.end()

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "")

    def take(self, *operators: str) -> str:
        """The next token if it is one of these operators, else the empty string."""
        kind, text = self.peek()
        if kind == "operator" and text in operators:
            self.at += 1
            return text
        return ""

    def expect(self, operator: str) -> None:
        if not self.take(operator):
            raise NotAnExpression(f"{operator} is missing")

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotAnExpression("nested too deep")
        left = self.product()
        while sign := self.take("+", "-"):
            left = binary(sign, left, self.product())
        self.depth -= 1
        return left

    def product(self) -> Node:
        left = self.signed()
        while True:
            if sign := self.take("*", "/"):
                left = binary(sign, left, self.signed())
            elif self.peek()[0] in ("number", "name") or self.peek()[1] == "(":
                left = binary("*", left, self.raised())
            else:
                return left

    def signed(self) -> Node:
        if self.take("-"):
            inner = self.deeper(self.signed)
            return lambda point: -inner(point)
        if self.take("+"):
            return self.deeper(self.signed)
        return self.raised()

    def deeper(self, parse: Callable[[], Node]) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotAnExpression("nested too deep")
        node = parse()
        self.depth -= 1
        return node

    def raised(self) -> Node:
        base = self.atom()
        while self.take("!"):
            base = applied(factorial, base)
        if self.take("^", "**"):
            return binary("^", base, self.deeper(self.signed))
        return base

    def atom(self) -> Node:
        kind, text = self.peek()
        self.at += 1
        if kind == "number":
            value = number_of(text)
            return lambda point: value
        if kind == "name":
            return self.named(text)
        for opening, closing in (("(", ")"), ("{", "}"), ("|", "|")):
            if kind == "operator" and text == opening:
                inner = self.sum()
                self.expect(closing)
                return applied(FUNCTIONS["abs"], inner) if opening == "|" else inner
        raise NotAnExpression(text or "the end is missing")

    def named(self, name: str) -> Node:
        if name in FUNCTIONS:
            exponent = self.deeper(self.atom) if self.take("^") else None
            inner = applied(FUNCTIONS[name], self.deeper(self.raised))
            return inner if exponent is None else binary("^", inner, exponent)
        if name in CONSTANTS:
            value = CONSTANTS[name]
            return lambda point: value
        self.variables.add(name)
        return lambda point: point[name]


def applied(function: Callable[[Number], Number], inner: Node) -> Node:
    """A function of a node."""
    return lambda point: function(inner(point))


def binary(sign: str, left: Node, right: Node) -> Node:
    """An operation on two nodes."""
    if sign == "+":
        return lambda point: left(point) + right(point)
    if sign == "-":
        return lambda point: left(point) - right(point)
    if sign == "*":
        return lambda point: left(point) * right(point)
    if sign == "/":
        return lambda point: left(point) / right(point)
    return lambda point: power(left(point), right(point))


def parse_expression(text: str) -> Expression:
    """A formula in plain notation (LaTeX commands replaced before). Raises NotAnExpression, or TooLarge for a huge literal."""
    parser = Parser(text)
    node = parser.sum()
    if parser.at != len(parser.tokens):
        raise NotAnExpression(parser.peek()[1])
    decimal = re.fullmatch(r"\s*[-+]?\s*\d*\.(\d+)\s*", text)
    return Expression(node, frozenset(parser.variables), len(decimal[1]) if decimal else None)


def same_value(left: Expression, right: Expression) -> bool:
    """Whether two formulas have the same value wherever both have one.

    A decimal of `MIN_DIGITS` significant digits or more equals a number without finite decimal form that rounds, or is cut, to
    it (0.333333 is 1/3, 0.33 is not).
    """
    if left.variables != right.variables:
        return False
    draw, agreed = random.Random(0), 0
    for point_number in range(POINTS if left.variables else 1):
        sign = -1 if point_number % 2 else 1
        point: dict[str, Number] = {name: sign * Fraction(draw.randint(101, 997), 211) for name in sorted(left.variables)}
        try:
            a, b = left.value(point), right.value(point)
        except (ZeroDivisionError, ValueError):
            continue
        if not (close(a, b) or (not left.variables and (rounded(a, b, right) or rounded(b, a, left)))):
            return False
        agreed += 1
    return agreed > (1 if left.variables else 0)


def close(a: Number, b: Number) -> bool:
    """Equality of exact numbers; floats up to their rounding errors."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    a, b = complex(a), complex(b)
    return a == b or cmath.isclose(a, b, rel_tol=1e-11, abs_tol=1e-13)


def rounded(exact: Number, value: Number, written: Expression) -> bool:
    """Whether ``value``, a decimal of enough digits, is ``exact`` rounded or cut, which has no finite decimal form itself."""
    if written.decimals is None or not isinstance(value, Fraction):
        return False
    if isinstance(exact, Fraction):
        rest = exact.denominator
        for prime in (2, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return False
    elif exact.imag:
        return False
    digits = len(str(abs(value.numerator * 10**written.decimals // value.denominator)).lstrip("0"))
    return digits >= MIN_DIGITS and abs(float(real(exact)) - float(value)) < 10.0**-written.decimals
