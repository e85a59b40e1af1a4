"""Fixed-shape denoising steps without host-device synchronisation, for a GPU.

How many positions are still masked is known to the device alone, so a step over just those has to ask it and leaves it idle
meanwhile. With `FixedShape` the positions of a block are those that are masked when it begins. Each step predicts all of them,
and
what was decided since is passed over when positions are ranked: a little more arithmetic, the same tokens. All shapes of a block
are then known when it begins, steps follow each other without synchronisation, and passes can be recorded as CUDA graphs.

Shapes: B rows, R of them at work, L positions, N query positions (row-major), Q rows of a pass (with guidance 2 R), V vocabulary
slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import compress, islice
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor

from mmada.canvas import Canvas, Denoiser
from mmada.errors import check_whole
from mmada.sampling.cuda_graphs import Graphs, Recordable
from mmada.sampling.guidance import GuidedBatch
from mmada.sampling.model_calls import ModelCalls, Positions, Query, suppressed

__all__ = ["FixedShape", "FixedShapeCalls", "PreparingDenoiser", "synchronised"]


@dataclass(frozen=True)
class FixedShape:
    """Settings of fixed-shape steps.

    ``sync_every``: steps between two host synchronisations. Frames come in groups of so many, and a block that ends early runs up
    to ``sync_every - 1`` steps more, which change nothing and are not shown. ``graphs``: forward passes that come often are
    recorded as CUDA graphs (`Graphs`); of effect on a GPU only, and off by default because no GPU has run it yet.
    """

    sync_every: int = 8
    graphs: bool = False

    def __post_init__(self) -> None:
        check_whole("sync_every", self.sync_every, 1)

    def recorder(self, device: torch.device) -> Graphs | None:
        """The recorder of passes on ``device``; None without graphs."""
        return Graphs() if self.graphs and device.type == "cuda" else None


class PreparingDenoiser(Denoiser, Protocol):
    """A denoiser that can prepare many passes over the same positions."""

    def prepared(self, *, query_BL: Tensor, vocab: range, valid_BL: Tensor | None = None) -> Recordable:
        """`Denoiser.predict` for these arguments, as a function of the tokens alone that never synchronises."""
        ...


class FixedShapeCalls(ModelCalls):
    """Forward passes over the positions that were masked when the block began: prepared once, with host synchronisation, and run
    as often as wanted, without."""

    def __init__(
        self,
        settings: FixedShape,
        graphs: Graphs | None,
        denoiser: Denoiser,
        canvas: Canvas,
        unconditional: Canvas | None,
        mask_id: int,
        nfe_B: Tensor,
    ) -> None:
        super().__init__(denoiser, canvas, unconditional, mask_id, nfe_B)
        self.sync_every, self.graphs = settings.sync_every, graphs
        self.at: Positions | None = None
        self.source_QL: Tensor | None = None
        self.predict: Callable[[Tensor], Tensor] | None = None

    def enter(self, block_BL: Tensor, left_BL: Tensor, query_at: Callable[[Positions], Query]) -> None:
        """As `ModelCalls.enter`.

        A batch of position numbers in place of tokens says which token each of its positions is to be filled with.
        """
        self.at = at = Positions.of(left_BL, block_BL.any(1))
        first, blank, size = query_at(at), self.unconditional, self.canvas.tokens_BL.numel()
        blank = None if blank is None else blank.with_tokens(size + numbered(blank.tokens_BL))
        numbers_RL = numbered(self.canvas.tokens_BL)[at.rows_R]
        batch = GuidedBatch(self.canvas, blank).of(numbers_RL, at.rows_R, at.query_RL, first.modality, first.guidance)
        self.source_QL = batch.tokens_BL
        denoiser = cast(PreparingDenoiser, self.denoiser)
        call = denoiser.prepared(query_BL=batch.editable_BL, vocab=first.vocab, valid_BL=batch.valid_BL)
        graphs = self.graphs
        self.predict = call if graphs is None else lambda tokens_QL: graphs.run(call, tokens_QL)

    def positions(self, left_BL: Tensor, working_B: Tensor) -> Positions:
        """As `ModelCalls.positions`: those that were masked when the block began."""
        assert self.at is not None
        return self.at

    def logits(self, query: Query, tokens_BL: Tensor) -> Tensor:
        """As `ModelCalls.logits`."""
        assert self.source_QL is not None
        assert self.predict is not None
        self.nfe_B += query.working_B
        blank = self.unconditional
        sources = tokens_BL.flatten() if blank is None else torch.cat((tokens_BL.flatten(), blank.tokens_BL.flatten()))
        logits_NV = self.predict(sources[self.source_QL])
        return suppressed(self.batches.combined(logits_NV, query.guidance), query.suppressed)


Step = TypeVar("Step")


def synchronised(
    steps: Iterator[tuple[Step, Tensor, Tensor]], sync_every: int, unfinished: Callable[[], Tensor]
) -> Iterator[tuple[Step, Tensor, Tensor]]:
    """The steps of a block in groups of ``sync_every``, each waited for once; without those that wrote nothing.

    A step is (anything, positions that it wrote, passes of each row so far). ``unfinished``: whether positions of the block are
    still masked, a tensor of one truth value.
    """
    while group := list(islice(steps, sync_every)):
        *wrote, going = torch.stack([*(changed_BL.any() for _, changed_BL, _ in group), unfinished()]).tolist()
        yield from compress(group, wrote)
        if not going:
            break


def numbered(tokens_BL: Tensor) -> Tensor:
    """The number of every position, row-major."""
    return torch.arange(tokens_BL.numel(), device=tokens_BL.device).view_as(tokens_BL)
