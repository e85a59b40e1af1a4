"""Decoding modes compared on workloads: their speed and what they do to the answers.

Speed: single jobs, the modes in turn, round after round, as ratios to the first mode in the same round. Quality: accuracy on the
workload's task, with the forward passes of an answer, the tokens decided a pass, and the peak of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from mmada.canvas import Modality
from mmada.errors import InputError, quote
from mmada.evaluation.flops import Meter, Peaks, measured_peaks, memory_mark, seconds, spread
from mmada.evaluation.results import machine, write_results
from mmada.model.predictor import Predictor
from mmada.pipeline import Frame, ImageSampling, MMaDA, TextSampling
from mmada.registry import WORKLOADS
from mmada.sampling import Acceleration
from mmada.sampling.kv_reuse import CACHES

__all__ = ["Mode", "Workload", "bench", "mode_of"]

Random = np.random.Generator
Job = Callable[[MMaDA], Any]
"""Something to time, for a model in any mode."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What `bench` times and judges.

    ``job(model, rng)``: one job to time. ``accuracy(model, rng, count)``: scores of about ``count`` examples of the validation
    split, since modes are chosen by it. ``modes``: names of the default modes, the baseline first. ``output``: what is decoded.
    """

    job: Callable[[MMaDA, Random], Job]
    accuracy: Callable[[MMaDA, Random, int], Sequence[float]]
    modes: tuple[str, ...] = ("exact",)
    output: Modality = "text"


@dataclass(frozen=True)
class Mode:
    """A named way to decode: `Acceleration`, and for pictures the number of ``steps`` (None is the preset's)."""

    name: str
    speed: Acceleration
    steps: int | None = None

    def of(self, model: MMaDA) -> MMaDA:
        """The model in this mode."""
        preset = model.preset
        if self.steps is not None:
            preset = replace(preset, image=replace(preset.image, steps=self.steps))
        text, image = TextSampling(**vars(self.speed)), ImageSampling(**vars(self.speed))
        return model.with_defaults(text=text, image=image, preset=preset)


def mode_of(name: str) -> Mode:
    """A mode from its name: "exact", or parts joined by "+": a rule, a cache, lookahead=N, steps=N (of a picture)."""
    parallel = reuse = None
    lookahead, steps = 0, None
    seen: set[str] = set()
    for part in [] if name == "exact" else name.split("+"):
        key, _, value = part.partition("=")
        kind = key if key in ("lookahead", "steps") else "reuse" if key in CACHES else "rule"
        if kind in seen:
            raise InputError(
                f"mode {quote(name)} names two of one kind ({kind}); join a rule, a cache, lookahead=N and steps=N at most"
            )
        seen.add(kind)
        if key in ("lookahead", "steps"):
            if not value.isdecimal() or int(value) < 1:
                raise InputError(f"mode {quote(name)}: {key} takes a whole number of at least 1, as in {key}=3")
            lookahead, steps = (int(value), steps) if key == "lookahead" else (lookahead, int(value))
        elif kind == "reuse":
            reuse = part
        else:
            parallel = part
    try:
        return Mode(name, Acceleration.of(parallel, reuse, lookahead), steps)
    except InputError as error:
        raise InputError(f"mode {quote(name)}: {error}") from error


def bench(
    model: MMaDA,
    *,
    workloads: Sequence[str] = (),
    modes: Sequence[str] = (),
    rounds: int = 3,
    examples: int = 48,
    seeds: int = 1,
    out: Path,
) -> list[dict[str, object]]:
    """Measure ``model`` in every mode, the first being the baseline; write ``out`` (JSON) and a plot next to it.

    ``workloads``: by default all. ``modes``: by default those of each workload. ``rounds``: timed jobs of a mode. ``examples``:
    judged for each mode and seed, the same in every mode. Raises InputError.
    """
    network = model.engine.parts.model
    if not isinstance(network, Predictor):
        raise InputError(
            f"bench counts operations from the model's configuration, which a {type(network).__name__} does not have"
        )
    names = each_once("workload", workloads or tuple(WORKLOADS))
    chosen: dict[str, Workload] = {name: WORKLOADS.find(name) for name in names}
    plans = {name: [mode_of(mode) for mode in each_once("modes", modes or work.modes)] for name, work in chosen.items()}
    for name, its_modes in plans.items():
        if chosen[name].output != "image" and (stepped := [mode.name for mode in its_modes if mode.steps is not None]):
            raise InputError(f"modes name {stepped[0]!r} for {name}; steps are those of a picture, for workloads that draw")
    meter = Meter(network)
    peaks = measured_peaks(model.engine.device, network.dtype)
    rows: list[dict[str, object]] = []
    console = Console(stderr=True)  # elsewhere than on a terminal even a transient bar prints an empty line
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("measuring", total=sum(len(m) for m in plans.values()) * (rounds + 1))
        for name, its_modes in plans.items():
            timed = time_modes(model, chosen[name], its_modes, rounds, meter, peaks, lambda: progress.advance(task))
            judged = judge_modes(model, chosen[name], its_modes, (examples, seeds), lambda: progress.advance(task))
            rows += [{"workload": name, "mode": mode.name, **judged[mode.name], **timed[mode.name]} for mode in its_modes]
    settings = {"model": model.info(), "rounds": rounds, "examples": examples, "seeds": seeds}
    settings["peaks"] = {"gflops": round(peaks.flops / 1e9, 1), "gbytes": round(peaks.bytes / 1e9, 1)}
    write_results(out, {"rows": rows, "settings": settings, "machine": machine()})
    plot(rows, out.with_suffix(".png"))
    return rows


def each_once(field: str, names: Sequence[str]) -> Sequence[str]:
    """The names. Raises InputError where one comes twice."""
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise InputError(f"{field} names {twice[0]!r} twice; name each once")
    return names


def time_modes(
    model: MMaDA, work: Workload, modes: Sequence[Mode], rounds: int, meter: Meter, peaks: Peaks, advance: Callable[[], None]
) -> dict[str, dict[str, object]]:
    """Seconds of single jobs, the modes in turn; ratios to the first mode of the same round; share of the roofline."""
    taken: dict[str, list[float]] = {mode.name: [] for mode in modes}
    shares: dict[str, list[float]] = {mode.name: [] for mode in modes}
    engine, rng = model.engine, np.random.default_rng((0, 2**21))
    plain, engine.denoiser = engine.denoiser, meter
    try:
        work.job(model, np.random.default_rng(1))(modes[0].of(model))  # the first job ever is slower
        for _ in range(rounds):
            run = work.job(model, rng)
            for mode in modes:
                meter.flops = meter.bytes = 0.0
                paced = mode.of(model)
                spent, _ = seconds(lambda run=run, paced=paced: run(paced), engine.device)  # type: ignore[misc]
                taken[mode.name].append(spent)
                shares[mode.name].append(peaks.min_seconds(meter.flops, meter.bytes) / spent)
                advance()
    finally:
        engine.denoiser = plain
    first = taken[modes[0].name]
    return {
        name: {
            "seconds": spread(times),
            "ratio": spread([a / b for a, b in zip(first, times, strict=True)]),
            "roofline": spread(shares[name])["median"],
        }
        for name, times in taken.items()
    }


def judge_modes(
    model: MMaDA, work: Workload, modes: Sequence[Mode], plan: tuple[int, int], advance: Callable[[], None]
) -> dict[str, dict[str, object]]:
    """Accuracy of each mode on the same examples, by seed and over all, passes an answer, tokens a pass, and the peak of memory
    (of the device, or of the process, in bytes); ``plan`` is (examples, seeds)."""
    examples, seeds = plan
    found: dict[str, dict[str, object]] = {}
    for mode in modes:
        passes, written = list[int](), list[int]()

        def count(last: Frame, tokens: tuple[int, ...], passes: list[int] = passes, written: list[int] = written) -> None:
            passes += last.nfe
            written += tokens

        model.engine.observers.append(count)
        peak = memory_mark(model.engine.device)
        hits = [work.accuracy(mode.of(model), np.random.default_rng((seed, 2**22)), examples) for seed in range(seeds)]
        model.engine.observers.remove(count)
        found[mode.name] = {
            "accuracy": round(float(np.mean(hits)), 4),
            "accuracy_by_seed": [round(float(np.mean(h)), 4) for h in hits],
            "examples": sum(len(h) for h in hits),
            "passes": round(float(np.mean(passes)), 2),
            "tokens_a_pass": round(sum(written) / max(1, sum(passes)), 2),
            "peak_bytes": peak(),
        }
        advance()
    fewest = found[modes[0].name]["passes"]
    for row in found.values():
        row["fewer"] = round(float(fewest) / float(row["passes"]), 2)  # type: ignore[arg-type]
    return found


def plot(rows: Sequence[dict[str, object]], path: Path) -> None:
    """Accuracy over forward passes, a panel for each workload; left out where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    names = list(dict.fromkeys(str(row["workload"]) for row in rows))
    figure = Figure(figsize=(5 * len(names), 5), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        mine = [row for row in rows if row["workload"] == name]
        first, *_ = accuracies = [np.array(row["accuracy_by_seed"]) for row in mine]
        for row, seeds, marker in zip(mine, accuracies, cycle("os^vDP*Xp<>"), strict=False):
            reach = [[seeds.mean() - seeds.min()], [seeds.max() - seeds.mean()]]
            axes.errorbar(row["passes"], seeds.mean(), reach, fmt=marker, capsize=2, label=f"{row['mode']}: {row['passes']:.1f}")
        axes.axhspan(first.mean() - 0.01, first.mean() + 0.01, color="grey", alpha=0.15, label="within 1 point of the first")
        axes.set_title(name)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.set_xlabel("forward passes of an answer")
        axes.set_ylabel("accuracy with its range over seeds")
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    figure.savefig(path, dpi=110)
