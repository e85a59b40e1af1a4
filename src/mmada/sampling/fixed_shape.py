"""Steps that wait for nothing: the same steps over places that stay fixed for a part, for a device that runs behind the host.

How many places are still masked is known to the device alone, so a step over just those has to ask it and leaves it idle
meanwhile. With `FixedShape` the places of a part are those that are masked when it begins. Each step asks about all of them,
and what
was decided since is passed over when places are ranked: a little more arithmetic, the same tokens. All shapes of a part are then
known when it begins, steps follow each other without a word from the host, and passes can be recorded as CUDA graphs.

Shapes: B rows, R of them at work, L positions, N places asked about (row-major), Q rows of a pass (with guidance 2 R), V vocab.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from mmada.canvas import Denoiser
from mmada.errors import check_whole
from mmada.sampling.cuda_graphs import Graphs, Recordable
from mmada.sampling.model_calls import ModelCalls, ModelQuery

__all__ = ["FixedShape", "FixedShapeCall", "Positions", "Preparing"]


@dataclass(frozen=True)
class FixedShape:
    """How steps over fixed places run.

    ``look``: steps between two looks at what they wrote, each of which waits for the device; frames come by so many, and a part
    that ends early runs up to ``look - 1`` steps more, which change nothing and are not shown. ``graphs``: passes that come often
    are recorded as CUDA graphs (`Graphs`); of effect on a GPU only, and not the default before it has been run on one.
    """

    look: int = 8
    graphs: bool = False

    def __post_init__(self) -> None:
        check_whole("look", self.look, 1)

    def recorder(self, device: torch.device) -> Graphs | None:
        """What records passes on ``device``, None where they are not to be."""
        return Graphs() if self.graphs and device.type == "cuda" else None


@dataclass(frozen=True)
class Positions:
    """Positions ``query_RL`` of the rows ``rows_R``; ``row_N`` and ``place_N`` say where each of them stands."""

    rows_R: Tensor
    query_RL: Tensor
    row_N: Tensor
    place_N: Tensor

    @staticmethod
    def of(query_BL: Tensor, rows_B: Tensor) -> Positions:
        """The places ``query_BL`` of the rows that ``rows_B`` marks."""
        rows_R = rows_B.nonzero()[:, 0]
        index_N, place_N = query_BL[rows_R].nonzero().T
        return Positions(rows_R, query_BL[rows_R], rows_R[index_N], place_N)

    def put(self, value_N: Tensor, into_BL: Tensor) -> Tensor:
        """A copy of ``into_BL`` with values at the places."""
        return into_BL.index_put((self.row_N, self.place_N), value_N)


class Preparing(Denoiser, Protocol):
    """A denoiser that can get ready for many passes over the same places."""

    def prepared(self, *, query_BL: Tensor, vocab: range, valid_BL: Tensor | None = None) -> Recordable:
        """`Denoiser.predict` for these arguments, of the tokens alone; it waits for nothing."""
        ...


class FixedShapeCall:
    """What every step of a part asks: made once, by asking the host; put as often as wanted, without."""

    def __init__(self, passes: ModelCalls, ask: ModelQuery, places: Positions, graphs: Graphs | None) -> None:
        # The batch of an ordinary pass, with numbers of places where its tokens are: it says where each token is to come from.
        canvas, blank = passes.canvas, passes.unconditional
        size = canvas.tokens_BL.numel()
        blank = None if blank is None else blank.with_tokens(size + numbered(blank.tokens_BL))
        numbers = ModelCalls(passes.denoiser, canvas, blank, passes.mask)
        batch = numbers.batch(ask, numbered(canvas.tokens_BL)[ask.rows], ask.rows, ask.query_RL)
        self.passes, self.ask, self.places, self.source_QL = passes, ask, places, batch.tokens_BL
        answer = cast(Preparing, passes.denoiser).prepared(query_BL=batch.editable_BL, vocab=ask.vocab, valid_BL=batch.valid_BL)
        self.answer: Callable[[Tensor], Tensor] = answer if graphs is None else lambda tokens_QL: graphs.run(answer, tokens_QL)

    def logits(self, tokens_BL: Tensor, working_B: Tensor) -> Tensor:
        """Guided logits (N, V) of the places for a canvas that holds ``tokens_BL``; a pass more for the rows ``working_B``."""
        self.passes.count_B += working_B
        blank = self.passes.unconditional
        sources = tokens_BL.flatten() if blank is None else torch.cat((tokens_BL.flatten(), blank.tokens_BL.flatten()))
        return self.passes.combined(self.ask, self.answer(sources[self.source_QL]))


def numbered(tokens_BL: Tensor) -> Tensor:
    """The number of every place, row-major."""
    return torch.arange(tokens_BL.numel(), device=tokens_BL.device).view_as(tokens_BL)
