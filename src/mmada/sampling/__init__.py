"""Sampling: complete a canvas. `denoise` is the one loop; the choices are in `policy`, `accept` (parallel unmasking), `reuse`
(keys and values between steps), `passes` (looking ahead) and `static` (places that stay fixed, for a GPU)."""

from mmada.sampling.acceleration import Acceleration
from mmada.sampling.denoise import Frame, Phase, complete, denoise, row_generators
from mmada.sampling.fixed_shape import FixedShape
from mmada.sampling.gumbel import GumbelNoise
from mmada.sampling.kv_reuse import BlockCache, DelayedCache, DriftCache, PrefixCache, Reuse, Situation
from mmada.sampling.model_calls import Lookahead
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

__all__ = [
    "Acceleration",
    "BlockCache",
    "BlockSchedule",
    "Blocks",
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
    "Reuse",
    "SingleBlock",
    "Situation",
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
