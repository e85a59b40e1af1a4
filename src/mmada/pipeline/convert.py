"""One model folder into another of the released layout: other types, more rows, shards, adapters merged in."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from mmada.errors import InputError, check_folder
from mmada.model.adapters import merged
from mmada.model.reading import read_config, read_model
from mmada.model.widen import widen
from mmada.pipeline.cards import card_of
from mmada.pipeline.folder import find_folder
from mmada.tokenizers.text import TextTokenizer

__all__ = ["convert"]


def convert(
    source: str | Path,
    out: str | Path,
    *,
    dtype: torch.dtype | None = None,
    rows: int | None = None,
    noise: float = 0.0,
    seed: int = 0,
    shard_size: str = "5GB",
    adapter: str | Path | None = None,
    preset: str | None = None,
) -> Path:
    """Write the model of ``source`` (a folder or a hub id, MMaDA's or LLaDA's) to the folder ``out``; returns it.

    ``dtype``: None keeps the stored one, bit for bit. ``rows``: widen embedding and head to so many, as LLaDA must be before it
    can learn pictures; ``noise`` and ``seed`` as in `widen`. ``adapter``: a folder of LoRA adapters to merge in. What is written
    appears whole or not at all. Raises InputError for wrong input, or an ``out`` that is not empty.
    """
    folder, out = find_folder(source), Path(out)
    check_folder("out", out)
    if out.exists() and any(out.iterdir()):
        raise InputError(f"out '{out}' is not empty; give a new folder")
    card = card_of(folder, preset)
    text = TextTokenizer.load(folder)
    before = read_config(folder).vocab_size
    model: Any = read_model(folder, device=torch.device("cpu"), dtype=dtype)
    if adapter is not None:
        model = merged(model, adapter)
    if rows is not None:
        codes = rows - len(text)
        model = widen(model, rows, noise=noise, seed=seed)
        model.config.update({"llm_vocab_size": before, "new_vocab_size": rows, "codebook_size": min(codes, 8192)})
    preset_out = replace(card.preset, dtype="stored") if dtype is not None else card.preset
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    try:
        _save(model, beside, shard_size)
        text.save(beside)
        preset_out.save(beside)
        if (folder / "image_tokenizer").is_dir():
            shutil.copytree(folder / "image_tokenizer", beside / "image_tokenizer")
        if out.exists():
            out.rmdir()
        beside.chmod(0o755)
        os.replace(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return out


def _save(model: Any, folder: Path, shard_size: str) -> None:
    """Released names, in shards, without a bar for each."""
    untyped: Any = transformers_logging
    shown = untyped.is_progress_bar_enabled()
    untyped.disable_progress_bar()
    try:
        model.save_pretrained(folder, max_shard_size=shard_size)
    except ValueError as error:
        raise InputError(f"shard_size '{shard_size}' cannot be used ({error}); write it like 5GB") from error
    finally:
        if shown:
            untyped.enable_progress_bar()
