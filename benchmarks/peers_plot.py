"""The plot of `peers.py`: milliseconds a pass and peak memory of every job, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmada.errors import InputError

COLOURS = {"LLaDA": "#8a8a8a", "llama.cpp": "#d08a3c", "Fast-dLLM": "#7b6fb0", "mmada": "#2f7fb8"}


def plot(kept: Mapping[str, Any], path: Path) -> None:
    """Draw the rows of a result. Raises InputError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("plot needs matplotlib; install it with: pip install matplotlib") from error
    rows = kept["rows"][::-1]
    places, colours = range(len(rows)), [COLOURS[row["peer"]] for row in rows]
    figure = Figure(figsize=(10, 1.2 + 0.3 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    middle = [row["ms_per_pass"] for row in rows]
    low = [m * (1 - row["seconds"]["low"] / row["seconds"]["median"]) for m, row in zip(middle, rows, strict=True)]
    high = [m * (row["seconds"]["high"] / row["seconds"]["median"] - 1) for m, row in zip(middle, rows, strict=True)]
    bars = left.barh(places, middle, xerr=[low, high], color=colours, ecolor="#444444", capsize=2)
    left.bar_label(bars, [f"{value:,.0f}" for value in middle], padding=4, fontsize=8)
    left.set_yticks(places, [row["job"] for row in rows])
    left.set_xlabel("milliseconds a forward pass (bars: lowest and highest round)")
    memory = [(row["peak_mib"] or 0) / 1024 for row in rows]
    right.bar_label(right.barh(places, memory, color=colours), [f"{value:.2f}" for value in memory], padding=3, fontsize=8)
    right.set_xlabel("peak memory while decoding, GiB")
    for axes in (left, right):
        axes.margins(x=0.14)
        axes.spines[["top", "right"]].set_visible(False)
    s, m = kept["settings"], kept["machine"]
    figure.suptitle(f"{s['length']} tokens in {s['steps']} steps, width {s['width']}, {s['layers']} layers · {m['cpu']} "
                    f"({m['features']}), {s['threads']} threads", fontsize=9)  # fmt: skip
    figure.savefig(path, dpi=110)
