"""Worded arithmetic of one to three steps with traces that are checked, and plain equations to read first."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mmada.nano.world.scenes import COLORS, Split, split_of

__all__ = ["HELD_OUT_NUMBERS", "Problem", "check_steps", "equation_step", "extract_answer", "plain_equation", "problem"]

Random = np.random.Generator
NAMES = ("tom", "lily", "anna", "ben", "mia", "sam", "zoe", "max", "eva", "leo", "ida", "paul")
ITEMS = ("apples", "pens", "books", "balls", "coins", "cards", "cookies", "stamps", "marbles", "eggs")
BOXES = ("boxes", "bags", "baskets", "shelves", "jars")
HELD_OUT_NUMBERS = range(37, 44)  # no operand or result in training lies here


@dataclass(frozen=True)
class EquationStep:
    """``left operator right = result``."""

    left: int
    operator: str
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left} {self.operator} {self.right} = {self.result}."


@dataclass(frozen=True)
class Problem:
    """A worded question with its steps in order; a step's left or right may be an earlier result."""

    text: str
    answer: str
    steps: tuple[EquationStep, ...]

    @property
    def reasoning(self) -> str:
        """ "3 + 4 = 7. 7 - 2 = 5." """
        return " ".join(str(step) for step in self.steps)

    @property
    def key(self) -> str:
        """Canonical text of the numbers and operations, independent of the wording; it decides the split."""
        return self.reasoning

    def verify(self, answer: str) -> bool:
        """Whether an answer (without its reasoning) ends in the right number."""
        return extract_answer(answer) == self.answer

    def solved(self, reasoning: str, answer: str) -> bool:
        """Whether the answer is the right number alone and every step of the reasoning right."""
        return answer.strip() == self.answer and check_steps(reasoning, self)


def add(a: int, b: int) -> EquationStep:
    """a + b."""
    return EquationStep(a, "+", b, a + b)


def subtract(a: int, b: int) -> EquationStep:
    """a - b."""
    return EquationStep(a, "-", b, a - b)


def multiply(a: int, b: int) -> EquationStep:
    """a * b."""
    return EquationStep(a, "*", b, a * b)


def number(rng: Random, low: int, high: int) -> int:
    """A uniform draw from a closed interval."""
    return int(rng.integers(low, high + 1))


def word(rng: Random, words: tuple[str, ...]) -> str:
    """One of the words."""
    return words[int(rng.integers(len(words)))]


def possession(rng: Random) -> tuple[str, tuple[EquationStep, ...], str, str]:
    """The opening, a person with things of two kinds or boxes of things: (text, first step, name, item)."""
    name, item = word(rng, NAMES), word(rng, ITEMS)
    if rng.random() < 0.3:
        boxes, each = number(rng, 2, 9), number(rng, 2, 9)
        text = f"{name} has {boxes} {word(rng, BOXES)} with {each} {item} each."
        return text, (multiply(boxes, each),), name, item
    a, b = number(rng, 1, 20), number(rng, 1, 20)
    one, two = (str(c) for c in rng.choice(COLORS, 2, replace=False))
    if rng.random() < 0.6:
        return f"{name} has {a} {one} and {b} {two} {item}.", (add(a, b),), name, item
    return f"{name} has {a} {one} {item} and {b} {two} {item}.", (add(a, b),), name, item


def change(rng: Random, have: int, name: str, item: str) -> tuple[str, EquationStep]:
    """A change of the number of things: (text, step)."""
    if have > 1 and rng.random() < 0.5:
        n = number(rng, 1, min(have - 1, 20))
        return word(rng, (f"{name} gives away {n}.", f"{name} loses {n} {item}.", f"{name} sells {n} {item}.",
                          f"then {n} are lost.", f"{name} gives {n} {item} to a friend.")), subtract(have, n)  # fmt: skip
    n = number(rng, 1, 20)
    return word(rng, (f"{name} gets {n} more.", f"{name} buys {n} more {item}.", f"{name} finds {n} {item}.",
                      f"a friend gives {name} {n} {item}.")), add(have, n)  # fmt: skip


def story(rng: Random) -> Problem:
    """Possession, then up to two changes."""
    name, item = word(rng, NAMES), word(rng, ITEMS)
    if rng.random() < 0.35:  # starts from a plain number: one change is already the first step
        have = number(rng, 2, 30)
        text = f"{name} has {have} {item}."
        steps: tuple[EquationStep, ...] = ()
        changes = int(rng.choice(3, p=(0.45, 0.35, 0.2))) + 1
    else:
        text, steps, name, item = possession(rng)
        have = steps[-1].result
        changes = int(rng.choice(3, p=(0.4, 0.35, 0.25)))
    for _ in range(changes):
        said, step = change(rng, have, name, item)
        text, steps, have = f"{text} {said}", (*steps, step), step.result
    left = f"how many {item} are left?" if changes else "how many in total?"
    ask = (f"how many {item} does {name} have{' now' if changes else ''}?", f"how many {item} are there?", "how many?",
           f"how many {item} does {name} have in total?", left)  # fmt: skip
    return Problem(f"{text} {word(rng, ask)}", str(have), tuple(steps))


def difference(rng: Random) -> Problem:
    """A comparison: how many more, or who has more."""
    one, two = (str(n) for n in rng.choice(NAMES, 2, replace=False))
    item, a, b = word(rng, ITEMS), number(rng, 1, 30), number(rng, 1, 30)
    if a == b:
        a += 1
    more, less = max(a, b), min(a, b)
    rich, poor = (one, two) if a > b else (two, one)
    text = f"{one} has {a} {item} and {two} has {b} {item}."
    if rng.random() < 0.5:
        return Problem(f"{text} how many more does {rich} have than {poor}?", str(more - less), (subtract(more, less),))
    return Problem(f"{text} how many do they have together?", str(a + b), (add(a, b),))


def bare(rng: Random) -> Problem:
    """A bare sum, difference or product: "what is 3 + 4?"."""
    step = any_step(rng)
    form = word(rng, ("what is {}?", "what is {}?", "compute {}.", "{} ="))
    return Problem(form.format(f"{step.left} {step.operator} {step.right}"), str(step.result), (step,))


def any_step(rng: Random) -> EquationStep:
    """A sum, difference or product with operands and results of 0..99."""
    kind = rng.random()
    if kind < 0.4:
        a = number(rng, 0, 60)
        return add(a, number(rng, 0, min(20, 99 - a)))
    if kind < 0.8:
        a = number(rng, 1, 99)
        return subtract(a, number(rng, 0, min(a, 20)))
    return multiply(number(rng, 1, 9), number(rng, 1, 9))


def equation_step(rng: Random, split: Split = "train") -> EquationStep:
    """One equation of the split, without a held-out number."""
    while True:
        step = any_step(rng)
        if split_of(str(step)) == split and not held_out_steps((step,)):
            return step


def in_range(steps: tuple[EquationStep, ...]) -> bool:
    """Whether every number is 0..99."""
    return all(0 <= n <= 99 for s in steps for n in (s.left, s.right, s.result))


def held_out_steps(steps: tuple[EquationStep, ...]) -> bool:
    """Whether a number of the held-out range occurs."""
    return any(n in HELD_OUT_NUMBERS for s in steps for n in (s.left, s.right, s.result))


MAKERS: tuple[Callable[[Random], Problem], ...] = (story, difference, bare)


def problem(rng: Random, split: Split = "train", *, held_out: bool = False, steps: int | None = None) -> Problem:
    """A worded problem of the split; ``steps`` 1..3 or any. ``held_out``: with a number that no training problem uses."""
    while True:
        made = MAKERS[int(rng.choice(3, p=(0.74, 0.16, 0.1)))](rng)
        if not in_range(made.steps) or (steps is not None and len(made.steps) != steps) or len(made.steps) > 3:
            continue
        if held_out_steps(made.steps) == held_out and (held_out or split_of(made.key) == split):
            return made


def plain_equation(rng: Random, split: Split = "train") -> str:
    """One line of equations: "7 + 5 = 12." """
    return " ".join(str(equation_step(rng, split)) for _ in range(number(rng, 1, 3)))


EQUATION = re.compile(r"(\d+) ([-+*]) (\d+) = (\d+)\.?")


def check_steps(reasoning: str, asked: Problem) -> bool:
    """Whether a trace solves the problem step by step: every equation true, each number given or found before, the end right.

    The problem's own order of steps is not demanded, only that each equation follows and that the last gives the answer.
    """
    equations = EQUATION.findall(reasoning)
    if not equations or EQUATION.sub("", reasoning).strip():
        return False
    known = [int(n) for n in re.findall(r"\d+", asked.text)]
    for left, operator, right, result in equations:
        a, b, c = int(left), int(right), int(result)
        if c != {"+": a + b, "-": a - b, "*": a * b}[operator]:
            return False
        for used in (a, b):
            if used not in known:
                return False
            known.remove(used)
        known.append(c)
    return str(known[-1]) == asked.answer and len(equations) == len(asked.steps)


def extract_answer(text: str) -> str:
    """The last number of an answer, or the answer itself in lower case without its full stop."""
    numbers = re.findall(r"-?\d+", text)
    return numbers[-1] if numbers else text.strip().lower().rstrip(".")
