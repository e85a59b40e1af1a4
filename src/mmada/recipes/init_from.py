"""Start of a training run: a model folder of any known layout or only an image tokenizer, and a record of which it was."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmada.errors import InputError
from mmada.io.fingerprint import file_sample
from mmada.model.loading import cast_weights, read_sizes, widest_type
from mmada.model.mmada import MMaDAModel
from mmada.model.sizes import ModelSizes
from mmada.model.trainable import read_model
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
]

BEGUN_FROM = "begun_from.json"
"""Name of the file in a run folder that records its start."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """The contents of a start; ``text``, ``model`` and ``preset`` are None if it holds only an image tokenizer.

    ``image_folder``: folder of the image tokenizer. ``dtype``: type of the stored weights, in which the trained ones are written.
    """

    image: ImageTokenizer
    image_folder: Path
    text: TextTokenizer | None
    model: MMaDAModel | None
    preset: Preset | None
    dtype: torch.dtype = torch.bfloat16

    def vocabulary(self, text: TextTokenizer) -> Vocabulary:
        """The token ids of the model, or of a new one with this text tokenizer."""
        rows = None if self.model is None else self.model.config.vocab_size
        vocabulary = Vocabulary.of(text.ids(), self.image.config.codebook_size, rows)
        if vocabulary.codebook_size < self.image.config.codebook_size:
            raise InputError(
                f"model has rows for {vocabulary.codebook_size} of {self.image.config.codebook_size} codes; "
                f"add rows first: mmada convert MODEL OUT --rows {vocabulary.size + self.image.config.codebook_size}"
            )
        if self.model is not None:
            check_ids(ModelSizes.of(self.model.config.to_dict()), vocabulary)
        return vocabulary


def read_start(folder: Path, weights: torch.dtype | None = torch.float32) -> Start:
    """Read a start, its weights cast to the type that they are trained in (None: as they are stored).

    Raises InputError for an invalid folder.
    """
    own = folder / "image_tokenizer"
    if not (folder / "config.json").is_file():
        return Start(image=ImageTokenizer.load(own), image_folder=own, text=None, model=None, preset=None)
    card = known_checkpoint(folder)
    source = image_source(folder, card)
    if source is None:
        raise InputError(f"start {folder} has no image_tokenizer folder; put one there, such as showlab/magvitv2")
    if (stored := read_sizes(folder).quantisation) is not None:
        raise InputError(f"model folder {folder} is {stored}, which cannot be trained; start from the one it was converted from")
    model = read_model(folder, device=torch.device("cpu"))
    dtype = widest_type(model)
    cast_weights(model, weights or dtype)
    text = TextTokenizer.load(folder)
    source = source if isinstance(source, Path) else find_folder(source)
    return Start(image=read_image_tokenizer(source), image_folder=source, text=text, model=model, preset=card.preset, dtype=dtype)


def begun_from(start: Path) -> dict[str, object]:
    """Record of a start: the folder, and a fingerprint of each weight file."""
    files = sorted(file for part in (start, start / "image_tokenizer") for file in part.glob("*.safetensors"))
    return {"start": str(start.resolve()), "weights": {file.relative_to(start).as_posix(): file_sample(file) for file in files}}


def remembered(out: Path) -> dict[str, Any]:
    """The record of the run in ``out``, as `begun_from` makes it; empty if there is none. Raises InputError if it is damaged."""
    file = out / BEGUN_FROM
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        found = None
    if isinstance(found, dict) and isinstance(found.get("start"), str) and isinstance(found.get("weights"), dict):
        return found
    raise InputError(f"the record '{file}' is damaged; remove it and give --start-from to continue unchecked")


def check_begun_from(out: Path, start: Path) -> None:
    """Raise InputError if the run in ``out`` started from other weights: resumed, it would mix both."""
    before, now = remembered(out), begun_from(start)
    if not before or before["weights"] == now["weights"]:
        return
    if before["start"] == now["start"]:
        raise InputError(f"start {start} has changed since the run in {out} began; restore its weights or start a new run")
    raise InputError(f"start {start} has other weights than the run in {out} began with; give --start-from {before['start']}")
