"""Sizes of a model, read from config.json without `transformers`, whose import takes longer than a short answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmada.model.released_names import CONFIG_NAMES

__all__ = ["ModelSizes"]


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """What a forward pass needs of config.json, by the names of `transformers` and with the defaults of its Llama.

    ``quantisation``: type of the stored weights, "int8" or "int4", where they are quantised. ``mask_token_id``,
    ``codebook_size``: None where config.json does not state them.
    """

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    quantisation: str | None = None
    mask_token_id: int | None = None
    codebook_size: int | None = None

    @staticmethod
    def of(fields: Mapping[str, Any]) -> ModelSizes:
        """Sizes by the fields of config.json, checked ones, under either of their names."""
        given = {name: value for name, value in fields.items() if value is not None}
        given |= {ours: given[released] for released, ours in CONFIG_NAMES.items() if released in given}
        heads = given.get("num_attention_heads", ModelSizes.num_attention_heads)
        implied: dict[str, Any] = {"num_key_value_heads": heads}
        if "rope_theta" in given.get("rope_parameters", {}):
            implied["rope_theta"] = given["rope_parameters"]["rope_theta"]
        if "mlp_hidden_size" in fields and "mlp_hidden_size" not in given:  # LLaDA's rule
            implied["intermediate_size"] = given.get("mlp_ratio", 4) * given.get("hidden_size", ModelSizes.hidden_size)
            given.pop("intermediate_size", None)
        known = {name: value for name, value in given.items() if name in ModelSizes.__dataclass_fields__}
        return ModelSizes(**{**implied, **known})

    @property
    def head_dim(self) -> int:
        """Size of an attention head."""
        return self.hidden_size // self.num_attention_heads
