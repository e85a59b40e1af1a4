"""Loading of networks for inference: sizes from config.json, tensors straight to their device and dtype."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from mmada.errors import InputError, quote
from mmada.io.documents import read_fields
from mmada.io.weights import WeightFile, check_fit, find_weights, load_into
from mmada.model.network import Network
from mmada.model.quantized_linear import Int8Linear
from mmada.model.released_names import check_architecture, check_sizes, to_ours, to_released
from mmada.model.sizes import ModelSizes

__all__ = [
    "cast_weights",
    "checked_weights",
    "config_fields",
    "empty_network",
    "filled",
    "read_network",
    "read_sizes",
    "widest_type",
]

Module = TypeVar("Module", bound=nn.Module)


def config_fields(folder: Path) -> dict[str, Any]:
    """Read the fields of an MMaDA's or LLaDA's config.json. Raises InputError where it is missing, damaged, of another model, or
    asks for what is not supported.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"model folder {quote(folder)} lacks config.json; give one of `mmada train` or of the released layout")
    fields = read_fields(path, "config", "get a whole copy of the folder")
    if (kind := fields.get("model_type", "mmada")) not in ("mmada", "llada"):
        raise InputError(f"model_type of {path} is {kind!r}; give the folder of an MMaDA or a LLaDA model")
    check_architecture(fields)
    check_sizes(fields)
    return fields


def read_sizes(folder: Path) -> ModelSizes:
    """Read the sizes of a model from config.json. Raises InputError as `config_fields` does."""
    return ModelSizes.of(config_fields(folder))


def empty_network(sizes: ModelSizes) -> Network:
    """Make a network without storage, for its shapes."""
    with torch.device("meta"):
        return Network(sizes)


def checked_weights(folder: Path, model: Module) -> tuple[Module, list[WeightFile]]:
    """Return (a model without storage, the files that fill it), checked by the files' headers alone."""
    files = find_weights(folder)
    check_fit(files, model.state_dict(), folder, to_ours, to_released)
    return model, files


def widest_type(model: nn.Module) -> torch.dtype:
    """The smallest dtype that holds every parameter: all compute in one, whatever each was stored in."""
    return reduce(torch.promote_types, {parameter.dtype for parameter in model.parameters()})


def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast every parameter to a dtype, in place; buffers keep theirs, as rotary angles must be computed in float32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def read_network(
    folder: Path, *, device: torch.device, dtype: torch.dtype | None = None, quantisation: str | None = None
) -> Network:
    """Load the model of a folder for inference on ``device``; ``dtype`` None keeps the stored one of each tensor.

    ``quantisation`` ("int8" or "int4", on a CPU): each matrix is quantised as it is read. Raises InputError for what is missing,
    damaged, or does not fit.
    """
    sizes = read_sizes(folder)
    network, files = checked_weights(folder, empty_network(sizes))
    if quantisation is not None and sizes.quantisation is None:
        network.quantize_as_read(quantisation)
    return filled(network, files, device=device, dtype=dtype)


def filled(model: Module, files: list[WeightFile], *, device: torch.device, dtype: torch.dtype | None) -> Module:
    """Fill an empty model with the tensors of its files. Peak memory is that of the weights: every tensor is allocated once,
    where it stays."""
    head: Any = model.get_submodule("lm_head")
    if isinstance(head, Int8Linear):
        head.room()  # the largest matrix: packing memory for it takes twice its size, so it comes first
    load_into(model, files, device=device, dtype=dtype, names=to_ours)
    return model.eval()
