"""Commands that measure: eval, bench."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmada.cli.arguments import FOLDER, PATH, argument, choice, flag, option, text, whole
from mmada.cli.options import COUNT, ModelOptions, output_option
from mmada.errors import InputError, check_folder, check_number, quote, unknown_name
from mmada.io.documents import read_fields

if TYPE_CHECKING:
    from rich.table import Table

    from mmada.data import Mixture
    from mmada.evaluation import Suite

__all__ = ["Bench", "Eval"]

Split = Literal["train", "validation", "test"]
DATA = "data"
"""The suite of a file's own data."""
WIDE = 160
"""Columns of a table that goes into a file or a pipe."""


@dataclass(frozen=True)
class _Stored:
    """The contents of a results file: measure -> value, and the settings, if it says any."""

    values: dict[object, float]
    settings: object


@dataclass(frozen=True, kw_only=True)
class Eval(ModelOptions):
    """Measure a model on a suite, or on your own data; writes settings, seeds, versions and results.

    Example: mmada eval data mine.yaml --split validation --model runs/sft/model --out results.json
    """

    suite: str = argument("The suite, such as nano; or data, with a file.", text("SUITE"))
    file: Path | None = argument("For data: the YAML file that describes it, or a folder of shards.", PATH, None, shown="none")
    split: Split | None = option(
        "The split: train, validation or test.", choice("train", "validation", "test"), None, shown="test; of data validation"
    )
    group: str | None = option(
        "For data: a field of its rows; pictures are also retrieved within it.", text("FIELD"), None, shown="none"
    )
    clip: str | None = option(
        "For data: a CLIP model, as a folder or hub id, that compares pictures too.", text("MODEL"), None, shown="none"
    )
    resume: bool = flag("Go on with the measures that --out lacks.")
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
        if self.suite not in (DATA, *SUITES):
            raise unknown_name("suite", self.suite, (DATA, *SUITES))
        self.check_data()
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
        suite, facts, mixture = self.measured()
        rows = evaluation.run_suite(
            suite, self.load(), seeds=self.seeds, limit=self.limit, split=self.chosen_split, samples=self.samples, out=self.out,
            resume=self.resume, facts=facts,
        )  # fmt: skip
        if self.json:
            compared = [{file: stored.values.get(row["name"]) for file, stored in others.items()} for row in rows]
            print(json.dumps([row | more for row, more in zip(rows, compared, strict=True)], ensure_ascii=False))
            return
        for name, reasons in (mixture.rejected if mixture else {}).items():
            for reason, count in reasons.most_common():
                print(f"data {name!r}: {count} rows not used: {reason}")
        names = {path: Path(path).stem for path in others}
        heads = {path: name if list(names.values()).count(name) == 1 else path for path, name in names.items()}
        shown = [_measured(row) | {heads[n]: stored.values.get(row["name"]) for n, stored in others.items()} for row in rows]
        _show(_table(self.suite, shown, folds="measure"))
        sizes = {"value": _examples({"seeds": self.seeds, "limit": self.limit})}
        sizes |= {heads[n]: _examples(stored.settings) for n, stored in others.items()}
        if len(set(sizes.values())) > 1:
            print(f"Seeds or limits differ: {'; '.join(f'{name} has {size}' for name, size in sizes.items())}.")
        print(self.out)

    @property
    def chosen_split(self) -> Split:
        """The split to measure on."""
        return self.split or ("validation" if self.suite == DATA else "test")

    def check_data(self) -> None:
        """Raise `InputError` for data without a file, and for options of data with another suite."""
        if self.suite == DATA:
            if self.file is None:
                raise InputError("eval data needs the file that describes the data; give it, as in mmada eval data mine.yaml")
            return
        given = {"file": self.file, "--group": self.group, "--clip": self.clip}
        for name, value in given.items():
            if value is not None:
                raise InputError(f"{name} {quote(value)} is for data, and the suite is {self.suite}; leave it out")

    def measured(self) -> tuple[str | Suite, dict[str, object], Mixture | None]:
        """What to measure, what to record of it, and the data where they are a file's."""
        if self.suite != DATA or self.file is None:
            return self.suite, {}, None
        from mmada.data import load
        from mmada.evaluation import data_suite
        from mmada.io.fingerprint import file_sample
        from mmada.pipeline.loading import find_folder

        group, clip = self.group or "", self.clip or ""
        mixture = load(self.file)
        suite = data_suite(mixture, self.chosen_split, limit=self.limit, group=group, clip=clip)
        described = file_sample(self.file / "shards.json" if self.file.is_dir() else self.file)
        folder = find_folder(self.model)
        weights = {file.relative_to(folder).as_posix(): file_sample(file) for file in sorted(folder.rglob("*.safetensors"))}
        facts: dict[str, object] = {
            "data": str(self.file),
            "described": described,
            "group": group,
            "clip": clip,
            "weights": weights,
        }
        return suite, facts, mixture

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
