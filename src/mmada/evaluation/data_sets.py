"""The sets of a mixture's split as measures read them: samples of their examples, pictures as codes, unusable rows left out.

Rows that cannot be used are counted by the set itself (`Mixture.rejected`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image

from mmada.data.dataset import Dataset, Example
from mmada.data.permutation import Permutation
from mmada.errors import InputError
from mmada.io.fingerprint import fingerprint
from mmada.io.images import load_image
from mmada.pipeline import MMaDA
from mmada.pipeline.grids import fit
from mmada.tokenizers.vocabulary import Codes

__all__ = [
    "TOO_LONG",
    "UNREADABLE",
    "Keep",
    "MixtureLike",
    "SplitSet",
    "anything",
    "encoded",
    "has_pictures",
    "identity",
    "is_answer",
    "is_drawing",
    "pictures_of",
    "sets_of",
]

Random = np.random.Generator
Split = Literal["train", "validation", "test"]
Keep = Callable[[Example], bool]
LOOKED_AT = 64
"""Examples of a set that are read to see what can be measured on it."""
BATCH = 32
"""Pictures that are encoded at a time."""
TOO_LONG, UNREADABLE = "left out, too long for the model", "left out, picture cannot be read"
"""Scores that count examples which could not be measured, 1 each."""
PATIENCE = 2000
"""Examples in a row that are of no use to a measure before it takes what it has."""


class MixtureLike(Protocol):
    """What is read of a mixture: `mmada.data.mixture.Mixture` has it."""

    @property
    def sets(self) -> Mapping[str, Any]: ...
    def split(self, name: Split, /) -> Mapping[str, Dataset]: ...


@dataclass(frozen=True)
class SplitSet:
    """The examples of a set in a split. ``fields``: an example's index -> the fields of its row, None where it has none."""

    name: str
    use: str
    dataset: Dataset
    fields: Callable[[int], Mapping[str, Any]] | None = None

    def examples(self, order: Iterator[int], keep: Keep) -> Iterator[tuple[int, Example]]:
        """(index, example) of those that can be used and that ``keep`` takes, in the order given."""
        misses = 0
        for index in order:
            try:
                example = self.dataset[index]
            except (InputError, ValueError):  # UnusableRow is one; the set has counted it
                example = None
            if example is not None and keep(example):
                misses = 0
                yield index, example
            elif (misses := misses + 1) >= PATIENCE:
                return

    def sample(self, rng: Random, count: int, keep: Keep) -> list[tuple[int, Example]]:
        """At most ``count`` examples, chosen by ``rng``."""
        order = Permutation(int(rng.integers(2**31)), len(self.dataset))
        return list(islice(self.examples((order[i] for i in range(len(self.dataset))), keep), count))

    def has(self, keep: Keep) -> bool:
        """Whether some of the first examples are of a kind."""
        first = range(min(LOOKED_AT, len(self.dataset)))
        return any(True for _ in self.examples(iter(first), keep))

    def field(self, index: int, name: str) -> str:
        """A field of an example's row as text. Raises InputError where the set's rows have no such field."""
        row = {} if self.fields is None else self.fields(index)
        if name not in row:
            known = f"its rows have {', '.join(map(str, row))}" if row else "its rows are not there, as in shards"
            raise InputError(f"--group {name!r} is no field of the set {self.name!r}; {known}")
        return str(row[name])


def sets_of(mixture: MixtureLike, split: Split) -> dict[str, SplitSet]:
    """The sets that have examples in a split."""
    found = {}
    for name, dataset in mixture.split(split).items():
        source = mixture.sets[name]
        fields = getattr(source, "fields", None)
        row = None if fields is None else (lambda index, read=fields: read(split, index))
        found[name] = SplitSet(name, source.use, dataset, row)
    return found


def anything(example: Example) -> bool:
    """Any example."""
    return True


def has_pictures(example: Example) -> bool:
    """Whether an example has pictures that are not codes yet."""
    return bool(example.images)


def is_answer(example: Example) -> bool:
    """Whether an example is a conversation whose last turn answers the user."""
    turns = example.messages
    return example.objective == "chat" and len(turns) > 1 and turns[-1].role == "assistant" and turns[-2].role == "user"


def is_drawing(example: Example) -> bool:
    """Whether an example is a whole picture to draw from its caption."""
    whole = example.hole is None and example.learn == "image" and len(example.images) + len(example.codes) == 1
    return example.objective == "text_to_image" and whole and bool(example.text.strip())


def identity(example: Example) -> str:
    """What examples of the same pictures have in common: the paths, or a fingerprint of the contents."""
    sources = [str(one) if isinstance(one, (str, Path)) else fingerprint(one) for one in example.images]
    return "\n".join([*sources, *(fingerprint(np.asarray(codes)) for codes in example.codes)])


def pictures_of(model: MMaDA, example: Example) -> list[Image.Image] | None:
    """The pictures of an example as the model is shown them, codes decoded; None if one cannot be read."""
    side = model.engine.size
    try:
        found = [fit(load_image(source, "picture"), side, model.preset.fit) for source in example.images]
    except InputError:
        return None
    grid = (model.engine.grid, -1)
    decoded = [model.engine.decode(np.asarray(codes, np.int64).reshape(1, *grid))[0] for codes in example.codes]
    return [*found, *(fit(picture, side) for picture in decoded)]


def encoded(model: MMaDA, examples: Sequence[Example]) -> list[Example]:
    """The examples with their pictures as codes, those left out whose pictures cannot be read; each picture is encoded once."""
    codes: dict[str, tuple[Codes, ...]] = {}
    pending: dict[str, list[Image.Image]] = {}

    def encode() -> None:
        flat = [picture for pictures in pending.values() for picture in pictures]
        found = iter(model.engine.encode(flat) if flat else ())
        codes.update({key: tuple(next(found) for _ in pictures) for key, pictures in pending.items()})
        pending.clear()

    for one in examples:
        key = identity(one)
        if one.images and key not in codes and key not in pending and (pictures := pictures_of(model, one)) is not None:
            pending[key] = pictures
            if len(pending) >= BATCH:
                encode()
    encode()
    ready = [one for one in examples if not one.images or identity(one) in codes]
    return [replace(one, images=(), codes=codes[identity(one)]) if one.images else one for one in ready]
