"""Loading of models: sizes from config.json, tensors straight to their device and dtype."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any, cast

import torch
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from mmada.errors import InputError, quote
from mmada.io.documents import read_fields
from mmada.io.weights import WeightFile, check_fit, find_weights, load_into
from mmada.model.mmada import MMaDAConfig, MMaDAModel
from mmada.model.quantized_linear import Int8Linear, use_quantized_layers
from mmada.model.released_names import check_architecture, check_sizes, to_ours, to_released

__all__ = ["cast_weights", "checked_weights", "config_fields", "empty_model", "read_config", "read_model", "widest_type"]


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


def read_config(folder: Path) -> MMaDAConfig:
    """Read the sizes and settings of a model from config.json. Raises InputError as `config_fields` does."""
    # The reference's own type and code.
    fields = {k: v for k, v in config_fields(folder).items() if k not in ("model_type", "architectures", "auto_map")}
    try:
        return MMaDAConfig(**fields)
    except InputError:
        raise
    except Exception as error:  # transformers fails in its own ways
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"config of {folder} is damaged ({reason}); get a whole copy of the folder") from error


def empty_model(config: MMaDAConfig) -> MMaDAModel:
    """Make a model without storage, for its shapes."""
    with torch.device("meta"):
        return MMaDAModel(config)


def checked_weights(folder: Path, config: MMaDAConfig) -> tuple[MMaDAModel, list[WeightFile]]:
    """Return (a model without storage, the files that fill it), checked by the files' headers alone."""
    files, model = find_weights(folder), empty_model(config)
    check_fit(files, model.state_dict(), folder, to_ours, to_released)
    return model, files


def widest_type(model: MMaDAModel) -> torch.dtype:
    """The smallest dtype that holds every parameter: all compute in one, whatever each was stored in."""
    return reduce(torch.promote_types, {parameter.dtype for parameter in model.parameters()})


def cast_weights(model: MMaDAModel, dtype: torch.dtype) -> None:
    """Cast every parameter to a dtype, in place; buffers keep theirs, as rotary angles must be computed in float32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def read_model(
    folder: Path, *, device: torch.device, dtype: torch.dtype | None = None, quantisation: str | None = None
) -> MMaDAModel:
    """Load the model of a folder for inference on ``device``; ``dtype`` None keeps the stored one of each tensor.

    Peak memory is that of the weights: every tensor is allocated once, where it stays. ``quantisation`` ("int8" or "int4", on a
    CPU): each matrix is quantised as it is read. Raises InputError for what is missing, damaged, or does not fit.
    """
    config = read_config(folder)
    model, files = checked_weights(folder, config)
    if quantisation is not None and config.quantisation is None:
        use_quantized_layers(model, quantisation)
        config.quantisation = quantisation
    if isinstance(model.lm_head, Int8Linear):
        model.lm_head.room()  # the largest matrix: packing memory for it takes twice its size, so it comes first
    load_into(model, files, device=device, dtype=dtype, names=to_ours)
    model.model.rotary_emb = LlamaRotaryEmbedding(config).to(device)  # computed, not stored
    evaluated: Any = model.eval()  # type: ignore[no-untyped-call]
    return cast(MMaDAModel, evaluated)
