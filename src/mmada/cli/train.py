"""Commands that train: train, tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmada.cli.arguments import FOLDER, PATH, argument, flag, option, text
from mmada.cli.options import MODEL, output_option
from mmada.errors import InputError, check_folder, quote, unknown_name

__all__ = ["Tokenizer", "Train"]


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train by a recipe, or resume a run.

    Example: mmada train pretrain --set plan.optim.lr=0.001 --out runs/pretrain
    """

    recipe: str | None = argument(
        "The recipe; --list shows them all, --fields what one of them can be set to.", text("RECIPE"), None
    )
    data: Path | None = option("Your data: a YAML file of sets, or a folder of shards.", PATH, None, shown="the recipe's own")
    set: tuple[str, ...] = option("Set one field of the recipe.", text("A.B=C"), (), many="repeat")
    out: Path | None = option("The run's folder.", FOLDER, None, names=("-o", "--output"), shown="runs/RECIPE")
    start_from: str | None = option("The model to start from.", MODEL, None, shown="the recipe's own")
    resume: bool = flag("Continue from the newest checkpoint in the run's folder.")
    list: bool = flag("List the recipes and stop.")
    fields: bool = flag("List the recipe's fields with their types and defaults and stop.")

    def check(self) -> None:
        """Raise `InputError` for an unknown recipe and for a malformed setting."""
        from mmada.registry import RECIPES

        parse_overrides(self.set)
        if self.recipe is None:
            if not self.list:
                raise InputError("recipe is missing; give one, or see 'mmada train --list'")
        elif self.recipe not in RECIPES:
            raise unknown_name("recipe", self.recipe, RECIPES)

    def overrides(self) -> dict[str, str]:
        """The settings, ``--data`` among them."""
        from mmada.recipes.overrides import text_of
        from mmada.registry import RECIPES

        given = parse_overrides(self.set)
        if self.data is None:
            return given
        if not hasattr(RECIPES.find(str(self.recipe))(), "data_file"):
            raise InputError(f"recipe {self.recipe} takes no --data; recipes that do are sft, image_tokenizer and rl")
        return {**given, "data_file": text_of(str(self.data))}

    def run(self) -> None:
        """Train, or list."""
        from mmada.registry import RECIPES

        if self.list:
            for name, recipe in RECIPES.items():
                print(f"{name:18} {(recipe.__doc__ or '').strip().splitlines()[0]}")
            return
        assert self.recipe is not None
        if self.fields:
            print_fields(self.recipe)
            return
        from mmada.io.cpu import use_physical_cores
        from mmada.recipes.run import run

        use_physical_cores()
        run(
            self.recipe,
            overrides=self.overrides(),
            out=self.out,
            resume=self.resume,
            start_from=self.start_from,
        )


def print_fields(recipe: str) -> None:
    """Print a line for each field of a recipe: its dotted name, type, default and meaning."""
    from mmada.recipes.overrides import describe_fields
    from mmada.registry import RECIPES

    rows = list(describe_fields(RECIPES.find(recipe)()))
    names, kinds = (max((len(getattr(row, column)) for row in rows), default=0) for column in ("name", "type"))
    for row in rows:
        line = f"{row.name:{names}}  {row.type:{min(kinds, 32)}}  {row.default}"
        print(f"{line}  # {row.doc}" if row.doc else line)


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Train the text tokenizer of the nano models (a byte-pair encoding) on their corpora.

    Example: mmada tokenizer --out runs/tokenizer
    """

    out: Path = output_option("The folder to write.", Path("runs/tokenizer"), FOLDER)

    def check(self) -> None:
        """Raise `InputError` for a file in the folder's place."""
        check_folder("--out", self.out)

    def run(self) -> None:
        """Train, write, and say where."""
        from mmada.nano.recipes import text_tokenizer

        text_tokenizer(self.out)
        print(self.out)


def parse_overrides(pairs: Sequence[str]) -> dict[str, str]:
    """``["a.b=c"]`` as ``{"a.b": "c"}``. Raises `InputError` for a pair without a name or without '='."""
    overrides: dict[str, str] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name.strip():
            raise InputError(f"--set {quote(pair)} is not an assignment; write it as name.field=value")
        overrides[name.strip()] = value
    return overrides
