"""Loading: find a model folder and read it.

config.json, model.safetensors (or shards)                    the transformer
tokenizer.json, tokenizer_config.json                         the text tokenizer
image_tokenizer/config.json, image_tokenizer/model.safetensors
preset.json                                                   default sampling options

The released checkpoints have the first two rows only; `mmada.pipeline.known_checkpoints` knows the rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch

from mmada.canvas import Denoiser
from mmada.errors import InputError, check_choice, check_is_folder, check_path, kind_of, quote, unknown_name
from mmada.io.device import chosen_device, chosen_dtype
from mmada.model.loading import cast_weights, checked_weights, empty_network, read_network, read_sizes, widest_type
from mmada.model.predictor import Predictor
from mmada.model.quantize import Quantisation, on_cpu, quantize
from mmada.model.sizes import ModelSizes
from mmada.pipeline.known_checkpoints import KnownCheckpoint, known_checkpoint, known_checkpoints
from mmada.pipeline.preset import Preset
from mmada.registry import MODELS
from mmada.tokenizers.image import ImageTokenizer
from mmada.tokenizers.text import TextTokenizer
from mmada.tokenizers.vocabulary import Vocabulary

__all__ = [
    "ModelFolder",
    "check_ids",
    "check_model_folder",
    "checked_dtype",
    "find_folder",
    "image_source",
    "load_folder",
    "read_folder",
    "read_image_tokenizer",
]

NEEDED = ("config.json", "tokenizer.json")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class ModelFolder:
    """The contents of a model folder.

    ``image``: the image tokenizer, or where to read it when the first image comes (None: there is none). ``max_length``: longest
    canvas, in tokens.
    """

    model: Denoiser
    text: TextTokenizer
    image: ImageTokenizer | str | Path | None
    vocabulary: Vocabulary
    preset: Preset
    max_length: int


def load_folder(
    source: str | Path,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    *,
    image_tokenizer: str | Path | None = None,
    preset: str | None = None,
    quantisation: Quantisation | None = None,
    adapter: str | Path | None = None,
) -> tuple[ModelFolder, torch.device]:
    """Load a model folder for the arguments of `MMaDA.load`, all checked before anything is read; returns the device too."""
    chosen = chosen_device("auto" if device is None else device)
    wanted = checked_dtype(dtype)
    if preset is not None and not isinstance(preset, str):
        raise InputError(f"preset is {kind_of(preset)}; give the name of one: {', '.join(known_checkpoints())}")
    if quantisation is not None:
        check_choice("quantisation", quantisation, get_args(Quantisation))
    if adapter is not None:
        check_is_folder("adapter", adapter)
    if image_tokenizer is not None:
        check_source("image_tokenizer", image_tokenizer)
        if not HUB_ID.fullmatch(str(image_tokenizer)):  # one of the hub is downloaded with the first image
            check_image_tokenizer(find_folder(image_tokenizer, "image_tokenizer"))
    folder = find_folder(source)
    if adapter is None and is_adapter(folder):
        folder, adapter = base_of(folder), folder
    parts = read_folder(
        folder, chosen, wanted, image_tokenizer=image_tokenizer, preset=preset, quantisation=quantisation, adapter=adapter
    )
    return parts, chosen


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds adapters alone."""
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def base_of(folder: Path) -> Path:
    """The model that adapters were trained from. Raises InputError where the folder names none that is here."""
    from mmada.model.adapters import adapter_base

    base = adapter_base(folder)
    if base in MODELS:
        return find_folder(base)
    if base and check_path("adapter", base).is_dir():  # nothing is downloaded because a file says so
        return Path(base)
    named = f"{quote(base)}, which is not here" if base else "none"
    raise InputError(
        f"model {quote(folder)} holds adapters of a model, and names {named}; give that model, and this folder as adapter"
    )


def check_image_tokenizer(folder: Path) -> None:
    """Raise InputError for a folder without an image tokenizer, of a model or its own."""
    if not any((folder / name).is_file() for name in ("config.json", "image_tokenizer/config.json")):
        raise InputError(f"image_tokenizer folder {quote(folder)} lacks config.json; give one of an image tokenizer")


def checked_dtype(dtype: object) -> torch.dtype | None:
    """The type of weights that a name or a torch type means. Raises InputError for one that the model cannot compute in."""
    if dtype is None or dtype is torch.float64:
        return dtype
    if isinstance(dtype, str) and dtype in get_args(Quantisation):
        raise InputError(f"dtype {quote(dtype)} is a quantisation; give it as quantisation={dtype!r}")
    return chosen_dtype(dtype)


def check_source(field: str, source: object) -> None:
    """Raise InputError unless ``source`` is a path or a name."""
    if not isinstance(source, (str, Path)) or not str(source).strip():
        raise InputError(f"{field} {quote(source)} is not a name; give a folder or a hub id")
    check_path(field, source)


def find_folder(source: str | Path, field: str = "model") -> Path:
    """The folder of a bundled model, of a path, or of a hub id (then downloaded). Raises InputError, which calls it ``field``."""
    check_source(field, source)
    if source in MODELS:
        bundled: Path = MODELS[str(source)]()
        return bundled
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise InputError(f"{field} {quote(source)} is a file; give the folder that holds it")
    if HUB_ID.fullmatch(str(source)):
        return _download(str(source), field)
    if len(path.parts) > 1 or isinstance(source, Path) or source.startswith((".", "~")):
        raise InputError(f"{field} folder {quote(source)} does not exist; check the path")
    raise unknown_name(field, str(source), MODELS)


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
    """Read a model folder. ``dtype`` None is the preset's; ``preset``: name of a known checkpoint whose settings to use; without
    ``weights`` only their headers are read. Raises InputError for what is missing, damaged, or of another model.
    """
    check_model_folder(folder)
    if dtype is not None and quantisation is not None:
        raise InputError(f"dtype {dtype} and quantisation {quantisation!r} are both types of the weights; give one of them")
    known = known_checkpoint(folder, preset)
    if adapter is not None and preset is None and (Path(adapter) / "preset.json").is_file():
        known = replace(known, preset=Preset.load(adapter))
    sizes, text = read_sizes(folder), TextTokenizer.load(folder)
    image: ImageTokenizer | str | Path | None = image_tokenizer or image_source(folder, known)
    if isinstance(image, Path) and image.parent == folder:
        image = ImageTokenizer.load(image)
    wanted = dtype or (None if known.preset.dtype == "stored" else getattr(torch, known.preset.dtype))
    model: Predictor
    if not weights:
        model, _ = checked_weights(folder, empty_network(sizes))
    else:
        model = read_weights(folder, device, wanted, quantisation, adapter)
    model.requires_grad_(False)
    vocabulary = _vocabulary(folder, text, image, sizes.vocab_size, known.codebook_size)
    check_ids(sizes, vocabulary)
    max_length = min(known.preset.max_length, sizes.max_position_embeddings)
    return ModelFolder(model, text, image, vocabulary, known.preset, max_length)


def read_weights(
    folder: Path, device: torch.device, dtype: torch.dtype | None, quantisation: Quantisation | None, adapter: str | Path | None
) -> Predictor:
    """Read the transformer, of one dtype; quantised as asked for, or as it is stored. Raises InputError where that cannot be."""
    stored = read_sizes(folder).quantisation
    if stored is not None:
        if quantisation not in (None, stored) or adapter is not None or device.type != "cpu":
            asked = f"adapter {quote(adapter)}" if adapter is not None else f"quantisation {quantisation!r}"
            asked = f"device {device.type!r}" if device.type != "cpu" else asked
            raise InputError(
                f"{asked} does not go with model folder {quote(folder)}, whose weights are {stored} for a CPU; "
                "give the folder that it was converted from"
            )
        return read_network(folder, device=device, dtype=torch.bfloat16)
    if adapter is not None:
        model: Predictor = with_adapter(folder, adapter, device, dtype, quantisation)
    elif quantisation is None:
        model = read_network(folder, device=device, dtype=dtype)
        cast_weights(model, widest_type(model))
    elif on_cpu(quantisation, device):  # each matrix as it is read
        return read_network(folder, device=device, dtype=torch.bfloat16, quantisation=quantisation)
    else:  # blocks are quantised on their way to the device
        model = read_network(folder, device=torch.device("cpu"), dtype=torch.bfloat16)
    return model if quantisation is None else quantize(model, quantisation, device)


def with_adapter(
    folder: Path, adapter: str | Path, device: torch.device, dtype: torch.dtype | None, quantisation: Quantisation | None
) -> Predictor:
    """Read the transformer and merge the adapters of a folder into it; peft does that on `transformers`' blocks."""
    from mmada.model.adapters import merged
    from mmada.model.trainable import read_model

    if quantisation is not None:  # blocks are quantised on their way to the device
        device, dtype = torch.device("cpu"), torch.bfloat16
    model = read_model(folder, device=device, dtype=dtype)
    cast_weights(model, widest_type(model))
    return merged(model, adapter)


def check_model_folder(folder: Path) -> None:
    """Raise InputError for a folder that is not a model's."""
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        inside = folder / "model"
        fix = str(inside) if (inside / "config.json").is_file() else "a folder that `mmada train` wrote, or a released checkpoint"
        raise InputError(f"model folder {folder} lacks {', '.join(missing)}; give {fix}")


def image_source(folder: Path, known: KnownCheckpoint) -> Path | str | None:
    """The image tokenizer of a model: in its folder, in a neighbour named as on the hub, or a hub id; None without one."""
    if (folder / "image_tokenizer").is_dir():
        return folder / "image_tokenizer"
    if known.image_tokenizer is None:
        return None
    neighbour = folder.resolve().parent / known.image_tokenizer.split("/")[-1]
    return neighbour if neighbour.is_dir() else known.image_tokenizer


def read_image_tokenizer(source: str | Path) -> ImageTokenizer:
    """The image tokenizer in a folder, a model's or its own, or of a hub id. Raises InputError."""
    path = find_folder(source, "image_tokenizer")
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


def check_ids(sizes: ModelSizes, vocabulary: Vocabulary) -> None:
    """Raise InputError where config.json states another mask or another number of codes than the tokenizers have."""
    for name, stated, value in (
        ("mask_token_id", sizes.mask_token_id, vocabulary.mask),
        ("codebook_size", sizes.codebook_size, vocabulary.codebook_size),
    ):
        if stated not in (None, value):
            raise InputError(
                f"{name} {stated} of config.json is not the {value} of its tokenizers; put the files of one model together"
            )


def _download(name: str, field: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name))
    except Exception as error:  # the hub's client has an error class for each of a dozen causes
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{field} {quote(name)} is not a folder here and could not be downloaded ({reason}); check the path or the hub id"
        ) from error
