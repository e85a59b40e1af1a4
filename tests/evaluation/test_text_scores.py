"""Exact match, and CIDEr-D against the values of the evaluation code of COCO captions (pycocoevalcap 1.2, CiderScorer)."""

import pytest

from mmada.evaluation.text_scores import CiderD, exact_match, words

REFERENCES = [
    ["a red apple on a table", "red apple on the table"],
    ["a dog runs in the park"],
    ["two cats sleep on a sofa", "cats are sleeping on a couch"],
    ["an apple"],
    ["the flag of japan"],
]
ANSWERS = [
    ("a red apple on a table", 7.075931476110203),
    ("a dog runs in a green park", 5.286806313069969),
    ("two dogs run on a sofa", 1.5940053723120449),
    ("an apple", 5.0),
    ("flag of japan", 6.181607620726006),
]


@pytest.mark.parametrize(("number", "answer", "score"), [(n, *given) for n, given in enumerate(ANSWERS)])
def test_cider_is_that_of_the_usual_code(number: int, answer: str, score: float) -> None:
    assert CiderD(REFERENCES).score(answer, REFERENCES[number]) == pytest.approx(score, abs=1e-9)


def test_cider_of_the_only_example_and_of_an_empty_answer_is_zero() -> None:
    assert CiderD([["a b c d"]]).score("a b c d", ["a b c d"]) == 0  # nothing is rare in one example
    assert CiderD(REFERENCES).score("", REFERENCES[0]) == 0


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        ("Yes.", "yes", True),
        (" a  red\napple ", "A red apple!", True),
        ("3.5", "3.5", True),
        ("3.5", "35", False),
        ("red apple", "apple red", False),
        ("ﬁve", "five", True),
    ],
)
def test_exact_match_looks_past_case_spaces_and_the_end(answer: str, reference: str, same: bool) -> None:
    assert exact_match(answer, ["something else", reference]) is same


def test_words_of_several_scripts() -> None:
    assert words("The dog's 3.5 kg, naïve: 赤い林檎") == ["the", "dog's", "3.5", "kg", "naïve", *"赤い林檎"]
