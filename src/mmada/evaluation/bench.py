"""`mmada bench`: decoding modes side by side, their speed and what they do to the answers.

Acceleration: single jobs, the modes in turn, round after round, as ratios to the first mode in the same round. Quality: the
tasks of the
nano world, judged, with the passes that an answer took, the tokens that a pass decided, and the peak of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from mmada.errors import InputError, check_choice
from mmada.evaluation.flops import Meter, Peaks, measured_peaks, memory_mark, seconds, spread
from mmada.evaluation.suite import machine, write_results
from mmada.model.mmada import MMaDAModel
from mmada.nano.measures import MEASURES
from mmada.nano.world.arithmetic import problem
from mmada.nano.world.geneval import CATEGORIES, prompts
from mmada.nano.world.questions import ask_about
from mmada.nano.world.render import LOOSE, render
from mmada.nano.world.scenes import sample_scene
from mmada.pipeline import Frame, ImageSampling, MMaDA, TextSampling
from mmada.sampling import Acceleration
from mmada.sampling.kv_reuse import CACHES

__all__ = ["DEFAULT_MODES", "WORKS", "Mode", "bench", "mode_of"]

Random = np.random.Generator
WORKS = {"math": ("arithmetic", "arithmetic: answer"), "questions": ("questions", "questions"), "draw": ("geneval", "geneval")}
"""Work -> (its measure, the score that stands for it)."""
DEFAULT_MODES = {
    "math": ("exact", "lookahead=3", "threshold=0.9", "threshold=0.95", "factor=0.3", "entropy=0.01", "margin=0.9",
             "hierarchical=0.8,0.98", "stable", "draft", "block", "factor=0.3+block"),
    "questions": ("exact", "lookahead=3", "threshold=0.9", "factor=0.3", "entropy=0.1", "draft", "threshold=0.9+block"),
    "draw": ("steps=64", "steps=32", "steps=16", "steps=12", "steps=8", "steps=6"),
}  # fmt: skip


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
                f"mode {name!r} names two of one kind ({kind}); join a rule, a cache, lookahead=N and steps=N at most"
            )
        seen.add(kind)
        if key in ("lookahead", "steps"):
            if not value.isdecimal() or int(value) < 1:
                raise InputError(f"mode {name!r}: {key} takes a whole number of at least 1, as in {key}=3")
            lookahead, steps = (int(value), steps) if key == "lookahead" else (lookahead, int(value))
        elif kind == "reuse":
            reuse = part
        else:
            parallel = part
    return Mode(name, Acceleration.of(parallel, reuse, lookahead), steps)


def bench(
    model: MMaDA,
    *,
    works: Sequence[str] = tuple(WORKS),
    modes: Sequence[str] = (),
    rounds: int = 3,
    examples: int = 48,
    seeds: int = 1,
    out: Path,
) -> list[dict[str, object]]:
    """Measure ``model`` in every mode, the first being what others are compared with; write ``out`` (JSON) and a plot beside it.

    ``modes``: by default `DEFAULT_MODES`. ``rounds``: timed jobs a mode. ``examples``: judged a mode and seed, the same in every
    mode. Raises InputError.
    """
    network = model.engine.parts.model
    if not isinstance(network, MMaDAModel):
        raise InputError("bench needs a model of ours; this one cannot be counted")
    chosen = {work: [mode_of(name) for name in each_once("modes", modes or DEFAULT_MODES[work])] for work in checked(works)}
    for work, its_modes in chosen.items():
        if work != "draw" and (paced := [mode.name for mode in its_modes if mode.steps is not None]):
            raise InputError(f"modes name {paced[0]!r} for {work}; steps are those of a picture, for the work draw alone")
    meter = Meter(network)
    peaks = measured_peaks(model.engine.device, network.lm_head.weight.dtype)
    rows: list[dict[str, object]] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("measuring", total=sum(len(m) for m in chosen.values()) * (rounds + 1))
        for work, its_modes in chosen.items():
            timed = time_modes(model, work, its_modes, rounds, meter, peaks, lambda: progress.advance(task))
            judged = judge_modes(model, work, its_modes, (examples, seeds), lambda: progress.advance(task))
            rows += [{"work": work, "mode": mode.name, **judged[mode.name], **timed[mode.name]} for mode in its_modes]
    settings = {"model": model.info(), "rounds": rounds, "examples": examples, "seeds": seeds}
    settings["peaks"] = {"gflops": round(peaks.flops / 1e9, 1), "gbytes": round(peaks.bytes / 1e9, 1)}
    write_results(out, {"rows": rows, "settings": settings, "machine": machine()})
    plot(rows, out.with_suffix(".png"))
    return rows


def checked(works: Sequence[str]) -> Sequence[str]:
    """The works, known ones all."""
    for work in works:
        check_choice("work", work, WORKS)
    return each_once("work", works)


def each_once(field: str, names: Sequence[str]) -> Sequence[str]:
    """The names. Raises InputError where one comes twice."""
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise InputError(f"{field} names {twice[0]!r} twice; name each once")
    return names


def job(model: MMaDA, work: str, rng: Random) -> Callable[[MMaDA], Any]:
    """One job of a work, for a model in any mode."""
    if work == "math":
        asked = problem(rng, "validation").text
        return lambda m: m.generate(asked, thinking=True).text
    if work == "questions":
        scene = sample_scene(rng, "validation")
        picture, question = Image.fromarray(render(scene, rng, LOOSE)), ask_about(scene, rng).text
        return lambda m: m.ask(picture, question).text
    caption = prompts(CATEGORIES[int(rng.integers(len(CATEGORIES)))], rng, 1)[0].text
    return lambda m: m.draw(caption).tobytes()


def time_modes(
    model: MMaDA, work: str, modes: Sequence[Mode], rounds: int, meter: Meter, peaks: Peaks, advance: Callable[[], None]
) -> dict[str, dict[str, object]]:
    """Seconds of single jobs, the modes in turn; ratios to the first mode of the same round; share of the roofline."""
    taken: dict[str, list[float]] = {mode.name: [] for mode in modes}
    shares: dict[str, list[float]] = {mode.name: [] for mode in modes}
    engine, rng = model.engine, np.random.default_rng((0, 2**21))
    plain, engine.denoiser = engine.denoiser, meter
    try:
        job(model, work, np.random.default_rng(1))(modes[0].of(model))  # the first of all is slower
        for _ in range(rounds):
            run = job(model, work, rng)
            for mode in modes:
                meter.flops = meter.bytes = 0.0
                paced = mode.of(model)
                spent, _ = seconds(lambda run=run, paced=paced: run(paced), engine.device)  # type: ignore[misc]
                taken[mode.name].append(spent)
                shares[mode.name].append(peaks.floor(meter.flops, meter.bytes) / spent)
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
    model: MMaDA, work: str, modes: Sequence[Mode], plan: tuple[int, int], advance: Callable[[], None]
) -> dict[str, dict[str, object]]:
    """Accuracy of each mode on the same examples, by seed and over all, passes an answer, tokens a pass, and the peak of memory
    (of the device, or of the process, in bytes); ``plan`` is (examples, seeds)."""
    examples, seeds = plan
    measure, score = MEASURES[WORKS[work][0]][0], WORKS[work][1]
    per_category = max(1, examples // len(CATEGORIES)) if work == "draw" else examples
    found: dict[str, dict[str, object]] = {}
    for mode in modes:
        passes, written = list[int](), list[int]()

        def count(last: Frame, tokens: tuple[int, ...], passes: list[int] = passes, written: list[int] = written) -> None:
            passes += last.nfe
            written += tokens

        model.engine.observers.append(count)
        peak = memory_mark(model.engine.device)
        hits = [measure(mode.of(model), np.random.default_rng((seed, 2**22)), per_category).hits[score] for seed in range(seeds)]
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
    """Accuracy over passes an answer, a panel a work; left out where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    works = list(dict.fromkeys(str(row["work"]) for row in rows))
    figure = Figure(figsize=(5 * len(works), 5), layout="constrained")
    for axes, work in zip(np.atleast_1d(figure.subplots(1, len(works))), works, strict=True):
        mine = [row for row in rows if row["work"] == work]
        first, *_ = accuracies = [np.array(row["accuracy_by_seed"]) for row in mine]
        for row, seeds, marker in zip(mine, accuracies, cycle("os^vDP*Xp<>"), strict=False):
            reach = [[seeds.mean() - seeds.min()], [seeds.max() - seeds.mean()]]
            axes.errorbar(row["passes"], seeds.mean(), reach, fmt=marker, capsize=2, label=f"{row['mode']}: {row['passes']:.1f}")
        axes.axhspan(first.mean() - 0.01, first.mean() + 0.01, color="grey", alpha=0.15, label="within 1 point of the first")
        axes.set_title(work)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.set_xlabel("passes an answer")
        axes.set_ylabel("accuracy, its range over seeds")
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    figure.savefig(path, dpi=110)
