"""How probable a policy finds its tokens: log-probabilities at masked places, and what is made of them.

    MeanField()             mean log-probability of a masked token              UniGRPO (eq. 3, eq. 4), d1, MaskGRPO, TraceRL
    Elbo()                  lower bound: (1/t) sum over masked tokens           eq. 1, eq. 2, coupled-GRPO, ESPO
    Sandwich(omega, beta)   the ELBO for good completions, and for the others   SPG
                            a mix of it and an upper bound, the EUBO

Shapes: K views, B rows, R of them with scored places, L positions, D width, M scored places, V columns of a modality.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from mmada.canvas import IMAGE, TEXT, Canvas
from mmada.diffusion.objective import chunked_cross_entropy
from mmada.errors import InputError, check_number
from mmada.tokenizers.vocabulary import Vocabulary
from mmada.training.rl.views import Views

__all__ = ["Elbo", "Likelihood", "MeanField", "Sandwich", "Scorer", "log_probabilities"]


TOGETHER = 32
"""Most rows that run together."""


class Scorer(Protocol):
    """What is asked of a policy: `MMaDAModel`, or the same inside LoRA adapters."""

    def hidden(self, tokens_BL: Tensor, *, valid_BL: Tensor | None = None) -> Tensor:
        """Hidden states (B, L, D)."""
        ...

    def head(self, columns: range) -> Tensor:
        """Rows (V, D) of the head for a range of token ids."""
        ...


def log_probabilities(model: Scorer, canvas: Canvas, views: Views, *, vocabulary: Vocabulary, chunk: int = 1024) -> Tensor:
    """ln p of the canvas's own token at every scored place of every view (K, B, L), in nats, 0 elsewhere.

    Text places are normalised over the text range of the vocabulary, image places over the code slice. At most ``chunk`` rows of
    logits are held at a time. Raises InputError where a token is outside the range of its modality.
    """
    found = []
    for k, (tokens_BL, scored_BL) in enumerate(zip(views.tokens_KBL, views.scored_KBL, strict=True)):
        # Rows of which a view scores nothing are not computed in it; one row of the first is, to keep the graph.
        some_B = scored_BL.any(1)
        some = (some_B | (torch.arange(len(some_B), device=some_B.device) == 0) if k == 0 else some_B).nonzero()[:, 0]
        log_BL = torch.zeros(scored_BL.shape, device=scored_BL.device)
        for rows in of_like_length(canvas, some):
            log_RL = row_log_probabilities(model, canvas, tokens_BL, scored_BL, rows, vocabulary, chunk)
            log_BL = log_BL.to(log_RL).index_copy(0, rows, pad(log_RL, (0, canvas.length - log_RL.shape[1])))
        found.append(log_BL)
    return torch.stack(found)


def of_like_length(canvas: Canvas, rows: Tensor) -> tuple[Tensor, ...]:
    """The rows in groups of `TOGETHER`, the shortest first: texts are not padded to the length of pictures."""
    return torch.split(rows[canvas.valid_BL[rows].sum(1).argsort(stable=True)], TOGETHER) if len(rows) else ()


def row_log_probabilities(
    model: Scorer, canvas: Canvas, tokens_BL: Tensor, scored_BL: Tensor, some: Tensor, vocabulary: Vocabulary, chunk: int
) -> Tensor:
    """The same (R, L) of the rows ``some`` (R,) of one view, as long as the longest of them."""
    kept = slice(int(canvas.valid_BL[some].any(0).nonzero().max()) + 1)
    own_RL, modality_RL, scored_RL = (x[some, kept] for x in (canvas.tokens_BL, canvas.modality_BL, scored_BL))
    hidden_RLD = model.hidden(tokens_BL[some, kept], valid_BL=canvas.valid_BL[some, kept])
    parts = []
    for modality, columns in ((TEXT, vocabulary.text_columns), (IMAGE, vocabulary.image_columns)):
        at_RL = scored_RL & (modality_RL == modality)
        target_M = own_RL[at_RL] - columns.start
        if bool(((target_M < 0) | (target_M >= len(columns))).any()):
            name = "text" if modality == TEXT else "image"
            raise InputError(f"canvas holds tokens outside the {name} range {columns} at {name} places; mend its modality_BL")
        log_M = -chunked_cross_entropy(hidden_RLD[at_RL], model.head(columns), target_M, chunk=chunk)
        parts.append(log_M.new_zeros(at_RL.shape).masked_scatter(at_RL, log_M))
    return parts[0] + parts[1]


class Likelihood(Protocol):
    """An estimate of ln p(completion | prompt) from K views."""

    def tokens(self, log_KBL: Tensor, views: Views) -> Tensor:
        """An estimate of every place (B, L), in nats; 0 where no view scores it."""
        ...

    def rows(self, log_KBL: Tensor, views: Views, places_B: Tensor, advantage_B: Tensor) -> Tensor:
        """An estimate of every completion (B,), in nats; ``places_B`` is its length."""
        ...


@dataclass(frozen=True)
class MeanField:
    """Each masked token alone, whatever the mask ratio. Of a completion: its length times the mean (eq. 4 is that mean)."""

    def tokens(self, log_KBL: Tensor, views: Views) -> Tensor:
        """As `Likelihood.tokens`: the mean over the views that score a place (eq. 3)."""
        return log_KBL.sum(0) / views.scored_KBL.sum(0).clamp(min=1)

    def rows(self, log_KBL: Tensor, views: Views, places_B: Tensor, advantage_B: Tensor) -> Tensor:
        """As `Likelihood.rows`: over the scored places of all views together."""
        return places_B * log_KBL.sum((0, 2)) / views.scored_KBL.sum((0, 2)).clamp(min=1)


@dataclass(frozen=True)
class Elbo:
    """The evidence lower bound: masked tokens weighted by 1/t, averaged over the views."""

    def tokens(self, log_KBL: Tensor, views: Views) -> Tensor:
        """As `Likelihood.tokens`: the weighted mean over the views that score a place (coupled-GRPO: half the sum of two)."""
        return (log_KBL * views.weight_KBL).sum(0) / views.scored_KBL.sum(0).clamp(min=1)

    def rows(self, log_KBL: Tensor, views: Views, places_B: Tensor, advantage_B: Tensor) -> Tensor:
        """As `Likelihood.rows`."""
        return (log_KBL * views.weight_KBL).sum(2).mean(0)


@dataclass(frozen=True)
class Sandwich:
    """SPG: the ELBO where the advantage is positive; else ``omega`` * EUBO + (1 - omega) * ELBO.

    EUBO = (1 / beta) sum_i ln mean_k [w p_i^beta] over the places that some view scores, scaled up to the whole length.
    ``omega`` in [0, 1]: 0 is the ELBO, 1 the EUBO. ``beta``: at least 1; SPG's experiments take 1.5. They bound completions,
    not tokens.
    """

    omega: float = 0.5
    beta: float = 1.5

    def __post_init__(self) -> None:
        check_number("omega of the sandwich", self.omega, 0, 1)
        check_number("beta of the sandwich", self.beta, 1)

    def tokens(self, log_KBL: Tensor, views: Views) -> Tensor:
        """Raises InputError: the bounds are of whole completions."""
        raise InputError("likelihood Sandwich bounds whole completions, not tokens; use it with NoRatio()")

    def rows(self, log_KBL: Tensor, views: Views, places_B: Tensor, advantage_B: Tensor) -> Tensor:
        """As `Likelihood.rows`."""
        lower_B = Elbo().rows(log_KBL, views, places_B, advantage_B)
        if self.omega == 0:
            return lower_B
        mixed_B = self.omega * self.upper(log_KBL, views, places_B) + (1 - self.omega) * lower_B
        return torch.where(advantage_B > 0, lower_B, mixed_B)

    def upper(self, log_KBL: Tensor, views: Views, places_B: Tensor) -> Tensor:
        """The EUBO (B,), in nats."""
        scored_BL = views.scored_KBL.any(0)
        power_KBL = views.weight_KBL.clamp(min=1e-30).log() + self.beta * log_KBL
        # Finite, not -inf: a place that no view scores is dropped below, and brings no infinity into a sum or its gradient.
        sum_BL = power_KBL.masked_fill(~views.scored_KBL, -1e9).logsumexp(0) - log(len(log_KBL))
        total_B = torch.where(scored_BL, sum_BL, 0.0).sum(1) / self.beta
        return places_B * total_B / scored_BL.sum(1).clamp(min=1)
