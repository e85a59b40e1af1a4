"""Parallel unmasking: rules for how many tokens one step may decide, from how confident the model is.

    all that are confident enough               Threshold(confidence)  MarginThreshold(margin)
    as many as are confident together           Factor(factor)  EntropyBound(bound)
    one in every run of masks                   Hierarchical(low, high)
    those that no longer change                 Stable(divergence, steps, confidence)
    draft boldly, and remask what fails         DraftVerify(draft, verify)

A rule sees the `Candidates` of one step and marks those it accepts; the step unmasks them and, whatever the rule says, each row's
most confident one. All of them approximate the schedule of one token a step: tokens decided together do not see each other.

Shapes: B rows, R of them at work, L positions, N masked positions at work (row-major), M verification tokens, V vocabulary slice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from mmada.errors import InputError, check_number, check_whole, kind_of
from mmada.sampling.logits_ops import log_odds
from mmada.sampling.model_calls import ModelCalls, Positions, Query

__all__ = [
    "RULES",
    "Candidates",
    "DraftVerify",
    "EntropyBound",
    "Factor",
    "Hierarchical",
    "MarginThreshold",
    "ParallelSelection",
    "Stable",
    "Threshold",
    "UnmaskingRule",
]


@dataclass(frozen=True)
class Candidates:
    """The predicted positions of one step.

    ``logits_NV``; ``token_N``: the column drawn for each; ``row_N``, ``position_N``: where each is; ``before``: the candidates of
    the step before, as far back as a rule's ``history``.
    """

    logits_NV: Tensor
    token_N: Tensor
    row_N: Tensor
    position_N: Tensor
    before: Candidates | None = None

    @cached_property
    def confidence_N(self) -> Tensor:
        """Probability of the drawn token, float64."""
        return log_odds(self.logits_NV, self.token_N).double().sigmoid()

    @cached_property
    def log_p_NV(self) -> Tensor:
        """Log-probabilities, float32."""
        return self.logits_NV.float().log_softmax(-1)

    @cached_property
    def entropy_N(self) -> Tensor:
        """Entropy of each position, in nats."""
        return -(self.log_p_NV.exp() * self.log_p_NV.nan_to_num(neginf=0.0)).sum(-1)

    def rank_N(self, score_N: Tensor) -> Tensor:
        """Rank of each position within its row, from 0 for the highest score."""
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
    """Choice of the candidates that a step unmasks together.

    ``history``: how many steps back it looks. ``verify``: a decided token of the block whose probability, predicted again with
    all others visible, is below this is remasked, always fewer than the step unmasks; 0 remasks nothing.
    """

    @property
    def history(self) -> int: ...
    @property
    def verify(self) -> float: ...

    def accept(self, seen: Candidates) -> Tensor:
        """Bool (N,)."""
        ...


class Rule:
    """Defaults of the rules: no history, no remasking."""

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
        check_number("confidence", self.confidence, 0, 1)

    def accept(self, seen: Candidates) -> Tensor:
        """As `UnmaskingRule.accept`."""
        return seen.confidence_N >= self.confidence


@dataclass(frozen=True)
class MarginThreshold(Rule):
    """Every position whose two most probable tokens are at least ``margin`` apart in probability."""

    margin: float = 0.8

    def __post_init__(self) -> None:
        check_number("margin", self.margin, 0, 1)

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
        check_number("low", self.low, 0, 1)
        check_number("high", self.high, 0, 1)

    def accept(self, seen: Candidates) -> Tensor:
        """As `UnmaskingRule.accept`."""
        starts_N = torch.ones_like(seen.row_N, dtype=torch.bool)
        starts_N[1:] = (seen.row_N.diff() != 0) | (seen.position_N.diff() != 1)
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
        check_number("confidence", self.confidence, 0, 1)

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
    """Draft every token of at least ``draft``, and remask those that fall below ``verify`` once the others are decided (WINO: 0.5
    and 0.9 for MMaDA).

    A step drafts at most 70 % of what is left, 5 to 20 tokens; its pass has one verification token for every decided one.
    """

    draft: float = 0.5
    verify: float = 0.9

    def __post_init__(self) -> None:
        check_number("draft", self.draft, 0, 1)
        check_number("verify", self.verify, 0, 1)

    def accept(self, seen: Candidates) -> Tensor:
        """As `UnmaskingRule.accept`."""
        left_N = torch.bincount(seen.first_N, minlength=len(seen.first_N))[seen.first_N]
        most_N = (0.7 * left_N).long().clamp(5, 20)
        return (seen.confidence_N >= self.draft) & (seen.rank_N(seen.confidence_N) < most_N)


def drift(now: Candidates, before: Candidates) -> Tensor:
    """Kullback-Leibler divergence (N,) from the step before at the positions of ``now``, all of which were masked then too."""
    old_NV, new_NV = before.log_p_NV[index_in(now, before)], now.log_p_NV
    return (new_NV.exp() * (new_NV - old_NV).nan_to_num(nan=0.0)).sum(-1)


def index_in(some: Candidates, others: Candidates) -> Tensor:
    """Index of the positions of ``some`` among those of ``others``; arbitrary for a position that is not among them."""
    width = int(torch.max(some.position_N.max(), others.position_N.max())) + 1
    keys, wanted = others.row_N * width + others.position_N, some.row_N * width + some.position_N
    return torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)


def all_before(seen: Candidates, rank_N: Tensor, good_N: Tensor) -> Tensor:
    """Candidates up to the last good one of their row."""
    last_N = torch.full_like(rank_N, -1)
    last_N.scatter_reduce_(0, seen.first_N, torch.where(good_N, rank_N, -1), "amax")
    return rank_N <= last_N[seen.first_N]


def recent(seen: Candidates, history: int) -> Candidates | None:
    """The candidates without what is more than ``history`` steps back."""
    if history == 0:
        return None
    return replace(seen, before=None if seen.before is None else recent(seen.before, history - 1))


def remasked(again_MV: Tensor, token_M: Tensor, verify_RL: Tensor, unmasked_R: Tensor, verify: float) -> Tensor:
    """Decided positions whose token is now less probable than ``verify``, the worst first, fewer than the row unmasks."""
    p_RL = torch.full(verify_RL.shape, 2.0, dtype=torch.float64, device=verify_RL.device)
    p_RL[verify_RL] = again_MV.double().softmax(-1).gather(1, token_M[:, None])[:, 0]
    rank_RL = p_RL.argsort(dim=1, stable=True).argsort(dim=1)
    return (p_RL < verify) & (rank_RL < unmasked_R[:, None] - 1)


def check_accepted(rule: UnmaskingRule, accepted_N: object, candidates: int) -> None:
    """Raise InputError for what a rule returns if that is not one boolean for each candidate. Type and shape only: no wait."""
    if isinstance(accepted_N, Tensor) and accepted_N.dtype == torch.bool and accepted_N.shape == (candidates,):
        return
    given = kind_of(accepted_N)
    if isinstance(accepted_N, Tensor):
        given = f"a tensor of {str(accepted_N.dtype).removeprefix('torch.')} and shape {tuple(accepted_N.shape)}"
    raise InputError(
        f"parallel {type(rule).__name__} accepts with {given}; let accept return a bool tensor of shape ({candidates},), "
        "one value for each candidate"
    )


class ParallelSelection:
    """Effect of a rule on the steps of one block: candidates that it unmasks, and decided tokens that it remasks."""

    def __init__(self, rule: UnmaskingRule, mask_id: int, block_BL: Tensor) -> None:
        self.rule, self.mask_id, self.block_BL = rule, mask_id, block_BL
        self.before: Candidates | None = None
        self.verify_RL = self.again_MV = block_BL  # set by each pass of a rule that verifies

    def logits(self, calls: ModelCalls, query: Query, tokens_BL: Tensor) -> Tensor:
        """Logits (N, V) of a step; for a rule that verifies, the same pass predicts the decided positions of the block again."""
        if self.rule.verify == 0:
            return calls.logits(query, tokens_BL)
        rows_R = query.at.rows_R
        self.verify_RL = self.block_BL[rows_R] & (tokens_BL[rows_R] != self.mask_id)
        logits_NV = calls.logits(replace(query, verify_RL=self.verify_RL), tokens_BL)
        queries = len(query.at.row_N)
        self.again_MV = logits_NV[queries:]
        return logits_NV[:queries]

    def accepted(self, logits_NV: Tensor, token_N: Tensor, at: Positions) -> Tensor:
        """The candidates that the rule unmasks, bool (N,)."""
        seen = Candidates(logits_NV, token_N, at.row_N, at.position_N, self.before)
        accepted_N = self.rule.accept(seen)
        check_accepted(self.rule, accepted_N, len(token_N))
        self.before = recent(seen, self.rule.history)
        return accepted_N

    def remasked(self, tokens_BL: Tensor, first: int, rows_R: Tensor, unmask_BL: Tensor) -> Tensor:
        """Decided positions to remask, bool (B, L); ``first``: the token id of column 0."""
        nothing_BL = torch.zeros_like(unmask_BL)
        if self.rule.verify == 0:
            return nothing_BL
        token_M = tokens_BL[rows_R][self.verify_RL] - first
        back_RL = remasked(self.again_MV, token_M, self.verify_RL, unmask_BL[rows_R].sum(1), self.rule.verify)
        return nothing_BL.index_copy(0, rows_R, back_RL)


RULES: dict[str, type[UnmaskingRule]] = {
    "threshold": Threshold, "margin": MarginThreshold, "factor": Factor, "entropy": EntropyBound,
    "hierarchical": Hierarchical, "stable": Stable, "draft": DraftVerify,
}  # fmt: skip
"""Rules by name, as options and the command line give them."""
