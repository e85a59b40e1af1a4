"""The loss of one inner update, and what has to be known before the first.

    advantage_B = policy.advantages(reward_B, group=group)
    for update in prepare(model, canvas, policy=policy, ..., reference=reference):  # masks; old and reference log-probabilities
        loss, statistics = policy_loss(model, canvas, advantage_B, update, policy=policy, vocabulary=vocabulary)

Shapes: K views, B rows, L positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmada.canvas import Canvas
from mmada.errors import InputError
from mmada.tokenizers.vocabulary import Vocabulary
from mmada.training.rl.likelihood import Scorer, log_probabilities
from mmada.training.rl.policies import Policy
from mmada.training.rl.reference import Reference
from mmada.training.rl.views import Views, completion, draw_views

__all__ = ["Update", "policy_loss", "prepare"]


@dataclass(frozen=True)
class Update:
    """One inner update: its masks, and log-probabilities (K, B, L) of the old policy and of the reference on these masks.

    ``old_KBL`` None: the policy has not moved since the rollout (mu = 1), so its own values stand in, without gradient.
    """

    views: Views
    old_KBL: Tensor | None = None
    reference_KBL: Tensor | None = None


@torch.no_grad()
def prepare(
    model: Scorer,
    canvas: Canvas,
    *,
    policy: Policy,
    vocabulary: Vocabulary,
    group: int,
    generator: torch.Generator,
    reference: Reference | None = None,
    steps_BL: Tensor | None = None,
) -> tuple[Update, ...]:
    """Masks of the policy's inner updates for completed canvases, and what old policy and reference say about them.

    ``group``: G; rows of a prompt stand together. ``generator``: on the CPU. ``steps_BL``: for `Trajectory` and `Moments`.
    Call it before the first update: the model as it is, is the old policy. Raises InputError where `draw_views` does, and if the
    KL needs a reference and there is none.
    """
    wants_reference = policy.kl.weight > 0 and policy.kl.target == "reference"
    if wants_reference and reference is None:
        raise InputError(
            "reference is missing and the KL is to it; give a FrozenCopy or AdaptersOff, or set the KL's weight to 0"
        )
    drawn = draw_views(
        policy.noise,
        canvas,
        mask_id=vocabulary.mask,
        updates=policy.updates,
        group=group,
        generator=generator,
        steps_BL=steps_BL,
    )
    old: list[Tensor | None] = [None] * len(drawn)
    if policy.needs_old:
        old = [log_probabilities(model, canvas, views, vocabulary=vocabulary) for views in drawn]
    other: list[Tensor | None] = [None] * len(drawn)
    if wants_reference and reference is not None:
        with reference.scorer() as scorer:
            other = [log_probabilities(scorer, canvas, views, vocabulary=vocabulary) for views in drawn]
    return tuple(Update(*parts) for parts in zip(drawn, old, other, strict=True))


def policy_loss(
    model: Scorer, canvas: Canvas, advantage_B: Tensor, update: Update, *, policy: Policy, vocabulary: Vocabulary
) -> tuple[Tensor, dict[str, Tensor]]:
    """Minus eq. 5 for one inner update: a scalar to minimise, and statistics (scalars without gradient).

    ``advantage_B``: float, from `Policy.advantages`. Statistics: ``ratio`` (mean), ``clipped`` (share of units held by the clip),
    ``kl`` (nats a completion place; 0 where its weight is 0), ``masked`` (places scored, over all views). Completions without a
    scored place, or without any place, add nothing. Raises InputError if the KL is to a reference and the update has none.
    """
    views = update.views
    places_B = completion(canvas).sum(1)
    log_KBL = log_probabilities(model, canvas, views, vocabulary=vocabulary)
    advantage_B = advantage_B.to(log_KBL)
    units = policy.units(log_KBL, views, places_B, advantage_B)
    old = units if update.old_KBL is None else policy.units(update.old_KBL, views, places_B, advantage_B)
    gain = policy.ratio.gain(units, old.log_BU.detach(), advantage_B, policy.clip)
    weight_BU = policy.aggregation.weights(units, places_B)
    loss = -(weight_BU * torch.where(units.scored_BU, gain.value_BU, 0.0)).sum()
    counted_BU = units.scored_BU * units.size_BU
    kl = log_KBL.new_zeros(())
    if policy.kl.weight > 0:
        target = old
        if policy.kl.target == "reference":
            if update.reference_KBL is None:
                raise InputError(
                    "reference_KBL of the update is missing and the KL is to the reference; make updates with prepare"
                )
            target = policy.units(update.reference_KBL, views, places_B, advantage_B)
        kl_BU = torch.where(units.scored_BU, policy.kl.of(units, target.log_BU.detach()), 0.0)
        kl_weight_BU = counted_BU / max(1, len(places_B)) if policy.kl.reduce == "sum" else weight_BU
        loss = loss + policy.kl.weight * (kl_weight_BU * kl_BU).sum()
        kl = (counted_BU * kl_BU).sum() / counted_BU.sum().clamp(min=1)
    scored = units.scored_BU.sum().clamp(min=1)
    statistics = {
        "ratio": (gain.ratio_BU * units.scored_BU).sum() / scored,
        "clipped": (gain.clipped_BU & units.scored_BU).sum() / scored,
        "kl": kl,
        "masked": views.scored_KBL.sum(),
    }
    return loss, {name: value.detach() for name, value in statistics.items()}
