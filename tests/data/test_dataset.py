"""Examples, formatting, mixtures and the stateless sampler."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from tests.helpers import CORPUS

from mmada.canvas import IMAGE, Canvas
from mmada.data.dataset import (
    Dataset,
    Example,
    Formatter,
    ProceduralDataset,
    Sampler,
    check_mixture,
    step_generator,
)
from mmada.errors import InputError
from mmada.tokenizers.prompt import Message, Prompter
from mmada.tokenizers.text import train_text_tokenizer
from mmada.tokenizers.vocabulary import Vocabulary

CODES = tuple(range(16))


@pytest.fixture(scope="module")
def prompter() -> Prompter:
    text = train_text_tokenizer(CORPUS, vocab_size=400, min_frequency=2)
    return Prompter(text, Vocabulary.of(text.ids(), 32), "think first.", 16)


def said(answer: str, **more: object) -> Example:
    turns = (Message("user", "tom has 3 pens"), Message("assistant", answer))
    return Example(objective="chat", messages=turns, **more)


def learned(prompter: Prompter, canvas: Canvas) -> list[int]:
    tokens: list[int] = canvas.tokens_BL[canvas.editable_BL].tolist()
    return tokens


def test_what_is_learned_of_each_objective(prompter: Prompter) -> None:
    v, encode = prompter.vocabulary, prompter.text.encode
    make = Formatter(prompter, thought_length=12).canvas
    assert learned(prompter, make(Example(objective="text", text="a red circle"))) == [*encode("a red circle"), v.eos]
    parts = (("tom has", False), (" 3", True), (" pens", False))
    assert learned(prompter, make(Example(objective="infill", parts=parts))) == encode(" 3")
    assert learned(prompter, make(said("7"))) == [*encode("7"), v.eot]
    codes = [v.image_offset + code for code in CODES]
    drawn = Example(objective="text_to_image", text="a red circle", codes=(CODES,))
    assert learned(prompter, make(drawn)) == codes
    hole = np.zeros((4, 4), bool)
    hole[1, 2:] = True
    inpainted = Example(objective="text_to_image", text="a red circle", codes=(CODES,), hole=hole)
    assert learned(prompter, make(inpainted)) == codes[6:8]
    thought = Example(objective="text_to_image", text="a red circle", codes=(CODES,), thought="3 + 4")
    assert learned(prompter, make(thought)) == codes
    first = Example(objective="text_to_image", text="a red circle", codes=(CODES,), thought="3 + 4", learn="thought")
    found = learned(prompter, make(first))
    assert len(found) == 12
    assert prompter.text.decode(found).startswith("<think> 3 + 4</think>")


def test_a_chat_about_two_pictures_and_reasoning(prompter: Prompter) -> None:
    canvas = Formatter(prompter).canvas(said("<think> 3</think> 7", codes=(CODES, CODES), reasoning=True))
    assert int((canvas.modality_BL == IMAGE).sum()) == 32
    assert not bool((canvas.editable_BL & (canvas.modality_BL == IMAGE)).any())
    assert "think first.\ntom has 3 pens" in prompter.text.decode(canvas.tokens_BL[0].tolist())
    plain = Formatter(prompter).canvas(said("7", codes=(CODES,)))  # no <think>, no instruction
    assert "think first." not in prompter.text.decode(plain.tokens_BL[0].tolist())


@pytest.mark.parametrize(
    ("lengths", "needed", "room"),
    [((), 5, 5), ((8, 16), 5, 8), ((8, 16), 8, 8), ((8, 16), 9, 16), ((8, 16), 17, 32), ((4,), 9, 12)],
)
def test_answers_are_padded_to_a_listed_length(prompter: Prompter, lengths: tuple[int, ...], needed: int, room: int) -> None:
    answer = " ".join(["pens"] * 40)
    while len(prompter.text.encode(answer)) + 1 > needed:
        answer = answer[: -len(" pens")]
    assert len(prompter.text.encode(answer)) + 1 == needed
    canvas = Formatter(prompter, lengths).canvas(said(answer))
    assert int(canvas.editable_BL.sum()) == room
    assert learned(prompter, canvas)[needed:] == [prompter.vocabulary.eos] * (room - needed)
    bare = Formatter(prompter).canvas(said(answer)).length
    assert Formatter(prompter, lengths).canvas(said(answer), bare + 1).length == min(bare + 1, canvas.length)
    assert Formatter(prompter, lengths).canvas(said(answer, padding=3), 5).length == bare + 3  # its own padding stays


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": "vqa"}, "objective must be one of text, infill, chat, text_to_image"),
        ({"objective": "text", "text": " "}, "text is empty"),
        ({"objective": "infill", "parts": (("a", False),)}, "nothing to learn"),
        ({"objective": "chat", "messages": (Message("user", "hi"),)}, "no assistant turn"),
        ({"objective": "text_to_image", "text": "a"}, "has 0 images"),
        ({"objective": "text_to_image", "text": "a", "codes": (CODES, CODES)}, "has 2 images"),
        ({"objective": "text", "text": "a", "learn": "both"}, "learn must be one of"),
    ],
)
def test_examples_without_anything_to_learn_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Example(**fields)


@dataclass(frozen=True)
class Numbers:
    """A data set of numbers as texts."""

    items: Sequence[int]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Example:
        return Example(objective="text", text=f"number {self.items[index]}")


class Dice:
    """A procedural data set."""

    def draw(self, rng: np.random.Generator) -> Example:
        return Example(objective="text", text=f"dice {rng.integers(6)}")


def test_the_sampler_keeps_no_state_and_the_shares(prompter: Prompter) -> None:
    assert isinstance(Numbers([]), Dataset)
    assert not isinstance(Numbers([]), ProceduralDataset)
    sampler = Sampler({"numbers": Numbers(range(10)), "dice": Dice()}, Formatter(prompter), 64)
    weights = {"numbers": 3.0, "dice": 1.0}

    def texts(step: int, count: int = 6) -> list[str]:
        stream = sampler.examples(weights, step_generator(7, step))
        return [next(stream).text for _ in range(count)]

    assert texts(2) == texts(2) != texts(3)
    many = texts(0, 2000)
    assert np.mean([text.startswith("number") for text in many]) == pytest.approx(0.75, abs=0.04)
    assert {text for text in many if text.startswith("number")} == {f"number {n}" for n in range(10)}
    only = sampler.examples({"numbers": 0.0, "dice": 1.0}, step_generator(0, 0))
    assert all(next(only).text.startswith("dice") for _ in range(50))


def test_procedural_examples_that_are_too_long_are_drawn_again_until_patience_ends(prompter: Prompter) -> None:
    class Long(Dice):
        def draw(self, rng: np.random.Generator) -> Example:
            return Example(objective="text", text="a red circle " * int(1 + 5 * rng.integers(2)))

    stream = Sampler({"long": Long()}, Formatter(prompter), 8).canvases({"long": 1.0}, step_generator(0, 0))
    assert all(next(stream).length <= 8 for _ in range(20))
    with pytest.raises(InputError, match="row_length 2 is too short"):
        next(Sampler({"long": Long()}, Formatter(prompter), 2).canvases({"long": 1.0}, step_generator(0, 0)))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"b": 1.0}, "mixture names 'b'; choose from a"),
        ({"a": -1.0}, "mixture's weight of a must be a number of at least 0"),
        ({"a": float("nan")}, "mixture's weight of a"),
        ({"a": 0.0}, "no weight above 0"),
        ({}, "no weight above 0"),
    ],
)
def test_wrong_mixtures(weights: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_mixture(weights, ["a"])


def test_what_cannot_be_learned_whole_has_a_reason(prompter: Prompter) -> None:
    thinking = {"objective": "text_to_image", "text": "a red circle", "codes": (CODES,)}
    examples = [
        said("7"), said("pens " * 30), said("7", codes=(CODES, CODES)), Example(objective="text", text="a red circle"),
        Example(thought="3 + 4", **thinking), Example(thought="pens " * 20, **thinking),
    ]  # fmt: skip
    formatter = Formatter(prompter, (16,), thought_length=10)
    long, thought = "over 40 tokens", "thought over 10 tokens"
    assert [formatter.reject_reason(one, 40) for one in examples] == ["", long, long, "", "", thought]
