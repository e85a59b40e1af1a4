"""The released layout: what LLaDA and MMaDA call their sizes and their tensors, and what `transformers` calls them.

Both names are read everywhere, and what is saved has the released tensor names and, in config.json, the released fields beside
those of `transformers`: a folder of ours is one that the reference can load.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmada.errors import InputError

__all__ = ["CONFIG_NAMES", "TENSOR_NAMES", "check_architecture", "released_fields", "to_ours", "to_released"]

# config.json: released name -> name of transformers.
CONFIG_NAMES = {
    "d_model": "hidden_size",
    "mlp_hidden_size": "intermediate_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "max_sequence_length": "max_position_embeddings",
    "embedding_size": "vocab_size",
}

# State dict: released name -> name of transformers; ``#`` is the number of a layer.
TENSOR_NAMES = {
    "model.transformer.wte": "model.embed_tokens",
    "model.transformer.ln_f": "model.norm",
    "model.transformer.ff_out": "lm_head",
    "model.transformer.blocks.#.attn_norm": "model.layers.#.input_layernorm",
    "model.transformer.blocks.#.q_proj": "model.layers.#.self_attn.q_proj",
    "model.transformer.blocks.#.k_proj": "model.layers.#.self_attn.k_proj",
    "model.transformer.blocks.#.v_proj": "model.layers.#.self_attn.v_proj",
    "model.transformer.blocks.#.attn_out": "model.layers.#.self_attn.o_proj",
    "model.transformer.blocks.#.ff_norm": "model.layers.#.post_attention_layernorm",
    "model.transformer.blocks.#.ff_proj": "model.layers.#.mlp.gate_proj",
    "model.transformer.blocks.#.up_proj": "model.layers.#.mlp.up_proj",
    "model.transformer.blocks.#.ff_out": "model.layers.#.mlp.down_proj",
}
_BACK = {ours: released for released, ours in TENSOR_NAMES.items()}

# Fields that the reference reads from config.json and that are the same in every model of the family.
_FIXED: dict[str, Any] = {
    "activation_type": "silu",
    "alibi": False,
    "alibi_bias_max": 8.0,
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "attention_layer_norm_with_affine": True,
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "embedding_dropout": 0.0,
    "flash_attention": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "init_cutoff_factor": None,
    "init_device": "meta",
    "init_fn": "mitchell",
    "init_std": 0.02,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "mlp_ratio": 4,
    "multi_query_attention": None,
    "precision": "amp_bf16",
    "residual_dropout": 0.0,
    "rope": True,
    "rope_full_precision": True,
    "scale_logits": False,
    "use_cache": False,
    "weight_tying": False,
}
# Those of them that change what is computed, and that only this value is implemented for.
_ARCHITECTURE = ("activation_type", "alibi", "attention_layer_norm", "block_type", "include_bias", "include_qkv_bias",
                 "input_emb_norm", "layer_norm_type", "rope", "scale_logits", "weight_tying")  # fmt: skip


def check_architecture(fields: Mapping[str, Any]) -> None:
    """Raise InputError for a released field that asks for another architecture than LLaDA-8B's, or two names that disagree."""
    for released, ours in CONFIG_NAMES.items():
        if released in fields and fields.get(ours, fields[released]) != fields[released]:
            raise InputError(
                f"config.json has {released} {fields[released]!r} but {ours} {fields[ours]!r}, which are one thing; mend either"
            )
    for name in _ARCHITECTURE:
        if fields.get(name, _FIXED[name]) != _FIXED[name]:
            raise InputError(f"{name} of config.json is {fields[name]!r}; only {_FIXED[name]!r}, LLaDA's own, is supported")


def released_fields(config: Any) -> dict[str, Any]:
    """The released fields of config.json for a config with the names of `transformers`."""
    sizes = {released: getattr(config, ours) for released, ours in CONFIG_NAMES.items()}
    own = {name: getattr(config, name, value) for name, value in _FIXED.items()}
    return {**own, **sizes, "rope_theta": config.rope_parameters["rope_theta"], "rms_norm_eps": config.rms_norm_eps}


def to_ours(name: str) -> str:
    """A tensor's name in `transformers`; a name that is not of the released layout stays."""
    return _renamed(name, TENSOR_NAMES)


def to_released(name: str) -> str:
    """A tensor's released name; a name that is not of `transformers` stays."""
    return _renamed(name, _BACK)


def _renamed(name: str, names: dict[str, str]) -> str:
    module, dot, leaf = name.rpartition(".")
    number = re.search(r"\.(\d+)\.", module)
    pattern = re.sub(r"\.\d+\.", ".#.", module, count=1)
    if pattern not in names:
        return name
    return names[pattern].replace("#", number[1] if number else "#") + dot + leaf
