"""Commands that show: demo, info."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from mmada.cli.options import MODEL_DEFAULT, OwnPart, Whole, emit
from mmada.errors import MAX_ROWS, MAX_SEED, check_folder, check_number, check_text, check_whole
from mmada.io.images import check_output, load_image

__all__ = ["Convert", "Demo", "Info"]


@dataclass(frozen=True, kw_only=True)
class Demo:
    """See the bundled model answer, look and draw, on built-in inputs and on yours; under a minute.

    Example: mmada demo --image photo.png --prompt "a green star above a white circle"
    """

    image: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: built-in ones only)")] = None
    """A picture of yours to ask about."""
    prompt: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="(default: built-in ones only)")] = None
    """A picture of yours to draw."""
    out: Annotated[Path, arg(aliases=("-o",), metavar="FILE")] = Path("demo.png")
    """Where to write the contact sheet."""

    def check(self) -> None:
        """Raise `InputError` for an option out of range."""
        if self.prompt is not None:
            check_text("prompt", self.prompt)
        check_output(self.out, name="out")

    def run(self) -> None:
        """Run the demo."""
        image = None if self.image is None else load_image(self.image)
        from mmada.nano.demo import run_demo

        run_demo(image=image, prompt=self.prompt, out=self.out)


@dataclass(frozen=True, kw_only=True)
class Info:
    """Describe a model: sizes, vocabulary, tokenizers, where it came from.

    Example: mmada info nano
    """

    model: Annotated[Positional[str], arg(metavar="[nano|FOLDER|HUB-ID]")] = "nano"
    """The bundled model, a folder with a checkpoint, or a hub id."""
    json: FlagCreatePairsOff[bool] = False
    """Print JSON instead of text."""

    image_tokenizer: OwnPart = None
    """Image tokenizer in place of the model's own: a folder or a hub id."""
    preset: Annotated[str | None, arg(metavar="NAME", help_behavior_hint=MODEL_DEFAULT)] = None
    """Settings of a known checkpoint: mixcot, base, pretrain or llada."""

    def check(self) -> None:
        """Raise `InputError` for an option out of range."""
        check_text("model", self.model)

    def run(self) -> None:
        """Print it; the weights are not read."""
        from mmada.pipeline.info import describe

        facts = describe(self.model, image_tokenizer=self.image_tokenizer, preset=self.preset)
        width = max(len(name) for name in facts)
        emit(self.json, facts, "\n".join(f"{name:{width}}  {_said(value)}" for name, value in facts.items()))


def _said(value: object) -> str:
    """A fact in a line; memory in GiB by type."""
    return ", ".join(f"{k} {v} GiB" for k, v in value.items()) if isinstance(value, dict) else str(value)


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Write a model in the released layout: another type, rows for codes, LoRA adapters merged in.

    Example: mmada convert GSAI-ML/LLaDA-8B-Instruct mmada-start --rows 134656
    """

    source: Annotated[Positional[str], arg(metavar="FOLDER|HUB-ID")]
    """The model to read: of MMaDA's or of LLaDA's layout."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """The folder to write; it must be empty or new."""
    dtype: Literal["stored", "float32", "bfloat16", "float16"] = "stored"
    """Type of the weights."""
    rows: Annotated[int | None, Whole, arg(help_behavior_hint="(default: as they are)")] = None
    """Widen embedding and head to so many rows; MMaDA-8B has 134656."""
    noise: Annotated[float, arg(metavar="X")] = 0.0
    """New rows are the mean of the old ones plus X standard deviations of noise."""
    seed: Annotated[int, Whole] = 0
    """Seed of that noise."""
    adapter: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: none)")] = None
    """LoRA adapters to merge in (needs peft)."""
    preset: Annotated[str | None, arg(metavar="NAME", help_behavior_hint=MODEL_DEFAULT)] = None
    """Settings to write: mixcot, base, pretrain or llada."""
    mean: Annotated[tuple[str, ...], arg(metavar="FOLDER|HUB-ID", help_behavior_hint="(default: none)")] = ()
    """Models whose weights are averaged with the source's."""
    shard_size: Annotated[str, arg(metavar="SIZE")] = "5GB"
    """Largest file of weights."""

    def check(self) -> None:
        """Raise `InputError` for an option out of range."""
        check_text("source", self.source)
        check_number("noise", self.noise)
        check_whole("seed", self.seed, 0, MAX_SEED)
        if self.rows is not None:
            check_whole("rows", self.rows, 1, MAX_ROWS)
        check_folder("out", self.out)

    def run(self) -> None:
        """Read, write, and say where."""
        import torch

        from mmada.pipeline.convert import convert

        written = convert(
            self.source, self.out, dtype=None if self.dtype == "stored" else getattr(torch, self.dtype), rows=self.rows,
            noise=self.noise, seed=self.seed, shard_size=self.shard_size, adapter=self.adapter, preset=self.preset,
            mean=self.mean,
        )  # fmt: skip
        print(written)
