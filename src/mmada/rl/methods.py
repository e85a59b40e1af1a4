"""A policy optimisation is one choice of every part; the published ones are combinations.

    method         noise                         likelihood  ratio     advantage    KL               aggregation
    unigrpo        RandomMasks(either schedule)  MeanField   token     z-score      k3, reference    per sample, |o_i|
    diffu_grpo     FullMask(prompt 0.15)         MeanField   token     mean only    k3, reference    per token
    mask_grpo      RandomMasks(Truncated)        MeanField   token     z-score      k3, reference    per token
    coupled_grpo   CoupledMasks(full)            Elbo        token     leave one    k3, reference    per token
    spg            BlockMasks                    Sandwich    none      mean only    none             per token
    espo           CoupledCounts                 Elbo        sequence  leave one    k2, reference    per sample
    path_grpo      SampledSteps                       MeanField   token     z-score      k3, reference    per sample, scored

``path_grpo`` is ours. Of the others, numbers are those of each paper's own code; what it does beside is not here, such as d1's
new reference every 64 updates (`FrozenCopy.refresh` makes one). UniGRPO states no clip, KL weight, estimator or number of
updates: all are arguments, and their defaults are common ones, not the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from mmada.errors import InputError, check_whole
from mmada.rl.advantage import Advantage, CentredReward, LeaveOneOut, ZScore, advantages
from mmada.rl.likelihood import Elbo, Likelihood, MeanField, Sandwich
from mmada.rl.mask_ratios import Systematic, Times, Truncated
from mmada.rl.masked_views import MaskedViews, MaskingPlan
from mmada.rl.masking import BlockMasks, CoupledCounts, CoupledMasks, FullMask, RandomMasks, SampledSteps
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
    Units,
)

__all__ = ["Policy", "coupled_grpo", "diffu_grpo", "espo", "mask_grpo", "path_grpo", "spg", "unigrpo"]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """One choice of every part. ``updates``: mu, inner updates a rollout batch. ``clip`` None: the ratio is free.

    Raises InputError for parts that exclude each other: a clip or several bounds where there is no ratio to one old value.
    """

    noise: MaskingPlan
    likelihood: Likelihood
    ratio: Ratio
    advantage: Advantage
    aggregation: Aggregation
    clip: RatioClip | None = None
    kl: Kl = field(default_factory=Kl)
    updates: int = 1

    def __post_init__(self) -> None:
        check_whole("policy.updates", self.updates, 1)
        free = isinstance(self.ratio, NoRatio)
        if free and self.clip is not None:
            raise InputError(f"policy.clip {self.clip} has no ratio to hold with NoRatio(); leave it out or choose another ratio")
        if isinstance(self.likelihood, Sandwich) and not free:
            raise InputError(f"policy.ratio {self.ratio} would compare different bounds of a Sandwich; use NoRatio()")
        if isinstance(self.likelihood, Sandwich) and self.kl.weight > 0:
            raise InputError(f"policy.kl weight {self.kl.weight:g} asks for a KL of different bounds of a Sandwich; set it to 0")

    @property
    def needs_old(self) -> bool:
        """Whether log-probabilities of the old policy are needed: the policy moves between updates, and something compares."""
        compared = not isinstance(self.ratio, NoRatio) or (self.kl.weight > 0 and self.kl.target == "old")
        return self.updates > 1 and compared

    def advantages(self, reward_B: Tensor, *, group: int) -> Tensor:
        """Advantages (B,) of rewards (B,), ``group`` completions a prompt; see `advantages`, also for what it raises."""
        return advantages(self.advantage, reward_B, group=group)

    def units(self, log_KBL: Tensor, views: MaskedViews, places_B: Tensor, advantage_B: Tensor) -> Units:
        """What this policy compares, from log-probabilities (K, B, L)."""
        return self.ratio.units(self.likelihood, log_KBL, views, places_B, advantage_B)


def unigrpo(
    times: Times, *, updates: int = 5, clip: float = 0.2, kl: float = 0.01, over: Literal["places", "masked"] = "places"
) -> Policy:
    """UniGRPO (eq. 3 to eq. 5, Algorithm 1). ``times``: `Algorithm1` or `Systematic`, the two schedules that the paper prints.

    ``over``: "places" divides a completion's sum by |o_i| (eq. 5), "masked" by the number of masked tokens (eq. 4).
    """
    return Policy(
        noise=RandomMasks(times),
        likelihood=MeanField(),
        ratio=TokenRatio(),
        advantage=ZScore(),
        aggregation=PerSample(over),
        clip=RatioClip(clip, clip),
        kl=Kl(kl),
        updates=updates,
    )


def path_grpo(*, updates: int = 1, ahead: int = 1, samples: int = 4, clip: float = 0.2, kl: float = 0.01) -> Policy:
    """UniGRPO's objective on the path of the sampler: tokens in the states in which the rollout decided them.

    ``samples`` steps of every rollout an update, ``ahead`` of each at once; a token counts as much as any other of its row, and a
    row as much as any other.
    """
    return replace(unigrpo(Systematic(), updates=updates, clip=clip, kl=kl, over="masked"), noise=SampledSteps(ahead, samples))


def diffu_grpo(*, updates: int = 12, prompt: float = 0.15, clip: float = 0.5, kl: float = 0.04) -> Policy:
    """diffu-GRPO of d1 (arXiv 2504.12216): one pass over a fully masked completion under a noisy prompt."""
    return Policy(
        noise=FullMask(prompt),
        likelihood=MeanField(),
        ratio=TokenRatio(),
        advantage=CentredReward(),
        aggregation=PerToken(),
        clip=RatioClip(clip, clip),
        kl=Kl(kl),
        updates=updates,
    )


def mask_grpo(*, updates: int = 6, gamma: float = 0.6, fading: bool = False, clip: float = 0.2, kl: float = 0.01) -> Policy:
    """MaskGRPO (arXiv 2510.02880): only high mask ratios. Pictures: 6 updates; text: 12 and ``fading`` masks."""
    return Policy(
        noise=RandomMasks(Truncated(gamma), "fading" if fading else "uniform"),
        likelihood=MeanField(),
        ratio=TokenRatio(),
        advantage=ZScore(epsilon=1e-5, correction=1),
        aggregation=PerToken(),
        clip=RatioClip(clip, clip),
        kl=Kl(kl),
        updates=updates,
    )


def coupled_grpo(*, updates: int = 2, clip: float = 0.5, kl: float = 0.01) -> Policy:
    """coupled-GRPO of DiffuCoder (arXiv 2506.20639): every token is scored under the full mask and one of two complements."""
    return Policy(
        noise=CoupledMasks(),
        likelihood=Elbo(),
        ratio=TokenRatio(),
        advantage=LeaveOneOut(),
        aggregation=PerToken(),
        clip=RatioClip(clip, clip),
        kl=Kl(kl),
        updates=updates,
    )


def spg(*, updates: int = 4, block: int = 32, samples: int = 2, omega: float = 0.5, beta: float = 1.5) -> Policy:
    """Sandwiched policy gradient (arXiv 2510.09541): no ratio, no KL. ``omega`` 0: the ELBO policy gradient; 1: the pure EUBO."""
    return Policy(
        noise=BlockMasks(block, samples),
        likelihood=Sandwich(omega, beta),
        ratio=NoRatio(),
        advantage=CentredReward(),
        aggregation=PerToken(),
        updates=updates,
    )


def espo(*, updates: int = 8, samples: int = 2, clip: float = 0.2, kl: float = 1e-3) -> Policy:
    """ESPO (arXiv 2512.03759): the completion is one action, its ELBO a place the log-ratio."""
    return Policy(
        noise=CoupledCounts(samples),
        likelihood=Elbo(),
        ratio=SequenceRatio(),
        advantage=LeaveOneOut(),
        aggregation=PerSample(),
        clip=RatioClip(clip, clip),
        kl=Kl(kl, "k2"),
        updates=updates,
    )
