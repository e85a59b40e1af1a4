"""Policy optimisation of masked diffusion models, from parts: `Policy` holds one choice of each, `prepare` draws the masks and
asks the old policy and the reference, `policy_loss` is the loss of one inner update, `parts` of which run one after the other."""

from mmada.training.rl.advantage import Advantage, LeaveOneOut, MeanOnly, ZScore, advantages
from mmada.training.rl.likelihood import Elbo, Likelihood, MeanField, Sandwich, Scorer, log_probabilities
from mmada.training.rl.loss import Update, parts, policy_loss, prepare
from mmada.training.rl.noising import BlockMasks, CoupledCounts, CoupledMasks, FullMask, Moments, RandomMasks, Trajectory
from mmada.training.rl.objective import (
    Aggregation,
    Clip,
    Kl,
    NoRatio,
    PerSample,
    PerToken,
    Ratio,
    SequenceRatio,
    TokenRatio,
)
from mmada.training.rl.policies import Policy, coupled_grpo, diffu_grpo, espo, mask_grpo, path_grpo, spg, unigrpo
from mmada.training.rl.reference import AdaptersOff, FrozenCopy, Reference
from mmada.training.rl.times import Algorithm1, Iid, Systematic, Times, Truncated
from mmada.training.rl.views import Noising, Views, draw_views

__all__ = [
    "AdaptersOff",
    "Advantage",
    "Aggregation",
    "Algorithm1",
    "BlockMasks",
    "Clip",
    "CoupledCounts",
    "CoupledMasks",
    "Elbo",
    "FrozenCopy",
    "FullMask",
    "Iid",
    "Kl",
    "LeaveOneOut",
    "Likelihood",
    "MeanField",
    "MeanOnly",
    "Moments",
    "NoRatio",
    "Noising",
    "PerSample",
    "PerToken",
    "Policy",
    "RandomMasks",
    "Ratio",
    "Reference",
    "Sandwich",
    "Scorer",
    "SequenceRatio",
    "Systematic",
    "Times",
    "TokenRatio",
    "Trajectory",
    "Truncated",
    "Update",
    "Views",
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
