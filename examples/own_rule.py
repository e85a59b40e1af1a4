"""A rule of your own for parallel unmasking, tried on the bundled model beside one token a pass.

    python examples/own_rule.py

A rule is a frozen object with one method, `accept`: it sees the masked places of a step and says which are decided now. The loop
commits those, and each row's best one whatever the rule says.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

import mmada
from mmada.sampling import Acceleration, Candidates
from mmada.sampling.parallel import Rule


@dataclass(frozen=True)
class Neighbours(Rule):
    """Tokens that are sure enough and stand beside no other masked place that is unsure."""

    confidence: float = 0.8

    def accept(self, seen: Candidates) -> Tensor:
        sure_N = seen.confidence_N >= self.confidence
        accepted_N = sure_N.clone()
        beside_N = (seen.row_N.diff() == 0) & (seen.position_N.diff() == 1)
        accepted_N[1:] &= ~beside_N | sure_N[:-1]
        accepted_N[:-1] &= ~beside_N | sure_N[1:]
        return accepted_N


def main() -> None:
    """Answer a problem both ways."""
    model = mmada.load("nano")
    problem = "tom has 3 red and 4 blue pens. he finds 5 more. how many pens does he have?"
    for name, speed in {"one token a pass": Acceleration(), "neighbours": Acceleration(parallel=Neighbours())}.items():
        answer = model.generate(problem, thinking=True, speed=speed)
        print(f"{name}: {answer.nfe} passes: {answer.thinking} -> {answer.text}")


if __name__ == "__main__":
    main()
