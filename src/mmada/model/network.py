"""The network for inference: weights in the places where the packed forward pass of decoding looks for them, and nothing else.

The same tensors by the same names as `mmada.model.mmada.MMaDAModel`, which is made of `transformers`' blocks and is for training
and for other libraries; importing those takes several times as long as loading a small model and answering with it.

Shapes: T positions, D width, E head size.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from mmada.model.float_product import multiplied
from mmada.model.predictor import Predictor
from mmada.model.quantized_linear import use_quantized_layers
from mmada.model.sizes import ModelSizes

__all__ = ["Network"]


class Network(Predictor):
    """The masked denoiser, for inference only."""

    def __init__(self, config: ModelSizes) -> None:
        super().__init__()
        self.config = config
        self.model = Backbone(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.quantisation is not None:
            use_quantized_layers(self, config.quantisation)

    def record_quantisation(self, kind: str) -> None:
        """Write into the configuration that the weights are quantised."""
        self.config = replace(self.config, quantisation=kind)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return cast(torch.device, self.model.embed_tokens.weight.device)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights that are not quantised."""
        return cast(torch.dtype, self.model.embed_tokens.weight.dtype)


class Linear(nn.Linear):
    """A linear layer whose weights are always read, never made: random numbers for them would take longer than reading."""

    def reset_parameters(self) -> None:
        """Do nothing."""

    def forward(self, x: Tensor) -> Tensor:
        """x times the weights."""
        return multiplied(x, self.weight)


class Embedding(nn.Embedding):
    """An embedding whose weights are always read."""

    def reset_parameters(self) -> None:
        """Do nothing."""


class Backbone(nn.Module):
    """Embedding, layers, last norm and rotary embedding."""

    def __init__(self, config: ModelSizes) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = Rotary(config.head_dim, config.rope_theta)


class Layer(nn.Module):
    """Weights of a transformer block; `mmada.model.inference` computes with them."""

    def __init__(self, config: ModelSizes) -> None:
        super().__init__()
        self.self_attn = AttentionWeights(config)
        self.mlp = GatedWeights(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class AttentionWeights(nn.Module):
    """Projections of self-attention."""

    def __init__(self, config: ModelSizes) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        shared = config.num_key_value_heads * config.head_dim
        self.q_proj = Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = Linear(config.hidden_size, shared, bias=False)
        self.v_proj = Linear(config.hidden_size, shared, bias=False)
        self.o_proj = Linear(config.hidden_size, config.hidden_size, bias=False)


class GatedWeights(nn.Module):
    """Projections of the gated MLP (SwiGLU)."""

    def __init__(self, config: ModelSizes) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)


class RMSNorm(nn.Module):
    """Root-mean-square norm: computed in float32, scaled in the dtype of the input, as Llama does."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x_TD: Tensor) -> Tensor:
        """The normalised input."""
        wide_TD = x_TD.float()
        wide_TD = wide_TD * torch.rsqrt(wide_TD.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide_TD.to(x_TD.dtype)


class Rotary(nn.Module):
    """Rotary position embedding (Su et al., 2021), half-split, with angles in float32 whatever the dtype of the weights."""

    def __init__(self, size: int, theta: float) -> None:
        super().__init__()
        self.size, self.theta = size, theta

    def forward(self, like: Tensor, position_1T: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (1, T, E) of the positions' angles, in the dtype and on the device of ``like``."""
        exponent_F = torch.arange(0, self.size, 2, dtype=torch.int64, device=like.device).float() / self.size
        frequency_F = 1.0 / self.theta**exponent_F
        angle_1TF = position_1T[..., None].float() * frequency_F
        angle_1TE = torch.cat((angle_1TF, angle_1TF), dim=-1)
        return angle_1TE.cos().to(like.dtype), angle_1TE.sin().to(like.dtype)
