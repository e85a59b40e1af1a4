"""The command that makes reasoning data: reason."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table
from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg

from mmada.cli.options import ModelOptions, Whole, check_whole_given
from mmada.errors import MAX_SEED, InputError, check_folder, check_number, check_whole

__all__ = ["Reason"]


@dataclass(frozen=True, kw_only=True)
class Reason(ModelOptions):
    """Collect reasoning data: keep what is right and well formed, and report what was dropped and why.

    Example: mmada reason nano:math:1000 own:nano:vision:200 --out runs/reason
    """

    sources: Annotated[Positional[tuple[str, ...]], arg(metavar="SOURCE")]
    """SET:FILE (gsm8k, limo, s1k, openthoughts, acemath, reasonflux, geo170k, clevr, llava), nano:TASK:N, folder:FOLDER, or
    own:SOURCE:N."""
    out: Annotated[Path, arg(aliases=("-o",), metavar="FOLDER")]
    """Where to write the examples, their pictures and the report."""
    images: Annotated[UseAppendAction[tuple[Path, ...]], arg(metavar="FOLDER", help_behavior_hint="(repeatable)")] = ()
    """Where the pictures of a set are, beside its file."""
    forbid: Annotated[UseAppendAction[tuple[Path, ...]], arg(metavar="FILE", help_behavior_hint="(repeatable)")] = ()
    """Test set whose prompts must not occur: .jsonl, .json, .parquet or .txt."""
    longest: Annotated[int | None, Whole, arg(help_behavior_hint="(default: any)")] = None
    """Most tokens of prompt and answer, as the model counts."""
    per_prompt: Annotated[int | None, Whole, arg(help_behavior_hint="(default: any)")] = None
    """Most answers to one prompt."""
    unchecked: FlagCreatePairsOff[bool] = False
    """Keep also what has no gold answer to check against."""
    samples: Annotated[int, Whole] = 4
    """Own answers drawn for each prompt."""
    temperature: Annotated[float, arg(metavar="T")] = 1.0
    """Sampling temperature of own answers, above 0."""
    seed: Annotated[int, Whole] = 0
    """Seed of the nano world and of own answers."""

    def check(self) -> None:
        """Raise `InputError` for an option out of range."""
        super().check()
        if not self.sources:
            raise InputError("source is missing; name one, as in nano:math:1000")
        check_folder("out", self.out)
        check_whole_given("longest", self.longest, 1)
        check_whole_given("per_prompt", self.per_prompt, 1)
        check_whole("samples", self.samples, 1)
        check_whole("seed", self.seed, 0, MAX_SEED)
        if check_number("temperature", self.temperature) == 0:
            raise InputError("temperature is 0, so all answers to a prompt would be the same; give one above 0")

    def run(self) -> None:
        """Collect, write, and print the report."""
        from mmada.recipes.collect import Choice, collect_reasoning
        from mmada.rl.rollout import Sampler

        choice = Choice(unchecked=self.unchecked, per_prompt=self.per_prompt, longest=self.longest)
        columns = SpinnerColumn(), TextColumn("{task.description} {task.completed}")
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("reading", total=None)
            report = collect_reasoning(
                self.sources,
                self.out,
                load=self.load,
                tokenizer=self.model,
                images=self.images,
                forbid=self.forbid,
                choice=choice,
                samples=self.samples,
                sampler=Sampler(temperature=self.temperature, image_temperature=self.temperature),
                seed=self.seed,
                advance=lambda source: progress.update(task, advance=1, description=source),
            )
        if self.json:
            print(json.dumps(report.table(), ensure_ascii=False))
            return
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
        for column in ("source", "read", "kept", "unchecked", "dropped because"):
            table.add_column(column, overflow="fold", justify="left" if column in ("source", "dropped because") else "right")
        for row in report.table():
            reasons = row.pop("dropped")
            assert isinstance(reasons, dict)
            table.add_row(*map(str, row.values()), ", ".join(f"{reason} {n}" for reason, n in reasons.items()))
        Console().print(table)
        print(self.out)
