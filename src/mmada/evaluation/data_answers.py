"""Answers and captions of a model against those of a data set: exact match and CIDEr-D."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from mmada.data.dataset import Example
from mmada.errors import InputError
from mmada.evaluation.data_sets import TOO_LONG, UNREADABLE, SplitSet, identity, is_answer, pictures_of
from mmada.evaluation.measure import Measured, Split
from mmada.evaluation.text_scores import CiderD, exact_match
from mmada.pipeline import MMaDA
from mmada.tokenizers.prompt import split_thinking

__all__ = ["DataAnswers"]

Random = np.random.Generator
BATCH = 32


@dataclass(frozen=True)
class Asked:
    """A conversation to answer: ``pictures`` as the model is shown them, the last turn's text as ``wanted``."""

    example: Example
    pictures: list[Image.Image]
    wanted: str
    key: str

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The turns before the answer, the pictures in the first of the user's."""
        turns: list[dict[str, Any]] = [{"role": m.role, "content": m.content} for m in self.example.messages[:-1]]
        if self.pictures:
            first = next(turn for turn in turns if turn["role"] == "user")
            text = [{"type": "text", "text": first["content"]}] if first["content"] else []
            first["content"] = [*({"type": "image", "image": picture} for picture in self.pictures), *text]
        return turns


@dataclass(frozen=True, kw_only=True)
class DataAnswers:
    """The model's answers, decoded as its preset says, against those of the examples; only the last turn is asked for.

    Examples with the same pictures and questions are each other's references. An answer with reasoning is judged by what follows
    the reasoning. The length is the preset's, or as many times it as the wanted answer needs.
    """

    sets: Sequence[SplitSet]

    def __call__(self, model: MMaDA, rng: Random, count: int, split: Split = "test", /) -> Measured:
        """Scores "SET: exact match" and "SET: CIDEr-D" of each example, and the same by use."""
        result = Measured()
        for one in self.sets:
            seed = int(rng.integers(2**31))
            asked = []
            for _, example in one.sample(rng, count, is_answer):
                if (made := asked_of(model, example)) is None:
                    result.add(f"{one.name}: {UNREADABLE}", 1.0)
                else:
                    asked.append(made)
            references: dict[str, list[str]] = {}
            for item in asked:
                references.setdefault(item.key, []).append(item.wanted)
            cider = CiderD(list(references.values()))
            for item, answer in zip(asked, answers(model, asked, seed), strict=True):
                if answer is None:
                    result.add(f"{one.name}: {TOO_LONG}", 1.0)
                    continue
                right = exact_match(answer, references[item.key])
                for name in (one.name, f"use {one.use}"):
                    result.add(f"{name}: exact match", right)
                    result.add(f"{name}: CIDEr-D", cider.score(answer, references[item.key]))
                for picture in item.pictures[:1]:
                    result.show(picture, f"{item.example.messages[-2].content} {answer}", right)
        return result


def asked_of(model: MMaDA, example: Example) -> Asked | None:
    """The conversation of an example; None if a picture cannot be read."""
    pictures = pictures_of(model, example)
    if pictures is None:
        return None
    *before, last = example.messages
    wanted = split_thinking(last.content)[0] if example.reasoning else last.content
    key = repr((identity(example), [(turn.role, turn.content) for turn in before]))
    return Asked(example, pictures, wanted.strip(), key)


def answers(model: MMaDA, asked: Sequence[Asked], seed: int) -> list[str | None]:
    """The model's answers, None where a conversation is too long for it; those of one length are decoded together."""
    groups: dict[tuple[int, bool], list[int]] = {}
    for number, item in enumerate(asked):
        groups.setdefault((length_for(model, item.example), item.example.reasoning), []).append(number)
    found: list[str | None] = [None] * len(asked)
    for (length, thinks), numbers in groups.items():
        for start in range(0, len(numbers), BATCH):
            some = numbers[start : start + BATCH]
            for number, text in zip(some, reply(model, [asked[i] for i in some], thinks, length, seed + start), strict=True):
                found[number] = text
    return found


def reply(model: MMaDA, asked: Sequence[Asked], thinks: bool, length: int, seed: int) -> list[str | None]:
    """The answers to conversations as one batch, or one by one where some are too long for the model."""
    try:
        results = model.chat([item.messages for item in asked], thinking=thinks, length=length, seed=seed)
    except InputError:
        return [None] if len(asked) == 1 else [reply(model, [item], thinks, length, seed)[0] for item in asked]
    return [result.text.strip() for result in (results if isinstance(results, list) else [results])]


def length_for(model: MMaDA, example: Example) -> int:
    """Tokens to decode: the preset's length, or the least multiple of it that holds the wanted answer."""
    sampling = model.preset.reasoning if example.reasoning else model.preset.answer
    own = sampling.numbers[0]
    needed = len(model.engine.parts.text.encode(example.messages[-1].content.strip())) + 1
    return own * max(1, -(-needed // own))
