"""Model folders that recipes write: whole models, LoRA adapters, and sample pictures of either."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from PIL import Image

from mmada.io.weights import share_weights
from mmada.model.adapters import save_adapters
from mmada.model.factored_codes import plain_state
from mmada.model.mmada import MMaDAConfig, MMaDAModel
from mmada.pipeline import MMaDA, Preset
from mmada.recipes.init_from import Start
from mmada.tokenizers.text import TextTokenizer

__all__ = ["sample_images", "write_adapters", "write_model"]


def write_adapters(model: MMaDAModel, folder: Path, base: Path, preset: Preset | None = None) -> None:
    """Write LoRA adapters alone, as peft reads them; `mmada.load(folder)` applies them to ``base``, the model they are of.

    ``preset``: written too where it is not that of the base.
    """
    save_adapters(model, folder, str(base.resolve()))
    if preset is not None:
        preset.save(folder)


def write_model(model: MMaDAModel, text: TextTokenizer, begun: Start, folder: Path, preset: Preset) -> None:
    """Write a model folder as `mmada.load` reads it; weights in the type of those that training started from."""
    folder.mkdir(parents=True, exist_ok=True)
    shipped = MMaDAModel(cast(MMaDAConfig, model.config))
    torch.nn.Module.to(shipped, begun.dtype)
    shipped.load_state_dict(plain_state(model))
    shipped.save_pretrained(str(folder))
    text.save(folder)
    shutil.copytree(begun.image_folder, folder / "image_tokenizer", dirs_exist_ok=True)
    share_weights(folder / "image_tokenizer")
    preset.save(folder)


def sample_images(
    folder: Path, prompts: Sequence[str], *, size: int | None = None, adapter: Path | None = None
) -> list[Image.Image]:
    """Pictures that the model in ``folder`` draws for ``prompts``, with ``adapter`` if given; ``size``: pixels, None: its own."""
    if not prompts:
        return []
    model = MMaDA.load(folder, adapter=adapter)
    return list(model.draw(list(prompts), size=None if size is None else (size, size)))
