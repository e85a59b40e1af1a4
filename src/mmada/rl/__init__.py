"""Policy optimisation of masked diffusion models, composed of interchangeable parts.

`Method` holds one choice of each part, `prepare` draws the masks and evaluates old policy and reference, and `policy_loss` is the
loss of one inner update, computed over its `parts` one after another.
"""

from mmada.rl.advantage import Advantage, CentredReward, LeaveOneOut, ZScore, advantages
from mmada.rl.likelihood import Elbo, Likelihood, MeanField, Sandwich, Scorer, log_probabilities
from mmada.rl.loss import Update, parts, policy_loss, prepare
from mmada.rl.mask_ratios import Algorithm1, Iid, Systematic, Times, Truncated
from mmada.rl.masked_views import MaskedViews, MaskingPlan, draw_views
from mmada.rl.masking import AllSteps, BlockMasks, CoupledCounts, CoupledMasks, FullMask, RandomMasks, SampledSteps
from mmada.rl.methods import Method, coupled_grpo, diffu_grpo, espo, mask_grpo, path_grpo, spg, unigrpo
from mmada.rl.objective import (
    Aggregation,
    Kl,
    NoRatio,
    PerSample,
    PerToken,
    Ratio,
    RatioClip,
    SequenceRatio,
    TokenRatio,
)
from mmada.rl.reference import AdaptersOff, FrozenCopy, Reference

__all__ = [
    "AdaptersOff",
    "Advantage",
    "Aggregation",
    "Algorithm1",
    "AllSteps",
    "BlockMasks",
    "CentredReward",
    "CoupledCounts",
    "CoupledMasks",
    "Elbo",
    "FrozenCopy",
    "FullMask",
    "Iid",
    "Kl",
    "LeaveOneOut",
    "Likelihood",
    "MaskedViews",
    "MaskingPlan",
    "MeanField",
    "Method",
    "NoRatio",
    "PerSample",
    "PerToken",
    "RandomMasks",
    "Ratio",
    "RatioClip",
    "Reference",
    "SampledSteps",
    "Sandwich",
    "Scorer",
    "SequenceRatio",
    "Systematic",
    "Times",
    "TokenRatio",
    "Truncated",
    "Update",
    "ZScore",
    "advantages",
    "coupled_grpo",
    "diffu_grpo",
    "draw_views",
    "espo",
    "log_probabilities",
    "mask_grpo",
    "parts",
    "path_grpo",
    "policy_loss",
    "prepare",
    "spg",
    "unigrpo",
]
