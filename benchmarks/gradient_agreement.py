"""How much of a policy gradient is signal: two halves of the prompts of one batch, and the angle between their gradients.

    python -m benchmarks.gradient_agreement [--model FOLDER] [--task math] [--prompts 64] [--seeds 3] [--out FILE]

Every masking plan, and every published method, sees the same completions and as many masked copies of each (4, but the steps of a
trajectory as they are). A cosine of 1 would be a gradient without noise; 0 is noise alone. A high one does not say that the
direction is right, a low one says that it cannot be. KL and clip are left out.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import mmada
from mmada.canvas import Canvas
from mmada.errors import InputError
from mmada.evaluation.results import machine
from mmada.nano.tasks import PROMPTS
from mmada.pipeline import MMaDA
from mmada.recipes.rl import RLRecipe
from mmada.recipes.rl_methods import MASKINGS
from mmada.registry import RECIPES
from mmada.rl import (
    CoupledCounts,
    Elbo,
    FullMask,
    Kl,
    Method,
    SequenceRatio,
    Systematic,
    Update,
    draw_views,
    policy_loss,
    unigrpo,
)
from mmada.rl.learner import group_advantages
from mmada.rl.rollout import roll_out

GROUP = 8
PLANS = {**MASKINGS, "full, clean prompt": FullMask(0.0)}
Half = tuple[Canvas, Tensor, Tensor]


def policies() -> dict[str, Method]:
    """UniGRPO with every masking plan, and ESPO's sequence ratio."""
    plain = replace(unigrpo(Systematic(), updates=4), kl=Kl(), clip=None)
    made = {name: replace(plain, masking=masking, updates=1 if name == "all_steps" else 4) for name, masking in PLANS.items()}
    sequence = replace(plain, masking=CoupledCounts(2), likelihood=Elbo(), ratio=SequenceRatio(), updates=1)
    return {**made, "coupled, whole completions": sequence}


def halves(model: MMaDA, task: str, prompts: int, seed: int) -> tuple[Half, Half, float]:
    """Canvas, rewards and steps of every other group that teaches something; and the share of groups that does."""
    recipe: RLRecipe = RECIPES["rl"]()
    rng = np.random.default_rng((seed, 9))
    drawn = [PROMPTS[task](rng) for _ in range(prompts)]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rollouts = roll_out(model, drawn, group_size=GROUP, seed=seed, sampling=recipe.sampling)
    with recipe.reward_of_task(task) as reward:
        reward_B = reward(rollouts.completions).total_B
    reward_PG = reward_B.view(-1, GROUP)
    teaches = (reward_PG.amax(1) > reward_PG.amin(1)).nonzero()[:, 0]
    if len(teaches) < 2:
        raise InputError(f"prompts {prompts} have {len(teaches)} groups of different rewards and both halves need one; give more")

    def half(groups: Tensor) -> Half:
        rows = (groups[:, None] * GROUP + torch.arange(GROUP)).flatten()
        c = rollouts.canvas
        canvas = Canvas(c.tokens_BL[rows], c.editable_BL[rows], c.valid_BL[rows], c.modality_BL[rows])
        return canvas, reward_B[rows], rollouts.decided_BL[rows]

    return half(teaches[::2]), half(teaches[1::2]), len(teaches) / prompts


def gradient(model: MMaDA, method: Method, half: Half, seed: int) -> Tensor:
    """The gradient of all weights, added up over the updates."""
    canvas, reward_B, step_BL = half
    network, vocabulary = model.engine.parts.model, model.engine.parts.vocabulary
    advantage_B = group_advantages(method, reward_B, group=GROUP)
    network.zero_grad(set_to_none=True)  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(seed)
    drawn = draw_views(method.masking, canvas, mask_id=vocabulary.mask, updates=method.updates, group=GROUP,
                       generator=generator, steps_BL=step_BL)  # fmt: skip
    for views in drawn:
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = policy_loss(network, canvas, advantage_B, Update(views), method=method, vocabulary=vocabulary)
        loss.backward()
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])  # type: ignore[attr-defined]


def agreement(model: MMaDA, task: str, prompts: int, seed: int) -> Mapping[str, float]:
    """Plan -> cosine between the gradients of the halves."""
    one, other, share = halves(model, task, prompts, seed)
    found = {"groups that teach": share}
    for name, method in policies().items():
        first, second = (gradient(model, method, half, seed + i) for i, half in enumerate((one, other)))
        found[name] = float(torch.cosine_similarity(first, second, dim=0))
        print(f"seed {seed} {name:26} {found[name]:.3f}", flush=True)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--task", default="math", choices=list(PROMPTS))
    for name, value in {"prompts": 64, "seeds": 3, "threads": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--out", default="")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model = mmada.load(asked.model, dtype=torch.float32, device="cpu")
    model.engine.parts.model.requires_grad_(True)  # type: ignore[attr-defined]
    runs = [agreement(model, asked.task, asked.prompts, seed) for seed in range(asked.seeds)]
    rows = {name: {"mean": float(np.mean([r[name] for r in runs])), "low": min(r[name] for r in runs),
                   "high": max(r[name] for r in runs)} for name in runs[0]}  # fmt: skip
    for name, row in rows.items():
        print(f"{name:26} {row['mean']:.3f} ({row['low']:.3f} to {row['high']:.3f})")
    if asked.out:
        kept = {"rows": rows, "settings": vars(asked), "machine": machine()}
        Path(asked.out).write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
