"""Commands that measure: eval, bench."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmada.cli.arguments import FOLDER, PATH, argument, option, text, whole
from mmada.cli.options import COUNT, ModelOptions, output_option
from mmada.errors import InputError, check_folder, check_number, quote, unknown_name
from mmada.io.documents import read_fields

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Bench", "Eval"]

WIDE = 160
"""Columns of a table that goes into a file or a pipe."""


@dataclass(frozen=True)
class _Stored:
    """The contents of a results file: measure -> value, and the settings, if it says any."""

    values: dict[object, float]
    settings: object


@dataclass(frozen=True, kw_only=True)
class Eval(ModelOptions):
    """Measure a model on a suite; writes settings, seeds, versions and results.

    Example: mmada eval nano --seeds 3 --samples samples/ --out results.json
    """

    suite: str = argument("The suite, such as nano.", text("SUITE"))
    seeds: int = option("Repetitions, with seeds 0, 1, ...; the spread over them is shown.", whole(1, 1000), 3)
    limit: int | None = option("Maximum number of examples of each task.", COUNT, None, shown="all")
    samples: Path | None = option("Folder to save sample images in.", FOLDER, None, shown="none")
    out: Path = output_option("The results file to write.", Path("results.json"), PATH)
    compare: tuple[Path, ...] = option(
        "Results files of other models, shown as more columns.", PATH, (), many="list", shown="none"
    )

    def check(self) -> None:
        """Raise `InputError` for an unknown suite, unreadable results, and where nothing could be written."""
        from mmada.io.images import check_output
        from mmada.registry import SUITES

        super().check()
        if self.suite not in SUITES:
            raise unknown_name("suite", self.suite, SUITES)
        if self.out in self.compare:
            raise InputError(f"--compare {quote(self.out)} is where the new results go; give another --out")
        self.others()
        check_output(self.out, (".json",), "--out")
        if self.samples is not None:
            check_folder("--samples", self.samples)

    def run(self) -> None:
        """Measure, write, and print the table."""
        from mmada import evaluation

        others = self.others()
        rows = evaluation.run_suite(
            self.suite, self.load(), seeds=self.seeds, limit=self.limit, samples=self.samples, out=self.out
        )
        if self.json:
            compared = [{file: stored.values.get(row["name"]) for file, stored in others.items()} for row in rows]
            print(json.dumps([row | more for row, more in zip(rows, compared, strict=True)], ensure_ascii=False))
            return
        names = {path: Path(path).stem for path in others}
        heads = {path: name if list(names.values()).count(name) == 1 else path for path, name in names.items()}
        shown = [_measured(row) | {heads[n]: stored.values.get(row["name"]) for n, stored in others.items()} for row in rows]
        _show(_table(self.suite, shown, folds="measure"))
        sizes = {"value": _examples({"seeds": self.seeds, "limit": self.limit})}
        sizes |= {heads[n]: _examples(stored.settings) for n, stored in others.items()}
        if len(set(sizes.values())) > 1:
            print(f"Seeds or limits differ: {'; '.join(f'{name} has {size}' for name, size in sizes.items())}.")
        print(self.out)

    def others(self) -> dict[str, _Stored]:
        """The results to compare with, by file. Raises `InputError` for a file without results."""
        found = {}
        for path in self.compare:
            stored = read_fields(path, "--compare", "give a file that mmada eval wrote")
            try:
                values = {row["name"]: check_number("value", row["value"]) for row in stored["rows"]}
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"--compare {quote(path)} holds no results; give a file that mmada eval wrote") from error
            found[str(path)] = _Stored(values, stored.get("settings"))
        return found


@dataclass(frozen=True, kw_only=True)
class Bench(ModelOptions):
    """Compare decoding modes: speed, forward passes and accuracy; writes JSON and a plot.

    Example: mmada bench --workload math --modes exact threshold=0.9 threshold=0.9+block --out bench.json
    """

    workload: tuple[str, ...] = option(
        "Workloads: math, questions, draw.", text("NAME"), (), many="list", shown="math questions draw"
    )
    modes: tuple[str, ...] = option(
        "Modes, the first being the baseline: exact, lookahead=3, threshold=0.9, block, steps=16, or several joined by +.",
        text("MODE"),
        (),
        many="list",
        shown="a set for each workload",
    )
    rounds: int = option("Timed jobs of each mode.", whole(1, 10_000), 3)
    examples: int = option("Scored examples of each mode and seed.", COUNT, 48)
    seeds: int = option("Seeds of the examples.", whole(1, 1000), 1)
    out: Path = output_option("The results file to write; the plot goes next to it.", Path("bench.json"), PATH)

    def check(self) -> None:
        """Raise `InputError` for an unknown workload, and where nothing could be written."""
        from mmada.io.images import check_output

        super().check()
        known = workloads()
        for name in self.workload:
            if name not in known:
                raise unknown_name("--workload", name, known)
        check_output(self.out, (".json",), "--out")

    def run(self) -> None:
        """Measure, write, and print the table."""
        from mmada import evaluation
        from mmada.evaluation.bench import mode_of

        for mode in self.modes:
            mode_of(mode)  # an error in a name is reported before the model is read
        rows = evaluation.bench(
            self.load(), workloads=self.workload or workloads(), modes=self.modes, rounds=self.rounds,
            examples=self.examples, seeds=self.seeds, out=self.out,
        )  # fmt: skip
        if self.json:
            print(json.dumps(rows, ensure_ascii=False))
            return
        _show(_table("decoding modes", [_bench_row(row) for row in rows]))
        print(self.out)


def workloads() -> tuple[str, ...]:
    """Names of the workloads."""
    from mmada.registry import WORKLOADS

    return tuple(WORKLOADS)


def _bench_row(row: Mapping[str, Any]) -> dict[str, object]:
    """A row of the benchmark for the terminal; the JSON holds the rest."""
    ratio, seeds = row["ratio"], row["accuracy_by_seed"]
    return {
        "workload": row["workload"],
        "mode": row["mode"],
        "accuracy": f"{row['accuracy']:.1%}" + (f" ({min(seeds):.0%}-{max(seeds):.0%})" if len(seeds) > 1 else ""),
        "passes": f"{row['passes']:.1f}",
        "fewer": f"{row['fewer']:.1f}x",
        "s": f"{row['seconds']['median']:.2f}",
        "faster": f"{ratio['median']:.1f}x ({ratio['low']:.1f}-{ratio['high']:.1f})",
        "roofline": f"{row['roofline']:.0%}",
    }


def _measured(row: Mapping[str, object]) -> dict[str, object]:
    """A row of the suite for people: the spread over seeds in one cell, and the threshold with whether it was missed."""
    spread = " to ".join(dict.fromkeys(_cell(row[key]) for key in ("low", "high") if key in row))
    threshold = _cell(row.get("threshold")) + (" missed" if row.get("met") is False else "")
    return {"measure": row["name"], "value": row["value"], "low to high": spread, "threshold": threshold, "n": row.get("n")}


def _examples(settings: object) -> str:
    """On how many examples a model was measured, in words."""
    if not isinstance(settings, Mapping) or "seeds" not in settings:
        return "none on record"
    limit = settings.get("limit")
    return f"seeds {settings['seeds']} and {'no limit' if limit is None else f'limit {limit}'}"


def _show(table: Table) -> None:
    """Print a table; into a file or a pipe, where no screen limits it, at its full width."""
    from rich.console import Console

    console = Console()
    (console if console.is_terminal else Console(width=WIDE)).print(table)


def _table(title: str, rows: Sequence[Mapping[str, object]], folds: str | None = None) -> Table:
    """A table with a line for each row; the keys of the first row are the columns. On a narrow screen the column ``folds`` is
    folded, or (None) every column except the mode."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    columns = list(rows[0]) if rows else []
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == "mode" if folds is None else column != folds)
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    return table


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
