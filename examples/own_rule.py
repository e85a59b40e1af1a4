"""A parallel unmasking rule of your own, compared with one token per forward pass on the bundled model.

    python examples/own_rule.py

A rule is a frozen dataclass with one method, `accept`: it sees the candidates of a step (the masked positions of the block) and
says which are unmasked now. The loop unmasks those, and in any case the most confident one of each row.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

import mmada
from mmada.pipeline import TextSampling
from mmada.sampling import Candidates
from mmada.sampling.parallel import Rule


@dataclass(frozen=True)
class Neighbours(Rule):
    """Confident tokens that have no unconfident masked position next to them."""

    confidence: float = 0.8

    def accept(self, candidates: Candidates) -> Tensor:
        confident_N = candidates.confidence_N >= self.confidence
        accepted_N = confident_N.clone()
        adjacent_N = (candidates.row_N.diff() == 0) & (candidates.position_N.diff() == 1)
        accepted_N[1:] &= ~adjacent_N | confident_N[:-1]
        accepted_N[:-1] &= ~adjacent_N | confident_N[1:]
        return accepted_N


def main() -> None:
    """Answer a problem both ways."""
    model = mmada.load("nano")
    problem = "tom has 3 red and 4 blue pens. he finds 5 more. how many pens does he have?"
    for name, sampling in {"one token per pass": TextSampling(), "neighbours": TextSampling(parallel=Neighbours())}.items():
        answer = model.generate(problem, thinking=True, sampling=sampling)
        print(f"{name}: {answer.nfe} passes: {answer.thinking} -> {answer.text}")


if __name__ == "__main__":
    main()
