"""Building of shards: the sets of a YAML file as codes and ids on disk, on one machine or, by Ray, on many.

A build is a list of units, ranges of rows whose results do not depend on each other; an engine is a way to run `BuildWorker` on
them. A build that was killed goes on behind the last shard of its listing. What is written depends on the data, the model and
the settings alone, so it has the very same bytes as one that nobody interrupted.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from PIL import Image
from rich.progress import track

from mmada.data import load
from mmada.data.dataset import Dataset
from mmada.data.encoded import encode_images, encoder_fingerprint
from mmada.data.mixture import FIRST_ROWS, SPLITS, Mixture
from mmada.data.shard_files import TOKENIZER, Listing, SetEntry, ShardEntry, read_listing, write_listing
from mmada.data.shard_rows import RowFormat
from mmada.data.shard_writer import ShardLimits, Unit, units_of, write_shards
from mmada.data.shards import check_tokenizers, is_shards, text_fingerprint
from mmada.errors import InputError, check_folder, check_whole, make_folder, quote
from mmada.io.atomic import atomic_folder, remove_leftovers
from mmada.io.device import chosen_device
from mmada.io.lock import LOCK, folder_lock
from mmada.pipeline.grids import fit
from mmada.pipeline.known_checkpoints import known_checkpoint
from mmada.pipeline.loading import check_model_folder, find_folder, image_source, read_image_tokenizer
from mmada.tokenizers.image import ImageTokenizer
from mmada.tokenizers.text import TextTokenizer

__all__ = ["BuildJob", "BuildWorker", "Engine", "build_shards", "local_engine"]


@dataclass(frozen=True, kw_only=True)
class BuildJob:
    """What to build: the sets of the file ``data``, in the folder ``out``, for ``model`` (a folder or a hub id).

    ``image_size``: pixels of a picture's height and width, None: the model's own. ``limits``: sizes of shards and batches.
    """

    data: Path
    out: Path
    model: str
    image_size: int | None = None
    device: str = "auto"
    limits: ShardLimits = field(default_factory=ShardLimits)

    def __post_init__(self) -> None:
        check_folder("out", self.out)
        for name, value in asdict(self.limits).items():
            check_whole(name, value, 1)
        if self.image_size is not None:
            check_whole("image_size", self.image_size, 1)


@dataclass(frozen=True)
class BuildWorker:
    """The function of a build: writes the shards of units. It reads data and tokenizers itself, when they are first needed."""

    job: BuildJob

    @cached_property
    def mixture(self) -> Mixture:
        """The sets."""
        return load(self.job.data)

    @cached_property
    def folder(self) -> Path:
        """The folder of the model."""
        folder = find_folder(self.job.model)
        check_model_folder(folder)
        return folder

    @cached_property
    def text(self) -> TextTokenizer:
        """The model's text tokenizer."""
        return TextTokenizer.load(self.folder)

    @cached_property
    def image(self) -> ImageTokenizer:
        """The model's image tokenizer, on the device."""
        source = image_source(self.folder, known_checkpoint(self.folder))
        if source is None:
            raise InputError(f"model {quote(self.folder)} has no image_tokenizer folder; put one there, such as showlab/magvitv2")
        found = read_image_tokenizer(source)
        size, cell = self.size(found), found.config.downsample
        if size % cell:
            raise InputError(f"image_size {size} is not a multiple of {cell}, the pixels of a code; choose another")
        return found.to(chosen_device(self.job.device))

    def size(self, image: ImageTokenizer) -> int:
        """Pixels of a picture's height and width."""
        return self.job.image_size or known_checkpoint(self.folder).preset.image_size or image.config.image_size

    @cached_property
    def fit(self) -> Callable[[Image.Image], Image.Image]:
        """How a picture becomes one of that size."""
        return partial(fit, size=self.size(self.image), how=known_checkpoint(self.folder).preset.fit)

    @cached_property
    def format(self) -> RowFormat:
        """How rows are stored."""
        return RowFormat(self.text, self.image.config.codebook_size)

    def write(self, unit: Unit, judge: Callable[[str, int, Counter[str]], None] | None = None) -> Iterator[ShardEntry]:
        """Write the shards of a unit."""
        one = self.mixture.sets[unit.set]
        codes = partial(encode_images, tokenizer=self.image, fit=self.fit, batch=self.job.limits.batch)
        options = {} if judge is None else {"judge": judge}
        yield from write_shards(
            unit, one.split(unit.split), partial(one.id, unit.split), codes, self.job.out, self.format, self.job.limits, **options
        )

    def datasets(self) -> Iterator[tuple[str, int, Any, Dataset]]:
        """(name, number of the set, split, examples) of what is stored: sets of prompts have nothing to learn."""
        for number, name in enumerate(sorted(self.mixture.sets)):
            if self.mixture.sets[name].use != "prompts":
                yield from ((name, number, split, self.mixture.sets[name].split(split)) for split in SPLITS)

    def listing(self) -> Listing:
        """The listing of a build without any shard yet."""
        rows: dict[str, dict[Any, int]] = {}
        for name, _, split, dataset in self.datasets():
            rows.setdefault(name, {})[split] = len(dataset)
        if not rows:
            raise InputError(f"data {quote(self.job.data)} has only sets of prompts; train rl reads them from their sources")
        check_tokenizers(self.mixture, self.text, self.image)  # of sets that are shards already
        preset, limits = known_checkpoint(self.folder).preset, self.job.limits
        return Listing(
            text=text_fingerprint(self.text),
            image=encoder_fingerprint(self.image),
            codebook_size=self.image.config.codebook_size,
            settings={
                "image_size": self.size(self.image), "fit": preset.fit, "shard_rows": limits.rows, "shard_bytes": limits.bytes,
                "batch": limits.batch,
            },
            data=self.job.data.read_text(encoding="utf-8"),
            by=self.mixture.by,
            sets={
                name: SetEntry(use=self.mixture.sets[name].use, weight=self.mixture.weights[name], rows=counts)
                for name, counts in rows.items()
            },
        )  # fmt: skip


Engine = Callable[[BuildWorker, list[Unit], "Judge"], Iterable[ShardEntry]]
"""Runs a worker on units, and yields the entry of each shard once it is there."""


def local_engine(worker: BuildWorker, units: list[Unit], judge: Judge) -> Iterator[ShardEntry]:
    """One unit after another, in this process."""
    for unit in track(units, description="building shards", transient=True):
        yield from worker.write(unit, judge)


@dataclass
class Judge:
    """Stops a build where more than ``max_bad`` of the first rows of a set are bad. ``limits``: max_bad and rows, by set."""

    limits: dict[str, tuple[float, int]]
    tried: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, Counter[str]] = field(default_factory=dict)

    def __call__(self, name: str, rows: int, rejected: Counter[str]) -> None:
        """Count ``rows`` more rows of a set. Raises InputError with the reasons once too many are bad."""
        if self.tried[name] >= FIRST_ROWS:
            return
        self.tried[name] += rows
        found = self.reasons.setdefault(name, Counter())
        found += rejected
        max_bad, size = self.limits[name]
        if found.total() > max_bad * min(FIRST_ROWS, size):
            reasons = ", ".join(f"{reason} {count}" for reason, count in found.most_common())
            raise InputError(
                f"set {name!r} has {found.total()} bad rows among its first {self.tried[name]}, more than {max_bad:.3g} of "
                f"{min(FIRST_ROWS, size)} ({reasons}); fix its description or its rows, or raise max_bad"
            )


def build_shards(job: BuildJob, engine: Engine = local_engine) -> Listing:
    """Build shards, or end a build that was interrupted. Raises InputError before anything is written if something is wrong."""
    if is_shards(job.data):
        raise InputError(f"data {quote(job.data)} is a folder of shards already; give a YAML file of sources")
    worker = BuildWorker(job)
    fresh = worker.listing()
    check_out(job.out)
    make_folder("out", job.out)
    with folder_lock(job.out):
        begun = read_listing(job.out) if is_shards(job.out) else fresh
        check_same(begun, fresh, job.out)
        remove_unlisted(job.out, begun)
        if not (job.out / TOKENIZER).is_dir():
            with atomic_folder(job.out / TOKENIZER) as folder:
                worker.text.save(folder)
        judge = Judge({name: (worker.mixture.sets[name].max_bad, sum(one.rows.values())) for name, one in fresh.sets.items()})
        for entry in begun.shards:
            judge(entry.set, entry.last - entry.first, Counter(entry.rejected))
        units = [
            unit
            for name, number, split, dataset in worker.datasets()
            for unit in units_of(name, number, split, len(dataset), begun.of(name, split), job.limits.rows)
        ]
        with growing(job.out, begun) as add:
            for entry in engine(worker, units, judge):
                add(entry)
        whole = read_listing(job.out).model_copy(update={"complete": True})
        write_listing(job.out, whole)
    return whole


@contextmanager
def growing(out: Path, begun: Listing) -> Iterator[Callable[[ShardEntry], None]]:
    """A function that lists a shard. The listing is written now and then, such that writing takes 2 % of the time at most, and at
    the end, however that comes."""
    shards = list(begun.shards)
    written = took = 0.0

    def write() -> None:
        nonlocal written, took
        start = time.monotonic()
        write_listing(out, begun.model_copy(update={"shards": shards}))
        written, took = time.monotonic(), time.monotonic() - start

    def add(entry: ShardEntry) -> None:
        shards.append(entry)
        if time.monotonic() - written > 50 * took:
            write()

    write()
    try:
        yield add
    finally:
        write()


def check_out(out: Path) -> None:
    """Raise InputError for a folder of something else."""
    if out.is_dir() and not is_shards(out):
        other = [one.name for one in out.iterdir() if one.name not in (LOCK, TOKENIZER) and not one.name.endswith(".part")]
        if other:
            raise InputError(f"out {quote(out)} holds other files ({quote(other[0])}); give a new folder")


def check_same(begun: Listing, fresh: Listing, out: Path) -> None:
    """Raise InputError where a folder was begun with other data, another model or other settings."""
    names = {"text": "text tokenizer", "image": "image tokenizer", "data": "description", "sets": "number of rows"}
    for name in ("text", "image", "codebook_size", "settings", "data", "by", "sets"):
        if getattr(begun, name) != getattr(fresh, name):
            what = names.get(name, name)
            raise InputError(f"out {quote(out)} was begun with another {what}; give a new folder, or remove that one")


def remove_unlisted(out: Path, listing: Listing) -> None:
    """Remove the shards of a build that ended before it could list them."""
    remove_leftovers(out)
    listed = {one.folder for one in listing.shards}
    for folder in out.iterdir():
        if folder.is_dir() and folder.name not in listed and (folder / "index.npy").is_file():
            shutil.rmtree(folder)
