"""Recipes of policy optimisation on the nano world: `rl_math`, `rl_vision`, `rl_image` and `rl` (stage 3)."""

from __future__ import annotations

from dataclasses import replace

from mmada.nano.recipes import SAMPLE_PROMPTS
from mmada.pipeline import ImageSampling, TextSampling
from mmada.recipes.rl import RLRecipe
from mmada.rl.rollout import RolloutSampling
from mmada.training.loop import Plan
from mmada.training.optim import Optim

__all__ = ["PAPER_REWARDS", "rl", "rl_image", "rl_math", "rl_vision"]

OPTIM = Optim(lr=5e-5, weight_decay=0.0, warmup=10, decay=1.0, final=0.1)
PAPER_TEXT = {"correctness": 2.0, "format": 0.5}
TEXT = {**PAPER_TEXT, "reasoning": 1.0}  # with the answer alone rewarded, reasoning gets worse while answers stay right
IMAGE = {"detector": 1.0}
PAPER_REWARDS = {"math": PAPER_TEXT, "vision": PAPER_TEXT, "image": IMAGE}
"""The paper's rewards for texts. Its two for pictures are models; the detector of the nano world stands in for them."""


def rl_math() -> RLRecipe:
    """Policy optimisation of worded arithmetic with reasoning: correctness, format and the reasoning itself."""
    return RLRecipe(
        name="rl_math",
        follows="cot",
        plan=Plan(steps=100, seed=11, optim=OPTIM, average=0.98, save_every=20, sample_every=100),
        tasks={"math": 40},
        prompts={"math": "nano:math", "vision": "nano:vision", "image": "nano:image"},
        sampling=RolloutSampling(
            text=TextSampling(temperature=1.3, parallel="threshold=0.9"),
            image=ImageSampling(steps=4, guidance=0.0),
        ),
        bf16="auto",
        sample_prompts=SAMPLE_PROMPTS,
        rewards={"math": TEXT, "vision": TEXT, "image": IMAGE},
    )


def rl_vision() -> RLRecipe:
    """Policy optimisation of questions about pictures with reasoning: correctness, format and the reasoning itself."""
    return replace(rl_math(), name="rl_vision", tasks={"vision": 12})


def rl_image() -> RLRecipe:
    """Policy optimisation of drawing, by what the detector finds of the caption; the paper has "clip" and "image_reward"."""
    return replace(rl_math(), name="rl_image", tasks={"image": 16})


def rl() -> RLRecipe:
    """Stage 3: policy optimisation of all three tasks at once."""
    base = rl_math()
    plan = replace(base.plan, steps=140, optim=replace(base.plan.optim, lr=8e-5))
    return replace(base, name="rl", plan=plan, tasks={"math": 40, "vision": 10, "image": 4})
