"""What a study of several runs shows: reward curves with their spread over seeds, and what the trained models can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["curve", "plot_study", "smooth", "spread_of"]


def curve(log: Sequence[Mapping[str, float]]) -> list[float]:
    """Mean reward of each batch of a run, from its log; a batch without any reward repeats the one before."""
    rewards: list[float] = []
    for row in log:
        if "equal" in row:  # the first update of a batch
            rewards.append(row.get("reward", rewards[-1] if rewards else float("nan")))
    return rewards


def spread_of(values: Sequence[float]) -> dict[str, float]:
    """Mean, lowest and highest over seeds, and how many they are."""
    return {"value": float(np.mean(values)), "low": min(values), "high": max(values), "seeds": len(values)}


def smooth(values: Sequence[float], width: int) -> np.ndarray:
    """Means of the last ``width`` values, fewer at the beginning."""
    total = np.cumsum([0.0, *values])
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(ends - width, 0)
    return np.asarray((total[ends] - total[begins]) / (ends - begins))


def plot_study(
    rows: Sequence[Mapping[str, Any]], curves: Mapping[str, Sequence[Sequence[float]]], measures: Sequence[str], path: Path
) -> None:
    """Reward over batches (mean of the seeds, their range shaded) and a panel a measure; left out without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    arms = list(curves)
    figure = Figure(figsize=(6 + 2.2 * len(measures), 4), layout="constrained")
    grid = figure.subplots(1, 1 + len(measures), width_ratios=[2.6, *[1] * len(measures)])
    first, *others = np.atleast_1d(grid)
    for arm in arms:
        length = min(len(one) for one in curves[arm])
        runs = np.array([smooth(one[:length], max(1, length // 10)) for one in curves[arm]])
        (line,) = first.plot(runs.mean(0), "." if length < 2 else "-", label=arm)
        first.fill_between(range(length), runs.min(0), runs.max(0), color=line.get_color(), alpha=0.15)
    first.set_xlabel("batch")
    first.set_ylabel("reward")
    first.legend(fontsize=7)
    for axes, measure in zip(others, measures, strict=True):
        mine = {row["arm"]: row for row in rows if row["measure"] == measure}
        middle = np.array([mine[arm]["value"] for arm in arms])
        reach = np.array([[mine[arm]["value"] - mine[arm]["low"], mine[arm]["high"] - mine[arm]["value"]] for arm in arms]).T
        axes.errorbar(range(len(arms)), middle, reach, fmt="o", capsize=3)
        axes.axhline(mine[arms[0]]["start"], color="grey", linestyle=":", label="before")
        axes.set_xticks(range(len(arms)), arms, rotation=60, ha="right", fontsize=7)
        axes.set_title(measure, fontsize=8)
    figure.savefig(path, dpi=110)
