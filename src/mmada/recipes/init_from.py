"""What a language stage starts from: a folder of ours, one of the released layout, or an image tokenizer alone."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmada.errors import InputError
from mmada.model.loading import cast_weights, read_model, widest_type
from mmada.model.mmada import MMaDAModel
from mmada.pipeline.known_checkpoints import known_checkpoint
from mmada.pipeline.loading import check_ids, find_folder, image_source, read_image_tokenizer
from mmada.pipeline.preset import Preset
from mmada.tokenizers.image import ImageTokenizer
from mmada.tokenizers.text import TextTokenizer
from mmada.tokenizers.vocabulary import Vocabulary

__all__ = [
    "BEGUN_FROM",
    "Start",
    "begun_from",
    "check_begun_from",
    "read_start",
    "remembered",
    "weights_digest",
]

BEGUN_FROM = "begun_from.json"
"""What a run folder says of the start of its run."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a folder holds to go on from; ``model`` and ``preset`` are None where only an image tokenizer is there.

    ``image_folder``: where the image tokenizer's files are. ``dtype``: of the stored weights; they are trained in float32.
    """

    image: ImageTokenizer
    image_folder: Path
    text: TextTokenizer | None
    model: MMaDAModel | None
    preset: Preset | None
    dtype: torch.dtype = torch.bfloat16

    def vocabulary(self, text: TextTokenizer) -> Vocabulary:
        """The token ids of the model, or of a new one."""
        rows = None if self.model is None else self.model.config.vocab_size
        vocabulary = Vocabulary.of(text.ids(), self.image.config.codebook_size, rows)
        if vocabulary.codebook_size < self.image.config.codebook_size:
            raise InputError(
                f"model has rows for {vocabulary.codebook_size} of {self.image.config.codebook_size} codes; "
                f"add rows first: mmada convert MODEL OUT --rows {vocabulary.size + self.image.config.codebook_size}"
            )
        if self.model is not None:
            check_ids(self.model.config, vocabulary)
        return vocabulary


def read_start(folder: Path, weights: torch.dtype = torch.float32) -> Start:
    """Read a start, its weights cast to the type that they are trained in. Raises InputError for a folder that is none."""
    own = folder / "image_tokenizer"
    if not (folder / "config.json").is_file():
        return Start(image=ImageTokenizer.load(own), image_folder=own, text=None, model=None, preset=None)
    card = known_checkpoint(folder)
    place = image_source(folder, card)
    if place is None:
        raise InputError(f"start {folder} has no image_tokenizer folder; put one there, such as showlab/magvitv2")
    model = read_model(folder, device=torch.device("cpu"))
    dtype = widest_type(model)
    cast_weights(model, weights)
    text = TextTokenizer.load(folder)
    place = place if isinstance(place, Path) else find_folder(place)
    return Start(image=read_image_tokenizer(place), image_folder=place, text=text, model=model, preset=card.preset, dtype=dtype)


def weights_digest(folder: Path, settings: object = None) -> str:
    """SHA-256 of all weights in a folder, those of its image tokenizer too, and of what is done with them, to know kept work
    again."""
    digest = hashlib.sha256(repr(settings).encode())
    for file in sorted(folder.rglob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def begun_from(start: Path) -> dict[str, object]:
    """A start as a run remembers it: the folder, and what tells its weights from others without reading them whole."""
    files = sorted(file for part in (start, start / "image_tokenizer") for file in part.glob("*.safetensors"))
    return {"start": str(start.resolve()), "weights": {file.relative_to(start).as_posix(): some_bytes(file) for file in files}}


def some_bytes(file: Path, pieces: int = 512, count: int = 2**16) -> str:
    """A digest of a file's size and of so many pieces of ``count`` bytes, spread over all of it; of all where it has no more.

    Training changes parts of a file: the rows of what was never asked stay as they are.
    """
    size = file.stat().st_size
    digest = hashlib.sha256(size.to_bytes(8, "big"))
    with file.open("rb") as opened:
        for start in range(0, size, max(count, size // pieces)):
            opened.seek(start)
            digest.update(opened.read(count))
    return digest.hexdigest()[:32]


def remembered(out: Path) -> dict[str, Any]:
    """What the run in ``out`` began from, as `begun_from`; empty where it does not say. Raises InputError where it is damaged."""
    file = out / BEGUN_FROM
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        found = None
    if isinstance(found, dict) and isinstance(found.get("start"), str) and isinstance(found.get("weights"), dict):
        return found
    raise InputError(
        f"'{file}' is damaged, which says what the run began from; remove it and give --start-from to go on unchecked"
    )


def check_begun_from(out: Path, start: Path) -> None:
    """Raises InputError where the run in ``out`` was begun from other weights: it would go on with a part of these."""
    before, now = remembered(out), begun_from(start)
    if not before or before["weights"] == now["weights"]:
        return
    if before["start"] == now["start"]:
        raise InputError(f"start {start} has other weights now than when the run in {out} began; restore them or begin a new run")
    raise InputError(f"start {start} has other weights than the run in {out} began with; give --start-from {before['start']}")
