"""Arithmetic word problems of one to three steps with checkable traces, and plain equations for pre-training."""

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
    """A word problem with its solution steps in order; operands of a step may be earlier results."""

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
        """Whether the answer is exactly the right number, and every step of the reasoning is correct."""
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
    """The opening of a problem, a person with items of two kinds or boxes of items: (text, first step, name, item)."""
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
    """A change of the number of items: (text, step)."""
    if have > 1 and rng.random() < 0.5:
        n = number(rng, 1, min(have - 1, 20))
        return word(rng, (f"{name} gives away {n}.", f"{name} loses {n} {item}.", f"{name} sells {n} {item}.",
                          f"then {n} are lost.", f"{name} gives {n} {item} to a friend.")), subtract(have, n)  # fmt: skip
    n = number(rng, 1, 20)
    return word(rng, (f"{name} gets {n} more.", f"{name} buys {n} more {item}.", f"{name} finds {n} {item}.",
                      f"a friend gives {name} {n} {item}.")), add(have, n)  # fmt: skip


def story(rng: Random) -> Problem:
    """A word problem: an amount, then up to three changes of it."""
    name, item = word(rng, NAMES), word(rng, ITEMS)
    if rng.random() < 0.35:  # starts from a number, so that the first change is the first step
        have = number(rng, 2, 30)
        text = f"{name} has {have} {item}."
        steps: tuple[EquationStep, ...] = ()
        changes = int(rng.choice(3, p=(0.45, 0.35, 0.2))) + 1
    else:
        text, steps, name, item = possession(rng)
        have = steps[-1].result
        changes = int(rng.choice(3, p=(0.4, 0.35, 0.25)))
    for _ in range(changes):
        sentence, step = change(rng, have, name, item)
        text, steps, have = f"{text} {sentence}", (*steps, step), step.result
    left = f"how many {item} are left?" if changes else "how many in total?"
    ask = (f"how many {item} does {name} have{' now' if changes else ''}?", f"how many {item} are there?", "how many?",
           f"how many {item} does {name} have in total?", left)  # fmt: skip
    return Problem(f"{text} {word(rng, ask)}", str(have), tuple(steps))


def difference(rng: Random) -> Problem:
    """A word problem on two amounts: their difference or their sum."""
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
    """A word problem of the split with ``steps`` steps (1..3; None: any). ``held_out``: with a number unseen in training."""
    while True:
        made = MAKERS[int(rng.choice(3, p=(0.74, 0.16, 0.1)))](rng)
        if not in_range(made.steps) or (steps is not None and len(made.steps) != steps) or len(made.steps) > 3:
            continue
        if held_out_steps(made.steps) == held_out and (held_out or split_of(made.key) == split):
            return made


def plain_equation(rng: Random, split: Split = "train") -> str:
    """One to three equations: "7 + 5 = 12." """
    return " ".join(str(equation_step(rng, split)) for _ in range(number(rng, 1, 3)))


EQUATION = re.compile(r"(\d+) ([-+*]) (\d+) = (\d+)\.?")


def check_steps(reasoning: str, problem: Problem) -> bool:
    """Whether a trace solves the problem: all equations true, operands given or already computed, and the last result right.

    Any valid order of the steps is accepted.
    """
    equations = EQUATION.findall(reasoning)
    if not equations or EQUATION.sub("", reasoning).strip():
        return False
    known = [int(n) for n in re.findall(r"\d+", problem.text)]
    for left, operator, right, result in equations:
        a, b, c = int(left), int(right), int(result)
        if c != {"+": a + b, "-": a - b, "*": a * b}[operator]:
            return False
        for used in (a, b):
            if used not in known:
                return False
            known.remove(used)
        known.append(c)
    return str(known[-1]) == problem.answer and len(equations) == len(problem.steps)


def extract_answer(text: str) -> str:
    """The last number of an answer, or the answer itself in lower case without its full stop."""
    numbers = re.findall(r"-?\d+", text)
    return numbers[-1] if numbers else text.strip().lower().rstrip(".")
