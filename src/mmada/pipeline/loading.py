"""Where a model comes from, and what its folder holds.

config.json, model.safetensors (or shards)                    the transformer
tokenizer.json, tokenizer_config.json                         the text tokenizer
image_tokenizer/config.json, image_tokenizer/model.safetensors
preset.json                                                   how it likes to be sampled

The released checkpoints have the first two rows alone; `mmada.pipeline.known_checkpoints` knows the rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmada.canvas import Denoiser
from mmada.errors import InputError, unknown_name
from mmada.model.loading import cast_weights, checked_weights, read_config, read_model, widest_type
from mmada.model.lora import merged
from mmada.model.quantize import Quantisation, quantize
from mmada.pipeline.known_checkpoints import KnownCheckpoint, known_checkpoint
from mmada.pipeline.options import Preset
from mmada.registry import MODELS
from mmada.tokenizers.image import ImageTokenizer
from mmada.tokenizers.text import TextTokenizer
from mmada.tokenizers.vocabulary import Vocabulary

__all__ = ["ModelFolder", "check_ids", "find_folder", "image_source", "read_folder", "read_image_tokenizer"]

NEEDED = ("config.json", "tokenizer.json")


@dataclass(frozen=True)
class ModelFolder:
    """What a model folder holds, read. ``image``: the image tokenizer, or where it is found once a picture is at hand (None:
    nowhere). ``max_length``: longest canvas, in tokens.
    """

    model: Denoiser
    text: TextTokenizer
    image: ImageTokenizer | str | Path | None
    vocabulary: Vocabulary
    preset: Preset
    max_length: int


def find_folder(source: str | Path) -> Path:
    """The folder of a bundled model, of a path, or of a hub id (then downloaded). Raises InputError."""
    if not isinstance(source, (str, Path)) or not str(source).strip():
        raise InputError(f"model {source!r} is no name; give 'nano', a folder or a hub id")
    if source in MODELS:
        bundled: Path = MODELS[str(source)]()
        return bundled
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            return path
        if path.exists():
            raise InputError(f"model '{source}' is a file; give the folder that holds it")
    except (OSError, UnicodeError) as error:  # a name too long for the file system, or no text
        raise InputError(f"model '{str(source)[:80]!a}' is not a usable path; check it") from error
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", str(source)):
        return _download(str(source))
    if len(path.parts) > 1 or isinstance(source, Path) or source.startswith((".", "~")):
        raise InputError(f"model folder '{source}' does not exist; check the path")
    raise unknown_name("model", str(source), MODELS)


def read_folder(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype | None = None,
    *,
    image_tokenizer: str | Path | None = None,
    preset: str | None = None,
    quantisation: Quantisation | None = None,
    adapter: str | Path | None = None,
    weights: bool = True,
) -> ModelFolder:
    """Read a model folder. ``dtype`` None is the preset's; ``preset`` names a card; without ``weights`` only their headers are
    read. Raises InputError for what is missing, damaged, or of another model.
    """
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        inside = folder / "model"
        mend = str(inside) if (inside / "config.json").is_file() else "one of `mmada train` or of the released layout"
        raise InputError(f"model folder {folder} lacks {', '.join(missing)}; give {mend}")
    if dtype is not None and quantisation is not None:
        raise InputError(f"dtype {dtype} and quantisation {quantisation!r} are both types of the weights; give one of them")
    card = known_checkpoint(folder, preset)
    text = TextTokenizer.load(folder)
    image: ImageTokenizer | str | Path | None = image_tokenizer or image_source(folder, card)
    if isinstance(image, Path) and image.parent == folder:
        image = ImageTokenizer.load(image)
    wanted = dtype or (None if card.preset.dtype == "stored" else getattr(torch, card.preset.dtype))
    if not weights:
        model, _ = checked_weights(folder, read_config(folder))
    else:
        # Blocks are quantised on their way to the device.
        first, wanted = (device, wanted) if quantisation is None else (torch.device("cpu"), torch.bfloat16)
        model = read_model(folder, device=first, dtype=wanted)
        cast_weights(model, widest_type(model))
        model = model if adapter is None else merged(model, adapter)
        model = model if quantisation is None else quantize(model, quantisation, device)
    model.requires_grad_(False)
    vocabulary = _vocabulary(folder, text, image, model.config.vocab_size, card.codebook_size)
    check_ids(model.config, vocabulary)
    max_length = min(card.preset.max_length, model.config.max_position_embeddings)
    return ModelFolder(model, text, image, vocabulary, card.preset, max_length)


def image_source(folder: Path, card: KnownCheckpoint) -> Path | str | None:
    """Where the image tokenizer of a model is: in its folder, beside it under its hub name, on the hub, or nowhere."""
    if (folder / "image_tokenizer").is_dir():
        return folder / "image_tokenizer"
    if card.image_tokenizer is None:
        return None
    beside = folder.resolve().parent / card.image_tokenizer.split("/")[-1]
    return beside if beside.is_dir() else card.image_tokenizer


def read_image_tokenizer(source: str | Path) -> ImageTokenizer:
    """The image tokenizer of a folder, a model's or its own, or of a hub id. Raises InputError."""
    path = find_folder(source)
    own = path / "image_tokenizer"
    return ImageTokenizer.load(own if own.is_dir() else path)


def _vocabulary(folder: Path, text: TextTokenizer, image: object, rows: int, codebook_size: int) -> Vocabulary:
    """The token ids, which must agree with the embedding's rows."""
    if not isinstance(image, ImageTokenizer):
        return Vocabulary.of(text.ids(), codebook_size, rows)
    own = Vocabulary.of(text.ids(), image.config.codebook_size)
    if own.size > rows or (own.size < rows and not own.is_released):
        raise InputError(
            f"model folder {folder}: vocab_size {rows} of config.json is not the {own.size} of its tokenizers; "
            f"put the files of one model together"
        )
    return own if own.size == rows else Vocabulary.of(text.ids(), image.config.codebook_size, rows)


def check_ids(config: Any, vocabulary: Vocabulary) -> None:
    """Raise InputError where config.json states another mask or another number of codes than the tokenizers have."""
    for name, value in (("mask_token_id", vocabulary.mask), ("codebook_size", vocabulary.codebook_size)):
        if (stated := getattr(config, name, None)) not in (None, value):
            raise InputError(f"{name} {stated} of config.json is not its tokenizers' {value}; mend either")


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name))
    except Exception as error:  # the hub's client has an error class for each of a dozen causes
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"model '{name}' is neither a folder nor could it be downloaded from the hub: {reason}") from error
