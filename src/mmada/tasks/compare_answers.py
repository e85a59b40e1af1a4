"""Comparison of an answer with a gold answer: numbers with units, fractions, formulas, lists, choices, words.

`same_answer` is what collection of reasoning data and the reward of correctness use. What it decides, where spellings leave room:

- A unit that only one side gives does not count ("10" and "10 m"); two units must measure the same and are converted ("100 cm" is
  "1 m", "10 cm" is not "10 m"). Things that are counted must not contradict ("10 red pens" and "10 pens", not "10 eggs").
- "50%" equals "50" and "0.5", as the per cent sign may stand in the question; "50" is not "0.5".
- Several answers ("1, 2", "x = 1 or x = 2") need all of them, in any order; tuples and intervals keep theirs.
- A sentence counts by the one number that it states; with other numbers, "or" or "not" in it, it states none ("10 or 12" is
  not 10).
- A decimal equals a fraction exactly, or when at least six digits are given (0.333333 is 1/3, 0.33 is not).
- Hedges that name one number ("about 10") are that number. Case, articles and a full stop do not count in words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

from mmada.tasks.answers import Clock, Quantity, Reading, Sequence, read
from mmada.tasks.expressions import Expression, TooLarge, parse_expression, same_value
from mmada.tasks.formula_process import same_formula
from mmada.tasks.notation import final_part, plain_notation

__all__ = ["same_answer"]

MAX_CHARACTERS = 20_000
"""Characters of an answer that are read, from its end, where the answer proper stands."""
FORMULA = re.compile(r"[\\^_=+*/<>|]|\d")
"""A text without any of these is no formula that algebra could tell from another."""


def same_answer(gold: str, answer: str) -> bool:
    """Whether an answer says the same as the gold answer (see the module for what that means). Symmetric.

    Formulas beyond arithmetic and algebra (matrices, inequalities, ...) go to math-verify if it is installed, in a process that
    is ended after `mmada.tasks.formula_process.SECONDS`; without it they are compared as text.
    """
    finals = [final_part(text[-MAX_CHARACTERS:]) for text in (gold, answer)]
    left, right = map(plain_notation, finals)
    if not left or not right:
        return False
    decided = same_reading(readings(left), readings(right))
    if decided is None:
        latex = [text.strip("$ .") for text in finals]
        decided = all(map(looks_like_formula, latex)) and same_formula(*latex)
    return decided


@lru_cache(maxsize=1024)
def readings(text: str) -> Reading:
    """`read`, kept for the next answers to the same question."""
    return read(text)


def same_reading(a: Reading, b: Reading) -> bool | None:
    """Compare by the readings that both have; None where they have none in common that could tell."""
    if (a.text == b.text and a.symbol == b.symbol) or (a.text and a.text == b.predicate) or (b.text and b.text == a.predicate):
        return True
    if a.symbol and b.symbol and a.symbol.casefold() != b.symbol.casefold() and len(a.symbol) == len(b.symbol) == 1:
        return same_definition(a, b)
    pairs: tuple[tuple[object, object, Callable[..., bool]], ...] = (
        (a.choice, b.choice, lambda x, y: x == y),
        (a.verdict, b.verdict, lambda x, y: x == y),
        (a.equation, b.equation, same_equation),
        (a.sequence, b.sequence, same_sequence),
        (a.clock, b.clock, same_clock),
        (a.ratio, b.ratio, same_ratio),
    )
    for x, y, same in pairs:
        if x and y:
            return same(x, y)
    if len(a.quantities) > 0 and len(b.quantities) > 0:
        return any(same_quantity(x, y) for x in a.quantities for y in b.quantities)
    if a.text == b.text or mixed_readings(a, b) or mixed_readings(b, a):
        return True
    if a.too_large or b.too_large or a.choice or b.choice:
        return False
    telling = [bool(r.quantities or r.sequence or r.clock or r.verdict) for r in (a, b)]
    return False if all(telling) else None


def mixed_readings(a: Reading, b: Reading) -> bool:
    """Equality of different kinds: {5} and 5, 3:4 and 3/4, 3 pm and 3, x = 5 and 2x = 10."""
    if a.sequence and len(a.sequence.items) == 1 and a.sequence.opening != "(":
        return bool(same_reading(a.sequence.items[0], b))
    if len(a.ratio) == 2 and a.ratio[1] and not a.clock:
        value = Quantity(constant(a.ratio[0] / a.ratio[1]))
        return any(same_quantity(value, other) for other in b.quantities)
    if a.clock and a.clock.minutes % 60 == 0 and not a.ratio:
        hours = {a.clock.minutes // 60, (a.clock.minutes // 60 - 1) % 12 + 1}
        return any(not q.unit.given and same_value(q.value, constant(Fraction(h))) for q in b.quantities for h in hours)
    return False


def constant(value: Fraction) -> Expression:
    """A number as an expression."""
    return parse_expression(f"({value.numerator})/({value.denominator})")


def scaled(quantity: Quantity) -> Expression:
    """The value in base units."""
    scale, value = quantity.unit.scale, quantity.value
    if scale == 1:
        return value
    return Expression(lambda point: value.node(point) * scale, value.variables, None)


def same_quantity(a: Quantity, b: Quantity) -> bool:
    """Equal values in units that fit."""
    if not a.unit.fits(b.unit):
        return False
    try:
        if a.unit.dimension == b.unit.dimension:
            return same_value(scaled(a), scaled(b)) if a.unit.scale != b.unit.scale else same_value(a.value, b.value)
        if same_value(a.value, b.value):
            return True
        for x, y in ((a, b), (b, a)):
            if x.unit.percent and not y.unit.given:
                return same_value(scaled(Quantity(x.value, type(x.unit)(Fraction(1, 100)))), y.value)
    except TooLarge:
        return False
    return False


def same_clock(a: Clock, b: Clock) -> bool:
    """Equal times; where one does not say am or pm, on a face of 12 hours."""
    if a.half_known == b.half_known:
        return a.minutes == b.minutes
    return a.minutes % 720 == b.minutes % 720


def same_ratio(a: tuple[Fraction, ...], b: tuple[Fraction, ...]) -> bool:
    """Proportional terms."""
    return len(a) == len(b) and all(x * b[0] == y * a[0] for x, y in zip(a, b, strict=True)) and (any(a) == any(b))


def same_sequence(a: Sequence, b: Sequence) -> bool:
    """The same items: in order for tuples and intervals, whose brackets count; in any order for sets and bare lists."""
    if len(a.items) != len(b.items):
        return False
    if a.opening and b.opening and (a.opening, a.closing) != (b.opening, b.closing):
        return False
    if a.ordered or b.ordered:
        return all(same_reading(x, y) is True for x, y in zip(a.items, b.items, strict=True))
    left = list(b.items)
    for item in a.items:
        match = next((other for other in left if same_reading(item, other) is True), None)
        if match is None:
            return False
        left.remove(match)
    return True


def same_equation(a: Expression, b: Expression) -> bool:
    """Whether two equations f = 0 and g = 0 say the same: f is a multiple of g."""
    if a.variables != b.variables:
        return False
    at = [{name: Fraction(37 * i + 11 * j + 5, 13) * (-1) ** i for j, name in enumerate(sorted(a.variables))} for i in range(5)]
    try:
        values = [(a.value(dict(point)), b.value(dict(point))) for point in at]
    except (TooLarge, ZeroDivisionError, ValueError):
        return False
    f, g = next(((complex(f), complex(g)) for f, g in values if f and g), (0j, 0j))
    return f != 0 and all(abs(complex(x) * g - complex(y) * f) <= 1e-9 * abs(f * g) for x, y in values)


def same_definition(a: Reading, b: Reading) -> bool:
    """``y = 3 - 2x`` and ``x = (3 - y)/2``: equations for different symbols that say the same."""
    sides = [(reading.symbol, reading.quantities[0].value) for reading in (a, b) if reading.quantities]
    if len(sides) < 2:
        return False
    left, right = (defined(symbol, value) for symbol, value in sides)
    return same_equation(left, right)


def defined(symbol: str, value: Expression) -> Expression:
    """``symbol - value``."""
    return Expression(lambda point: point[symbol] - value.node(point), value.variables | {symbol}, None)


def looks_like_formula(latex: str) -> bool:
    """Whether algebra may help: signs of a formula, and no words besides commands."""
    words = re.sub(r"\\[a-zA-Z]+|\{(?:[a-zA-Z]?matrix|cases|array|aligned)\*?\}", " ", latex)
    return len(latex) < 300 and FORMULA.search(latex) is not None and re.search(r"[A-Za-z]{4,}", words) is None
