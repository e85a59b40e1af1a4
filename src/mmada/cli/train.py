"""Commands that train and judge: train, eval, tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg

from mmada.cli.options import ModelOptions, Whole, check_whole_given
from mmada.errors import InputError, check_choice, check_folder, check_number, check_whole, unknown_name
from mmada.io.images import check_output

__all__ = ["Bench", "Eval", "Tokenizer", "Train"]

WIDE = 160
"""Columns of a table that goes into a file or a pipe."""

Folder = Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: the recipe's own)")]


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train by a recipe, or take a run up again.

    Example: mmada train pretrain --set plan.optim.lr=0.001 --out runs/pretrain
    """

    recipe: Annotated[Positional[str | None], arg(metavar="[RECIPE]", help_behavior_hint="(see --list for the names)")] = None
    """Which run."""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="A.B=C", help_behavior_hint="(repeatable)")] = ()
    """Override one field of the recipe."""
    list: FlagCreatePairsOff[bool] = False
    """List the recipes and stop."""
    resume: FlagCreatePairsOff[bool] = False
    """Go on from the newest checkpoint in the run's folder."""
    out: Folder = None
    """The run's folder."""
    start_from: Annotated[str | None, arg(metavar="nano|FOLDER|HUB-ID", help_behavior_hint="(default: the recipe's own)")] = None
    """Model to start from."""

    def check(self) -> None:
        """Raise `InputError` for an option that is malformed."""
        parse_overrides(self.set)
        if self.recipe is None and not self.list:
            raise InputError("recipe is missing; name one, or see 'mmada train --list'.")

    def run(self) -> None:
        """Train, or list."""
        from mmada.recipes.run import run
        from mmada.registry import RECIPES

        if self.list:
            for name, recipe in RECIPES.items():
                print(f"{name:18} {(recipe.__doc__ or '').strip().splitlines()[0]}")
            return
        assert self.recipe is not None
        RECIPES.find(self.recipe)
        run(
            self.recipe,
            overrides=parse_overrides(self.set),
            out=self.out,
            resume=self.resume,
            start_from=self.start_from,
        )


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Train the nano text tokenizer (a byte-pair encoding) on the nano corpora.

    Example: mmada tokenizer --out runs/tokenizer
    """

    out: Annotated[Path, arg(metavar="FOLDER")] = Path("runs/tokenizer")
    """Where to write it."""

    def check(self) -> None:
        """Raise `InputError` for a file in the folder's place."""
        check_folder("out", self.out)

    def run(self) -> None:
        """Train, write, and say where."""
        from mmada.recipes.sft import text_tokenizer

        text_tokenizer(self.out)
        print(self.out)


@dataclass(frozen=True)
class _Kept:
    """What a results file holds: measure -> value, and settings, if it says any."""

    values: dict[object, float]
    settings: object


@dataclass(frozen=True, kw_only=True)
class Eval(ModelOptions):
    """Measure a model on a suite; writes settings, seeds, versions and results.

    Example: mmada eval nano --seeds 3 --samples samples/ --out results.json
    """

    suite: Annotated[Positional[str], arg(metavar="SUITE")]
    """Which suite: nano."""
    seeds: Annotated[int, Whole] = 3
    """Repetitions, with seeds 0, 1, ...; the spread over them is shown."""
    limit: Annotated[int | None, Whole, arg(help_behavior_hint="(default: all)")] = None
    """Examples of each task at most."""
    samples: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: none)")] = None
    """Save pictures there."""
    out: Annotated[Path, arg(aliases=("-o",), metavar="FILE")] = Path("results.json")
    """Where to write the results."""
    beside: Annotated[tuple[Path, ...], arg(metavar="FILE", help_behavior_hint="(default: none)")] = ()
    """Results of other models, shown as more columns: earlier stages, say."""

    def check(self) -> None:
        """Raise `InputError` for an option out of range."""
        super().check()
        if self.out in self.beside:
            raise InputError(f"beside {self.out} is where the new results go; give another --out")
        self.others()
        check_whole("seeds", self.seeds, 1)
        check_whole_given("limit", self.limit, 1)
        check_output(self.out, (".json",), "out")
        if self.samples is not None:
            check_folder("samples", self.samples)

    def run(self) -> None:
        """Measure, write, and print the table."""
        from mmada import evaluation

        if self.suite not in evaluation.SUITES:
            raise unknown_name("suite", self.suite, evaluation.SUITES)
        others = self.others()
        rows = evaluation.run_suite(
            self.suite, self.load(), seeds=self.seeds, limit=self.limit, samples=self.samples, out=self.out
        )
        if self.json:
            beside = [{file: kept.values.get(row["name"]) for file, kept in others.items()} for row in rows]
            print(json.dumps([row | more for row, more in zip(rows, beside, strict=True)], ensure_ascii=False))
            return
        names = {path: Path(path).stem for path in others}
        heads = {path: name if list(names.values()).count(name) == 1 else path for path, name in names.items()}
        shown = [_measured(row) | {heads[n]: kept.values.get(row["name"]) for n, kept in others.items()} for row in rows]
        _show(_table(self.suite, shown, folds="measure"))
        sizes = {"value": _examples({"seeds": self.seeds, "limit": self.limit})}
        sizes |= {heads[n]: _examples(kept.settings) for n, kept in others.items()}
        if len(set(sizes.values())) > 1:
            print(f"Seeds or limits differ: {'; '.join(f'{name} has {size}' for name, size in sizes.items())}.")
        print(self.out)

    def others(self) -> dict[str, _Kept]:
        """The results to show beside, by file. Raises `InputError` for a file that has none."""
        found = {}
        for path in self.beside:
            try:
                kept = json.loads(path.read_text(encoding="utf-8"))
                values = {row["name"]: check_number("value", row["value"]) for row in kept["rows"]}
                found[str(path)] = _Kept(values, kept.get("settings"))
            except FileNotFoundError as error:
                raise InputError(f"beside {path} does not exist; give a file that mmada eval wrote") from error
            except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                raise InputError(f"beside {path} holds no results; give a file that mmada eval wrote") from error
        return found


@dataclass(frozen=True, kw_only=True)
class Bench(ModelOptions):
    """Measure decoding modes side by side: speed, passes and accuracy; writes JSON and a plot.

    Example: mmada bench --work math --modes exact threshold=0.9 threshold=0.9+block --out bench.json
    """

    work: Annotated[tuple[str, ...], arg(metavar="WORK", help_behavior_hint="(default: math questions draw)")] = ()
    """What to do: math, questions, draw."""
    modes: Annotated[tuple[str, ...], arg(metavar="MODE", help_behavior_hint="(default: a set for each work)")] = ()
    """Modes, the first to compare with: exact, lookahead=3, threshold=0.9, block, steps=16, or several joined by +."""
    rounds: Annotated[int, Whole] = 3
    """Timed jobs a mode."""
    examples: Annotated[int, Whole] = 48
    """ScoredRollouts examples a mode and seed."""
    seeds: Annotated[int, Whole] = 1
    """Seeds of the examples."""
    out: Annotated[Path, arg(aliases=("-o",), metavar="FILE")] = Path("bench.json")
    """Where to write the results; the plot goes beside it."""

    def check(self) -> None:
        """Raise `InputError` for an option out of range."""
        super().check()
        for work in self.work:
            check_choice("work", work, ("math", "questions", "draw"))
        check_whole("rounds", self.rounds, 1)
        check_whole("examples", self.examples, 1)
        check_whole("seeds", self.seeds, 1)
        check_output(self.out, (".json",), "out")

    def run(self) -> None:
        """Measure, write, and print the table."""
        from mmada import evaluation

        rows = evaluation.bench(
            self.load(), works=self.work or tuple(evaluation.WORKS), modes=self.modes, rounds=self.rounds,
            examples=self.examples, seeds=self.seeds, out=self.out,
        )  # fmt: skip
        if self.json:
            print(json.dumps(rows, ensure_ascii=False))
            return
        _show(_table("decoding modes", [_bench_row(row) for row in rows]))
        print(self.out)


def _bench_row(row: Mapping[str, Any]) -> dict[str, object]:
    """A row of the bench for the terminal; what it costs in full is in the JSON."""
    ratio, seeds = row["ratio"], row["accuracy_by_seed"]
    return {
        "work": row["work"],
        "mode": row["mode"],
        "accuracy": f"{row['accuracy']:.1%}" + (f" ({min(seeds):.0%}-{max(seeds):.0%})" if len(seeds) > 1 else ""),
        "passes": f"{row['passes']:.1f}",
        "fewer": f"{row['fewer']:.1f}x",
        "s": f"{row['seconds']['median']:.2f}",
        "faster": f"{ratio['median']:.1f}x ({ratio['low']:.1f}-{ratio['high']:.1f})",
        "roofline": f"{row['roofline']:.0%}",
    }


def parse_overrides(pairs: Sequence[str]) -> dict[str, str]:
    """``["a.b=c"]`` as ``{"a.b": "c"}``. Raises `InputError` for a pair without a name or without '='."""
    overrides: dict[str, str] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name.strip():
            raise InputError(f"set '{pair}' is no assignment; write it as name.field=value.")
        overrides[name.strip()] = value
    return overrides


def _measured(row: Mapping[str, object]) -> dict[str, object]:
    """A row of the suite as people read it: its spread in one cell, and whether it is under its floor beside that."""
    spread = " to ".join(dict.fromkeys(_cell(row[key]) for key in ("low", "high") if key in row))
    floor = _cell(row.get("floor")) + (" missed" if row.get("met") is False else "")
    return {"measure": row["name"], "value": row["value"], "low to high": spread, "floor": floor, "n": row.get("n")}


def _examples(settings: object) -> str:
    """On how many examples a model was measured."""
    if not isinstance(settings, Mapping) or "seeds" not in settings:
        return "none on record"
    limit = settings.get("limit")
    return f"seeds {settings['seeds']} and {'no limit' if limit is None else f'limit {limit}'}"


def _show(table: Table) -> None:
    """Print a table; into a file or a pipe, where no screen limits it, as wide as it is."""
    console = Console()
    (console if console.is_terminal else Console(width=WIDE)).print(table)


def _table(title: str, rows: Sequence[Mapping[str, object]], folds: str | None = None) -> Table:
    """A row of results a line; the keys of the first are the columns. Where there is no room column ``folds`` alone is folded, or
    (None) all but the mode."""
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
