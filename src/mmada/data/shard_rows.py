"""Rows of shards: an example as codes, text ids and a short JSON record, and back, whole.

What is stored are the fields of an `Example`, not a finished canvas: prompts differ between models and between stages (the length
of a thought, padding, the instruction before a question), and a caption may be left out or a word masked at each visit. So the
formatter of any prompt format can use a shard.

Each text of an example is stored as its token ids where decoding them gives back the very same text. Where it does not (a
tokenizer that lower-cases, say), the text itself is stored, as UTF-8 in the words of the same file. Ids are what counts tokens
and what readers in other programs want; the exact text is what a formatter needs, as a header and the text after it are
tokenised together.

The record, compact JSON: ``[id, tokens, {field: value, ...}]`` with the fields that differ from their defaults; in them a text is
``{"t": number of ids}`` or ``{"b": number of bytes}``, codes are their shape, and an array of bools is its shape and packed bits.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch

from mmada.data.dataset import Example, UnusableRow
from mmada.errors import InputError
from mmada.tokenizers.prompt import Message
from mmada.tokenizers.text import TextTokenizer

__all__ = ["Record", "RowFormat"]

WORD = np.dtype("<u4")
PLAIN = ("objective", "learn", "role")
"""Fields that hold a word of the code, not a text."""
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Record:
    """An example as it is stored. ``codes`` (C,) and ``text`` (T,) are flat; ``tokens``: codes and text ids together."""

    codes: Array
    text: Array
    meta: bytes
    tokens: int


@dataclass(frozen=True)
class RowFormat:
    """Examples to records and back, with the tokenizer of their texts. ``codebook_size``: codes of the image tokenizer."""

    text: TextTokenizer
    codebook_size: int

    @property
    def code_type(self) -> np.dtype[Any]:
        """Type of a stored code: 16 bits where they hold every code, else 32."""
        return np.dtype("<u2") if self.codebook_size <= 2**16 else WORD

    def record(self, example: Example, id: str) -> Record:
        """The record of an example whose pictures are encoded. Raises `UnusableRow` for one that cannot be stored."""
        if example.images:
            raise ValueError("the images of an example are encoded before it is stored")
        writer = _Writer(self)
        given = {f.name: getattr(example, f.name) for f in fields(example) if f.name not in ("images", "codes")}
        plain = {name: writer.value(name, value) for name, value in given.items() if not _is_default(name, value)}
        codes = [self._codes(grid) for grid in example.codes]
        if codes:
            plain["codes"] = [list(grid.shape) for grid in codes]
        flat = np.concatenate([grid.ravel() for grid in codes]) if codes else np.zeros(0, self.code_type)
        tokens = writer.tokens + len(flat)
        meta = json.dumps([id, tokens, plain], ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
        text = np.concatenate(writer.words) if writer.words else np.zeros(0, WORD)
        return Record(flat, text, meta, tokens)

    def _codes(self, given: Any) -> Array:
        grid = np.asarray(given.cpu() if isinstance(given, torch.Tensor) else given).astype(np.int64)
        if grid.size and (grid.min() < 0 or grid.max() >= self.codebook_size):
            raise UnusableRow(f"codes outside the codebook of {self.codebook_size}")
        return grid.astype(self.code_type)

    def example(self, codes: Array, text: Array, meta: bytes) -> Example:
        """The example of a record. Raises InputError for a damaged one."""
        try:
            _, _, plain = json.loads(meta)
            reader = _Reader(self, iter(_cut(codes, plain.pop("codes", []))), text)
            values = {name: reader.value(name, value) for name, value in plain.items()}
            found = Example(codes=tuple(reader.codes), **values)
            if reader.used != len(text):
                raise ValueError("texts end early")
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
            raise InputError(f"a row of a shard is damaged ({error}); build the shards again") from error
        return found

    def id(self, meta: bytes) -> str:
        """The id in a record. Raises InputError for a damaged one."""
        try:
            return str(json.loads(meta)[0])
        except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
            raise InputError(f"a row of a shard is damaged ({error}); build the shards again") from error

    def encode(self, text: str) -> list[int]:
        """Ids of a text. Raises `UnusableRow` for what is no Unicode."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UnusableRow("text is not valid Unicode") from error
        return self.text.encode(text)

    def decode(self, ids: list[int]) -> str:
        """The text of ids."""
        text: str = self.text.fast.decode(ids, skip_special_tokens=False)
        return text

    @cached_property
    def size(self) -> int:
        """Ids of the text tokenizer."""
        return len(self.text)


class _Writer:
    """Values of fields as JSON; texts go to ``words`` in the order in which they are met."""

    def __init__(self, format: RowFormat) -> None:
        self.format = format
        self.words: list[Array] = []
        self.tokens = 0

    def value(self, name: str, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float) or name in PLAIN:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Message):
            return [value.role, self.text(value.content)]
        if isinstance(value, list | tuple):
            return [self.value(name, one) for one in value]
        if isinstance(value, np.ndarray | torch.Tensor):
            mask = np.asarray(value.cpu() if isinstance(value, torch.Tensor) else value).astype(np.bool_)
            return {"shape": list(mask.shape), "bits": base64.b64encode(np.packbits(mask).tobytes()).decode()}
        raise TypeError(f"field {name} of an example holds {type(value).__name__}, which shards cannot store")

    def text(self, text: str) -> dict[str, int]:
        ids = self.format.encode(text)
        self.tokens += len(ids)
        if self.format.decode(ids) == text:
            self.words.append(np.asarray(ids, WORD))
            return {"t": len(ids)}
        data = text.encode()
        self.words.append(np.frombuffer(data + b"\0" * (-len(data) % WORD.itemsize), WORD))
        return {"b": len(data)}


class _Reader:
    """The reverse of `_Writer`."""

    def __init__(self, format: RowFormat, codes: Iterator[Array], words: Array) -> None:
        self.format, self.codes, self.words, self.used = format, codes, words, 0

    def value(self, name: str, value: Any) -> Any:
        if name == "messages":
            return tuple(Message(role, self.value("content", content)) for role, content in value)
        if isinstance(value, list):
            return tuple(self.value(name, one) for one in value)
        if not isinstance(value, dict):
            return value
        if "bits" in value:
            size = int(np.prod(value["shape"], dtype=np.int64))
            bits = np.frombuffer(base64.b64decode(value["bits"], validate=True), np.uint8)
            return np.unpackbits(bits)[:size].astype(np.bool_).reshape(value["shape"])
        count = value["t"] if "t" in value else -(-value["b"] // WORD.itemsize)
        words = self.words[self.used : self.used + count]
        if not 0 <= count == len(words):
            raise ValueError("a text is cut short")
        self.used += count
        if "b" in value:
            return words.tobytes()[: value["b"]].decode()
        if count and int(words.max()) >= self.format.size:
            raise ValueError("an id is not of the tokenizer")
        return self.format.decode(words.tolist())


def _cut(codes: Array, shapes: list[list[int]]) -> Iterator[Array]:
    """The grids that lie one after another in ``codes``, as int32 of their own memory."""
    used = 0
    for shape in shapes:
        size = int(np.prod(shape, dtype=np.int64))
        yield codes[used : used + size].astype(np.int32).reshape(shape)
        used += size
    if used != len(codes):
        raise ValueError("codes end early")


_DEFAULTS = {f.name: f.default for f in fields(Example)}


def _is_default(name: str, value: Any) -> bool:
    default = _DEFAULTS[name]
    return default is not MISSING and type(value) is type(default) and bool(value == default)
