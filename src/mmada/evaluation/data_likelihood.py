"""The likelihood bound of any examples, text or picture, and the unigram's beside it.

Shapes: B rows, L positions, V token ids of a modality.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from mmada.canvas import MODALITIES, Canvas, Modality
from mmada.data.dataset import Example, Formatter
from mmada.diffusion.loss import likelihood_bound
from mmada.errors import check_whole
from mmada.evaluation.data_sets import TOO_LONG, UNREADABLE, SplitSet, anything, encoded
from mmada.evaluation.measure import Measured, Split
from mmada.pipeline import MMaDA

__all__ = ["DataLikelihood"]

Random = np.random.Generator
BATCH = 16
COUNTED = 500
"""Training examples of each set that the unigram is counted on."""


@dataclass(frozen=True, kw_only=True)
class DataLikelihood:
    """Mean bound on -ln p(what is learned | the rest of the example) in nats a token, and what the unigram needs for the same.

    The unigram is the share of each token among what is learned in the training split (``known``; the measured sets where there
    is none), one added to every count of the modality. ``samples``: masked copies of each example.
    """

    sets: Sequence[SplitSet]
    known: Sequence[SplitSet] = ()
    samples: int = 8
    _counts: dict[Modality, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_whole("samples", self.samples, 1)

    def __call__(self, model: MMaDA, rng: Random, count: int, split: Split = "test", /) -> Measured:
        """Scores "SET: nats a token" and "SET: nats a token, unigram" of each example, and the same by use."""
        result = Measured()
        self.count(model)
        for one in self.sets:
            seed = int(rng.integers(2**31))
            examples = [example for _, example in one.sample(rng, count, anything)]
            ready = encoded(model, examples)
            rows = canvases(model, ready)
            for reason, lost in ((UNREADABLE, len(examples) - len(ready)), (TOO_LONG, len(ready) - len(rows))):
                for _ in range(lost):
                    result.add(f"{one.name}: {reason}", 1.0)
            for canvas, bound in zip(rows, bounds(model, rows, self.samples, seed), strict=True):
                tokens = int(canvas.editable_BL.sum())
                for name in (one.name, f"use {one.use}"):
                    result.add(f"{name}: nats a token", -bound / tokens)
                    result.add(f"{name}: nats a token, unigram", self.unigram(model, canvas) / tokens)
        return result

    def count(self, model: MMaDA) -> None:
        """Count the unigram, once."""
        if self._counts:
            return
        rng = np.random.default_rng(0)
        examples = [example for one in self.known or self.sets for _, example in one.sample(rng, COUNTED, anything)]
        rows = canvases(model, encoded(model, examples))
        for modality in MODALITIES:
            vocab = model.engine.parts.vocabulary.ranges[modality]
            tokens = torch.cat([c.tokens_BL[c.positions(modality)] for c in rows] or [torch.zeros(0, dtype=torch.long)])
            self._counts[modality] = torch.bincount(tokens - vocab.start, minlength=len(vocab)) + 1

    def unigram(self, model: MMaDA, canvas: Canvas) -> float:
        """-ln of the unigram's probability of what is learned in a canvas, in nats."""
        total = 0.0
        for modality, counts_V in self._counts.items():
            tokens = canvas.tokens_BL[canvas.positions(modality)] - model.engine.parts.vocabulary.ranges[modality].start
            total -= float((counts_V[tokens].double() / counts_V.sum()).log().sum())
        return total


def formatter_of(model: MMaDA) -> Formatter:
    """How the model's training canvases are made, without padding of answers."""
    engine = model.engine
    thought = model.preset.thought.length or 32
    return Formatter(replace(engine.prompter, image_tokens=engine.grid**2), thought_length=thought)


def canvases(model: MMaDA, examples: Sequence[Example]) -> list[Canvas]:
    """Canvases of examples with codes, those left out that are longer than the model's length."""
    formatter, longest = formatter_of(model), model.engine.parts.max_length
    found = [formatter.canvas(example) for example in examples]
    return [canvas for canvas in found if canvas.length <= longest and canvas.editable_BL.any()]


def bounds(model: MMaDA, rows: Sequence[Canvas], samples: int, seed: int) -> list[float]:
    """Lower bounds on ln p of each canvas; those that learn the same modality are computed together, `BATCH` at a time."""
    vocabulary, found = model.engine.parts.vocabulary, [0.0] * len(rows)
    for modality in MODALITIES:
        numbers = [i for i, canvas in enumerate(rows) if canvas.positions(modality).any()]
        numbers.sort(key=lambda i: rows[i].length)
        for start in range(0, len(numbers), BATCH):
            some = numbers[start : start + BATCH]
            batch = Canvas.stack([of_modality(rows[i], modality) for i in some])
            bound_B = likelihood_bound(
                model.engine.denoiser, batch, mask_id=vocabulary.mask, vocab=vocabulary.ranges[modality], samples=samples,
                generator=torch.Generator().manual_seed(seed),
            )  # fmt: skip
            for i, bound in zip(some, bound_B.tolist(), strict=True):
                found[i] += bound
    return found


def of_modality(canvas: Canvas, modality: Modality) -> Canvas:
    """The canvas with one modality to be learned; what is learned of another is context."""
    return replace(canvas, editable_BL=canvas.positions(modality))
