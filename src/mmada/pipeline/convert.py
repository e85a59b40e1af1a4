"""One model folder into another of the released layout: other types, more rows, shards, adapters merged in."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mmada.errors import InputError
from mmada.io.atomic import atomic_folder
from mmada.model.loading import read_config, read_model
from mmada.model.lora import merged
from mmada.model.resize_embeddings import resize_embeddings
from mmada.pipeline.known_checkpoints import known_checkpoint
from mmada.pipeline.loading import find_folder, image_source
from mmada.tokenizers.text import TextTokenizer
from mmada.tokenizers.vocabulary import Vocabulary

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
    mean: Sequence[str | Path] = (),
) -> Path:
    """Write the model of ``source`` (a folder or a hub id, MMaDA's or LLaDA's) to the folder ``out``; returns it.

    ``dtype``: None keeps the stored one, bit for bit. ``rows``: resize_embeddings embedding and head to so many, as LLaDA must
    be before it
    can learn pictures; ``noise`` and ``seed`` as in `resize_embeddings`. ``adapter``: a folder of LoRA adapters to merge in.
    ``mean``: models
    whose weights are averaged with those of ``source``, each as much, one after another in the
    type of the source: runs from one start are often better together. What is
    written appears whole or not at all. Raises InputError for wrong input, or an ``out`` that is not empty.
    """
    folder, out = find_folder(source), Path(out)
    if rows is None and noise:
        raise InputError(f"noise {noise} is of new rows and none are asked for; give rows too")
    if not re.fullmatch(r"[1-9]\d*[KMGT]B", shard_size):
        raise InputError(f"shard_size '{shard_size}' cannot be used; write it like 5GB")
    with atomic_folder(out) as part:
        card = known_checkpoint(folder, preset)
        text = TextTokenizer.load(folder)
        model: Any = read_model(folder, device=torch.device("cpu"), dtype=dtype)
        for number, other in enumerate(mean, 1):
            average(model, read_model(find_folder(other), device=torch.device("cpu"), dtype=dtype), number / (number + 1), other)
        if adapter is not None:
            model = merged(model, adapter)
        if rows is not None:
            resize_embeddings(model, rows, noise=noise, seed=seed)
        _complete(model.config, read_config(folder).vocab_size, text, (card.preset.image_size or 512) // 16)
        model.save_pretrained(part, max_shard_size=shard_size)
        text.save(part)
        (replace(card.preset, dtype="stored") if dtype is not None else card.preset).save(part)
        image = image_source(folder, card)
        if isinstance(image, Path):
            shutil.copytree(image, part / "image_tokenizer")
    return out


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
    """Say in config.json what the reference looks there for: ids, and of a model with new rows what they are for."""
    ids = Vocabulary.of(text.ids(), 8192, config.vocab_size)
    config.update({"bos_token_id": ids.bos, "eos_token_id": ids.eos, "mask_token_id": ids.mask})
    if config.vocab_size == rows_before:
        return
    config.update({"llm_vocab_size": rows_before, "new_vocab_size": config.vocab_size, "codebook_size": ids.codebook_size})
    for name, value in (("num_vq_tokens", grid * grid), ("num_new_special_tokens", 0)):
        if getattr(config, name, None) is None:
            config.update({name: value})
