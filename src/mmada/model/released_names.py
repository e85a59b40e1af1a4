"""Names of the released layout: sizes and tensors as LLaDA and MMaDA call them, and as `transformers` does.

Both names are read everywhere. What is saved has the released tensor names and, in config.json, both kinds of fields: the
reference can load a folder that is written here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmada.errors import InputError, check_choice, check_number, check_whole

__all__ = ["CONFIG_NAMES", "TENSOR_NAMES", "check_architecture", "check_sizes", "released_fields", "to_ours", "to_released"]

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
# Fields that change what is computed, by both names, of which only this value is implemented.
_ARCHITECTURE: dict[str, Any] = {
    name: _FIXED[name]
    for name in ("activation_type", "alibi", "attention_layer_norm", "block_group_size", "block_type", "include_bias",
                 "include_qkv_bias", "input_emb_norm", "layer_norm_type", "layer_norm_with_affine", "rope", "rope_full_precision",
                 "scale_logits", "weight_tying")
} | {"attention_bias": False, "clip_qkv": None, "hidden_act": "silu", "is_causal": False, "mlp_bias": False,
     "multi_query_attention": False, "partial_rotary_factor": 1.0, "rope_scaling": None,
     "tie_word_embeddings": False}  # fmt: skip
# Upper bounds that catch typos.
_MAX_SIZES = {"hidden_size": 2**17, "intermediate_size": 2**19, "num_hidden_layers": 1000, "num_attention_heads": 2**10,
         "num_key_value_heads": 2**10, "max_position_embeddings": 2**24, "vocab_size": 2**24}  # fmt: skip
# Fields that may be null, as other fields imply them.
_IMPLIED = ("embedding_size", "mlp_hidden_size", "n_kv_heads", "num_key_value_heads")


def check_architecture(fields: Mapping[str, Any]) -> None:
    """Raise InputError for a field of config.json that asks for another architecture than LLaDA-8B's."""
    for name, only in _ARCHITECTURE.items():
        if fields.get(name) is not None and fields[name] != only:
            raise InputError(f"{name} of config.json is {fields[name]!r}; only {only!r}, LLaDA's own, is supported")
    rope = fields.get("rope_parameters") or {}
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise InputError(f"rope_parameters of config.json is {rope!r}; only the rope_type 'default', LLaDA's own, is supported")


def check_sizes(fields: Mapping[str, Any]) -> None:
    """Raise InputError for an impossible size in config.json, for sizes that do not fit together, and where the two names of one
    size disagree.
    """
    sizes: dict[str, int] = {}
    for released, ours in CONFIG_NAMES.items():
        for name in (released, ours):
            if name not in fields or (fields[name] is None and name in _IMPLIED):
                continue
            size = check_whole(f"{name} of config.json", fields[name], 1, _MAX_SIZES[ours])
            if sizes.setdefault(ours, size) != size:
                raise InputError(
                    f"config.json has {released} {sizes[ours]} but {ours} {size}, which are the same size; fix one of them"
                )
    width, heads = sizes.get("hidden_size", 0), sizes.get("num_attention_heads", 1)
    if width % (2 * heads):
        raise InputError(f"d_model {width} of config.json is not a multiple of twice its n_heads {heads}; fix one of them")
    if heads % (groups := sizes.get("num_key_value_heads", 1)):
        raise InputError(f"n_heads {heads} of config.json is not a multiple of its n_kv_heads {groups}; fix one of them")
    if width and fields.get("head_dim") not in (None, width // heads):
        raise InputError(f"head_dim of config.json is {fields['head_dim']!r}; only d_model / n_heads, LLaDA's own, is supported")
    rope = fields.get("rope_parameters") or {}
    for name, values, minimum in (("rope_theta", fields, 1.0), ("rope_theta", rope, 1.0), ("rms_norm_eps", fields, 1e-12)):
        if name in values:
            check_number(f"{name} of config.json", values[name], minimum)
    if fields.get("rope_theta", rope.get("rope_theta")) != rope.get("rope_theta", fields.get("rope_theta")):
        raise InputError(f"config.json has rope_theta {fields['rope_theta']} and another in rope_parameters; fix one of them")
    for name, maximum in (("num_vq_tokens", 2**20), ("codebook_size", 2**18), ("mlp_ratio", 2**10)):
        if fields.get(name) is not None:
            check_whole(f"{name} of config.json", fields[name], 1, maximum)
    for name, choices in (
        ("attn_implementation", ("sdpa", "eager")),
        ("_attn_implementation", ("sdpa", "eager")),
        ("dtype", ("float32", "bfloat16", "float16")),
        ("torch_dtype", ("float32", "bfloat16", "float16")),
        ("quantisation", ("int8", "int4")),
    ):
        if fields.get(name) is not None:
            check_choice(f"{name} of config.json", fields[name], choices)


def released_fields(config: Any) -> dict[str, Any]:
    """Return the released fields of config.json for a config with the names of `transformers`."""
    sizes = {released: getattr(config, ours) for released, ours in CONFIG_NAMES.items()}
    own = {name: getattr(config, name, value) for name, value in _FIXED.items()}
    return {**own, **sizes, "rope_theta": config.rope_parameters["rope_theta"], "rms_norm_eps": config.rms_norm_eps}


def to_ours(name: str) -> str:
    """Return a tensor's name in `transformers`; a name that is not of the released layout is returned unchanged."""
    return _renamed(name, TENSOR_NAMES)


def to_released(name: str) -> str:
    """Return a tensor's released name; a name that is not of `transformers` is returned unchanged."""
    return _renamed(name, _BACK)


def _renamed(name: str, names: dict[str, str]) -> str:
    module, dot, leaf = name.rpartition(".")
    number = re.search(r"\.(\d+)\.", module)
    pattern = re.sub(r"\.\d+\.", ".#.", module, count=1)
    if pattern not in names:
        return name
    return names[pattern].replace("#", number[1] if number else "#") + dot + leaf
