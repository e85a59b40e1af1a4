"""Every named combination of policy optimisation again, plain: float64, token by token, nothing of the package but the masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from tests.toy_policies import ADVANTAGE
from torch import Tensor

from mmada.canvas import Canvas
from mmada.model.mmada import MMaDAModel
from mmada.rl import (
    Algorithm1,
    AllSteps,
    CoupledMasks,
    Kl,
    MaskedViews,
    Method,
    Systematic,
    coupled_grpo,
    diffu_grpo,
    espo,
    mask_grpo,
    path_grpo,
    spg,
    unigrpo,
)


def plain_log_p(model: MMaDAModel, canvas: Canvas, views: MaskedViews) -> list[list[dict[int, Tensor]]]:
    """[view][row] -> {position: ln p}: every row alone, without its padding, over the ids of the position's modality."""
    found = []
    for tokens_BL, scored_BL in zip(views.tokens_KBL, views.scored_KBL, strict=True):
        rows = []
        for b in range(canvas.rows):
            length = int(canvas.valid_BL[b].sum())
            hidden_LD = model.hidden(tokens_BL[b : b + 1, :length])[0]
            row = {}
            for position in range(length):
                if scored_BL[b, position]:
                    picture = int(canvas.modality_BL[b, position]) == 1
                    low, high = (40, 64) if picture else (0, 40)
                    logits = model.lm_head.weight[low:high] @ hidden_LD[position]
                    row[position] = torch.log_softmax(logits, -1)[int(canvas.tokens_BL[b, position]) - low]
            rows.append(row)
        found.append(rows)
    return found


def lengths(canvas: Canvas) -> list[int]:
    return [int((canvas.editable_BL[b] & canvas.valid_BL[b]).sum()) for b in range(canvas.rows)]


def plain_surrogate(new: Tensor, old: Tensor, advantage: float, clip: float) -> Tensor:
    ratio = torch.exp(new - old.detach())
    held = min(max(float(ratio.detach()), 1 - clip), 1 + clip)
    if ratio.item() * advantage <= held * advantage:
        return ratio * advantage
    return torch.tensor(held * advantage, dtype=torch.float64)


def plain_k3(new: Tensor, other: Tensor) -> Tensor:
    return torch.exp(other.detach() - new) - (other.detach() - new) - 1


def plain_token_terms(new: Any, old: Any, ref: Any, clip: float, beta: float) -> list[dict[int, Tensor]]:
    """Per row: position -> surrogate - beta k3, for one view."""
    return [
        {
            i: plain_surrogate(new[b][i], old[b][i], float(ADVANTAGE[b]), clip) - beta * plain_k3(new[b][i], ref[b][i])
            for i in new[b]
        }
        for b in range(len(new))
    ]


def plain_unigrpo(new: Any, old: Any, ref: Any, canvas: Canvas) -> Tensor:
    terms = plain_token_terms(new[0], old[0], ref[0], 0.2, 0.01)
    total = torch.zeros((), dtype=torch.float64)
    for length, row in zip(lengths(canvas), terms, strict=True):
        total = total + sum(row.values()) / length
    return -total / canvas.rows


def plain_unigrpo_masked(new: Any, old: Any, ref: Any, canvas: Canvas) -> Tensor:
    """Of several views, a position takes the mean over those that score it."""

    def estimate(found: Any) -> list[dict[int, Tensor]]:
        rows = [[view[b] for view in found] for b in range(canvas.rows)]
        return [
            {i: torch.stack([v[i] for v in views if i in v]).mean() for i in sorted({i for v in views for i in v})}
            for views in rows
        ]

    terms = plain_token_terms(estimate(new), estimate(old), estimate(ref), 0.2, 0.01)
    return -torch.stack([torch.stack(list(row.values())).mean() for row in terms]).mean()


def plain_tokens_of_the_batch(clip: float, beta: float) -> Callable[..., Tensor]:
    def loss(new: Any, old: Any, ref: Any, canvas: Canvas) -> Tensor:
        terms = [t for row in plain_token_terms(new[0], old[0], ref[0], clip, beta) for t in row.values()]
        return -torch.stack(terms).sum() / len(terms)

    return loss


def plain_coupled(new: Any, old: Any, ref: Any, canvas: Canvas) -> Tensor:
    """Ratio t = 0.3: half the full mask's value plus half of 1/t or 1/(1 - t) times the one of the mask with the position."""

    def estimate(found: Any) -> list[dict[int, Tensor]]:
        mask, rest, full = found
        return [
            {i: (full[b][i] + (mask[b][i] / 0.3 if i in mask[b] else rest[b][i] / 0.7)) / 2 for i in full[b]}
            for b in range(len(full))
        ]

    terms = plain_token_terms(estimate(new), estimate(old), estimate(ref), 0.5, 0.01)
    flat = [t for row in terms for t in row.values()]
    assert len(flat) == sum(lengths(canvas))
    return -torch.stack(flat).mean()


def plain_elbo_a_place(found: Any, b: int) -> Tensor:
    """Mean over views of the mean log-probability of a masked position: 1/t is length / masked."""
    return torch.stack([torch.stack(list(view[b].values())).mean() for view in found]).mean()


def plain_eubo_a_place(found: Any, b: int, length: int, beta: float) -> Tensor:
    positions = sorted({i for view in found for i in view[b]})
    logs = []
    for i in positions:
        total = torch.zeros((), dtype=torch.float64)
        for view in found:
            if i in view[b]:
                t = len(view[b]) / length
                total = total + torch.exp(view[b][i]) ** beta / t
        logs.append(torch.log(total / len(found)))
    return torch.stack(logs).mean() / beta


def plain_spg(omega: float) -> Callable[..., Tensor]:
    def loss(new: Any, old: Any, ref: Any, canvas: Canvas) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for b, length in enumerate(lengths(canvas)):
            value = plain_elbo_a_place(new, b)
            if ADVANTAGE[b] <= 0:
                value = omega * plain_eubo_a_place(new, b, length, 1.5) + (1 - omega) * value
            total = total - float(ADVANTAGE[b]) * value * length
        return total / sum(lengths(canvas))

    return loss


def plain_espo(new: Any, old: Any, ref: Any, canvas: Canvas) -> Tensor:
    def elbo(found: Any, b: int, length: int) -> Tensor:
        samples = []
        for mask, rest in zip(found[::2], found[1::2], strict=True):
            one = torch.zeros((), dtype=torch.float64)
            k = len(mask[b])
            assert k + len(rest[b]) == length
            for value in mask[b].values():
                one = one + value / (k / (length + 1))
            for value in rest[b].values():
                one = one + value / (length / (length + 1) - k / (length + 1))
            samples.append(one / 2)
        return torch.stack(samples).mean()

    total = torch.zeros((), dtype=torch.float64)
    for b, length in enumerate(lengths(canvas)):
        now, before, other = (elbo(found, b, length) for found in (new, old, ref))
        total = total + plain_surrogate(now / length, before / length, float(ADVANTAGE[b]), 0.2)
        total = total - 1e-3 * (now - other.detach()) ** 2 / 2 / length
    return -total / canvas.rows


def plain_trajectory(new: Any, old: Any, ref: Any, canvas: Canvas) -> Tensor:
    """TraceRL as its code has it: token ratio over the sampled steps, mean of a completion, k3 to the old policy summed."""
    total = torch.zeros((), dtype=torch.float64)
    for b, length in enumerate(lengths(canvas)):
        count = 0
        for view_new, view_old in zip(new, old, strict=True):
            for i in view_new[b]:
                total = total + plain_surrogate(view_new[b][i], view_old[b][i], float(ADVANTAGE[b]), 0.2) / length
                total = total - 0.01 * plain_k3(view_new[b][i], view_old[b][i])
                count += 1
        assert count == length
    return -total / canvas.rows


TRACE = replace(
    unigrpo(Algorithm1(), updates=2), masking=AllSteps(steps_per_view=2), kl=Kl(0.01, "k3", "old", "sum")
)  # a combination of parts, not a named one
COMBINATIONS: dict[str, tuple[Method, Callable[..., Tensor]]] = {
    "unigrpo, algorithm 1": (unigrpo(Algorithm1()), plain_unigrpo),
    "unigrpo, section 5.2": (unigrpo(Systematic()), plain_unigrpo),
    "unigrpo, by masked tokens": (unigrpo(Systematic(), over="masked"), plain_unigrpo_masked),
    "path_grpo": (path_grpo(updates=2), plain_unigrpo_masked),
    "path_grpo, one step": (path_grpo(updates=2, samples=1), plain_unigrpo_masked),
    "path_grpo, windows that overlap": (path_grpo(updates=2, window=3), plain_unigrpo_masked),
    "diffu_grpo": (diffu_grpo(updates=3), plain_tokens_of_the_batch(0.5, 0.04)),
    "mask_grpo": (mask_grpo(updates=3), plain_tokens_of_the_batch(0.2, 0.01)),
    "mask_grpo, text": (mask_grpo(updates=3, fading=True), plain_tokens_of_the_batch(0.2, 0.01)),
    "coupled_grpo": (replace(coupled_grpo(), masking=CoupledMasks(0.3, 0.3)), plain_coupled),
    "spg": (spg(updates=2, block=3), plain_spg(0.5)),
    "spg, upper bound alone": (spg(updates=2, block=3, omega=1), plain_spg(1.0)),
    "espo": (espo(updates=3), plain_espo),
    "trajectory": (TRACE, plain_trajectory),
}
