"""A model from its folder and back: sizes from config.json, tensors straight to their device and type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from mmada.errors import InputError
from mmada.model.layout import check_architecture, to_ours
from mmada.model.mmada import MMaDAConfig, MMaDAModel
from mmada.weights import FLOATS, WeightFile, check_fit, find_weights, load_into

__all__ = ["checked_weights", "empty_model", "read_config", "read_model"]


def read_config(folder: Path) -> MMaDAConfig:
    """The sizes in config.json of a folder, MMaDA's or LLaDA's. Raises InputError where it is missing, damaged or another's."""
    path = folder / "config.json"
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind = fields.pop("model_type", "mmada")
        if kind not in ("mmada", "llada"):
            raise InputError(f"model_type of {path} is {kind!r}; give the folder of an MMaDA or a LLaDA model")
        for name in ("architectures", "auto_map"):  # they name the reference's own code
            fields.pop(name, None)
        check_architecture(fields)
        return MMaDAConfig(**fields)
    except InputError:
        raise
    except Exception as error:  # json and transformers each fail in their own ways
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"config of {path} is damaged ({reason}); get a whole copy of the folder") from error


def empty_model(config: MMaDAConfig) -> MMaDAModel:
    """A model without storage, for its shapes."""
    with torch.device("meta"):
        return MMaDAModel(config)


def checked_weights(folder: Path, config: MMaDAConfig) -> tuple[MMaDAModel, list[WeightFile]]:
    """(the model without storage, the files that fill it); by the files' headers alone."""
    files, model = find_weights(folder), empty_model(config)
    check_fit(files, {name: value.shape for name, value in model.state_dict().items()}, folder, to_ours)
    return model, files


def read_model(folder: Path, *, device: torch.device, dtype: torch.dtype | None = None) -> MMaDAModel:
    """The model of a folder, ready for inference on ``device``; ``dtype`` None is the stored one.

    Peak memory is that of the weights: every tensor is allocated once, where it stays. Raises InputError for what is missing,
    damaged, or does not fit.
    """
    config = read_config(folder)
    model, files = checked_weights(folder, config)
    if dtype is None:
        dtype = FLOATS[next(iter(files[0].tensors.values())).dtype]
    load_into(model, files, device=device, dtype=dtype, names=to_ours)
    model.model.rotary_emb = LlamaRotaryEmbedding(config).to(device)  # computed, not stored
    evaluated: Any = model.eval()  # type: ignore[no-untyped-call]
    return cast(MMaDAModel, evaluated)
