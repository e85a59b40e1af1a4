"""Shards: examples with codes instead of pictures, on disk, for training at any size.

    sets = ShardedDataset(folder)              # that `mmada data build` wrote
    sets["photos"][7]                          # an Example of the split for training, whole
    sets["photos"].batch(rows)                 # codes and ids of many rows at once
    mixture = sets.mixture                     # as `mmada.data.load` gives it

Files are mapped into memory: a row costs what it has in bytes, the page cache is shared by all processes, and memory does not
grow with the data. `mmada.data.shard_files` says what is in them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mmada.data.dataset import Dataset, Example, UnusableRow
from mmada.data.encoded import encoder_fingerprint
from mmada.data.mixture import MAX_BAD, SPLITS, Mixture, Split, Tally
from mmada.data.reasoning import ReasoningExample
from mmada.data.shard_files import LISTING, TOKENIZER, Listing, ShardEntry, ShardFile, read_listing
from mmada.data.shard_rows import RowFormat
from mmada.errors import InputError, check_choice, check_is_folder, quote
from mmada.io.fingerprint import fingerprint
from mmada.tokenizers.image import ImageTokenizer
from mmada.tokenizers.text import TextTokenizer

__all__ = ["Rows", "ShardedDataset", "ShardedSet", "ShardedSplit", "check_tokenizers", "is_shards", "text_fingerprint"]

OPEN_SHARDS = 256
"""Shards whose files are kept open; a system allows some tens of thousands of mappings."""
Array = np.ndarray[Any, Any]


def is_shards(path: Path) -> bool:
    """Whether a path is a folder of shards."""
    return (path / LISTING).is_file()


def text_fingerprint(text: TextTokenizer) -> str:
    """Fingerprint of what makes ids of texts."""
    return fingerprint(text.fast.to_str())


@dataclass(frozen=True)
class Rows:
    """Codes and ids of texts of some rows, end to end: those of row i are ``codes[codes_at[i] : codes_at[i + 1]]``."""

    codes: Array
    codes_at: Array
    text: Array
    text_at: Array


@dataclass(frozen=True)
class ShardedSplit:
    """The examples of one split of a set, in the order of their rows."""

    folder: Path
    entries: tuple[ShardEntry, ...]
    format: RowFormat
    opened: OrderedDict[int, ShardFile] = field(default_factory=OrderedDict, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "opened": OrderedDict()}  # other processes map the files themselves

    @cached_property
    def starts(self) -> Array:
        """The first row of each shard, and the end."""
        return np.cumsum([0, *(one.rows for one in self.entries)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> Example:
        shard, at = self.find(index)
        codes, text, meta, _ = (slice(a, b) for a, b in zip(*shard.index[at : at + 2].tolist(), strict=True))
        return self.format.example(shard.codes[codes], shard.text[text], shard.meta[meta].tobytes())

    def many(self, rows: Sequence[int]) -> list[Example | UnusableRow]:
        """The examples of rows."""
        return [self[row] for row in rows]

    def id(self, index: int) -> str:
        """The id of the row that an example was made from."""
        shard, at = self.find(index)
        return self.format.id(shard.meta[slice(*shard.index[at : at + 2, 2].tolist())].tobytes())

    def batch(self, rows: Sequence[int] | Array) -> Rows:
        """Codes and ids of texts of many rows, in their order."""
        wanted = self.checked(np.asarray(rows, np.int64))
        numbers = np.searchsorted(self.starts, wanted, "right") - 1
        begin, end = np.zeros((len(wanted), 4), np.int64), np.zeros((len(wanted), 4), np.int64)
        shards = {}
        for number in np.unique(numbers).tolist():
            shards[number] = shard = self.shard(number)
            places = numbers == number
            local = wanted[places] - self.starts[number]
            begin[places], end[places] = shard.index[local], shard.index[local + 1]
        codes = {number: shard.codes.view(np.uint8).data for number, shard in shards.items()}
        text = {number: shard.text.view(np.uint8).data for number, shard in shards.items()}
        order = numbers.tolist()
        return Rows(
            *gathered(codes, order, begin[:, 0], end[:, 0], self.format.code_type),
            *gathered(text, order, begin[:, 1], end[:, 1], np.dtype("<u4")),
        )

    def tokens(self, rows: Sequence[int] | Array | None = None) -> Array:
        """Codes and ids of texts together of some rows, or of all."""
        wanted = np.arange(len(self)) if rows is None else self.checked(np.asarray(rows, np.int64))
        numbers = np.searchsorted(self.starts, wanted, "right") - 1
        found = np.zeros(len(wanted), np.int64)
        for number in np.unique(numbers).tolist():
            places, index = numbers == number, self.shard(number).index
            local = wanted[places] - self.starts[number]
            found[places] = index[local + 1, 3] - index[local, 3]
        return found

    def checked(self, rows: Array) -> Array:
        """Row numbers, those from the end as such. Raises IndexError."""
        if rows.size and not (-len(self) <= int(rows.min()) and int(rows.max()) < len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        return np.where(rows < 0, rows + len(self), rows)

    def find(self, index: int) -> tuple[ShardFile, int]:
        """The shard of a row, and the row in it."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        number = int(np.searchsorted(self.starts, index, "right")) - 1
        return self.shard(number), index - int(self.starts[number])

    def shard(self, number: int) -> ShardFile:
        """A shard, opened; those that were not used for longest are closed."""
        found = self.opened.pop(number, None)
        if found is None:
            entry = self.entries[number]
            found = ShardFile(self.folder / entry.folder, entry, self.format.code_type)
            while len(self.opened) >= OPEN_SHARDS:
                self.opened.popitem(last=False)
        self.opened[number] = found
        return found


def gathered(
    data: Mapping[int, memoryview], shards: list[int], begin: Array, end: Array, kind: np.dtype[Any]
) -> tuple[Array, Array]:
    """Pieces of shards end to end, and where each begins. Slices of bytes cost half of what slices of arrays do."""
    size = kind.itemsize
    bounds = zip(shards, (begin * size).tolist(), (end * size).tolist(), strict=True)
    whole = bytearray().join([data[shard][start:stop] for shard, start, stop in bounds])
    return np.frombuffer(whole, kind), np.concatenate([[0], np.cumsum(end - begin)])


@dataclass(frozen=True)
class ShardedSet:
    """A named set in shards, as `mmada.data.mixture.SourceSet` has it. ``tally``: rows that are in no shard, and why."""

    name: str
    use: str
    splits: Mapping[Split, ShardedSplit]
    folder: Path
    text: str
    image: str
    tally: Tally = field(default_factory=Tally)
    max_bad: float = MAX_BAD

    @property
    def tasks(self) -> tuple[str, ...]:
        """None: prompts are read from sources."""
        return ()

    @property
    def rows(self) -> int:
        """Examples of all splits."""
        return sum(map(len, self.splits.values()))

    def split(self, name: Split) -> ShardedSplit:
        """The examples of a split."""
        check_choice("split", name, SPLITS)
        return self.splits[name]

    def id(self, split: Split, index: int) -> str:
        """The id of the row that an example was made from."""
        return self.split(split).id(index)

    def prompts(self, name: Split) -> Sequence[ReasoningExample]:
        """None: prompts are read from sources."""
        return ()


class ShardedDataset(Mapping[str, Dataset]):
    """A folder of shards: the examples for training, by set. Raises InputError for one that is damaged or not complete."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = check_is_folder("shards", folder)
        self.listing: Listing = read_listing(self.folder)
        if not self.listing.complete:
            raise InputError(f"shards {quote(self.folder)} are not complete; run the same mmada data build again to end it")
        self.format = RowFormat(TextTokenizer.load(self.folder / TOKENIZER), self.listing.codebook_size)
        if text_fingerprint(self.format.text) != self.listing.text:
            raise InputError(f"tokenizer of shards {quote(self.folder)} is not the one they were built with; build them again")

    def __len__(self) -> int:
        return len(self.listing.sets)

    def __iter__(self) -> Iterator[str]:
        return iter(self.listing.sets)

    def __getitem__(self, name: str) -> ShardedSplit:
        return self.splits(name)["train"]

    def splits(self, name: str) -> dict[Split, ShardedSplit]:
        """The splits of a set."""
        return {split: ShardedSplit(self.folder, tuple(self.listing.of(name, split)), self.format) for split in SPLITS}

    @cached_property
    def mixture(self) -> Mixture:
        """The sets with their weights and splits."""
        sets = {}
        for name, one in self.listing.sets.items():
            tally = Tally(reasons=self.listing.rejected(name))
            sets[name] = ShardedSet(name, one.use, self.splits(name), self.folder, self.listing.text, self.listing.image, tally)
        weights = {name: one.weight for name, one in self.listing.sets.items()}
        return Mixture(sets, weights, self.listing.by)


def check_tokenizers(mixture: Mixture, text: TextTokenizer, image: ImageTokenizer | None) -> None:
    """Raise InputError where sets of a mixture are shards that were built with other tokenizers than a model's."""
    sharded = [one for one in mixture.sets.values() if isinstance(one, ShardedSet)]
    if not sharded:
        return
    own_text, own_image = text_fingerprint(text), "" if image is None else encoder_fingerprint(image)
    for one in sharded:
        for kind, theirs, own in (("text", one.text, own_text), ("image", one.image, own_image)):
            if own and theirs != own:
                raise InputError(
                    f"shards {quote(one.folder)} were built with another {kind} tokenizer than the model's; "
                    f"build them again with mmada data build --model, or give the model they were built for"
                )
