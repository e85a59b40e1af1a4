"""Optimisers and the learning-rate schedule: Muon on the matrices, AdamW on the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mmada.errors import InputError, check_choice, check_number, check_whole
from mmada.training.muon import Muon

__all__ = ["MAX_UPDATES", "Optim", "build_optimisers", "learning_rate_scale"]


MAX_UPDATES = 10**9
"""Largest number of steps of a run; larger values are almost certainly typos."""


@dataclass(frozen=True, kw_only=True)
class Optim:
    """Settings of the optimisers.

    ``muon_lr`` = 0 leaves every parameter to AdamW. Learning rates rise linearly over ``warmup`` steps, stay constant, and fall
    along a cosine to ``final`` times their value over the last ``decay`` share of the run; with the ``schedule`` "constant" they
    do not fall. ``clip``: maximum gradient norm.
    """

    may_be_zero: ClassVar[tuple[str, ...]] = ()
    lr: float = 1e-3
    muon_lr: float = 0.0
    weight_decay: float = 0.01
    warmup: int = 100
    schedule: Literal["cosine", "constant"] = "cosine"
    decay: float = 0.4
    final: float = 0.02
    clip: float = 1.0
    beta2: float = 0.99

    def __post_init__(self) -> None:
        for name in ("lr", "clip", "muon_lr", "weight_decay"):
            check_number(f"optim.{name}", getattr(self, name))
        check_number("optim.beta2", self.beta2, 0, 0.999999)
        check_whole("optim.warmup", self.warmup, 0, MAX_UPDATES)
        check_choice("optim.schedule", self.schedule, ("cosine", "constant"))
        for name in ("lr", "clip"):
            if not getattr(self, name) > 0 and name not in self.may_be_zero:
                raise InputError(f"optim.{name} must be above 0, got {getattr(self, name)}")
        for name in ("decay", "final"):
            check_number(f"optim.{name}", getattr(self, name), 0, 1)


def learning_rate_scale(step: int, steps: int, optim: Optim) -> float:
    """Factor of the learning rates at ``step`` of ``steps``: warm-up, constant, cosine decay."""
    if step < optim.warmup:
        return (step + 1) / (optim.warmup + 1)
    start = steps * (1 - optim.decay)
    if step < start or steps <= start or optim.schedule == "constant":
        return 1.0
    share = min(1.0, (step - start) / (steps - start))
    return optim.final + (1 - optim.final) * 0.5 * (1 + math.cos(math.pi * share))


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon trains a parameter: hidden matrices and kernels; no embeddings, heads, norms, or layers at pixels or codes."""
    return parameter.ndim >= 2 and min(parameter.shape[:2]) > 16 and "embed" not in name and "head" not in name


def build_optimisers(module: nn.Module, optim: Optim) -> list[torch.optim.Optimizer]:
    """Make AdamW (norms and biases without weight decay), and Muon where its learning rate is above 0."""
    named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    matrices = [p for n, p in named if optim.muon_lr > 0 and is_matrix(n, p)]
    taken = {id(p) for p in matrices}
    decayed = [p for _, p in named if id(p) not in taken and p.ndim > 1]
    plain = [p for _, p in named if id(p) not in taken and p.ndim <= 1]
    own_decays = {float(p.weight_decay) for p in decayed if hasattr(p, "weight_decay")}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in decayed if not hasattr(p, "weight_decay")], "weight_decay": optim.weight_decay},
        {"params": plain, "weight_decay": 0.0},
        *(
            {"params": [p for p in decayed if getattr(p, "weight_decay", None) == decay], "weight_decay": decay}
            for decay in own_decays
        ),
    ]
    adam = torch.optim.AdamW([g for g in groups if g["params"]], lr=optim.lr, betas=(0.9, optim.beta2), fused=True)
    optimisers: list[torch.optim.Optimizer] = [adam]
    if matrices:
        optimisers.append(Muon(matrices, lr=optim.muon_lr, weight_decay=optim.weight_decay))
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["peak_lr"] = group["lr"]
    return optimisers
