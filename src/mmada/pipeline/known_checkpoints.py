"""Built-in settings for released checkpoints that ship no ``preset.json``: one file each in ``pipeline/checkpoints``.

Settings are a preset, the image tokenizer that the checkpoint was trained with, and its names on the hub. A folder's own
``preset.json`` comes first; a folder without one is recognised by its hub name, or else by the number of codes of its images.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from mmada.errors import InputError, unknown_name
from mmada.model.loading import config_fields
from mmada.pipeline.preset import Preset
from mmada.tokenizers.vocabulary import RESERVED

__all__ = ["KnownCheckpoint", "known_checkpoint", "known_checkpoints"]


@dataclass(frozen=True, kw_only=True)
class KnownCheckpoint:
    """The preset of a released checkpoint and where the rest of it is found.

    ``num_vq_tokens``: codes of one of its images. ``usual``: preferred among several that fit a folder.
    """

    preset: Preset
    hub: tuple[str, ...] = ()
    model_type: str = "mmada"
    usual: bool = False
    image_tokenizer: str | None = None
    num_vq_tokens: int | None = None
    codebook_size: int = 8192


def known_checkpoints() -> dict[str, KnownCheckpoint]:
    """Every known checkpoint by its name."""
    folder = Path(str(files("mmada").joinpath("pipeline", "checkpoints")))
    return {path.stem: _read(path) for path in sorted(folder.glob("*.json"))}


def known_checkpoint(folder: Path, name: str | None = None) -> KnownCheckpoint:
    """The settings called ``name``, or those that fit a model folder. Raises InputError for an unknown name."""
    known = known_checkpoints()
    if name is not None:
        if name not in known:
            raise unknown_name("preset", name, known)
        return known[name]
    fields = config_fields(folder)
    fitting = _by_hub_name(folder, fields, known) or _by_codes(fields, known)
    if (folder / "preset.json").is_file():
        return replace(fitting or KnownCheckpoint(preset=Preset.load(folder)), preset=Preset.load(folder))
    if fitting is None:
        raise InputError(f"model folder {folder} has no preset.json; give one, or name a preset: {', '.join(known)}")
    return fitting


def _by_hub_name(folder: Path, fields: dict[str, Any], known: dict[str, KnownCheckpoint]) -> KnownCheckpoint | None:
    """By a path such as ``Gen-Verse/MMaDA-8B-Base`` or the hub's cache ``models--Gen-Verse--MMaDA-8B-Base/snapshots/...``."""
    parts = [part.removeprefix("models--").split("--")[-1] for part in folder.resolve().parts]
    kind = fields.get("model_type", "mmada")
    fitting = (checkpoint for checkpoint in known.values() if checkpoint.model_type == kind)
    return next((checkpoint for checkpoint in fitting for name in checkpoint.hub if name.split("/")[-1] in parts), None)


def _by_codes(fields: dict[str, Any], known: dict[str, KnownCheckpoint]) -> KnownCheckpoint | None:
    """By the model type and by ``num_vq_tokens`` of a config.json with the released vocabulary."""
    rows = fields.get("embedding_size") or fields.get("vocab_size")
    if not isinstance(rows, int) or rows <= RESERVED["mask"]:  # a packed vocabulary: one of ours
        return None
    kind, codes = fields.get("model_type", "mmada"), fields.get("num_vq_tokens")
    fitting = [one for one in known.values() if one.model_type == kind and codes in (None, one.num_vq_tokens)]
    return max(fitting, key=lambda checkpoint: checkpoint.usual, default=None)


def _read(path: Path) -> KnownCheckpoint:
    fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return KnownCheckpoint(preset=Preset.of(fields.pop("preset")), hub=tuple(fields.pop("hub", ())), **fields)
