"""LoRA adapters: their settings, adding them for training, and merging saved ones into the weights. Needs peft.

`Low-Rank Adaptation <https://arxiv.org/abs/2106.09685>`_ trains, for each matrix of the blocks, the product of two thin matrices
that is added to it; everything else stays frozen.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from transformers.integrations import peft as integration

from mmada.errors import InputError, check_number, check_path, check_whole, quote
from mmada.model.mmada import MMaDAModel

__all__ = ["Lora", "add_lora", "check_lora", "merged"]

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""Matrices of a block that get an adapter: all."""
PEFT = "0.18.0"
"""Oldest peft that the project works with; newer versions of transformers need a newer one and say which."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Adapters for every matrix of the blocks; all other weights are frozen.

    ``rank``: width of the two thin matrices, 0 for no adapters. What they add is scaled by ``alpha / rank``. ``dropout`` acts on
    their input.
    """

    rank: int = 0
    alpha: int = 32
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_whole("lora.rank", self.rank, 0)
        check_whole("lora.alpha", self.alpha, 1)
        check_number("lora.dropout", self.dropout, 0, 1)


def check_lora(config: Any, lora: Lora) -> None:
    """Raise InputError without peft, and for a rank above the model's width, which no matrix of it has."""
    check_whole("lora.rank", lora.rank, 1, min(config.hidden_size, config.intermediate_size))
    peft("lora")


def add_lora(model: MMaDAModel, lora: Lora) -> None:
    """Freeze the model and add trainable adapters, which change nothing at first. Raises InputError as `check_lora`."""
    check_lora(model.config, lora)
    library = peft("lora")
    model.requires_grad_(False)
    config = library.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=TARGETS)
    model.add_adapter(config)


def merged(model: MMaDAModel, adapter: str | Path) -> MMaDAModel:
    """Return the model with the adapters of a folder merged in. Raises InputError without peft, or where they do not fit."""
    folder = check_path("adapter", adapter)
    try:
        found = (folder / "adapter_config.json").is_file()
    except OSError:  # a loop of links, a file on the way
        found = False
    if not found:
        raise InputError(f"adapter {quote(folder)} has no adapter_config.json; give a folder of LoRA adapters")
    library = peft("adapter")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft's own use of transformers
            warnings.filterwarnings("error", message="Found missing adapter keys")
            return cast(MMaDAModel, library.PeftModel.from_pretrained(model, str(folder)).merge_and_unload())
    except Exception as error:  # peft and safetensors each fail in their own ways
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"adapter {quote(folder)} does not fit the model ({reason}); give one that was trained on it") from error


def peft(field: str) -> Any:
    """The library. Raises InputError where it is missing or too old."""
    wanted = max(PEFT, getattr(integration, "MIN_PEFT_VERSION", PEFT), key=numbers)
    try:
        found = version("peft")
        if numbers(found) >= numbers(wanted):
            return import_module("peft")
    except (PackageNotFoundError, ImportError) as error:
        raise InputError(f"{field} needs peft {wanted} or later; install it with: pip install 'mmada[peft]'") from error
    raise InputError(f"{field} needs peft {wanted} or later, found {found}; install it with: pip install -U 'mmada[peft]'")


def numbers(version: str) -> tuple[int, ...]:
    """A version as numbers that compare."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
