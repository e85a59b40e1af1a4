"""Files of LoRA adapters in peft's layout: written, read, and merged into the weights.

    adapter_config.json          rank, alpha, the layers that have adapters, and the model that they belong to
    adapter_model.safetensors    two thin matrices a layer

Plain LoRA needs no other library. Other kinds of adapters that peft knows (DoRA, trained biases, whole modules) are merged by
peft, where it is installed.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.integrations import peft as integration

from mmada.errors import InputError, check_path, quote
from mmada.io.atomic import write_json, write_tensors
from mmada.io.documents import check_not_pointer, read_fields
from mmada.model.lora import LoraEmbedding, lora_layers
from mmada.model.mmada import MMaDAModel

__all__ = ["CONFIG", "adapter_base", "merged", "save_adapters"]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
PEFT = "0.18.0"
"""Oldest peft that the project works with; newer versions of transformers need a newer one and say which."""
PARTS = (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B"))
PLAIN = {
    "bias": ("none",), "use_dora": (False,), "use_rslora": (False,), "rank_pattern": ({},), "alpha_pattern": ({},),
    "modules_to_save": ([],), "fan_in_fan_out": (False,), "lora_bias": (False,), "target_parameters": ([],),
    "trainable_token_indices": ([], {}), "megatron_config": ({},), "layer_replication": ([],), "loftq_config": ({},),
}  # fmt: skip
"""Values with which an adapter is plain LoRA; absent and null mean the same."""


def save_adapters(model: MMaDAModel, folder: Path, base: str) -> None:
    """Write the adapters of a model in the layout of peft; ``base``: the model that they were trained from."""
    layers = lora_layers(model)
    lora = next(iter(layers.values())).lora
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        embedding = isinstance(layer, LoraEmbedding)
        for part in PARTS[embedding]:
            tensors[f"{PREFIX}{name}.{part}"] = getattr(layer, part.removesuffix(".weight")).detach().cpu().contiguous().clone()
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    fields = {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": base, "r": lora.rank, "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout, "target_modules": sorted({name.rpartition(".")[2] for name in layers}), "bias": "none",
        "fan_in_fan_out": False, "init_lora_weights": True, "inference_mode": True,
    }  # fmt: skip
    write_json(folder / CONFIG, fields)


def adapter_base(folder: Path) -> str:
    """The model that the adapters of a folder were trained from; empty where the file does not say."""
    base = read_fields(folder / CONFIG, "adapter").get("base_model_name_or_path")
    return base if isinstance(base, str) else ""


def merged(model: MMaDAModel, adapter: str | Path) -> MMaDAModel:
    """Return the model with the adapters of a folder merged in.

    Raises InputError where they do not fit, and without peft for those that are not plain LoRA.
    """
    folder = check_path("adapter", adapter)
    try:
        found = (folder / CONFIG).is_file()
    except OSError:  # a loop of links, a file on the way
        found = False
    if not found:
        raise InputError(f"adapter {quote(folder)} has no {CONFIG}; give a folder of LoRA adapters")
    fields = read_fields(folder / CONFIG, "adapter")
    try:
        if is_plain(fields):
            merge(model, folder, fields)
            return model
        return merged_by_peft(model, folder)
    except InputError:
        raise
    except Exception as error:  # damaged in one of many ways; peft and safetensors each fail in their own
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"adapter {quote(folder)} does not fit the model ({reason}); give one that was trained on it") from error


def is_plain(fields: Mapping[str, Any]) -> bool:
    """Whether adapters are plain LoRA of one rank."""
    if fields.get("peft_type") != "LORA" or type(fields.get("r")) is not int:
        return False
    return all(fields.get(name) in (None, False, *plain) for name, plain in PLAIN.items())


@torch.no_grad()
def merge(model: MMaDAModel, folder: Path, fields: Mapping[str, Any]) -> None:
    """Add plain LoRA adapters to the weights, in place. Raises ValueError, before anything is changed, where they do not fit."""
    check_not_pointer(folder / WEIGHTS, "adapter")
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{WEIGHTS} cannot be read: {error}") from error
    rank, alpha = int(fields["r"]), float(fields.get("lora_alpha") or fields["r"])
    layers = adapted_layers(tensors)
    check_complete(model, layers, fields.get("target_modules"))
    for name, parts in layers.items():
        check_pair(model.get_submodule(name), name, [tensors[f"{PREFIX}{name}.{part}"] for part in parts], parts, rank)
    for name, parts in layers.items():
        weight = cast(Tensor, model.get_submodule(name).weight)
        thin_a, thin_b = (tensors[f"{PREFIX}{name}.{part}"].to(weight.device, torch.float32) for part in parts)
        delta = thin_b @ thin_a
        weight.copy_(weight.float() + alpha / rank * (delta if parts == PARTS[0] else delta.T))


def adapted_layers(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """Names of layers with those of their two matrices. Raises ValueError for a tensor that is of no adapter, or half of one."""
    found: dict[str, tuple[str, ...]] = {}
    for key in tensors:
        name, parts = next(((key.removesuffix(f".{p}"), pair) for pair in PARTS for p in pair if key.endswith(f".{p}")), ("", ()))
        if not name.startswith(PREFIX):
            raise ValueError(f"{key} is no part of a LoRA adapter")
        found[name.removeprefix(PREFIX)] = parts
    missing = [f"{name}.{part}" for name, parts in found.items() for part in parts if f"{PREFIX}{name}.{part}" not in tensors]
    if missing:
        raise ValueError(f"missing adapter keys: {missing[0]}")
    return found


def check_complete(model: nn.Module, layers: Mapping[str, object], targets: object) -> None:
    """Raise ValueError for adapters of layers that the model lacks, and where one of the ``targets`` has none."""
    modules = {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Embedding))}
    if unknown := [name for name in layers if name not in modules]:
        raise ValueError(f"the model has no {unknown[0]}")
    if isinstance(targets, str):
        wanted = [name for name in modules if re.fullmatch(targets, name)] if len(targets) < 1000 else []
    else:
        ends = tuple(str(one) for one in targets) if isinstance(targets, list) else ()
        wanted = [name for name in modules if any(name == end or name.endswith(f".{end}") for end in ends)]
    if missing := [name for name in wanted if name not in layers]:
        raise ValueError(f"missing adapter keys: {missing[0]}")


def check_pair(layer: nn.Module, name: str, pair: Sequence[Tensor], parts: tuple[str, ...], rank: int) -> None:
    """Raise ValueError unless two thin matrices fit a layer."""
    shape = tuple(cast(Tensor, layer.weight).shape)
    if isinstance(layer, nn.Embedding) != (parts == PARTS[1]):
        raise ValueError(f"{name} has {' and '.join(parts)}")
    if any(one.ndim != 2 or not one.is_floating_point() or not bool(one.isfinite().all()) for one in pair):
        raise ValueError(f"the adapter of {name} is not two matrices of finite numbers")
    thin_a, thin_b = (tuple(one.shape) for one in pair)
    if thin_a[0] != rank or thin_b[1] != rank:
        raise ValueError(f"the adapter of {name} has not rank {rank}")
    found = (thin_b[0], thin_a[1]) if parts == PARTS[0] else (thin_a[1], thin_b[0])
    if found != shape:
        raise ValueError(f"{name} has shape {shape}, its adapter is for {found}")


def merged_by_peft(model: MMaDAModel, folder: Path) -> MMaDAModel:
    """The same for adapters of other kinds."""
    library = peft("adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft's own use of transformers
        warnings.filterwarnings("error", message="Found missing adapter keys")
        return cast(MMaDAModel, library.PeftModel.from_pretrained(model, str(folder)).merge_and_unload())


def peft(field: str) -> Any:
    """The library. Raises InputError where it is missing or too old."""
    wanted = max(PEFT, getattr(integration, "MIN_PEFT_VERSION", PEFT), key=numbers)
    why = f"{field} is of a kind that needs peft {wanted} or later"
    try:
        found = version("peft")
        if numbers(found) >= numbers(wanted):
            return import_module("peft")
    except (PackageNotFoundError, ImportError) as error:
        raise InputError(f"{why}; install it with: pip install 'mmada[peft]'") from error
    raise InputError(f"{why}, found {found}; install it with: pip install -U 'mmada[peft]'")


def numbers(version: str) -> tuple[int, ...]:
    """A version as numbers that compare."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
