"""Files of shards: what is in a folder of them, and one shard opened.

    SHARDS/shards.json            the listing: tokenizers, description of the data, every shard with its counts and sums
    SHARDS/tokenizer/             the text tokenizer
    SHARDS/000-photos-train-0000000000/
        codes.bin                 uint16 (uint32 for codebooks over 65,536): the codes of all pictures, one after another
        text.bin                  uint32: the ids of all texts
        meta.bin                  UTF-8 JSON: a record a row (`mmada.data.shard_rows`)
        index.npy                 int64 (rows + 1, 4): where a row begins in the three files, and the tokens before it

All numbers are little-endian. A shard is written in a temporary folder and renamed, so it is there whole or not at all, and then
listed; what is not listed is written again. Nothing in a shard is code: a file from anyone can be read.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from mmada.errors import InputError, quote, system_reason
from mmada.io.atomic import write_text
from mmada.io.documents import read_fields

__all__ = ["LISTING", "TOKENIZER", "Listing", "SetEntry", "ShardEntry", "ShardFile", "read_listing", "write_listing"]

LISTING = "shards.json"
TOKENIZER = "tokenizer"
VERSION: Literal[1] = 1
FILES = ("codes.bin", "text.bin", "meta.bin", "index.npy")
FIX = "build the shards again"
Array = np.ndarray[Any, Any]
Splits = Literal["train", "validation", "test"]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShardEntry(_Entry):
    """A shard in the listing: rows ``first`` to ``last`` of a split of a set, of which ``rows`` are in it and the others
    ``rejected``, by reason. ``bytes``, ``sha256``: of its files."""

    folder: str = Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z_.-]{0,199}$")
    set: str
    split: Splits
    first: NonNegativeInt
    last: NonNegativeInt
    rows: NonNegativeInt
    tokens: NonNegativeInt
    rejected: dict[str, NonNegativeInt] = {}
    bytes: dict[str, NonNegativeInt]
    sha256: dict[str, str]


class SetEntry(_Entry):
    """A set in the listing: its ``use``, its ``weight`` in the mixture, and its ``rows`` by split."""

    use: str
    weight: float
    rows: dict[Splits, NonNegativeInt]


class Listing(_Entry):
    """What a folder of shards holds. ``text`` and ``image``: fingerprints of the tokenizers; ``settings``: how pictures were
    fitted and rows divided; ``data``: the description of the sources, as it was written."""

    version: Literal[1] = VERSION
    text: str
    image: str
    codebook_size: int = Field(gt=0, le=2**31)
    settings: dict[str, int | str] = {}
    data: str = ""
    by: Literal["examples", "tokens"] = "examples"
    sets: dict[str, SetEntry]
    complete: bool = False
    shards: list[ShardEntry] = []

    def of(self, name: str, split: str) -> list[ShardEntry]:
        """The shards of a split of a set, in the order of their rows."""
        return sorted((one for one in self.shards if (one.set, one.split) == (name, split)), key=lambda one: one.first)

    def rejected(self, name: str) -> Counter[str]:
        """Why rows of a set are in no shard."""
        found = Counter[str]()
        for one in self.shards:
            if one.set == name:
                found.update(one.rejected)
        return found


def read_listing(folder: Path) -> Listing:
    """The listing of a folder of shards. Raises InputError where there is none, it is damaged, or of another version."""
    path = folder / LISTING
    if not path.is_file():
        raise InputError(f"folder {quote(folder)} has no {LISTING}; give one that `mmada data build` wrote")
    fields = read_fields(path, "listing of shards", FIX)
    if fields.get("version") != VERSION:
        raise InputError(f"listing of shards {quote(path)} has version {fields.get('version')!r}, not {VERSION}; {FIX}")
    try:
        return Listing.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"listing of shards {quote(path)} is damaged ({where}: {first['msg']}); {FIX}") from error


def write_listing(folder: Path, listing: Listing) -> None:
    """Write the listing; its bytes depend on its content alone."""
    shards = sorted(listing.shards, key=lambda one: one.folder)
    write_text(folder / LISTING, listing.model_copy(update={"shards": shards}).model_dump_json(indent=1) + "\n")


@dataclass(frozen=True)
class ShardFile:
    """A shard, its files mapped into memory when they are first read."""

    folder: Path
    entry: ShardEntry
    code_type: np.dtype[Any]

    @cached_property
    def index(self) -> Array:
        """Where each row begins: (rows + 1, 4). Raises InputError for a damaged file."""
        path = self.folder / "index.npy"
        self.check_size("index.npy")
        try:
            found: Array = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        except (OSError, ValueError) as error:
            raise self.damaged("index.npy") from error
        if found.dtype != np.dtype("<i8") or found.shape != (self.entry.rows + 1, 4):
            raise self.damaged("index.npy")
        ends = [self.entry.bytes[name] // size for name, size in self.sizes.items()]
        if found[0].any() or (np.diff(found, axis=0) < 0).any() or found[-1, :3].tolist() != ends:
            raise self.damaged("index.npy")
        return found

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of an element of each file."""
        return {"codes.bin": self.code_type.itemsize, "text.bin": 4, "meta.bin": 1}

    @cached_property
    def codes(self) -> Array:
        """All codes."""
        return self.mapped("codes.bin", self.code_type)

    @cached_property
    def text(self) -> Array:
        """All ids of texts."""
        return self.mapped("text.bin", np.dtype("<u4"))

    @cached_property
    def meta(self) -> Array:
        """All records."""
        return self.mapped("meta.bin", np.dtype("u1"))

    def mapped(self, name: str, kind: np.dtype[Any]) -> Array:
        """A file as an array of one kind of number. Raises InputError where it is missing or of another size."""
        self.check_size(name)
        if not self.entry.bytes[name]:
            return np.zeros(0, kind)
        try:
            with (self.folder / name).open("rb") as file:
                return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), kind)
        except (OSError, ValueError) as error:
            raise self.damaged(name) from error

    def check_size(self, name: str) -> None:
        """Raise InputError unless a file is there with the size of the listing."""
        path = self.folder / name
        try:
            size = path.stat().st_size
        except OSError as error:
            raise InputError(f"file {quote(path)} of a shard cannot be read ({system_reason(error)}); {FIX}") from error
        if size != self.entry.bytes.get(name):
            raise self.damaged(name)

    def damaged(self, name: str) -> InputError:
        """The error for a file that is not what the listing says."""
        return InputError(f"file {quote(self.folder / name)} of a shard is damaged (not what {LISTING} says); {FIX}")
