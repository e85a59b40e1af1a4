"""Data of supervised training: sets from a YAML file, a folder of shards or readers, checked, fitted to the model and encoded.

What cannot be used is counted by reason and printed before the first step.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image
from rich.progress import track

from mmada.data import load
from mmada.data.dataset import Dataset, DatasetLike, Example, Formatter, Subset, UnusableRow, check_mixture
from mmada.data.encoded import EncodedDataset
from mmada.data.mixture import Mixture
from mmada.data.sampler import example_shares, mean_tokens, rows_of
from mmada.data.shards import check_tokenizers
from mmada.errors import InputError
from mmada.registry import DATASETS
from mmada.tokenizers.image import ImageTokenizer

__all__ = [
    "DataSource",
    "Encoding",
    "ReadData",
    "SftData",
    "check_options",
    "file_data",
    "read_file",
    "read_sources",
    "report",
    "source_data",
]

CHECKED, ENCODED, CHUNK = 10_000, 2_000, 256
"""Examples of a set that are checked before the first step, those whose pictures are encoded then, and how many at a time."""

READ = 20_000
"""Examples of a set from which a new text tokenizer is trained."""


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """One data set: ``path`` read by the reader ``kind`` (`mmada.registry.DATASETS`; empty: the name of the source) with
    ``options``. ``weight``: its part of the mixture."""

    path: str
    kind: str = ""
    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Encoding:
    """How pictures become codes: the tokenizer, how a picture is made to fit, and where codes are stored."""

    tokenizer: ImageTokenizer
    fit: Callable[[Image.Image], Image.Image]
    cache: Path


@dataclass(frozen=True)
class SftData:
    """Sets by name, ready for sampling. ``weights``: shares of the examples; ``uses``: what each set is for."""

    train: Mapping[str, DatasetLike]
    validation: Mapping[str, Dataset] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    uses: Mapping[str, str] = field(default_factory=dict)

    @property
    def fixed(self) -> dict[str, Dataset]:
        """The sets that have a number of examples: all but procedural ones."""
        return {name: one for name, one in self.train.items() if isinstance(one, Dataset)}

    @property
    def examples(self) -> int:
        """Examples of an epoch: of the sets that have a weight."""
        return sum(len(one) for name, one in self.fixed.items() if self.weights.get(name, 0.0))


@dataclass(frozen=True)
class ReadData:
    """Data as it was found, pictures not yet encoded: sets of readers, or a mixture of a file."""

    sets: Mapping[str, Dataset] = field(default_factory=dict)
    mixture: Mixture | None = None


def read_file(path: str) -> ReadData:
    """The data of a YAML file, or of a folder of shards. Raises InputError."""
    return ReadData(mixture=load(path))


def file_data(mixture: Mixture, path: str, formatter: Formatter, length: int, encoding: Encoding) -> SftData:
    """The sets of a mixture, those that are not too large checked and encoded. Raises InputError where one has no example left,
    and where too many rows are bad."""
    check_tokenizers(mixture, formatter.prompter.text, encoding.tokenizer)
    train = {name: usable(name, one, formatter, length, encoding) for name, one in mixture.split("train").items()}
    mixture.check_rejected()
    held = {name: usable(name, one, formatter, length, encoding) for name, one in mixture.split("validation").items()}
    mixture.check_rejected()
    for name, one in mixture.sets.items():
        if one.use == "prompts":
            print(f"data {name!r} ({one.use}): left out; prompts are for mmada train rl --data {path}")
            continue
        parts = [part for part in (train.get(name), held.get(name)) if part is not None]
        for part in parts:
            part.check_broken(name, one.max_bad)
        lost = sum((part.rejected for part in parts), Counter(one.tally.reasons))
        counts = [len(found[name].examples) if name in found else 0 for found in (train, held)]
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in lost.most_common())
        sizes = f"{counts[0]:,} examples to train on, {counts[1]:,} to validate"
        print(f"data {name!r} ({one.use}): {one.rows:,} rows, {sizes}" + (f"; not used: {reasons}" if reasons else ""))
        if name in train and not counts[0]:
            raise InputError(f"data {name!r} of {path} has no example that can be used ({reasons or 'it is empty'})")
    if not train:
        raise InputError(f"data {path} has no example to train on; check the uses and the splits of its sets")
    sets = {name: part.examples for name, part in train.items()}
    weights = {name: mixture.weights[name] for name in sets}
    if mixture.by == "tokens":
        means = {name: mean_tokens(one, lambda example: formatter.canvas(example).length) for name, one in sets.items()}
        weights = example_shares(weights, means)
    check_mixture(weights, sets)
    validation = {name: part.examples for name, part in held.items() if len(part.examples)}
    return SftData(sets, validation, weights, {name: one.use for name, one in mixture.sets.items()})


def texts_of(sets: Mapping[str, Dataset], *more: str) -> list[str]:
    """Texts of up to `READ` examples of each set, from which a text tokenizer is trained, and ``more``."""
    found = ["user assistant system", *more]
    for dataset in sets.values():
        for index in np.unique(np.linspace(0, len(dataset) - 1, min(READ, len(dataset))).astype(int)).tolist():
            try:
                example = dataset[index]
            except UnusableRow:
                continue
            found += [text for text in (example.text, example.thought, *(turn.content for turn in example.messages)) if text]
            found += [piece for piece, _ in example.parts]
    return found


@dataclass(frozen=True)
class Chosen(Subset):
    """Some examples of a data set that makes many at once."""

    def many(self, rows: Sequence[int]) -> list[Example | UnusableRow]:
        """As `mmada.data.sampler.BatchedDataset`."""
        return rows_of(self.dataset, [self.indices[row] for row in rows])


@dataclass(frozen=True)
class Usable:
    """Examples, and why others do not fit: ``long`` ones, and those with a picture that is ``broken``."""

    examples: Dataset
    long: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)

    @property
    def rejected(self) -> Counter[str]:
        """How many others there are, by reason."""
        return self.long + self.broken

    def check_broken(self, name: str, max_bad: float) -> None:
        """Raise InputError where more than ``max_bad`` of the examples have a broken picture."""
        bad, tried = self.broken.total(), len(self.examples) + self.broken.total()
        if bad > max_bad * tried:
            reasons = ", ".join(f"{reason} {count}" for reason, count in self.broken.most_common())
            raise InputError(
                f"set {name!r} has pictures that cannot be read in {bad} of {tried} examples, more than {max_bad:.3g} of them "
                f"({reasons}); get whole copies of them, or raise max_bad"
            )


def usable(name: str, dataset: Dataset, formatter: Formatter, length: int, encoding: Encoding) -> Usable:
    """The examples that fit a row of ``length`` tokens, with pictures as codes.

    A set of up to `CHECKED` examples is checked now, and its pictures are encoded if there are at most `ENCODED`. Of larger ones,
    examples are checked and encoded as they are drawn.
    """
    encoded = EncodedDataset(dataset, encoding.tokenizer, encoding.fit, encoding.cache)
    if len(dataset) > CHECKED:
        return Usable(encoded)
    kept, long, broken = list[int](), Counter[str](), Counter[str]()
    for index in range(len(dataset)):
        try:
            reason = formatter.reject_reason(dataset[index], length)
        except UnusableRow:  # counted by the set
            continue
        if reason:
            long[reason] += 1
        else:
            kept.append(index)
    if len(kept) > ENCODED:
        return Usable(Chosen(encoded, kept), long)
    good = []
    for start in track(range(0, len(kept), CHUNK), description=f"encoding the pictures of {name}", transient=True):
        some = kept[start : start + CHUNK]
        for index, found in zip(some, rows_of(encoded, some), strict=True):
            if isinstance(found, UnusableRow):
                broken[found.reason] += 1
            else:
                good.append(index)
    return Usable(Chosen(encoded, good), long, broken)


@runtime_checkable
class Counting(Protocol):
    """A data set that says how many rows of its source it could not use, by reason."""

    @property
    def rejected(self) -> Mapping[str, int]: ...


def read_sources(sources: Mapping[str, DataSource]) -> dict[str, Dataset]:
    """The data sets of sources, their pictures not yet encoded. Raises InputError where one is missing or has no example."""
    found = {}
    for name, source in sources.items():
        reader = DATASETS.find(source.kind)
        check_options(name, source, reader)
        dataset = reader(Path(source.path), **source.options)
        report(name, source.path, dataset.rejected if isinstance(dataset, Counting) else {}, len(dataset))
        found[name] = dataset
    return found


def source_data(
    read: Mapping[str, Dataset], sources: Mapping[str, DataSource], formatter: Formatter, length: int, encoding: Encoding
) -> dict[str, Dataset]:
    """Read sets without the examples that are longer than a row of ``length`` tokens, their pictures encoded."""
    found: dict[str, Dataset] = {}
    for name, dataset in read.items():
        path = sources[name].path
        part = usable(name, dataset, formatter, length, encoding)
        report(name, path, part.rejected, len(part.examples), "; raise row_length or thought_length" if part.long else "")
        found[name] = part.examples
    return found


def check_options(name: str, source: DataSource, reader: Callable[..., Dataset]) -> None:
    """Raise InputError for an option that the reader of a source does not have, or a value of another type."""
    _, *parameters = inspect.signature(reader).parameters.values()
    known = {one.name: one.default for one in parameters if one.kind is not one.VAR_KEYWORD}
    for option, value in source.options.items():
        if option in known and (known[option] is None or isinstance(value, type(known[option]))):
            continue
        if option in known:
            expected = type(known[option]).__name__
            raise InputError(f"option {option!r} of data {name!r} must be a {expected}, got {value!r}")
        if len(known) == len(parameters):
            choice = f"choose from {', '.join(known)}" if known else "it has none; leave it out"
            raise InputError(f"option {option!r} of data {name!r} is unknown to the kind {source.kind}; {choice}")


def report(name: str, path: str, rejected: Mapping[str, int], used: int, hint: str = "") -> None:
    """Print how many examples of a source are not used, by reason. Raises InputError where none is left."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(rejected.items()))
    if not used:
        raise InputError(f"data {name!r} at '{path}' has no example that can be used ({reasons or 'it is empty'}){hint}")
    if reasons:
        print(f"data {name!r} at '{path}': {used} examples are used; not used: {reasons}")
