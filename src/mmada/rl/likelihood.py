"""Log-probabilities at masked positions, and estimators of the likelihood of a completion.

    MeanField()             mean log-probability of a masked token              UniGRPO (eq. 3, eq. 4), d1, MaskGRPO, TraceRL
    Elbo()                  lower bound: (1/t) sum over masked tokens           eq. 1, eq. 2, coupled-GRPO, ESPO
    Sandwich(omega, beta)   the ELBO where the advantage is positive,           SPG
                            else a mix of it and an upper bound, the EUBO

Shapes: K views, B rows, L positions, D width, V vocabulary of a modality. Of the K x B rows, R have scored positions, with
U distinct inputs; a batch of C of these inputs serves S of the R rows, with M scored positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import embedding, pad

from mmada.canvas import IMAGE, TEXT, Canvas
from mmada.diffusion.loss import chunked_cross_entropy
from mmada.errors import InputError, check_number
from mmada.rl.masked_views import MaskedViews
from mmada.tokenizers.vocabulary import Vocabulary

__all__ = ["Elbo", "Likelihood", "MeanField", "Sandwich", "Scorer", "log_probabilities"]


MAX_ROWS = 32
"""Maximum rows per forward pass."""


class Scorer(Protocol):
    """The interface of a policy: `MMaDAModel`, or the same inside LoRA adapters."""

    def hidden(self, tokens_BL: Tensor, *, valid_BL: Tensor | None = None) -> Tensor:
        """Hidden states (B, L, D)."""
        ...

    def head(self, vocab: range) -> Tensor:
        """Rows (V, D) of the head for a range of token ids."""
        ...


def log_probabilities(model: Scorer, canvas: Canvas, views: MaskedViews, *, vocabulary: Vocabulary, chunk: int = 1024) -> Tensor:
    """ln p of the canvas's own token at every scored position of every view (K, B, L), in nats, 0 elsewhere.

    Text positions are normalised over the text range of the vocabulary, image positions over the code slice. Logits are
    computed for ``chunk`` positions at a time, and recomputed in the backward pass where there are more. Rows without scored
    positions are skipped, and rows with identical input, in one view or several, are computed once. Raises InputError if a token
    is outside the range of its modality.
    """
    scored_KB = views.scored_KBL.any(2)
    scored_KB[0, 0] = True  # always compute one row, so that the loss has a graph
    view_R, row_R = scored_KB.nonzero(as_tuple=True)
    tokens_RL, valid_RL = views.tokens_KBL[view_R, row_R], canvas.valid_BL[row_R]
    input_R, first_U = unique_inputs(tokens_RL, valid_RL)
    log_KBL = torch.zeros(views.scored_KBL.shape, device=tokens_RL.device)
    for inputs_C in length_batches(valid_RL[first_U]):
        rows_C = first_U[inputs_C]
        cut = slice(int(valid_RL[rows_C].any(0).nonzero().max()) + 1)
        slot_U = torch.full_like(first_U, -1).index_copy(0, inputs_C, torch.arange(len(inputs_C), device=inputs_C.device))
        mine = (slot_U[input_R] >= 0).nonzero()[:, 0]
        view, row = view_R[mine], row_R[mine]
        queries = Queries(canvas.tokens_BL[row, cut], canvas.modality_BL[row, cut], views.scored_KBL[view, row, cut])
        read = (tokens_RL[rows_C, cut], valid_RL[rows_C, cut])
        log_SL = queries.log_probabilities(model, *read, slot_U[input_R[mine]], vocabulary, chunk)
        log_KBL = log_KBL.to(log_SL).index_put((view, row), pad(log_SL, (0, canvas.length - log_SL.shape[1])))
    return log_KBL


def unique_inputs(tokens_RL: Tensor, valid_RL: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the distinct input of each row (R,), and the first row of each distinct input (U,), in order of appearance."""
    _, sorted_R = torch.unique(torch.where(valid_RL, tokens_RL, -1), dim=0, return_inverse=True)
    count_R = torch.arange(len(sorted_R), device=sorted_R.device)
    first_U = torch.full_like(count_R[: int(sorted_R.max()) + 1], len(count_R)).scatter_reduce(0, sorted_R, count_R, "amin")
    first_U, order_U = first_U.sort()
    return torch.empty_like(order_U).index_copy(0, order_U, count_R[: len(order_U)])[sorted_R], first_U


def length_batches(valid_UL: Tensor) -> tuple[Tensor, ...]:
    """Indices of rows in batches of `MAX_ROWS`, the shortest first, so that texts are not padded to the length of pictures."""
    return torch.split(valid_UL.sum(1).argsort(stable=True), MAX_ROWS)


@dataclass(frozen=True)
class Queries:
    """Tokens, modalities and scored positions of S rows, (S, L) each, for which log-probabilities are computed."""

    target_SL: Tensor
    modality_SL: Tensor
    scored_SL: Tensor

    def log_probabilities(
        self, model: Scorer, tokens_CL: Tensor, valid_CL: Tensor, slot_S: Tensor, vocabulary: Vocabulary, chunk: int
    ) -> Tensor:
        """ln p (S, L), 0 at positions that are not scored; row ``slot_S[s]`` of ``tokens_CL`` is the input of row s."""
        hidden_CLD = model.hidden(tokens_CL, valid_BL=valid_CL)
        parts = []
        for modality, vocab in ((TEXT, vocabulary.ranges["text"]), (IMAGE, vocabulary.ranges["image"])):
            at_SL = self.scored_SL & (self.modality_SL == modality)
            row_M, column_M = at_SL.nonzero(as_tuple=True)
            target_M = self.target_SL[at_SL] - vocab.start
            if bool(((target_M < 0) | (target_M >= len(vocab))).any()):
                name = "text" if modality == TEXT else "image"
                raise InputError(f"canvas holds tokens outside the {name} range {vocab} at {name} positions; fix modality_BL")
            hidden_MD = at_positions(hidden_CLD, slot_S[row_M], column_M)
            log_M = -chunked_cross_entropy(hidden_MD, model.head(vocab), target_M, chunk=chunk)
            parts.append(log_M.new_zeros(at_SL.shape).masked_scatter(at_SL, log_M))
        return parts[0] + parts[1]


def at_positions(hidden_CLD: Tensor, row_M: Tensor, column_M: Tensor) -> Tensor:
    """``hidden_CLD[row_M, column_M]`` (M, D), with a deterministic backward pass.

    Gradients of repeated positions are added in a fixed order; plain indexing on several CPU threads does not do so.
    """
    return embedding(row_M * hidden_CLD.shape[1] + column_M, hidden_CLD.flatten(0, 1))


class Likelihood(Protocol):
    """An estimator of ln p(completion | prompt) from K views."""

    def tokens(self, log_KBL: Tensor, views: MaskedViews) -> Tensor:
        """An estimate of every position (B, L), in nats; 0 where no view scores it."""
        ...

    def rows(self, log_KBL: Tensor, views: MaskedViews, length_B: Tensor, advantage_B: Tensor) -> Tensor:
        """An estimate of every completion (B,), in nats; ``length_B`` is its length."""
        ...


@dataclass(frozen=True)
class MeanField:
    """Mean-field: masked tokens are independent, with equal weight at every mask ratio.

    The estimate of a completion is its length times the mean (eq. 4 is that mean).
    """

    def tokens(self, log_KBL: Tensor, views: MaskedViews) -> Tensor:
        """As `Likelihood.tokens`: the mean over the views that score a position (eq. 3)."""
        return log_KBL.sum(0) / views.scored_KBL.sum(0).clamp(min=1)

    def rows(self, log_KBL: Tensor, views: MaskedViews, length_B: Tensor, advantage_B: Tensor) -> Tensor:
        """As `Likelihood.rows`: the mean is over the scored positions of all views."""
        return length_B * log_KBL.sum((0, 2)) / views.scored_KBL.sum((0, 2)).clamp(min=1)


@dataclass(frozen=True)
class Elbo:
    """The evidence lower bound: masked tokens weighted by 1/t, averaged over the views."""

    def tokens(self, log_KBL: Tensor, views: MaskedViews) -> Tensor:
        """As `Likelihood.tokens`: the weighted mean over the views that score a position (coupled-GRPO: half the sum of two)."""
        return (log_KBL * views.weight_KBL).sum(0) / views.scored_KBL.sum(0).clamp(min=1)

    def rows(self, log_KBL: Tensor, views: MaskedViews, length_B: Tensor, advantage_B: Tensor) -> Tensor:
        """As `Likelihood.rows`."""
        return (log_KBL * views.weight_KBL).sum(2).mean(0)


@dataclass(frozen=True)
class Sandwich:
    """SPG: the ELBO where the advantage is positive; else ``omega`` * EUBO + (1 - omega) * ELBO.

    EUBO = (1 / beta) sum_i ln mean_k [w p_i^beta] over the positions that some view scores, scaled up to the whole length.
    ``omega`` in [0, 1]: 0 is the ELBO, 1 the EUBO. ``beta``: at least 1; SPG's experiments take 1.5. The bounds are of
    completions, not of tokens.
    """

    omega: float = 0.5
    beta: float = 1.5

    def __post_init__(self) -> None:
        check_number("omega of the sandwich", self.omega, 0, 1)
        check_number("beta of the sandwich", self.beta, 1)

    def tokens(self, log_KBL: Tensor, views: MaskedViews) -> Tensor:
        """Raises InputError: the bounds are of whole completions."""
        raise InputError("likelihood Sandwich bounds whole completions, not tokens; use it with NoRatio()")

    def rows(self, log_KBL: Tensor, views: MaskedViews, length_B: Tensor, advantage_B: Tensor) -> Tensor:
        """As `Likelihood.rows`."""
        lower_B = Elbo().rows(log_KBL, views, length_B, advantage_B)
        if self.omega == 0:
            return lower_B
        mixed_B = self.omega * self.upper(log_KBL, views, length_B) + (1 - self.omega) * lower_B
        return torch.where(advantage_B > 0, lower_B, mixed_B)

    def upper(self, log_KBL: Tensor, views: MaskedViews, length_B: Tensor) -> Tensor:
        """The EUBO (B,), in nats."""
        scored_BL = views.scored_KBL.any(0)
        power_KBL = views.weight_KBL.clamp(min=1e-30).log() + self.beta * log_KBL
        # Finite, not -inf: positions that no view scores are dropped below, and their gradient must not become NaN.
        sum_BL = power_KBL.masked_fill(~views.scored_KBL, -1e9).logsumexp(0) - log(len(log_KBL))
        total_B = torch.where(scored_BL, sum_BL, 0.0).sum(1) / self.beta
        return length_B * total_B / scored_BL.sum(1).clamp(min=1)
