"""Where a model comes from, and what its folder holds.

config.json, model.safetensors                                the transformer
tokenizer.json, tokenizer_config.json, chat_template.jinja    the text tokenizer
image_tokenizer/config.json, image_tokenizer/model.safetensors
preset.json                                                   how it likes to be sampled
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import torch

from mmada.canvas import Denoiser
from mmada.errors import InputError, unknown_name
from mmada.model.mmada import MMaDAModel
from mmada.pipeline.preset import Preset
from mmada.tokenizers.image import ImageTokenizer
from mmada.tokenizers.text import TextTokenizer
from mmada.tokenizers.vocabulary import Vocabulary

__all__ = ["BUNDLED", "ModelFolder", "find_folder", "read_folder"]

BUNDLED = ("nano",)
NEEDED = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "image_tokenizer/config.json",
    "image_tokenizer/model.safetensors",
    "preset.json",
)


@dataclass(frozen=True)
class ModelFolder:
    """What a model folder holds, read. ``max_length``: longest canvas, in tokens."""

    model: Denoiser
    text: TextTokenizer
    image: ImageTokenizer
    vocabulary: Vocabulary
    preset: Preset
    max_length: int


def find_folder(source: str | Path) -> Path:
    """The folder of a bundled model, of a path, or of a hub id (then downloaded). Raises InputError."""
    if not isinstance(source, (str, Path)) or not str(source).strip():
        raise InputError(f"model {source!r} is no name; give 'nano', a folder or a hub id")
    if source in BUNDLED:
        return Path(str(files("mmada").joinpath("assets", str(source))))
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
    raise unknown_name("model", str(source), BUNDLED)


def read_folder(folder: Path, device: torch.device, dtype: torch.dtype) -> ModelFolder:
    """Read a model folder. Raises InputError for what is missing, damaged, or of another model."""
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise InputError(f"model folder {folder} lacks {', '.join(missing)}; give one that `mmada train` wrote")
    preset = Preset.load(folder)
    image = ImageTokenizer.load(folder / "image_tokenizer")
    try:
        text = TextTokenizer.load(folder)
        model = _read_model(folder, dtype)
    except InputError:
        raise
    except Exception as error:  # tokenizers, safetensors and transformers each fail in their own ways
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"model folder {folder} is damaged ({reason}); get a whole copy of it") from error
    vocabulary = Vocabulary.of(text.ids(), image.config.codebook_size)
    if vocabulary.size != model.config.vocab_size:
        raise InputError(
            f"model folder {folder}: vocab_size {model.config.vocab_size} of config.json is not the "
            f"{vocabulary.size} of its tokenizers; put the files of one model together"
        )
    max_length = min(preset.max_length, model.config.max_position_embeddings)
    try:
        torch.nn.ModuleList([model, image]).to(device)
    except (RuntimeError, AssertionError) as error:  # this torch or this machine is without it
        raise InputError(f"device '{device}' cannot be used: {str(error).splitlines()[0]}") from error
    return ModelFolder(model, text, image, vocabulary, preset, max_length)


def _read_model(folder: Path, dtype: torch.dtype) -> MMaDAModel:
    """The transformer, ready for inference."""
    with _quiet():
        # What does not fit is reported below, all at once; without this flag the first misfit raises.
        loaded: Any = MMaDAModel.from_pretrained(folder, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True)
    model, report = loaded
    wrong = [
        f"{len(report[kind])} {said} (such as {next(iter(sorted(str(key) for key in report[kind])))})"
        for kind, said in (("missing_keys", "missing"), ("unexpected_keys", "unknown"), ("mismatched_keys", "of another shape"))
        if report[kind]
    ]
    if wrong:
        raise InputError(
            f"weights in {folder} do not fit their config.json: {', '.join(wrong)}; put the files of one model together"
        )
    return cast(MMaDAModel, model.eval())


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name))
    except Exception as error:  # the hub's client has an error class for each of a dozen causes
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"model '{name}' is neither a folder nor could it be downloaded from the hub: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar of transformers for a load that takes a moment, and no report beside our own."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    shown = logging.is_progress_bar_enabled()
    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
