"""Weight-only quantisation: the 8B model runs on a 24 GB (int8, fp8) or a 12 GB (int4) GPU. Needs torchao.

The blocks are quantised; the embedding and the head, of which slices of the vocabulary are used, keep their dtype. Quantised
models are for inference: they are not saved, as they are made from the stored weights in seconds.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, get_args

import torch

from mmada.errors import InputError, check_choice
from mmada.model.mmada import MMaDAModel

__all__ = ["Quantisation", "memory", "quantize"]

Quantisation = Literal["int8", "fp8", "int4"]
GROUP = 128
"""Number of weights that share one scale in int4."""


def quantize(model: MMaDAModel, kind: Quantisation, device: torch.device) -> MMaDAModel:
    """Quantise the blocks in place, one after another, on ``device``, to which the whole model moves.

    ``int8``, ``fp8`` (e4m3): one scale per row, any device. ``int4``: one scale per `GROUP` weights, CUDA only. Raises InputError
    for an unknown kind, without torchao, and for a model or a device that is not supported.
    """
    check_choice("quantisation", kind, get_args(Quantisation))
    try:
        from torchao import quantization
    except ImportError as error:
        raise InputError(f"quantisation {kind!r} needs torchao; install it with: pip install 'mmada[quant]'") from error
    library: Any = quantization
    if kind == "int4" and device.type != "cuda":
        raise InputError(f"quantisation 'int4' requires CUDA, got {device.type}; choose 'int8'")
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


def memory(model: MMaDAModel) -> dict[str, int]:
    """Return the bytes that the weights take in each dtype; shapes are enough, so the model may be on the meta device."""
    blocks = sum(p.numel() for p in model.model.layers.parameters() if p.ndim == 2)
    total = sum(p.numel() for p in model.parameters())
    rest = 2 * (total - blocks)  # in bfloat16
    return {
        "float32": 4 * total,
        "bfloat16": 2 * total,
        "int8": blocks + rest,
        "fp8": blocks + rest,
        "int4": blocks // 2 + 4 * blocks // GROUP + rest,  # a scale and a zero point a group, 16 bits each
    }
