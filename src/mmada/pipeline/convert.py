"""Conversion of a model folder into the released layout: another dtype, more rows, shards, merged adapters, averaged weights."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from mmada.errors import MAX_ROWS, InputError, check_choice, check_folder, check_is_folder, check_number, check_whole, quote
from mmada.io.atomic import atomic_folder
from mmada.model.adapters import merged
from mmada.model.loading import read_sizes
from mmada.model.mmada import MMaDAModel
from mmada.model.quantize import quantize
from mmada.model.resize_embeddings import resize_embeddings
from mmada.model.trainable import read_model
from mmada.pipeline.known_checkpoints import known_checkpoint
from mmada.pipeline.loading import check_model_folder, checked_dtype, find_folder, image_source
from mmada.tokenizers.text import TextTokenizer
from mmada.tokenizers.vocabulary import Vocabulary

__all__ = ["convert"]

CPU = torch.device("cpu")


def convert(
    source: str | Path,
    out: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    quantisation: Literal["int8", "int4"] | None = None,
    rows: int | None = None,
    noise: float = 0.0,
    seed: int = 0,
    shard_size: str = "5GB",
    adapter: str | Path | None = None,
    preset: str | None = None,
    mean: Sequence[str | Path] = (),
) -> Path:
    """Write the model of ``source`` (a folder or a hub id, MMaDA's or LLaDA's) to the new folder ``out``; returns it.

    ``dtype``: None keeps the stored one, bit for bit. ``quantisation``: for a CPU; the folder loads in seconds. ``rows``: rows of
    embedding and head, which LLaDA needs more of before it can learn images; ``noise`` and ``seed`` as in `resize_embeddings`.
    ``adapter``: a folder of LoRA adapters to merge in. ``mean``: models whose weights are averaged with those
    of ``source`` (model soup), with equal shares, read one after another in the type of the source: runs from one start are often
    better together. ``out`` appears whole or not at all. Raises InputError for wrong input, or an ``out`` that is not empty.
    """
    out = check_folder("out", out)
    folder, others = find_folder(source), [find_folder(other, "mean") for other in mean]
    check_model_folder(folder)
    dtype = checked_dtype(dtype)
    if quantisation is not None:
        check_choice("quantisation", quantisation, ("int8", "int4"))
        dtype = torch.bfloat16
    for checked in (folder, *others):
        if (stored := read_sizes(checked).quantisation) is not None:
            raise InputError(f"model folder {quote(checked)} is {stored}, which cannot be converted; give the one it came from")
    if rows is not None:
        check_whole("rows", rows, 1, MAX_ROWS)
    check_number("noise", noise)
    if rows is None and noise:
        raise InputError(f"noise {noise} is of new rows, but rows is not given; give rows too")
    if adapter is not None:
        check_is_folder("adapter", adapter)
    if not re.fullmatch(r"[1-9]\d*[KMGT]B", shard_size):
        raise InputError(f"shard_size '{shard_size}' cannot be used; write it like 5GB")
    with atomic_folder(out) as part:
        known = known_checkpoint(folder, preset)
        text = TextTokenizer.load(folder)
        if rows is None and adapter is None and not others:  # each matrix is quantised as it is read
            model: Any = read_model(folder, device=CPU, dtype=dtype, quantisation=quantisation)
        else:
            model = _joined(folder, others, dtype, adapter)
            if rows is not None:
                resize_embeddings(model, rows, noise=noise, seed=seed)
            model = model if quantisation is None else quantize(model, quantisation, CPU)
        _complete(model.config, read_sizes(folder).vocab_size, text, (known.preset.image_size or 512) // 16)
        model.save_pretrained(part, max_shard_size=shard_size)
        text.save(part)
        (replace(known.preset, dtype="stored") if dtype is not None else known.preset).save(part)
        image = image_source(folder, known)
        if isinstance(image, Path):
            shutil.copytree(image, part / "image_tokenizer")
    return out


def _joined(folder: Path, others: Sequence[Path], dtype: torch.dtype | None, adapter: str | Path | None) -> MMaDAModel:
    """The mean of models, with adapters merged in."""
    model = read_model(folder, device=CPU, dtype=dtype)
    for number, other in enumerate(others, 1):
        average(model, read_model(other, device=CPU, dtype=dtype), number / (number + 1), other)
    return model if adapter is None else merged(model, adapter)


@torch.no_grad()
def average(model: torch.nn.Module, other: torch.nn.Module, keep: float, name: str | Path) -> None:
    """weights <- keep * weights + (1 - keep) * those of ``other``, in float32. Raises InputError where their shapes differ."""
    own, others = model.state_dict(), other.state_dict()
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in others.items()}:
        raise InputError(f"mean {name} has weights of other names or shapes than the source; give models of one configuration")
    for key, value in own.items():
        if value.is_floating_point():
            value.copy_(torch.lerp(others[key].float(), value.float(), keep))


def _complete(config: Any, rows_before: int, text: TextTokenizer, grid: int) -> None:
    """Add to config.json what the reference reads there: ids, and for a model with new rows, what they are for."""
    ids = Vocabulary.of(text.ids(), 8192, config.vocab_size)
    config.update({"bos_token_id": ids.bos, "eos_token_id": ids.eos, "mask_token_id": ids.mask})
    if config.vocab_size == rows_before:
        return
    config.update({"llm_vocab_size": rows_before, "new_vocab_size": config.vocab_size, "codebook_size": ids.codebook_size})
    for name, value in (("num_vq_tokens", grid * grid), ("num_new_special_tokens", 0)):
        if getattr(config, name, None) is None:
            config.update({name: value})
