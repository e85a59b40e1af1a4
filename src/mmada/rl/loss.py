"""The loss of one inner update, and the preparation before the first one.

    advantage_B = policy.advantages(reward_B, group=group)
    for update in prepare(model, canvas, policy=policy, ..., reference=reference):  # masks; old and reference log-probabilities
        for rows in parts(canvas, update.views):                                    # bounds the memory for activations
            loss, statistics = policy_loss(model, canvas, advantage_B, update, policy=policy, vocabulary=vocabulary, rows=rows)
            loss.backward()

Shapes: K views, B rows, L positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from mmada.canvas import Canvas
from mmada.errors import InputError
from mmada.rl.likelihood import Scorer, log_probabilities, unique_inputs
from mmada.rl.masked_views import MaskedViews, completion, draw_views
from mmada.rl.methods import Method
from mmada.rl.reference import Reference
from mmada.tokenizers.vocabulary import Vocabulary

__all__ = ["Update", "parts", "policy_loss", "prepare"]


@dataclass(frozen=True)
class Update:
    """One inner update: its masks, and log-probabilities (K, B, L) of the old policy and of the reference on these masks.

    ``old_KBL`` None: the policy has not moved since the rollout (mu = 1), so its own values are used, without gradient.
    """

    views: MaskedViews
    old_KBL: Tensor | None = None
    reference_KBL: Tensor | None = None

    def part(self, rows: slice) -> Update:
        """The update restricted to some rows."""
        old, other = (None if x is None else x[:, rows] for x in (self.old_KBL, self.reference_KBL))
        return Update(self.views.part(rows), old, other)


@torch.no_grad()
def prepare(
    model: Scorer,
    canvas: Canvas,
    *,
    method: Method,
    vocabulary: Vocabulary,
    group: int,
    generator: torch.Generator,
    reference: Reference | None = None,
    steps_BL: Tensor | None = None,
    micro_batch: int = 128,
) -> tuple[Update, ...]:
    """Masks of all inner updates for completed canvases, with the log-probabilities of the old policy and of the reference.

    ``group``: G, completions per prompt, in consecutive rows. ``generator``: on the CPU. ``steps_BL``: as in `draw_views`.
    ``micro_batch``: as in `parts`; old policy and reference use the same parts, because in bfloat16 the values of a row depend on
    the other rows of its batch. Call it before the first update: the current weights are the old policy. Raises InputError where
    `draw_views` does, and if the KL needs a reference and there is none.
    """
    needs_reference = method.kl.weight > 0 and method.kl.target == "reference"
    if needs_reference and reference is None:
        raise InputError(
            "reference is missing, but the KL is to it; pass a FrozenCopy or AdaptersOff, or set the weight of the KL to 0"
        )
    drawn = draw_views(
        method.masking,
        canvas,
        mask_id=vocabulary.mask,
        updates=method.updates,
        group=group,
        generator=generator,
        steps_BL=steps_BL,
    )
    old: list[Tensor | None] = [None] * len(drawn)
    if method.needs_old:
        old = [in_parts(model, canvas, views, vocabulary, micro_batch) for views in drawn]
    other: list[Tensor | None] = [None] * len(drawn)
    if needs_reference and reference is not None:
        with reference.scorer() as scorer:
            other = [in_parts(scorer, canvas, views, vocabulary, micro_batch) for views in drawn]
    return tuple(Update(*one) for one in zip(drawn, old, other, strict=True))


def in_parts(model: Scorer, canvas: Canvas, views: MaskedViews, vocabulary: Vocabulary, micro_batch: int) -> Tensor:
    """`log_probabilities` (K, B, L), computed part by part."""
    spans = parts(canvas, views, micro_batch=micro_batch)
    found = [log_probabilities(model, canvas.part(rows), views.part(rows), vocabulary=vocabulary) for rows in spans]
    return torch.cat(found, dim=1)


def parts(canvas: Canvas, views: MaskedViews, *, micro_batch: int = 128) -> list[slice]:
    """Split a batch into consecutive rows with at most ``micro_batch`` distinct inputs over all views.

    The activations of a part are in memory at once, for one backward pass. The views of a single row are never split.
    """
    scored_BK = views.scored_KBL.any(2).T
    row_R, view_R = scored_BK.nonzero(as_tuple=True)
    inputs: list[set[int]] = [set() for _ in range(canvas.rows)]
    if len(row_R):
        input_R, _ = unique_inputs(views.tokens_KBL[view_R, row_R], canvas.valid_BL[row_R])
        for row, index in zip(row_R.tolist(), input_R.tolist(), strict=True):
            inputs[row].add(index)
    starts, found = [0], set[int]()
    for row, mine in enumerate(inputs):
        if found and len(found | mine) > micro_batch:
            starts.append(row)
            found = set()
        found |= mine
    return [slice(*span) for span in pairwise([*starts, canvas.rows])]


def policy_loss(
    model: Scorer,
    canvas: Canvas,
    advantage_B: Tensor,
    update: Update,
    *,
    method: Method,
    vocabulary: Vocabulary,
    rows: slice = slice(None),
) -> tuple[Tensor, dict[str, Tensor]]:
    """Minus eq. 5 for one inner update: a scalar to minimise, and statistics (scalars without gradient).

    ``advantage_B``: float, from `Method.advantages`. ``rows``: the rows to compute; loss and statistics of all `parts` of a batch
    add up to those of the whole batch. Statistics: ``ratio`` (mean), ``clipped`` (share of units where the clip is active),
    ``kl`` (nats per completion position; 0 where its weight is 0), ``masked`` (positions scored, over all views). Completions
    without a scored position, or without any position, add nothing. Raises InputError if the KL is to a reference and the
    update has none.
    """
    mine, length_B = update.part(rows), completion(canvas).sum(1)
    log_KBL = log_probabilities(model, canvas.part(rows), mine.views, vocabulary=vocabulary)
    advantage_B = advantage_B.to(log_KBL)
    share = Share.of(method, update.views, length_B, advantage_B)
    values = (mine.views, length_B[rows], advantage_B[rows])
    units = method.units(log_KBL, *values)
    old = units if mine.old_KBL is None else method.units(mine.old_KBL, *values)
    gain = method.ratio.gain(units, old.log_BU.detach(), advantage_B[rows], method.clip)
    loss = -(share.loss_BU[rows] * torch.where(units.scored_BU, gain.value_BU, 0.0)).sum()
    kl = log_KBL.new_zeros(())
    if method.kl.weight > 0:
        target = old
        if method.kl.target == "reference":
            if mine.reference_KBL is None:
                raise InputError(
                    "reference_KBL of the update is missing, but the KL is to the reference; make updates with prepare"
                )
            target = method.units(mine.reference_KBL, *values)
        kl_BU = torch.where(units.scored_BU, method.kl.of(units, target.log_BU.detach()), 0.0)
        loss = loss + method.kl.weight * (share.kl_BU[rows] * kl_BU).sum()
        kl = (share.position_BU[rows] * kl_BU).sum()
    statistics = {
        "ratio": (share.unit_BU[rows] * gain.ratio_BU).sum(),
        "clipped": (share.unit_BU[rows] * gain.clipped_BU).sum(),
        "kl": kl,
        "masked": mine.views.scored_KBL.sum(),
    }
    return loss, {name: value.detach() for name, value in statistics.items()}


@dataclass(frozen=True)
class Share:
    """Weights (B, U) of each unit of a batch: in the loss, in the KL, and in means over scored units and positions."""

    loss_BU: Tensor
    kl_BU: Tensor
    unit_BU: Tensor
    position_BU: Tensor

    @staticmethod
    def of(method: Method, views: MaskedViews, length_B: Tensor, advantage_B: Tensor) -> Share:
        """The weights of a whole batch; they depend on the scored positions only, not on the model."""
        units = method.units(advantage_B.new_zeros(views.scored_KBL.shape), views, length_B, advantage_B)
        loss_BU = method.aggregation.weights(units, length_B)
        counted_BU = units.scored_BU * units.size_BU
        kl_BU = counted_BU / max(1, len(length_B)) if method.kl.reduce == "sum" else loss_BU
        unit_BU = units.scored_BU / units.scored_BU.sum().clamp(min=1)
        return Share(loss_BU, kl_BU, unit_BU, counted_BU / counted_BU.sum().clamp(min=1))
