"""Settings of a supervised run that depend on the model and the data: learning rate, steps, and when to validate and to save.

A setting of 0 is chosen here. The rules were tried on 16 pictures, with models of width 32 and 256 (experiments/log.md); for
larger data and models they follow what is usual for LoRA and full fine-tuning.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from mmada.training.loop import Plan
from mmada.training.optim import Optim

__all__ = ["OpenOptim", "OpenPlan", "chosen_plan"]

WIDTH = 4096
"""Width of an 8B model, at which the learning rates below are the usual ones."""
FULL, LORA = 2e-5, 2e-4
HIGHEST = {False: 3e-3, True: 1e-2}
"""Highest learning rate, full and LoRA: narrow models stand more than wide ones, but not any."""
EPOCHS, FEWEST, MOST = 10, 600, 20_000


@dataclass(frozen=True, kw_only=True)
class OpenOptim(Optim):
    """`Optim` whose ``lr`` may be 0: chosen from the model's width."""

    may_be_zero: ClassVar[tuple[str, ...]] = ("lr",)
    lr: float = 0.0


@dataclass(frozen=True, kw_only=True)
class OpenPlan(Plan):
    """`Plan` whose ``steps``, ``save_every``, ``sample_every`` and ``validate_every`` may be 0: chosen from the data."""

    fewest: ClassVar[int] = 0
    steps: int = 0
    optim: Optim = field(default_factory=OpenOptim)
    average: float = 0.0
    save_every: int = 0
    sample_every: int = 0


def chosen_plan(plan: Plan, *, examples: int, batch: int, width: int, lora: bool) -> Plan:
    """The plan with everything chosen that it leaves open. ``examples``: those of an epoch; ``batch``: those of a step. Plans
    that leave nothing open are returned as they are."""
    if not isinstance(plan, OpenPlan):
        return plan
    steps = plan.steps or min(MOST, max(FEWEST, -(-EPOCHS * examples // batch)))
    optim = plan.optim
    if not optim.lr:
        rate = (LORA if lora else FULL) * WIDTH / width
        optim = replace(optim, lr=float(f"{min(HIGHEST[lora], rate):.2g}"))
    return replace(
        plan,
        steps=steps,
        optim=replace(optim, warmup=min(optim.warmup, steps // 10)),
        save_every=plan.save_every or max(50, steps // 10),
        sample_every=plan.sample_every or steps,
        validate_every=plan.validate_every or max(1, steps // 10),
    )
