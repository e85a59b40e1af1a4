"""Methods of policy optimisation: one choice of every part. The published ones are combinations.

    method         masking                       likelihood  ratio     advantage    KL               aggregation
    unigrpo        RandomMasks(2 schedules)      MeanField   token     z-score      k3, reference    per sample, |o_i|
    diffu_grpo     FullMask(prompt 0.15)         MeanField   token     centred      k3, reference    per token
    mask_grpo      RandomMasks(Truncated)        MeanField   token     z-score      k3, reference    per token
    coupled_grpo   CoupledMasks(full)            Elbo        token     leave-1-out  k3, reference    per token
    spg            BlockMasks                    Sandwich    none      centred      none             per token
    espo           CoupledCounts                 Elbo        sequence  leave-1-out  k2, reference    per sample
    path_grpo      SampledSteps                  MeanField   token     z-score      k3, reference    per sample, scored

Constants are those of each paper's own code. What differs from that code:

- all: completions end at their end token, and the padding after it is not scored. The codes of ESPO and MaskGRPO score it: ESPO
  takes its ELBO, k and 1/L over the whole generation length (espo_trainer.py), so that with short answers the log-ratio per nat
  is smaller there, by 2 to 3 on a canvas of 64 with answers of 20 to 30 tokens. MaskGRPO replaces the completion mask by the
  noise mask (mask_grpo_trainer.py), and its fading curve runs over the whole length.
- all: groups of equal rewards are left out, KL included.
- espo: epsilon 0.2 is that of its gsm8k recipe; its countdown recipe has 0, its demo 4e-4.
- coupled_grpo: one t a prompt; its code draws one a batch.
- spg: blocks without replacement; its code takes a permutation modulo the number of blocks.
- d1 and SPG also refresh the reference every 64 updates (`FrozenCopy.refresh`), clip the gradient norm at 0.2 and train LoRA at
  3e-6: settings of a recipe, not of the method.
- unigrpo: the paper states no clip range, KL weight, estimator or number of updates; all are arguments with common defaults.

``path_grpo`` is a variant of published ideas, not a new method: a policy gradient on the states in which the sampler decided each
token. AGRPO (arXiv 2510.04019) optimises individual denoising steps, sampled at random; CJ-GRPO (2509.23924) and TraceRL
(2509.06949, by the authors of MMaDA) train on the whole trajectory of the rollout (`AllSteps`); MDPO trains on intermediate
states too. Here UniGRPO's objective takes a few steps of every rollout an update. It was compared with the other methods of the
table only, not with these four.
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

__all__ = ["Method", "coupled_grpo", "diffu_grpo", "espo", "mask_grpo", "path_grpo", "spg", "unigrpo"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One choice of every part. ``updates``: mu, inner updates on a batch of rollouts. ``clip`` None: the ratio is not clipped.

    Raises InputError for parts that exclude each other: a clip without a ratio, or a ratio or KL of different bounds.
    """

    masking: MaskingPlan
    likelihood: Likelihood
    ratio: Ratio
    advantage: Advantage
    aggregation: Aggregation
    clip: RatioClip | None = None
    kl: Kl = field(default_factory=Kl)
    updates: int = 1

    def __post_init__(self) -> None:
        check_whole("method.updates", self.updates, 1)
        free = isinstance(self.ratio, NoRatio)
        if free and self.clip is not None:
            raise InputError(f"method.clip {self.clip} has no effect with NoRatio(), as there is no ratio to clip; leave it out")
        if isinstance(self.likelihood, Sandwich) and not free:
            raise InputError(f"method.ratio {self.ratio} would compare different bounds of a Sandwich; use NoRatio()")
        if isinstance(self.likelihood, Sandwich) and self.kl.weight > 0:
            raise InputError(f"method.kl of weight {self.kl.weight:g} would compare different bounds of a Sandwich; set it to 0")

    @property
    def needs_old(self) -> bool:
        """Whether log-probabilities of the old policy are needed: mu > 1, and a ratio or KL that compares with it."""
        compared = not isinstance(self.ratio, NoRatio) or (self.kl.weight > 0 and self.kl.target == "old")
        return self.updates > 1 and compared

    def advantages(self, reward_B: Tensor, *, group: int) -> Tensor:
        """Advantages (B,) of rewards (B,), ``group`` completions a prompt; raises as `advantages` does."""
        return advantages(self.advantage, reward_B, group=group)

    def units(self, log_KBL: Tensor, views: MaskedViews, length_B: Tensor, advantage_B: Tensor) -> Units:
        """The units that this method compares, from log-probabilities (K, B, L)."""
        return self.ratio.units(self.likelihood, log_KBL, views, length_B, advantage_B)


def unigrpo(
    times: Times, *, updates: int = 5, clip: float = 0.2, kl: float = 0.01, over: Literal["positions", "masked"] = "positions"
) -> Method:
    """UniGRPO (eq. 3 to eq. 5, Algorithm 1). ``times``: `Algorithm1` or `Systematic`, the two schedules that the paper prints.

    ``over``: "positions" divides a completion's sum by |o_i| (eq. 5), "masked" by the number of masked tokens (eq. 4).
    """
    return Method(
        masking=RandomMasks(times),
        likelihood=MeanField(),
        ratio=TokenRatio(),
        advantage=ZScore(),
        aggregation=PerSample(over),
        clip=RatioClip(clip, clip),
        kl=Kl(kl),
        updates=updates,
    )


def path_grpo(*, updates: int = 1, window: int = 1, samples: int = 4, clip: float = 0.2, kl: float = 0.01) -> Method:
    """UniGRPO's objective on the trajectory of the sampler: tokens are scored in the states in which the rollout decided them.

    Close to AGRPO, CJ-GRPO and TraceRL (see the module). An update takes ``samples`` windows of ``window`` steps from every
    rollout. All tokens of a row have the same weight, and so have all rows.

    The probability that a step decides position i is left out of the gradient. It is not constant: the most confident positions
    come first, and confidence depends on the sampled token, so P(i chosen with token v) is not p_i(v) / n. For two positions,
    enumerated exactly, the direction of the gradient had a median cosine of .997 with the exact one (10th percentile .98).
    """
    return replace(unigrpo(Systematic(), updates=updates, clip=clip, kl=kl, over="masked"), masking=SampledSteps(window, samples))


def diffu_grpo(*, updates: int = 12, prompt: float = 0.15, clip: float = 0.5, kl: float = 0.04) -> Method:
    """diffu-GRPO of d1 (arXiv 2504.12216): one pass over a fully masked completion under a noisy prompt."""
    return Method(
        masking=FullMask(prompt),
        likelihood=MeanField(),
        ratio=TokenRatio(),
        advantage=CentredReward(),
        aggregation=PerToken(),
        clip=RatioClip(clip, clip),
        kl=Kl(kl),
        updates=updates,
    )


def mask_grpo(*, updates: int = 6, gamma: float = 0.6, fading: bool = False, clip: float = 0.2, kl: float = 0.01) -> Method:
    """MaskGRPO (arXiv 2510.02880): only high mask ratios. Pictures: 6 updates; text: 12 and ``fading`` masks."""
    return Method(
        masking=RandomMasks(Truncated(gamma), "fading" if fading else "uniform"),
        likelihood=MeanField(),
        ratio=TokenRatio(),
        advantage=ZScore(epsilon=1e-5, correction=1),
        aggregation=PerToken(),
        clip=RatioClip(clip, clip),
        kl=Kl(kl),
        updates=updates,
    )


def coupled_grpo(*, updates: int = 2, clip: float = 0.5, kl: float = 0.01) -> Method:
    """coupled-GRPO of DiffuCoder (arXiv 2506.20639): every token is scored under the full mask and one of two complements."""
    return Method(
        masking=CoupledMasks(),
        likelihood=Elbo(),
        ratio=TokenRatio(),
        advantage=LeaveOneOut(),
        aggregation=PerToken(),
        clip=RatioClip(clip, clip),
        kl=Kl(kl),
        updates=updates,
    )


def spg(*, updates: int = 4, block: int = 32, samples: int = 2, omega: float = 0.5, beta: float = 1.5) -> Method:
    """Sandwiched policy gradient (arXiv 2510.09541): no ratio, no KL. ``omega`` 0: the ELBO policy gradient; 1: the pure EUBO."""
    return Method(
        masking=BlockMasks(block, samples),
        likelihood=Sandwich(omega, beta),
        ratio=NoRatio(),
        advantage=CentredReward(),
        aggregation=PerToken(),
        updates=updates,
    )


def espo(*, updates: int = 8, samples: int = 2, clip: float = 0.2, kl: float = 1e-3) -> Method:
    """ESPO (arXiv 2512.03759): the completion is one action, its ELBO per position the log-ratio."""
    return Method(
        masking=CoupledCounts(samples),
        likelihood=Elbo(),
        ratio=SequenceRatio(),
        advantage=LeaveOneOut(),
        aggregation=PerSample(),
        clip=RatioClip(clip, clip),
        kl=Kl(kl, "k2"),
        updates=updates,
    )
