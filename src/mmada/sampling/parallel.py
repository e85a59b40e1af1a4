"""Parallel unmasking: rules that say how many tokens a step may decide, from how sure the model is.

    all that are sure enough           Threshold(confidence)  MarginThreshold(margin)
    as many as stay sure together      Factor(factor)  EntropyBound(bound)
    one in every run of masks          Hierarchical(low, high)
    those that no longer change        Stable(divergence, steps, confidence)
    boldly, and take back what fails   DraftVerify(draft, verify)

A rule sees the `Candidates` of one step and marks those it accepts; the loop commits them and, whatever the rule says, each row's
best one. All of them approximate the fixed pace of one token a step: tokens decided together do not see each other.

Shapes: N masked places at work (row-major), V vocabulary vocab.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from mmada.errors import InputError, check_number, check_whole
from mmada.sampling.logits_ops import log_odds

__all__ = [
    "RULES",
    "Candidates",
    "DraftVerify",
    "EntropyBound",
    "Factor",
    "Hierarchical",
    "MarginThreshold",
    "Stable",
    "Threshold",
    "UnmaskingRule",
    "recent",
    "taken_back",
]


@dataclass(frozen=True)
class Candidates:
    """The masked places of one step.

    ``logits_NV``; ``chosen_N``: the column drawn for each; ``row_N``, ``place_N``: where each stands; ``before``: the candidates
    of the step before, as far back as a rule's ``history``.
    """

    logits_NV: Tensor
    chosen_N: Tensor
    row_N: Tensor
    place_N: Tensor
    before: Candidates | None = None

    @cached_property
    def confidence_N(self) -> Tensor:
        """Probability of the chosen column, float64."""
        return log_odds(self.logits_NV, self.chosen_N).double().sigmoid()

    @cached_property
    def log_p_NV(self) -> Tensor:
        """Log-probabilities, float32."""
        return self.logits_NV.float().log_softmax(-1)

    @cached_property
    def entropy_N(self) -> Tensor:
        """Entropy of each place, in nats."""
        return -(self.log_p_NV.exp() * self.log_p_NV.nan_to_num(neginf=0.0)).sum(-1)

    def rank_N(self, score_N: Tensor) -> Tensor:
        """Rank of each place within its row, from 0 for the highest score."""
        order_N = score_N.argsort(descending=True, stable=True)
        order_N = order_N[self.row_N[order_N].argsort(stable=True)]
        rank_N = torch.empty_like(order_N)
        rank_N[order_N] = torch.arange(len(order_N), device=order_N.device) - self.first_N[order_N]
        return rank_N

    @cached_property
    def first_N(self) -> Tensor:
        """Index of the first candidate of each one's row."""
        return torch.searchsorted(self.row_N.contiguous(), self.row_N.contiguous())


class UnmaskingRule(Protocol):
    """Which candidates a step commits together.

    ``history``: how many steps back it looks. ``verify``: tokens of the block whose probability, asked again with all others in
    sight, is below this are masked again, fewer than the step commits; 0 takes nothing back.
    """

    @property
    def history(self) -> int: ...
    @property
    def verify(self) -> float: ...

    def accept(self, seen: Candidates) -> Tensor:
        """Bool (N,)."""
        ...


class Rule:
    """What the rules share: none of them looks back or takes back unless it says so."""

    @property
    def history(self) -> int:
        """As `UnmaskingRule`."""
        return 0

    @property
    def verify(self) -> float:
        """As `UnmaskingRule`."""
        return 0.0


@dataclass(frozen=True)
class Threshold(Rule):
    """Every token whose probability is at least ``confidence`` (Fast-dLLM: 0.9)."""

    confidence: float = 0.9

    def __post_init__(self) -> None:
        check_share("confidence", self.confidence)

    def accept(self, seen: Candidates) -> Tensor:
        """As `UnmaskingRule.accept`."""
        return seen.confidence_N >= self.confidence


@dataclass(frozen=True)
class MarginThreshold(Rule):
    """Every place whose two most probable tokens are at least ``margin`` apart."""

    margin: float = 0.8

    def __post_init__(self) -> None:
        check_share("margin", self.margin)

    def accept(self, seen: Candidates) -> Tensor:
        """As `UnmaskingRule.accept`."""
        top_N2 = seen.log_p_NV.topk(2, dim=-1).values.exp()
        return top_N2[:, 0] - top_N2[:, 1] >= self.margin


@dataclass(frozen=True)
class Factor(Rule):
    """The n most confident ones, n the largest with ``(n + 1) * (1 - n-th confidence) <= factor`` (Fast-dLLM's factor rule)."""

    factor: float = 1.0

    def __post_init__(self) -> None:
        check_number("factor", self.factor)

    def accept(self, seen: Candidates) -> Tensor:
        """As `UnmaskingRule.accept`."""
        rank_N = seen.rank_N(seen.confidence_N)
        good_N = (rank_N + 2) * (1 - seen.confidence_N) <= self.factor
        return all_before(seen, rank_N, good_N)


@dataclass(frozen=True)
class EntropyBound(Rule):
    """The most confident ones as long as their entropies, without the largest, add up to at most ``bound`` nats (EB sampler)."""

    bound: float = 0.1

    def __post_init__(self) -> None:
        check_number("bound", self.bound)

    def accept(self, seen: Candidates) -> Tensor:
        """As `UnmaskingRule.accept`."""
        rank_N = seen.rank_N(-seen.entropy_N.double())
        # One line a row, so that no rounding of one row reaches another.
        line_N = torch.unique(seen.first_N, return_inverse=True)[1]
        sorted_RK = seen.entropy_N.new_zeros(int(line_N.max()) + 1, int(rank_N.max()) + 1, dtype=torch.float64)
        sorted_RK[line_N, rank_N] = seen.entropy_N.double()
        before_RK = sorted_RK.cumsum(1) - sorted_RK  # entropies rise, so the largest of the first k is the k-th
        return before_RK[line_N, rank_N] <= self.bound


@dataclass(frozen=True)
class Hierarchical(Rule):
    """The most confident token of every run of masks if it is above ``low``, and all above ``high`` (dInfer)."""

    low: float = 0.6
    high: float = 0.92

    def __post_init__(self) -> None:
        check_share("low", self.low)
        check_share("high", self.high)

    def accept(self, seen: Candidates) -> Tensor:
        """As `UnmaskingRule.accept`."""
        starts_N = torch.ones_like(seen.row_N, dtype=torch.bool)
        starts_N[1:] = (seen.row_N.diff() != 0) | (seen.place_N.diff() != 1)
        run_N = starts_N.cumsum(0) - 1
        best_N = torch.zeros(len(run_N), dtype=torch.float64, device=run_N.device)
        best_N.scatter_reduce_(0, run_N, seen.confidence_N, "amax")
        p_N = seen.confidence_N
        return ((p_N == best_N[run_N]) & (p_N > self.low)) | (p_N > self.high)


@dataclass(frozen=True)
class Stable(Rule):
    """Tokens of at least ``confidence`` whose distribution has moved by less than ``divergence`` nats (Kullback-Leibler) in each
    of the last ``steps`` steps (KLASS: 0.01, 2)."""

    divergence: float = 0.01
    steps: int = 2
    confidence: float = 0.6

    def __post_init__(self) -> None:
        check_number("divergence", self.divergence)
        check_whole("steps", self.steps, 1)
        check_share("confidence", self.confidence)

    @property
    def history(self) -> int:
        """As `UnmaskingRule.history`."""
        return self.steps

    def accept(self, seen: Candidates) -> Tensor:
        """As `UnmaskingRule.accept`."""
        good_N = seen.confidence_N >= self.confidence
        now = seen
        for _ in range(self.steps):
            if now.before is None:
                return torch.zeros_like(good_N)
            moved = drift(now, now.before)
            good_N &= moved[index_in(seen, now)] < self.divergence
            now = now.before
        return good_N


@dataclass(frozen=True)
class DraftVerify(Rule):
    """Draft every token of at least ``draft``, and take back those that fall below ``verify`` once the others stand (WINO: 0.5
    and 0.9 for MMaDA). A step drafts at most 70 % of what is left, 5 to 20 tokens; it runs a shadow for every decided token."""

    draft: float = 0.5
    verify: float = 0.9

    def __post_init__(self) -> None:
        check_share("draft", self.draft)
        check_share("verify", self.verify)

    def accept(self, seen: Candidates) -> Tensor:
        """As `UnmaskingRule.accept`."""
        left_N = torch.bincount(seen.first_N, minlength=len(seen.first_N))[seen.first_N]
        most_N = (0.7 * left_N).long().clamp(5, 20)
        return (seen.confidence_N >= self.draft) & (seen.rank_N(seen.confidence_N) < most_N)


def drift(now: Candidates, before: Candidates) -> Tensor:
    """Kullback-Leibler divergence (N,) from the step before at the places of ``now``, all of which were masked then too."""
    old_NV, new_NV = before.log_p_NV[index_in(now, before)], now.log_p_NV
    return (new_NV.exp() * (new_NV - old_NV).nan_to_num(nan=0.0)).sum(-1)


def index_in(some: Candidates, others: Candidates) -> Tensor:
    """Where the places of ``some`` stand among those of ``others``; where they do not, any place."""
    width = int(torch.max(some.place_N.max(), others.place_N.max())) + 1
    keys, wanted = others.row_N * width + others.place_N, some.row_N * width + some.place_N
    return torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)


def all_before(seen: Candidates, rank_N: Tensor, good_N: Tensor) -> Tensor:
    """Candidates up to the last good one of their row."""
    last_N = torch.full_like(rank_N, -1)
    last_N.scatter_reduce_(0, seen.first_N, torch.where(good_N, rank_N, -1), "amax")
    return rank_N <= last_N[seen.first_N]


def taken_back(again_MV: Tensor, token_M: Tensor, verify_RL: Tensor, commits_R: Tensor, verify: float) -> Tensor:
    """Decided places whose token has a probability below ``verify`` now, fewer than the row commits, the worst first."""
    p_RL = torch.full(verify_RL.shape, 2.0, dtype=torch.float64, device=verify_RL.device)
    p_RL[verify_RL] = again_MV.double().softmax(-1).gather(1, token_M[:, None])[:, 0]
    rank_RL = p_RL.argsort(dim=1, stable=True).argsort(dim=1)
    return (p_RL < verify) & (rank_RL < commits_R[:, None] - 1)


def recent(seen: Candidates, history: int) -> Candidates | None:
    """The candidates without what is more than ``history`` steps back."""
    if history == 0:
        return None
    return replace(seen, before=None if seen.before is None else recent(seen.before, history - 1))


def check_share(name: str, value: float) -> None:
    """Raise InputError for a value that is not in [0, 1]."""
    if check_number(name, value) > 1:
        raise InputError(f"{name} must lie in [0, 1], got {value}")


RULES: dict[str, type[UnmaskingRule]] = {
    "threshold": Threshold, "margin": MarginThreshold, "factor": Factor, "entropy": EntropyBound,
    "hierarchical": Hierarchical, "stable": Stable, "draft": DraftVerify,
}  # fmt: skip
"""Rules by the names that people give them by."""
