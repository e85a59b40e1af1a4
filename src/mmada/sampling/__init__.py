"""Sampling: complete a canvas.

`denoise` is the one loop, `policy` its choices. `guidance`, `parallel`, `kv_reuse`, `speculative` and `fixed_shape` each
replace one
part of its step.
"""

from mmada.sampling.acceleration import Acceleration
from mmada.sampling.denoise import complete, denoise
from mmada.sampling.fixed_shape import FixedShape
from mmada.sampling.gumbel import GumbelNoise, row_generators
from mmada.sampling.kv_reuse import BlockCache, CacheRule, CacheState, DelayedCache, DriftCache, PrefixCache
from mmada.sampling.parallel import (
    Candidates,
    DraftVerify,
    EntropyBound,
    Factor,
    Hierarchical,
    MarginThreshold,
    Stable,
    Threshold,
    UnmaskingRule,
)
from mmada.sampling.phase import Frame, Phase
from mmada.sampling.policy import (
    Blocks,
    BlockSchedule,
    Greedy,
    Guidance,
    GumbelConfidence,
    LowConfidence,
    MarginConfidence,
    MaskSchedule,
    RandomRemasking,
    RemaskingStrategy,
    SingleBlock,
    StopAtEos,
    Temperature,
    TokenSampler,
    UniformSchedule,
    UnmaskingSchedule,
)
from mmada.sampling.speculative import Lookahead

__all__ = [
    "Acceleration",
    "BlockCache",
    "BlockSchedule",
    "Blocks",
    "CacheRule",
    "CacheState",
    "Candidates",
    "DelayedCache",
    "DraftVerify",
    "DriftCache",
    "EntropyBound",
    "Factor",
    "FixedShape",
    "Frame",
    "Greedy",
    "Guidance",
    "GumbelConfidence",
    "GumbelNoise",
    "Hierarchical",
    "Lookahead",
    "LowConfidence",
    "MarginConfidence",
    "MarginThreshold",
    "MaskSchedule",
    "Phase",
    "PrefixCache",
    "RandomRemasking",
    "RemaskingStrategy",
    "SingleBlock",
    "Stable",
    "StopAtEos",
    "Temperature",
    "Threshold",
    "TokenSampler",
    "UniformSchedule",
    "UnmaskingRule",
    "UnmaskingSchedule",
    "complete",
    "denoise",
    "row_generators",
]
