"""Loading of models for training, and for what saves them: on `transformers`' blocks."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from mmada.errors import InputError
from mmada.model.loading import checked_weights, config_fields, filled
from mmada.model.mmada import MMaDAConfig, MMaDAModel

__all__ = ["empty_model", "read_config", "read_model"]


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


def read_model(
    folder: Path, *, device: torch.device, dtype: torch.dtype | None = None, quantisation: str | None = None
) -> MMaDAModel:
    """Load the model of a folder; as `mmada.model.loading.read_network`, which is for inference."""
    config = read_config(folder)
    model, files = checked_weights(folder, empty_model(config))
    if quantisation is not None and config.quantisation is None:
        model.quantize_as_read(quantisation)
    filled(model, files, device=device, dtype=dtype)
    model.model.rotary_emb = LlamaRotaryEmbedding(config).to(device)  # computed, not stored
    return model
