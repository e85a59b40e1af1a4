"""Commands about data: data check."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmada.cli.arguments import PATH, argument, flag, option
from mmada.cli.options import MODEL
from mmada.errors import InputError, quote

if TYPE_CHECKING:
    from mmada.recipes.data_check import DataReport, SetReport

__all__ = ["DataCheck"]

PEAK = 400e12
"""Operations a second of a recent GPU in training: an H100 at 40 % of its peak in bfloat16."""


@dataclass(frozen=True, kw_only=True)
class DataCheck:
    """Read the first rows of every set of a YAML file: print canvases, counts, and why rows cannot be used.

    Example: mmada data check data.yaml --sheet pictures.png
    """

    file: Path = argument("The YAML file that describes the sets.", PATH)
    model: str = option("The model whose prompts and tokens are counted.", MODEL, "nano")
    sheet: Path | None = option("A picture to write: thumbnails with their captions.", PATH, None, shown="none")
    json: bool = flag("Print one line of JSON instead of text.")

    def check(self) -> None:
        """Raise `InputError` for a sheet that cannot be written."""
        if self.sheet is not None:
            from mmada.io.images import check_output

            check_output(self.sheet, (".png", ".jpg", ".jpeg", ".webp"), "--sheet")

    def run(self) -> None:
        """Read, print, write the sheet; then raise `InputError` where too many rows are bad."""
        from mmada.data import load
        from mmada.io.images import save_image
        from mmada.recipes.data_check import check_data, check_report, ruler_of, sheet_of

        mixture = load(self.file)
        report = check_data(mixture, ruler_of(self.model))
        if self.json:
            print(
                json.dumps(
                    {"sets": [one.table() for one in report.sets], "shares": report.shares, "weights": report.by},
                    ensure_ascii=False,
                )
            )
        else:
            show(report, self.model)
        if self.sheet is not None:
            sheet = sheet_of(report)
            if sheet is None:
                raise InputError(f"--sheet {quote(self.sheet)} has nothing to show, as no set has pictures; leave it out")
            save_image(sheet, self.sheet)
            if not self.json:
                print(self.sheet)
        check_report(mixture, report)


def show(report: DataReport, model: str) -> None:
    """Print what was seen of each set, and the mixture."""
    for one in report.sets:
        counts = ", ".join(f"{name} {count:,}" for name, count in one.splits.items() if count) or "none"
        print(f"{one.name}: {one.use}, {one.rows:,} rows; {'prompts' if one.use == 'prompts' else 'examples'}: {counts}")
        for canvas in one.shown:
            print(f"  {canvas if len(canvas) < 600 else f'{canvas[:400]} ... {canvas[-150:]}'}")
        for what, number in one.left_out.items():
            print(f"  left out by {what}: {number:,}")
        if one.bad:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(one.bad.items(), key=lambda pair: -pair[1]))
            print(f"  cannot be used, of {one.read:,} rows read: {reasons}")
            if one.fields:
                print(f"  fields of its rows: {', '.join(one.fields)}")
        if one.too_long:
            print(f"  longer than the model's row: {one.too_long} of {len(one.lengths)} canvases looked at")
        print()
    trained = [one for one in report.sets if one.name in report.shares]
    if trained:
        show_costs(report, trained, model)


def show_costs(report: DataReport, trained: list[SetReport], model: str) -> None:
    """Print tokens and operations of an epoch of each set, and its share of the mixture."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for column in ("set", "tokens each", "an epoch", "operations", "share of examples", "of tokens"):
        table.add_column(column, justify="left" if column == "set" else "right", overflow="fold", no_wrap=column == "set")
    for one in trained:
        examples, tokens = report.shares[one.name]
        costs = f"{one.tokens:,.0f}", f"{one.epoch_tokens:,}", f"{one.epoch_flops:.2g}"
        table.add_row(one.name, *costs, f"{examples:.1%}", f"{tokens:.1%}")
    flops = sum(one.epoch_flops for one in trained)
    table.add_row("all", "", f"{sum(one.epoch_tokens for one in trained):,}", f"{flops:.2g}", "", "")
    Console().print(table)
    print(f"Weights are shares of {report.by}.")
    print(f"An epoch of all sets costs {flops:.2g} operations with {model}: {time_of(flops / PEAK)} on a GPU that reaches")
    print(f"{PEAK / 1e12:.0f} TFLOP/s in training, as recent ones do. Tokens and costs are estimated from 64 rows a set.")


def time_of(seconds: float) -> str:
    """A time in the unit that suits it."""
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2g} seconds"
