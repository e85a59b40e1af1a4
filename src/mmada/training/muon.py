"""Muon for matrices and convolution kernels: momentum, then the nearest orthogonal matrix by Newton-Schulz iteration.

`torch.optim.Muon` updates 2-D parameters one by one; this one also takes kernels, flattened to (out, rest), and updates all
parameters of one shape in one batched product. On 2-D parameters the two agree (tested).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Muon", "orthogonalise"]

COEFFICIENTS = (3.4445, -4.775, 2.0315)


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Return approximately U V^T of each (..., m, n) matrix U S V^T, by a quintic Newton-Schulz iteration in bfloat16."""
    a, b, c = COEFFICIENTS
    x: Tensor = matrices.bfloat16()
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Muon: orthogonalised Nesterov momentum, its step size scaled to the root mean square of an AdamW update."""

    def __init__(self, params: Iterable[Tensor], *, lr: float, weight_decay: float = 0.0, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Do one update; ``closure`` is not supported."""
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(tuple(p.shape), []).append(p)
            for parameters in by_shape.values():
                self.update(parameters, group)

    def update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Update parameters of one shape in one batch."""
        directions = []
        for p in parameters:
            assert p.grad is not None
            buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p.grad))
            buffer.lerp_(p.grad, 1 - group["momentum"])
            directions.append(p.grad.lerp(buffer, group["momentum"]).flatten(1))
        rows, columns = directions[0].shape
        rate = group["lr"] * 0.2 * max(rows, columns) ** 0.5
        for p, direction in zip(parameters, orthogonalise(torch.stack(directions)), strict=True):
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(direction.view(p.shape).to(p.dtype), alpha=-rate)
