"""The likelihood bound as a measure: how probable a model finds given completions (LLaDA's estimator)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mmada.errors import InputError, check_whole
from mmada.evaluation.measure import Measured, Split
from mmada.pipeline import MMaDA

__all__ = ["LikelihoodMeasure", "ScoredText"]

Random = np.random.Generator


@dataclass(frozen=True)
class ScoredText:
    """A completion to score, with the prompt that it follows and the pictures shown before it."""

    prompt: str
    completion: str
    images: tuple[Image.Image, ...] = ()
    thinking: bool = False


@dataclass(frozen=True, kw_only=True)
class LikelihoodMeasure:
    """Mean bound on -ln p(completion | prompt) in nats a token, end token included: an estimate from above, lower is better.

    ``name``: of the score. ``texts(rng, count, split)``: what is scored. ``samples``: masked copies of each completion.
    """

    name: str
    texts: Callable[[Random, int, Split], Sequence[ScoredText]]
    samples: int = 16

    def __post_init__(self) -> None:
        check_whole("samples", self.samples, 1)

    def __call__(self, model: MMaDA, rng: Random, count: int, split: Split = "test", /) -> Measured:
        """Scores "NAME: nats a token" (one for each text)."""
        result = Measured()
        for number, text in enumerate(self.texts(rng, count, split)):
            bound = model.score(
                text.prompt, text.completion, images=list(text.images), thinking=text.thinking, samples=self.samples, seed=number
            )
            result.add(f"{self.name}: nats a token", -bound.nats / bound.tokens)
        if not result.hits:
            raise InputError(f"{self.name} has no texts of the split {split}; give it some")
        return result
