"""Sampling: complete a canvas. `denoise` is the one loop; the choices are in `policy`, `accept` (parallel unmasking), `reuse`
(keys and values between steps), `passes` (looking ahead) and `static` (places that stay fixed, for a GPU)."""

from mmada.sampling.accept import (
    Accept,
    Candidates,
    DraftVerify,
    EntropyBound,
    Factor,
    Hierarchical,
    MarginAbove,
    Stable,
    Threshold,
)
from mmada.sampling.denoise import Frame, Phase, complete, denoise, row_generators
from mmada.sampling.noise import Noise
from mmada.sampling.passes import Lookahead
from mmada.sampling.policy import (
    Blocks,
    Count,
    Draw,
    EvenSplit,
    Greedy,
    Guidance,
    LowConfidence,
    Margin,
    Order,
    PerturbedConfidence,
    RandomOrder,
    Region,
    ScheduleCount,
    StopAtEos,
    Temperature,
    Whole,
)
from mmada.sampling.reuse import BlockCache, DelayedCache, DriftCache, PrefixCache, Reuse, Situation
from mmada.sampling.speed import Speed
from mmada.sampling.static import Static

__all__ = [
    "Accept",
    "BlockCache",
    "Blocks",
    "Candidates",
    "Count",
    "DelayedCache",
    "DraftVerify",
    "Draw",
    "DriftCache",
    "EntropyBound",
    "EvenSplit",
    "Factor",
    "Frame",
    "Greedy",
    "Guidance",
    "Hierarchical",
    "Lookahead",
    "LowConfidence",
    "Margin",
    "MarginAbove",
    "Noise",
    "Order",
    "PerturbedConfidence",
    "Phase",
    "PrefixCache",
    "RandomOrder",
    "Region",
    "Reuse",
    "ScheduleCount",
    "Situation",
    "Speed",
    "Stable",
    "Static",
    "StopAtEos",
    "Temperature",
    "Threshold",
    "Whole",
    "complete",
    "denoise",
    "row_generators",
]
