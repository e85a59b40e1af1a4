"""Cost of a forward pass: floating-point operations and bytes counted from the configuration, peaks measured on the machine.

Shapes: B rows, L positions, N places asked for.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmada.canvas import DenoiserCache
from mmada.model.predictor import Predictor

__all__ = ["Meter", "Peaks", "measured_peaks", "memory_mark"]


class Meter:
    """A denoiser that counts what the passes of another cost: ``flops``, and ``bytes`` of weights and logits moved."""

    def __init__(self, model: Predictor) -> None:
        self.model = model
        c = model.config
        self.width, self.layers, self.item = c.hidden_size, c.num_hidden_layers, model.dtype.itemsize
        head = c.hidden_size // c.num_attention_heads
        key_value = 2 * c.hidden_size * c.num_key_value_heads * head
        self.key_value = key_value
        self.rest = 2 * c.hidden_size**2 + 3 * c.hidden_size * c.intermediate_size  # queries, output, MLP
        self.flops = self.bytes = 0.0

    def kv_cache(self, rows: int) -> DenoiserCache:
        """As the model's."""
        return self.model.kv_cache(rows)

    def predict(self, tokens_BL: Tensor, *, query_BL: Tensor, vocab: range, **more: Any) -> Tensor:
        """As the model's, counted."""
        valid_BL, recompute_BL = more.get("valid_BL"), more.get("recompute_BL")
        valid_BL = torch.ones_like(query_BL) if valid_BL is None else valid_BL
        recompute_BL = valid_BL if recompute_BL is None else recompute_BL & valid_BL
        verify_BL = more.get("verify_BL")
        shadow_B = 0 if verify_BL is None else verify_BL.sum(1).double()
        fresh_B, asked_B, seen_B = (x.sum(1).double() for x in (recompute_BL, query_BL, valid_BL))
        fresh_B, asked_B = fresh_B + shadow_B, asked_B + shadow_B
        fresh, asked = float(fresh_B.sum()), float(asked_B.sum())
        attention = 4 * self.width * ((self.layers - 1) * fresh_B + asked_B) @ seen_B
        blocks = 2 * (self.layers * self.key_value * fresh + self.rest * ((self.layers - 1) * fresh + asked))
        head = 2 * asked * self.width * len(vocab)
        self.flops += blocks + float(attention) + head
        weights = self.layers * (self.key_value + self.rest) + self.width * len(vocab)
        self.bytes += weights * self.item + 4 * asked * len(vocab)
        return self.model.predict(tokens_BL, query_BL=query_BL, vocab=vocab, **more)


@dataclass(frozen=True)
class Peaks:
    """Peak rates of the machine: operations a second in a matrix product, bytes a second in a copy."""

    flops: float
    bytes: float

    def min_seconds(self, flops: float, moved: float) -> float:
        """Lower bound on the seconds for so many operations and bytes (roofline)."""
        return max(flops / self.flops, moved / self.bytes)


def measured_peaks(device: torch.device, dtype: torch.dtype, *, side: int = 1024) -> Peaks:
    """Best of a few matrix products of ``side`` and copies of 64 MiB, now and here."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    block = torch.ones(2**24, device=device)
    product, copy = fastest(lambda: a @ b, device), fastest(block.clone, device)
    return Peaks(2 * side**3 / product, 2 * block.numel() * 4 / copy)


def fastest(job: Callable[[], object], device: torch.device, repeats: int = 7) -> float:
    """Seconds of the fastest repetition."""
    return min(seconds(job, device)[0] for _ in range(repeats))


def seconds(job: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds of a job, waiting for the device, with what it returned."""
    began = time.perf_counter()
    result = job()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began, result


def memory_mark(device: torch.device) -> Callable[[], int | None]:
    """Starts to watch a peak of memory, in bytes; call what it returns to read it. On a GPU it is what tensors take there, else
    all that the process holds. None where nothing can be read."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return lambda: torch.cuda.max_memory_allocated(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux forgets the peak so far
    except OSError:
        return lambda: None
    return peak_resident


def peak_resident() -> int | None:
    """The most memory that this process has held at once, in bytes, as Linux has it."""
    found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def spread(values: list[float]) -> dict[str, float]:
    """Median with the lowest and the highest."""
    return {"median": round(statistics.median(values), 4), "low": round(min(values), 4), "high": round(max(values), 4)}
