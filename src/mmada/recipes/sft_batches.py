"""Batches of supervised training: the examples of a step in the forms that decoding will meet, packed in few rows.

Decoding asks in two ways that data sets do not have in them. Classifier-free guidance compares the caption with an empty one, so
some captions are left out. An answer is decoded from a number of masks that is fixed before it is known how long it will be, so
some answers are padded to just that length, the others to the shortest of the usual ones. Of long padding a few positions are
learned, in other places each time: all of them would cost more than the answers and teach nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from mmada.canvas import Canvas
from mmada.data.dataset import Dataset, Example, Formatter, UnusableRow
from mmada.data.packing import Batch, pack_all
from mmada.data.sampler import RowBlocks, rows_of
from mmada.training.masked_diffusion import HeldOut

__all__ = ["VariedBlocks", "held_out"]

Random = np.random.Generator
VARIATION = 7
"""Number of the generator of these choices, so that they share no draws with masks and examples."""
SHORTEST_ROW = 256
LONG, LEARNED = 0.25, 16
"""Share of the answers that are padded as in decoding, and how many positions of that padding are learned."""


@dataclass(frozen=True)
class VariedBlocks(RowBlocks):
    """`RowBlocks` with both: ``caption_dropout``, the share of captions that are left out, and ``answer_length`` and
    ``reasoning_length``, the numbers of masks that answers are decoded from, to which some of them are padded."""

    caption_dropout: float = 0.1
    answer_length: int = 0
    reasoning_length: int = 0

    def block(self, step: int, number: int) -> Batch:
        """As `RowBlocks.block`, in rows as long as the longest example."""
        start, end = (step * self.examples + i * self.examples // self.blocks for i in (number, number + 1))
        pairs = self.sampler.take(start, end - start, lambda example: (example, self.canvas(example)))
        canvases = [
            self.varied(example, canvas, np.random.default_rng((self.sampler.seed, VARIATION, slot)))
            for slot, (example, canvas) in enumerate(pairs, start)
        ]
        return packed(canvases)

    def varied(self, example: Example, canvas: Canvas, rng: Random) -> Canvas:
        """The canvas of an example, or one without the caption, or one with the padding of decoding."""
        draw = rng.random()
        if example.objective == "text_to_image":
            plain = example.text and not example.thought and example.hole is None and not example.masked_words
            return self.formatter.canvas(replace(example, text="")) if plain and draw < self.caption_dropout else canvas
        room = self.reasoning_length if example.reasoning else self.answer_length
        if example.objective != "chat" or example.padding is not None or draw < 1 - LONG or not room:
            return canvas
        last = example.messages[-1]
        needed = len(self.formatter.prompter.text.encode(last.content.strip())) + 1  # the end-of-turn token
        if last.role != "assistant" or needed > room:
            return canvas
        padded = self.formatter.canvas(replace(example, padding=room - needed))
        return self.thinned(padded, room - needed, rng) if padded.length <= self.length else canvas

    def thinned(self, canvas: Canvas, padding: int, rng: Random) -> Canvas:
        """The canvas with `LEARNED` of its last ``padding`` positions to learn; the others stay masks, as in decoding."""
        others = canvas.length - padding + rng.permutation(padding)[LEARNED:]
        tokens_BL, editable_BL = canvas.tokens_BL.clone(), canvas.editable_BL.clone()
        tokens_BL[0, others] = self.formatter.prompter.vocabulary.mask
        editable_BL[0, others] = False
        return replace(canvas, tokens_BL=tokens_BL, editable_BL=editable_BL)


def packed(canvases: list[Canvas]) -> Batch:
    """All canvases in rows as long as the longest, or `SHORTEST_ROW` where all are short."""
    return pack_all(canvases, length=max(SHORTEST_ROW, *(canvas.length for canvas in canvases)))


def held_out(
    datasets: Mapping[str, Dataset], uses: Mapping[str, str], formatter: Formatter, length: int, batch: int, count: int
) -> list[HeldOut]:
    """At most ``count`` validation examples of each set, spread evenly over it, by set and objective."""
    found = []
    for name, dataset in datasets.items():
        spread = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int)).tolist()
        by_objective: dict[str, list[Canvas]] = {}
        for example in rows_of(dataset, spread):
            try:
                if isinstance(example, UnusableRow):
                    raise example
                by_objective.setdefault(example.objective, []).append(formatter.whole_canvas(example, length))
            except UnusableRow:  # counted by its set
                continue
        for objective, canvases in by_objective.items():
            batches = [packed(canvases[i : i + batch]) for i in range(0, len(canvases), batch)]
            found.append(HeldOut(name, uses.get(name, "data"), objective, tuple(batches)))
    return found
