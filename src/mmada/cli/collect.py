"""The command collect: reasoning data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmada.cli.arguments import FOLDER, NUMBER, PATH, argument, flag, option, option_name, text, whole
from mmada.cli.options import COUNT, SEED, ModelOptions
from mmada.errors import InputError, check_folder

if TYPE_CHECKING:
    from mmada.recipes.collect import Report

__all__ = ["Collect"]


@dataclass(frozen=True, kw_only=True)
class Collect(ModelOptions):
    """Collect reasoning data: keep examples that are correct and well formed, and report what was dropped and why.

    Example: mmada collect nano:math:1000 self:nano:vision:200 --out runs/reason
    """

    source: tuple[str, ...] = argument(
        "SET:FILE (gsm8k, limo, s1k, openthoughts, acemath, reasonflux, geo170k, clevr, llava), nano:TASK:N, folder:FOLDER, or "
        "self:SOURCE:N.",
        text("SOURCE"),
        many="list",
    )
    out: Path = option("The folder to write: examples, their images and the report.", FOLDER, names=("-o", "--output"))
    images: tuple[Path, ...] = option("Folder with the images of a set.", FOLDER, (), many="repeat", shown="the file's folder")
    decontaminate: tuple[Path, ...] = option(
        "Test set whose prompts must not occur: .jsonl, .json, .parquet or .txt.", PATH, (), many="repeat", shown="none"
    )
    max_tokens: int | None = option("Maximum tokens of prompt and answer, counted by the model.", COUNT, None, shown="any")
    per_prompt: int | None = option("Maximum number of answers kept for one prompt.", COUNT, None, shown="any")
    unchecked: bool = flag("Also keep examples without a gold answer to check against.")
    plain: bool = flag("Also keep answers without reasoning.")
    samples: int = option("Answers sampled for each prompt of a self: source.", whole(1, 10_000), 4)
    temperature: float = option("Sampling temperature of these answers, above 0.", NUMBER, 1.0)
    seed: int = option("Random seed of the nano world and of sampled answers.", SEED, 0)

    def check(self) -> None:
        """Raise `InputError` for a file in the folder's place, and for a temperature of 0."""
        super().check()
        check_folder("--out", self.out)
        self.check_used()
        if self.temperature == 0:
            raise InputError("--temperature is 0, so all answers to a prompt would be the same; give one above 0")

    def check_used(self) -> None:
        """Raise `InputError` for options of the model where no source asks the model for answers."""
        if any(source.startswith("self:") for source in self.source):
            return
        counts = {"model"} if self.max_tokens is not None else set()
        for field in dataclasses.fields(ModelOptions):
            if field.name not in {"json", *counts} and getattr(self, field.name) != field.default:
                name = option_name(field.name)
                raise InputError(f"{name} is not used, as no source asks the model for answers; leave it out or add self:SET:N")

    def run(self) -> None:
        """Collect, write, and print the report."""
        from mmada.pipeline import ImageSampling, TextSampling
        from mmada.recipes.collect import Selection, collect_reasoning
        from mmada.rl.rollout import RolloutSampling

        choice = Selection(unchecked=self.unchecked, plain=self.plain, per_prompt=self.per_prompt, max_tokens=self.max_tokens)
        with counting() as advance:
            report = collect_reasoning(
                self.source,
                self.out,
                load=self.load,
                tokenizer=self.model,
                images=self.images,
                decontaminate=self.decontaminate,
                choice=choice,
                samples=self.samples,
                sampling=RolloutSampling(
                    text=TextSampling(temperature=self.temperature),
                    image=ImageSampling(temperature=self.temperature, guidance=2.0),
                ),
                seed=self.seed,
                advance=advance,
            )
        if self.json:
            print(json.dumps(report.table(), ensure_ascii=False))
            return
        show(report)
        print(self.out)


@contextmanager
def counting() -> Iterator[Callable[[str], None]]:
    """A counter of examples on a terminal's error stream; elsewhere nothing is shown."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.description} {task.completed}")
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading", total=None)
        yield lambda source: progress.update(task, advance=1, description=source)


def show(report: Report) -> None:
    """Print what became of the examples of each source."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for column in ("source", "read", "kept", "unchecked", "dropped because"):
        table.add_column(column, overflow="fold", justify="left" if column in ("source", "dropped because") else "right")
    for row in report.table():
        reasons = row.pop("dropped")
        assert isinstance(reasons, dict)
        table.add_row(*map(str, row.values()), ", ".join(f"{reason} {n}" for reason, n in reasons.items()))
    Console().print(table)
