"""Answers to questions that others asked: formulas compared by math-verify, short answers and choices as words.

math-verify bounds its own work by signals, which only a main thread may have, so `same_formula` calls it without; run it where
it can be ended (`mmada.tasks.math_verify`), since what it simplifies comes from strangers.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mmada.canvas import Modality
from mmada.errors import InputError
from mmada.tasks.compare_answers import same_answer
from mmada.tasks.task import Completion, Prompt, Score

__all__ = ["Mathematics", "need_math_verify", "same_answer", "same_formula", "same_short"]

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
LONGEST = 20_000
"""Characters of an answer that are looked at, from its end; the answer proper stands there."""


@dataclass(frozen=True)
class Mathematics:
    """Questions of mathematics with a known answer. The target is that answer, a number or a formula."""

    name: ClassVar[str] = "mathematics"
    inputs: ClassVar[frozenset[Modality]] = frozenset({"text"})
    output: ClassVar[Modality] = "text"
    scores: ClassVar[frozenset[str]] = frozenset({"correct"})

    def prompt(self, example: Mapping[str, Any]) -> Prompt:
        """From {"question": text, "answer": text}."""
        return Prompt(example["question"], self, target=example["answer"])

    def score(self, completion: Completion) -> Score:
        """1 for the same number or formula, else 0."""
        from mmada.tasks.math_verify import equal_formulas  # which needs this module

        gold, answer = completion.prompt.target, completion.answer
        return Score(float(same_answer(gold, answer) or equal_formulas(gold, answer)))


def same_short(gold: str, answer: str) -> bool:
    """Whether two short answers are the same words or number, or the same choice: "(B) 40 cm" for "B", "three" for "3"."""
    wanted, given = plain(gold), plain(answer)
    if not wanted:
        return False
    if re.fullmatch("[a-h]", wanted):
        choice = re.match(r"\(?([a-h])(?:[).:]|$)", given)
        return choice is not None and choice[1] == wanted
    return wanted == given


def plain(text: str) -> str:
    """A short answer without case, outer marks, and a number in one spelling."""
    words = text.strip().casefold().strip("$ ").rstrip(".").strip()
    words = str(NUMBERS.index(words)) if words in NUMBERS else words
    bare = words.replace(",", "")
    return f"{float(bare):.12g}" if re.fullmatch(r"-?\d{1,12}(?:\.\d{1,12})?", bare) else words


def need_math_verify() -> None:
    """Raise InputError where math-verify is missing."""
    if importlib.util.find_spec("math_verify") is None:
        raise InputError("answers of mathematics are compared by math-verify; install it with: pip install 'mmada[reason]'")


def same_formula(pairs: Sequence[tuple[str, str]]) -> list[float]:
    """For each (gold, answer): 1 where math-verify finds them equal, else 0. The last formula of an answer counts.

    Takes as long as it takes, and may never end: see above.
    """
    need_math_verify()
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # says for each call that its time-out is off
    found = []
    for gold, answer in pairs:
        wanted, given = parse(formula(gold), parsing_timeout=None), parse(formula(answer), parsing_timeout=None)
        found.append(float(bool(wanted) and bool(given) and verify(wanted, given, timeout_seconds=None)))
    return found


def formula(text: str) -> str:
    """An answer as math-verify looks for one: a bare formula is put in dollars, words are left as they are."""
    text = text.strip()[-LONGEST:]
    bare = len(text) < 200 and "$" not in text and "\\boxed" not in text and "\n" not in text
    return f"${text}$" if bare and not re.search(r"[A-Za-z]{3,} [A-Za-z]+", text) else text
