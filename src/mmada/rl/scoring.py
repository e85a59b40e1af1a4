"""Rewards of groups of completions, their statistics, and a log with one line per group.

Shapes: B rows (prompts x G).
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmada.io.atomic import write_text
from mmada.io.jsonl import read_log
from mmada.rewards import Failure, RewardSum
from mmada.rl.rollout import Rollouts, diversity

__all__ = ["GroupLog", "ScoredRollouts", "score_groups"]


@dataclass(frozen=True)
class ScoredRollouts:
    """Rollouts with their rewards: ``reward_B`` float64, NaN where a reward failed.

    ``statistics``: means and counts of the batch. ``groups``: one log line per group.
    """

    rollouts: Rollouts
    reward_B: Tensor
    statistics: dict[str, float]
    groups: tuple[dict[str, Any], ...] = ()


def score_groups(rollouts: Rollouts, tasks: Sequence[str], rewards: Mapping[str, RewardSum], *, group: int) -> ScoredRollouts:
    """Score rollouts with the rewards of each task; ``tasks`` names the task of every group of ``group`` rows."""
    reward_B = torch.full((len(rollouts.completions),), torch.nan, dtype=torch.float64)
    terms: dict[int, dict[str, list[float]]] = {}
    failures: list[Failure] = []
    for task in dict.fromkeys(tasks):
        mine = [g for g, name in enumerate(tasks) if name == task]
        rows = [g * group + i for g in mine for i in range(group)]
        scores = rewards[task]([rollouts.completions[row] for row in rows])
        reward_B[rows] = scores.total_B
        for n, g in enumerate(mine):
            terms[g] = {name: values[n * group : (n + 1) * group] for name, values in scores.terms.items()}
        failures += [Failure(f.term, rows[f.index], f.kind, f.detail) for f in scores.failures]
    lines = tuple(group_line(rollouts, reward_B, terms[g], task, g * group, failures) for g, task in enumerate(tasks))
    report(failures)
    return ScoredRollouts(rollouts, reward_B, statistics(lines, failures), lines)


def group_line(
    rollouts: Rollouts, reward_B: Tensor, terms: Mapping[str, Sequence[float]], task: str, start: int, failures: Sequence[Failure]
) -> dict[str, Any]:
    """The log line of the group of rows from ``start`` on; ``terms``: the values of each reward for these rows, before its
    weight.

    The reward of a completion without one is null, and so is a term that failed.
    """
    group = len(next(iter(terms.values())))
    rows = slice(start, start + group)
    return {
        "task": task,
        "prompt": rollouts.completions[start].prompt.text,
        "rewards": numbers(reward_B[rows].tolist()),
        "terms": {name: numbers(values) for name, values in terms.items()},
        "lengths": rollouts.length_B[rows].tolist(),
        "diversity": diversity(rollouts.canvas.part(rows)),
        "raw_text": [completion.raw_text for completion in rollouts.completions[rows]],
        "failed": [f"{f.index - start}: {f.term} {f.kind} ({f.detail})" for f in failures if start <= f.index < start + group],
    }


def numbers(values: Sequence[float]) -> list[float | None]:
    """Values for JSON, with null for NaN."""
    return [None if math.isnan(value) else value for value in values]


def statistics(lines: Sequence[Mapping[str, Any]], failures: Sequence[Failure]) -> dict[str, float]:
    """Means over the completions of a batch, and of each task; counts of failures.

    ``reward_TASK_TERM``: of one reward, before its weight, over the completions that it scored. ``equal``: share of the
    groups whose rewards are all equal, which give no gradient. ``empty``: completions of length 0.
    """
    found: dict[str, float] = {}
    names = list(dict.fromkeys(line["task"] for line in lines))
    for suffix, some in [("", list(lines)), *((f"_{name}", [x for x in lines if x["task"] == name]) for name in names)]:
        rewards = [r for line in some for r in line["rewards"] if r is not None]
        lengths = [n for line in some for n in line["lengths"]]
        if rewards:
            found[f"reward{suffix}"] = sum(rewards) / len(rewards)
        found[f"length{suffix}"] = sum(lengths) / len(lengths)
        found[f"diversity{suffix}"] = sum(line["diversity"] for line in some) / len(some)
    for name in names:
        given = [line["terms"] for line in lines if line["task"] == name]
        for term in given[0]:
            if values := [value for one in given for value in one[term] if value is not None]:
                found[f"reward_{name}_{term}"] = sum(values) / len(values)
    found["equal"] = sum(len({r for r in line["rewards"] if r is not None}) < 2 for line in lines) / len(lines)
    found["empty"] = float(sum(n == 0 for line in lines for n in line["lengths"]))
    found["failed"] = float(len({f.index for f in failures}))
    for (term, kind), count in Counter((f.term, f.kind) for f in failures).items():
        found[f"failed_{term}_{kind.replace(' ', '_')}"] = float(count)
    return found


def report(failures: Sequence[Failure]) -> None:
    """Warn about failures, one line for each kind."""
    for (term, kind), count in Counter((f.term, f.kind) for f in failures).items():
        detail = next(f.detail for f in failures if (f.term, f.kind) == (term, kind))
        logging.getLogger(__name__).warning(
            "reward %s %s for %d completions (%s); left out of their groups", term, kind, count, detail
        )


class GroupLog:
    """The log ``groups.jsonl`` of a run: one line per group of each batch. A batch that is made again replaces its old lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.opened = False

    def write(self, number: int, groups: Sequence[Mapping[str, Any]]) -> None:
        """The groups of one batch; batches come in order."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.opened:
            earlier = [line for line in read_log(self.path, "batch") if line["batch"] < number]
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in earlier))
            self.opened = True
        with self.path.open("a") as file:
            file.writelines(json.dumps({"batch": number, **line}) + "\n" for line in groups)
