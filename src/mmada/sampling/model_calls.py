"""What a step asks of the model: guidance in one batch, memory between steps, and looking ahead.

Shapes: B rows, R of them at work, L positions, N masked places at work (row-major), V vocabulary vocab.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from mmada.canvas import IMAGE, TEXT, CachingDenoiser, Canvas, Denoiser, KVCache, Modality
from mmada.errors import check_whole
from mmada.sampling.kv_reuse import Reuse, Situation
from mmada.sampling.logits_ops import log_odds
from mmada.sampling.policy import Guidance

__all__ = ["Lookahead", "ModelCalls", "ModelQuery", "places"]


@dataclass(frozen=True)
class Lookahead:
    """Lossless speculation: in the pass that computes a step, the next ``guesses`` steps are computed too, on the canvases that
    the last prediction makes likely. A guess that comes true saves its pass, a wrong one is never looked at, so the tokens are
    those of the plain sampler."""

    guesses: int = 3

    def __post_init__(self) -> None:
        check_whole("guesses", self.guesses, 1)


@dataclass(frozen=True)
class ModelQuery:
    """One step's question: the places ``query_RL`` of ``rows`` over ``vocab``.

    ``working_B``: rows that commit something. ``barred``: vocab that no place may take.
    ``pace``: places (B,) to be committed at the step that is so many ahead, for `Lookahead`. ``verify_RL``: decided places that
    are asked for once more, None is none.
    """

    rows: Tensor
    query_RL: Tensor
    working_B: Tensor
    vocab: range
    barred: Tensor | None
    modality: Modality
    guidance: Guidance
    pace: Callable[[int], Tensor]
    verify_RL: Tensor | None = None


@dataclass(frozen=True)
class UniqueRows:
    """A batch in which rows are the same, such as several seeds of one prompt before they part: ``once`` has each of them once,
    and asked place n of the batch is place ``place_N[n]`` of what is asked of ``once``. For passes without memory and
    shadows; steps over fixed places compute all rows."""

    once: Canvas
    place_N: Tensor

    @staticmethod
    def of(batch: Canvas) -> UniqueRows | None:
        """None where all rows differ."""
        if batch.rows == 1:
            return None
        rows_B3L = torch.cat([batch.tokens_BL, batch.editable_BL, batch.valid_BL], 1)
        found_U3L, which_B = torch.unique(rows_B3L, dim=0, return_inverse=True)
        if len(found_U3L) == batch.rows:
            return None
        row_U = torch.empty(len(found_U3L), dtype=torch.long, device=which_B.device)
        row_U[which_B] = torch.arange(batch.rows, device=which_B.device)
        once = taken(batch, row_U, batch.editable_BL[row_U])
        count_B, count_U = batch.editable_BL.sum(1), once.editable_BL.sum(1)
        shift_B = (count_U.cumsum(0) - count_U)[which_B] - (count_B.cumsum(0) - count_B)
        place_N = torch.arange(int(count_B.sum()), device=which_B.device) + shift_B.repeat_interleave(count_B)
        return UniqueRows(once, place_N)


class ModelCalls:
    """Runs the model for a phase and counts the passes that each row takes part in."""

    def __init__(self, denoiser: Denoiser, canvas: Canvas, unconditional: Canvas | None, mask: int) -> None:
        self.denoiser, self.canvas, self.unconditional, self.mask = denoiser, canvas, unconditional, mask
        self.count_B = torch.zeros(canvas.rows, dtype=torch.long, device=canvas.tokens_BL.device)
        self.begin(None, None)

    def begin(self, reuse: Reuse | None, lookahead: Lookahead | None) -> None:
        """A phase begins: nothing is known from before."""
        self.reuse, self.lookahead = reuse, lookahead
        self.cache: KVCache | None = None
        if reuse is not None:
            halves = 1 if self.unconditional is None else 2
            self.cache = cast(CachingDenoiser, self.denoiser).kv_cache(halves * self.canvas.rows)
        self.computed: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self.latest: dict[int, tuple[Tensor, Tensor]] = {}
        self.enter(torch.zeros_like(self.canvas.editable_BL))

    def enter(self, part_BL: Tensor) -> None:
        """A part of the phase begins, with these places."""
        self.part_BL, self.new_BL = part_BL, torch.zeros_like(part_BL)
        self.inside = self.since = 0
        # Where the mask itself is drawn, a part can end as it began, and the next one asks about the same tokens at more places.
        self.computed.clear()
        self.latest.clear()

    def logits(self, ask: ModelQuery, tokens_BL: Tensor) -> Tensor:
        """Guided logits (N, V), those of the shadows behind them."""
        if self.lookahead is not None:
            return self.ahead(ask, tokens_BL, self.lookahead.guesses)
        logits_NV = self.run(ask, tokens_BL[ask.rows], ask.rows, ask.query_RL)
        self.count_B += ask.working_B
        self.inside, self.since = self.inside + 1, self.since + 1
        return logits_NV

    def run(self, ask: ModelQuery, tokens_RL: Tensor, rows: Tensor, query_RL: Tensor) -> Tensor:
        """One pass over canvases of ``rows`` (a row may come more than once) that now hold ``tokens_RL``."""
        batch, guided = self.batch(ask, tokens_RL, rows, query_RL), self.guided(ask)
        extra = self.remembered(ask, rows, query_RL, guided) if self.cache is not None else {}
        if ask.verify_RL is not None:
            extra |= {"verify_BL": self.both(ask, rows, ask.verify_RL, guided), "mask": self.mask}
        alike = None if extra else UniqueRows.of(batch)
        once = batch if alike is None else alike.once
        logits_NV = self.denoiser.predict(
            once.tokens_BL, query_BL=once.editable_BL, vocab=ask.vocab, valid_BL=once.valid_BL, **extra
        )
        if alike is not None:
            logits_NV = logits_NV[alike.place_N]
        return self.combined(ask, logits_NV, int(batch.editable_BL.sum()) if guided else None)

    def guided(self, ask: ModelQuery) -> bool:
        """Whether a pass has an unconditional half."""
        return ask.guidance.scale > 0 and self.unconditional is not None

    def batch(self, ask: ModelQuery, tokens_RL: Tensor, rows: Tensor, query_RL: Tensor) -> Canvas:
        """What a pass runs on, with its unconditional half; ``editable`` marks the places asked for."""
        asked = replace(taken(self.canvas, rows, query_RL), tokens_BL=tokens_RL)
        return Canvas.stack([asked, self.counterpart(asked, rows, query_RL, ask.modality)]) if self.guided(ask) else asked

    def combined(self, ask: ModelQuery, logits_NV: Tensor, asked_for: int | None = None) -> Tensor:
        """Guided logits of what `batch` was asked, without what is barred; the places come first, ``asked_for`` of them in both
        halves (None is all), then the shadows."""
        if self.guided(ask):
            asked_for = len(logits_NV) if asked_for is None else asked_for
            parts = (logits_NV[:asked_for], logits_NV[asked_for:])
            logits_NV = torch.cat([ask.guidance.combine(*part.chunk(2)) for part in parts if len(part)])
        return logits_NV if ask.barred is None else logits_NV.index_fill(1, ask.barred, float("-inf"))

    def both(self, ask: ModelQuery, rows: Tensor, marked_RL: Tensor, guided: bool) -> Tensor:
        """Marks on the canvas, and on its unconditional half too."""
        if not guided:
            return marked_RL
        assert self.unconditional is not None
        here_RL, there_RM = (places(c, ask.modality)[rows] for c in (self.canvas, self.unconditional))
        return stacked(marked_RL, moved(marked_RL, here_RL, there_RM))

    def counterpart(self, asked: Canvas, rows: Tensor, marked_RL: Tensor, modality: Modality) -> Canvas:
        """The unconditional rows with what has been filled in so far, marking the places that ``marked_RL`` marks here."""
        assert self.unconditional is not None
        here_RL = places(self.canvas, modality)[rows]
        there_RM = places(self.unconditional, modality)[rows]
        tokens_RM = self.unconditional.tokens_BL[rows].masked_scatter(there_RM, asked.tokens_BL[here_RL])
        return replace(taken(self.unconditional, rows, moved(marked_RL, here_RL, there_RM)), tokens_BL=tokens_RM)

    def remembered(self, ask: ModelQuery, rows: Tensor, query_RL: Tensor, guided: bool) -> dict[str, Any]:
        """The arguments of a pass with memory: what to compute anew, in both halves."""
        assert self.cache is not None
        assert self.reuse is not None
        drift_B = self.cache.drift.to(rows.device)
        drift_R = (drift_B[rows] + drift_B[rows + self.canvas.rows]) / 2 if guided else drift_B[rows]
        situation = Situation(
            block_RL=self.part_BL[rows],
            left_RL=query_RL,
            new_RL=self.new_BL[rows],
            valid_RL=self.canvas.valid_BL[rows],
            passes=self.inside,
            since=self.since,
            drift_R=drift_R,
        )
        recompute_RL = self.reuse.fresh(situation)
        if not guided:
            self.since = 0 if recompute_RL is None else self.since
            return {"cache": self.cache.only(rows), "recompute_BL": None if recompute_RL is None else recompute_RL | query_RL}
        memory = self.cache.only(torch.cat((rows, rows + self.canvas.rows)))
        if recompute_RL is None:
            self.since = 0
            return {"cache": memory, "recompute_BL": None}
        assert self.unconditional is not None
        here_RL, there_RM = (places(c, ask.modality)[rows] for c in (self.canvas, self.unconditional))
        there = replace(
            situation,
            block_RL=moved(situation.block_RL, here_RL, there_RM),
            left_RL=moved(query_RL, here_RL, there_RM),
            new_RL=moved(situation.new_RL, here_RL, there_RM),
            valid_RL=self.unconditional.valid_BL[rows],
        )
        recompute_RM = self.reuse.fresh(there)
        assert recompute_RM is not None, "a rule decides by what both halves share"
        return {"cache": memory, "recompute_BL": stacked(recompute_RL | query_RL, recompute_RM | there.left_RL)}

    def ahead(self, ask: ModelQuery, tokens_BL: Tensor, guesses: int) -> Tensor:
        """As `logits`, from what was computed before where the guess of a row came true."""
        rows, wanted = ask.rows.tolist(), []
        found = {row: self.found(row, tokens_BL[row]) for row in rows}
        for i, row in enumerate(rows):
            if found[row] is None:
                wanted += [(row, i, t) for t in (tokens_BL[row].clone(), *self.guessed(ask, i, tokens_BL[row], guesses))]
        if wanted:
            tokens_QL = torch.stack([t for _, _, t in wanted])
            owner_Q = torch.tensor([row for row, _, _ in wanted], device=tokens_BL.device)
            part_QL = torch.stack([ask.query_RL[i] for _, i, _ in wanted])
            query_QL = part_QL & (tokens_QL == self.mask)
            computed = torch.split(self.run(ask, tokens_QL, owner_Q, query_QL), query_QL.sum(1).tolist())
            for row in {row for row, _, _ in wanted}:
                self.computed[row] = []
                self.count_B[row] += 1
            for (row, _, tokens_L), logits_nV in zip(wanted, computed, strict=True):
                self.computed[row].append((tokens_L, logits_nV))
        parts = []
        for i, row in enumerate(rows):
            known = self.found(row, tokens_BL[row])
            assert known is not None
            self.latest[row] = (ask.query_RL[i].nonzero()[:, 0], known)
            parts.append(known)
        return torch.cat(parts)

    def found(self, row: int, tokens_L: Tensor) -> Tensor | None:
        """Logits that were computed for exactly this canvas."""
        return next((logits for tokens, logits in self.computed.get(row, []) if torch.equal(tokens, tokens_L)), None)

    def guessed(self, ask: ModelQuery, index: int, tokens_L: Tensor, guesses: int) -> list[Tensor]:
        """Canvases that may come next, by the prediction for the canvas before this one."""
        row = int(ask.rows[index])
        if row not in self.latest:
            return []
        place_n, logits_nV = self.latest[row]
        still_n = ask.query_RL[index][place_n]
        place_n, logits_nV = place_n[still_n], logits_nV[still_n]
        chosen_n = logits_nV.argmax(-1)
        order_n = log_odds(logits_nV, chosen_n).argsort(descending=True, stable=True)
        canvases: list[Tensor] = []
        done = 0
        for step in range(guesses):
            done += int(ask.pace(step)[row])
            if done >= int(ask.query_RL[index].sum()) or done > len(order_n):
                break
            first_n = order_n[:done]
            canvases.append(tokens_L.scatter(0, place_n[first_n], chosen_n[first_n] + ask.vocab.start))
        return canvases


def places(canvas: Canvas, modality: Modality) -> Tensor:
    """Editable places of ``modality``, bool (B, L)."""
    kind = IMAGE if modality == "image" else TEXT
    return canvas.editable_BL & canvas.valid_BL & (canvas.modality_BL == kind)


def stacked(one_RL: Tensor, two_RM: Tensor) -> Tensor:
    """Marks of two layouts as one batch, the shorter rows padded at the right."""
    length = max(one_RL.shape[1], two_RM.shape[1])
    return torch.cat([torch.nn.functional.pad(x, (0, length - x.shape[1])) for x in (one_RL, two_RM)])


def moved(marked_RL: Tensor, here_RL: Tensor, there_RM: Tensor) -> Tensor:
    """Marks on the places ``here_RL`` as marks on the same places of another layout."""
    return torch.zeros_like(there_RM).masked_scatter(there_RM, marked_RL[here_RL])


def taken(canvas: Canvas, rows: Tensor, query_RL: Tensor) -> Canvas:
    """Some rows of a canvas, ``editable`` marking the places asked for."""
    return Canvas(canvas.tokens_BL[rows], query_RL, canvas.valid_BL[rows], canvas.modality_BL[rows])
