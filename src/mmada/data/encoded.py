"""Pictures of a data set as codes, encoded when they are first asked for and kept on disk.

A code depends on the picture, on how it is fitted to a size, and on the encoder. The file of a cache is named by the last two,
and a picture in it by its name, size and time (of a file) or by its content. So a picture that changes is encoded anew, and data
sets, runs and processes may share a cache. SQLite keeps it whole when a process is killed. For sets too large for that, shards
(`mmada.data.shards`) hold codes instead of pictures.

Shapes: h x w codes of a picture of H x W pixels.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmada.data.dataset import Dataset, Example, UnusableRow
from mmada.data.pictures import read_picture
from mmada.data.sampler import rows_of
from mmada.errors import InputError, quote
from mmada.io.fingerprint import fingerprint
from mmada.io.images import ImageSource
from mmada.tokenizers.image import ImageTokenizer, to_pixels

__all__ = ["CodeStore", "EncodedDataset", "encode_examples", "encode_images", "encoder_fingerprint", "fit_fingerprint"]

Grid = np.ndarray[Any, np.dtype[np.int32]]
"""Codes (h, w)."""
Fit = Callable[[Image.Image], Image.Image]
PROBES = ((61, 97), (97, 61), (64, 64))
"""Sizes of the pictures by which two ways of fitting are told apart."""
KEYS = 500
"""Keys of a query; SQLite takes 999 at least."""


@dataclass(frozen=True)
class EncodedDataset:
    """``dataset`` with codes in the place of pictures.

    ``fit`` makes a picture the size that the model works on. ``cache``: the folder of stored codes; ``batch``: pictures that are
    encoded at once. `many` is the fast way: it reads and encodes the pictures of several examples together.
    """

    dataset: Dataset
    tokenizer: ImageTokenizer
    fit: Fit
    cache: Path
    batch: int = 32

    @cached_property
    def store(self) -> CodeStore:
        """The stored codes of this encoder and this size."""
        name = fingerprint(encoder_fingerprint(self.tokenizer), fit_fingerprint(self.fit))[:16]
        return CodeStore(self.cache / f"codes_{name}.sqlite")

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Example:
        (found,) = self.many([index])
        if isinstance(found, UnusableRow):
            raise found
        return found

    def many(self, rows: Sequence[int]) -> list[Example | UnusableRow]:
        """The examples of rows, or why one cannot be used."""
        return encode_examples(rows_of(self.dataset, rows), self.codes)

    def codes(self, images: Sequence[ImageSource]) -> list[Grid | UnusableRow]:
        """The codes of pictures, from the cache or encoded now."""
        keys = [key_of(image) for image in images]
        known = self.store.read(key for key in keys if key)
        new = {key: image for key, image in zip(keys, images, strict=True) if key and key not in known}
        made = dict(zip(new, encode_images(list(new.values()), self.tokenizer, self.fit, self.batch), strict=True))
        self.store.write({key: grid for key, grid in made.items() if not isinstance(grid, UnusableRow)})
        missing = UnusableRow("picture is missing")
        return [known.get(key, made.get(key, missing)) for key in keys]


def encode_examples(
    examples: Sequence[Example | UnusableRow], codes: Callable[[Sequence[ImageSource]], list[Grid | UnusableRow]]
) -> list[Example | UnusableRow]:
    """Examples with codes in the place of their pictures, all of which ``codes`` encodes together."""
    made = iter(codes([image for one in examples if isinstance(one, Example) for image in one.images]))
    found: list[Example | UnusableRow] = []
    for example in examples:
        if isinstance(example, UnusableRow) or not example.images:
            found.append(example)
            continue
        grids = [next(made) for _ in example.images]
        bad = next((one for one in grids if isinstance(one, UnusableRow)), None)
        good = tuple(one for one in grids if not isinstance(one, UnusableRow))
        found.append(bad or replace(example, images=(), codes=(*example.codes, *good)))
    return found


def encode_images(images: Sequence[ImageSource], tokenizer: ImageTokenizer, fit: Fit, batch: int) -> list[Grid | UnusableRow]:
    """Codes (h, w) of each picture, or why it cannot be used; ``batch`` pictures are in memory at a time.

    The result depends on the pictures and their order alone, so that work done again gives the same codes to the last bit.
    """
    # A picture of several examples, drawn in one and described in another, is encoded once.
    keys = [image if isinstance(image, str | Path | bytes) else id(image) for image in images]
    new = dict(zip(keys, images, strict=True))
    found: dict[object, Grid | UnusableRow] = {}
    for start in range(0, len(new), batch):
        some = dict(islice(new.items(), start, start + batch))
        pixels = {key: pixels_of(image, fit) for key, image in some.items()}
        by_size: dict[tuple[int, ...], list[str | Path | bytes | int]] = {}
        for key, one in pixels.items():
            if isinstance(one, UnusableRow):
                found[key] = one
            else:
                by_size.setdefault(one.shape, []).append(key)
        for same in by_size.values():
            stacked = np.stack([np.asarray(pixels[key]) for key in same])
            found |= zip(same, encode_pixels(stacked, tokenizer), strict=True)
    return [found[key] for key in keys]


def encode_pixels(pixels_BHWC: np.ndarray[Any, Any], tokenizer: ImageTokenizer) -> Grid:
    """Codes (B, h, w) of pictures of one size."""
    device = next(tokenizer.parameters()).device
    codes_Bhw: Grid = tokenizer.encode(to_pixels(pixels_BHWC).to(device)).to("cpu", torch.int32).numpy()
    return codes_Bhw


def pixels_of(image: ImageSource, fit: Fit) -> np.ndarray[Any, Any] | UnusableRow:
    """Pixels uint8 (H, W, 3) of a picture, or why it cannot be used."""
    try:
        return np.asarray(fit(read_picture(image)))
    except UnusableRow as error:
        return error


def key_of(image: ImageSource) -> str:
    """What a picture is known by; empty if its file is missing."""
    try:
        return fingerprint(facts_of(image))
    except (OSError, ValueError):  # a name that no file can have is a ValueError
        return ""


def facts_of(image: ImageSource) -> object:
    """Identity of a picture: of a file its name, size and time; reading all of them would take as long as encoding."""
    if isinstance(image, (str, Path)):
        path = Path(image)
        found = path.stat()
        return (str(path.resolve()), found.st_size, found.st_mtime_ns)
    return fingerprint(image)


def encoder_fingerprint(tokenizer: ImageTokenizer) -> str:
    """Fingerprint of what makes codes; the decoder has no part in them."""
    return fingerprint(tokenizer.config, dict(tokenizer.encoder.state_dict()))


def fit_fingerprint(fit: Fit) -> str:
    """Fingerprint of what a function does to pictures: its result on a few, tall, wide and square."""
    probes = [np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in PROBES]
    return fingerprint([np.asarray(fit(Image.fromarray(probe))) for probe in probes])


@dataclass(frozen=True)
class CodeStore:
    """Grids of codes by key in a SQLite file, which is made when the first are written."""

    path: Path

    def read(self, keys: Iterable[str]) -> dict[str, Grid]:
        """Those of the keys that are stored. Raises InputError for a damaged file."""
        wanted = list(dict.fromkeys(keys))
        found: dict[str, Grid] = {}
        if not wanted or not self.path.is_file():
            return found
        with self.opened() as database:
            for start in range(0, len(wanted), KEYS):
                some = wanted[start : start + KEYS]
                marks = ",".join("?" * len(some))
                for key, height, width, codes in database.execute(f"SELECT * FROM codes WHERE key IN ({marks})", some):
                    found[key] = np.frombuffer(codes, "<i4").astype(np.int32).reshape(height, width)
        return found

    def write(self, grids: Mapping[str, Grid]) -> None:
        """Store grids; all of them or, where the process is killed meanwhile, none."""
        if not grids:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = [(key, *grid.shape, grid.astype("<i4").tobytes()) for key, grid in grids.items()]
        with self.opened() as database:
            database.executemany("INSERT OR REPLACE INTO codes VALUES (?, ?, ?, ?)", rows)

    @contextmanager
    def opened(self) -> Iterator[sqlite3.Connection]:
        """The open file, for one transaction. Raises InputError for one that is damaged or cannot be opened."""
        table = "CREATE TABLE IF NOT EXISTS codes (key TEXT PRIMARY KEY, height INT, width INT, codes BLOB) WITHOUT ROWID"
        try:
            with closing(sqlite3.connect(self.path, timeout=120)) as database, database:
                database.execute("PRAGMA synchronous = OFF")  # of a power cut, not of a killed process
                database.execute(table)
                yield database
        except (sqlite3.Error, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"cache of codes {quote(self.path)} cannot be used ({error}); remove it") from error
