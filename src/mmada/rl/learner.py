"""Learner for policy optimisation: mu inner updates on every batch of rollouts.

Step s is update s % mu of batch s // mu. A batch depends on (seed, number of the batch) and the weights at its first update, and
is stored in a file until no checkpoint needs it: a run that is resumed between two updates of a batch reads the same completions,
rewards and masks, and continues exactly as if it had not been interrupted.

Shapes: K views, B rows (prompts x G), L positions.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from mmada.canvas import Canvas
from mmada.model.mmada import MMaDAModel
from mmada.rl import Method, Reference, Update, parts, policy_loss, prepare
from mmada.rl.advantage import advantages
from mmada.rl.rollout_store import RolloutBatch, RolloutStore
from mmada.rl.scoring import ScoredRollouts
from mmada.tokenizers.vocabulary import Vocabulary

__all__ = ["PolicyLearner", "group_advantages", "with_gradient"]


def group_advantages(method: Method, reward_B: Tensor, *, group: int) -> Tensor:
    """Advantages (B,) float32 within each group, over the completions that have a reward; 0 for the others.

    A group with fewer than two rewards has nothing to compare and gives 0.
    """
    advantage_B = torch.zeros(len(reward_B))
    for start in range(0, len(reward_B), group):
        have = start + reward_B[start : start + group].isfinite().nonzero()[:, 0]
        if len(have) > 1:
            advantage_B[have] = advantages(method.advantage, reward_B[have], group=len(have))
    return advantage_B


def with_gradient(canvas: Canvas, reward_B: Tensor, *, group: int) -> Canvas:
    """The canvas without editable positions in completions that give no gradient: they are not in loss or KL, and not computed.

    Those are completions without a reward, and groups with fewer than two different rewards.
    """
    reward_PG = reward_B.view(-1, group)
    low_P1 = reward_PG.nan_to_num(torch.inf).amin(1, keepdim=True)
    high_P1 = reward_PG.nan_to_num(-torch.inf).amax(1, keepdim=True)
    useful_B = ((low_P1 < high_P1) & reward_PG.isfinite()).view(-1)
    return Canvas(canvas.tokens_BL, canvas.editable_BL & useful_B[:, None], canvas.valid_BL, canvas.modality_BL)


class PolicyLearner:
    """Learner of a policy, for `mmada.training.loop.train`.

    ``scored``: maps the number of a batch to its rollouts and rewards, sampled with the current weights. ``first_needed``: maps a
    step to that of the checkpoint from which a run killed now would resume. ``bf16``: compute in bfloat16. ``micro_batch``: as in
    `parts`.
    """

    def __init__(
        self,
        model: MMaDAModel,
        vocabulary: Vocabulary,
        method: Method,
        scored: Callable[[int], ScoredRollouts],
        *,
        group: int,
        seed: int,
        reference: Reference | None,
        device: torch.device,
        store: RolloutStore,
        first_needed: Callable[[int], int],
        show: Callable[[Path], Sequence[Image.Image]],
        write: Callable[[MMaDAModel, Path], None],
        bf16: bool = False,
        micro_batch: int = 128,
    ) -> None:
        self.module: nn.Module = model
        self.model, self.vocabulary, self.method, self.scored = model, vocabulary, method, scored
        self.group, self.seed, self.reference, self.device = group, seed, reference, device
        self.store, self.first_needed, self.show, self.write, self.bf16 = store, first_needed, show, write, bf16
        self.micro_batch = micro_batch
        self.examples = 0
        self.statistics: dict[str, float] = {}
        self.number = -1
        self.batch: RolloutBatch | None = None

    def losses(self, step: int) -> Iterator[dict[str, Tensor]]:
        """Minus the objective of one inner update, in parts. A part with a non-finite loss is left out (0) and counted."""
        number, inner = divmod(step, self.method.updates)
        batch = self.current(number, step)
        self.examples = batch.canvas.rows
        self.statistics = dict(batch.statistics) if inner == 0 else {}
        canvas, advantage_B = batch.canvas.to(self.device), batch.advantage_B.to(self.device)
        update = moved(batch.updates[inner], self.device)
        for rows in parts(canvas, update.views, micro_batch=self.micro_batch):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                loss, found = policy_loss(
                    self.model, canvas, advantage_B, update, method=self.method, vocabulary=self.vocabulary, rows=rows
                )
            if not math.isfinite(value := float(loss.detach())):
                logging.getLogger(__name__).warning(
                    "rows %d to %d of batch %d have the loss %s in update %d; left out",
                    rows.start,
                    rows.stop,
                    number,
                    value,
                    inner,
                )
                loss = sum((p.sum() * 0 for p in self.model.parameters() if p.requires_grad), torch.zeros(()))
                found = {"left_out": torch.ones(())}
            for name, count in found.items():
                self.statistics[name] = self.statistics.get(name, 0.0) + float(count)
            yield {"policy": loss}

    def current(self, number: int, step: int) -> RolloutBatch:
        """The batch ``number``: from memory, from the store, or newly made."""
        if self.batch is None or self.number != number:
            batch = self.store.read(number, done=step % self.method.updates)
            if batch is None:
                self.store.drop(since=number)  # later batches were made with weights that this run will not reach
                batch = self.made(number)
                self.store.write(number, batch)
            self.store.drop(before=self.first_needed(step) // self.method.updates)
            self.batch, self.number = batch, number
        return self.batch

    def made(self, number: int) -> RolloutBatch:
        """Rollouts, rewards, advantages and masks, with the log-probabilities of old policy and reference."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            scored = self.scored(number)
            canvas = with_gradient(scored.rollouts.canvas, scored.reward_B, group=self.group)
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
            updates = prepare(
                self.model,
                canvas.to(self.device),
                method=self.method,
                vocabulary=self.vocabulary,
                group=self.group,
                generator=generator,
                reference=self.reference,
                steps_BL=scored.rollouts.decided_BL,
                micro_batch=self.micro_batch,
            )
        advantage_B = group_advantages(self.method, scored.reward_B, group=self.group)
        return RolloutBatch(canvas, advantage_B, tuple(moved(u, torch.device("cpu")) for u in updates), scored.statistics)

    def samples(self, folder: Path) -> Sequence[Image.Image]:
        """Sample pictures of the saved model."""
        return self.show(folder)

    def save(self, folder: Path) -> None:
        """Write the model folder."""
        self.write(self.model, folder)


def moved(update: Update, device: torch.device) -> Update:
    """The same update on another device."""
    old, other = (None if x is None else x.to(device) for x in (update.old_KBL, update.reference_KBL))
    return Update(update.views.to(device), old, other)
