"""Report of a study of several runs: reward curves with their spread over seeds, and measures of the trained models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["curve", "plot_study", "smooth", "spread_of"]


def curve(log: Sequence[Mapping[str, float]], name: str = "reward") -> list[float]:
    """Mean reward of each batch of a run, from its log; empty if there is none. ``name``: "reward", or "reward_TASK".

    A batch without a reward repeats that of the batch before; at the beginning, the first one of the run.
    """
    batches = [row for row in log if "equal" in row]  # first update of each batch
    last = next((row[name] for row in batches if name in row), None)
    if last is None:
        return []
    rewards: list[float] = []
    for row in batches:
        last = row.get(name, last)
        rewards.append(last)
    return rewards


def spread_of(values: Sequence[float]) -> dict[str, Any]:
    """Mean, minimum, maximum and number of seeds, and the value of each seed."""
    bounds = {"low": min(values), "high": max(values)}
    return {"value": float(np.mean(values)), **bounds, "seeds": len(values), "each": [float(value) for value in values]}


def smooth(values: Sequence[float], width: int) -> np.ndarray:
    """Trailing mean over ``width`` values, over fewer at the beginning."""
    total = np.cumsum([0.0, *values])
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(ends - width, 0)
    return np.asarray((total[ends] - total[begins]) / (ends - begins))


def plot_study(
    rows: Sequence[Mapping[str, Any]],
    curves: Mapping[str, Mapping[str, Sequence[Sequence[float]]]],
    measures: Sequence[str],
    path: Path,
) -> None:
    """Rewards over batches (mean of the seeds, their range shaded) and one panel per measure; skipped without matplotlib.

    ``curves``: by name of the reward, then of the arm, one curve per seed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    arms = list(dict.fromkeys([*(row["arm"] for row in rows), *(arm for runs_of in curves.values() for arm in runs_of)]))
    colors = {arm: f"C{number % 10}" for number, arm in enumerate(arms)}
    figure = Figure(figsize=(max(5.5, 5.5 * len(curves), 2.6 * len(measures)), 8), layout="constrained")
    above, below = np.asarray(figure.subfigures(2, 1))
    panels = np.atleast_1d(above.subplots(1, max(1, len(curves))))
    for axes, (name, runs_of) in zip(panels, curves.items(), strict=False):
        for arm, seeds in runs_of.items():
            length = min(len(one) for one in seeds)
            runs = np.array([smooth(one[:length], max(1, length // 10)) for one in seeds])
            axes.plot(runs.mean(0), "." if length < 2 else "-", label=arm, color=colors[arm])
            axes.fill_between(range(length), runs.min(0), runs.max(0), color=colors[arm], alpha=0.15)
        axes.set_xlabel("batch")
        axes.set_ylabel(name.replace("_", " of "))
        axes.legend(fontsize=7)
    for axes, measure in zip(np.atleast_1d(below.subplots(1, max(1, len(measures)))), measures, strict=False):
        mine = {row["arm"]: row for row in rows if row["measure"] == measure}
        start = next(iter(mine.values()))["start"]
        for number, arm in ((number, arm) for number, arm in enumerate(arms) if arm in mine):
            middle, low, high = (mine[arm][key] for key in ("value", "low", "high"))
            axes.errorbar(number, middle, [[middle - low], [high - middle]], fmt="_", capsize=3, color=colors[arm])
            axes.plot([number] * len(mine[arm]["each"]), mine[arm]["each"], "o", markersize=4, color=colors[arm], alpha=0.6)
        axes.axhline(start, color="grey", linestyle=":")
        axes.text(-0.55, start, "before", fontsize=7, color="grey", va="bottom")
        axes.set_xticks(range(len(arms)), arms, rotation=60, ha="right", fontsize=7)
        axes.set_xlim(-0.6, len(arms) - 0.4)
        axes.set_title(measure, fontsize=8)
    figure.savefig(path, dpi=110)
