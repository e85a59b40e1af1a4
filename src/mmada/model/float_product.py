"""Product of activations and weights in float32 on a CPU, by oneDNN.

`F.linear` calls MKL there, which is a seventh slower at many rows, and two to three times slower at the few rows of a head of
100,000 outputs (AMD, AVX-512). Both sum in float32, in another order.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["multiplied", "onednn_linear"]


def multiplied(x_MK: Tensor, weight_NK: Tensor) -> Tensor:
    """Return x times the transposed weights, (..., N)."""
    if x_MK.dtype == weight_NK.dtype == torch.float32 and x_MK.device.type == "cpu" and not torch.is_grad_enabled():
        found = onednn_linear()
        if found is not None and x_MK.numel():
            product: Tensor = found(x_MK, weight_NK, None, "none", [], "")
            return product
    return F.linear(x_MK, weight_NK)


@cache
def onednn_linear() -> Any:
    """oneDNN's linear layer, tried out; None where this torch or this CPU has none."""
    x_MK, weight_NK = torch.ones(2, 3), torch.ones(4, 3)
    try:
        with torch.no_grad():
            found = torch.ops.mkldnn._linear_pointwise(x_MK, weight_NK, None, "none", [], "")
    except (AttributeError, RuntimeError, NotImplementedError):
        return None
    return torch.ops.mkldnn._linear_pointwise if torch.equal(found, x_MK @ weight_NK.T) else None
