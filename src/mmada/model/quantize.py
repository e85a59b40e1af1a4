"""Quantisation: the 8B model runs in 9.7 GB (int8) or 6.5 GB (int4) of memory of a CPU, or on a 24 or a 12 GB GPU.

On a CPU all matrices but the embedding become int8 or int4, by kernels of torch (`mmada.model.quantized_linear`); such models can
be saved. On a GPU, and for fp8 anywhere, torchao quantises the blocks only (weight-only), and the models are not saved: they are
made from the stored weights in seconds. Quantised models are for inference.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, TypeVar, get_args

import torch

from mmada.errors import InputError, check_choice
from mmada.model.predictor import Predictor
from mmada.model.quantized_linear import GROUP as CPU_GROUP
from mmada.model.quantized_linear import LAYERS, quantize_layers

__all__ = ["Quantisation", "memory", "on_cpu", "quantize"]

Quantisation = Literal["int8", "fp8", "int4"]
AnyNetwork = TypeVar("AnyNetwork", bound=Predictor)
GROUP = 128
"""Number of weights that share one scale in int4 on a GPU."""


def on_cpu(kind: str, device: torch.device) -> bool:
    """Whether this quantisation is that of `mmada.model.quantized_linear`."""
    return device.type == "cpu" and kind in LAYERS


def quantize(model: AnyNetwork, kind: Quantisation, device: torch.device) -> AnyNetwork:
    """Quantise a model in place, one matrix or block after another, on ``device``, to which the whole model moves.

    ``int8``, ``fp8`` (e4m3): one scale per row, any device. ``int4``: a scale per group of weights, CPU or CUDA. Raises
    InputError for an unknown kind, where torchao is needed and missing, and for a model or a device that is not supported.
    """
    check_choice("quantisation", kind, get_args(Quantisation))
    if model.config.quantisation is not None or quantized_by_torchao(model):
        raise InputError(f"model is quantised already, so quantisation {kind!r} cannot be applied; load it unquantised")
    if on_cpu(kind, device):
        quantize_layers(model, kind)
        model.record_quantisation(kind)
        return model
    try:
        from torchao import quantization
    except ImportError as error:
        raise InputError(f"quantisation {kind!r} needs torchao; install it with: pip install 'mmada[quant]'") from error
    library: Any = quantization
    if kind == "int4" and device.type != "cuda":
        raise InputError(f"quantisation 'int4' requires a CPU or CUDA, got {device.type}; choose 'int8'")
    if kind == "int4" and (model.config.hidden_size % GROUP or model.config.intermediate_size % GROUP):
        raise InputError(f"quantisation 'int4' needs sizes that are multiples of {GROUP}; choose 'int8'")
    configs = {
        "int8": library.Int8WeightOnlyConfig,
        "fp8": library.Float8WeightOnlyConfig,
        "int4": partial(library.Int4WeightOnlyConfig, group_size=GROUP),
    }
    config = configs[kind]()
    for layer in model.model.layers:
        layer.to(device)
        library.quantize_(layer, config)
    torch.nn.Module.to(model, device)
    return model


def quantized_by_torchao(model: torch.nn.Module) -> bool:
    """Whether torchao has quantised weights of a model."""
    return any(type(p.data).__module__.startswith("torchao") for p in model.parameters())


def memory(model: Predictor) -> dict[str, int]:
    """Return the bytes that the weights take in each dtype; shapes are enough, so the model may be on the meta device.

    int8 and int4 as on a CPU; a GPU keeps the head in bfloat16.
    """
    c = model.config
    attention = 2 * c.hidden_size * (c.hidden_size + c.num_key_value_heads * c.head_dim)
    blocks = c.num_hidden_layers * (attention + 3 * c.hidden_size * c.intermediate_size)
    embedding = c.vocab_size * c.hidden_size
    norms = (2 * c.num_hidden_layers + 1) * c.hidden_size
    total, rest = blocks + 2 * embedding + norms, 2 * (embedding + norms)  # the rest is in bfloat16
    return {
        "float32": 4 * total,
        "bfloat16": 2 * total,
        "int8": blocks + embedding + rest,
        "fp8": blocks + 2 * embedding + rest,
        "int4": (blocks + embedding) // 2 + 2 * (blocks + embedding) // CPU_GROUP + rest,
    }
