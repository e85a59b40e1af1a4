"""Commands about model folders: info, convert."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmada.cli.arguments import FOLDER, argument, choice, flag, number, option, path, text, whole
from mmada.cli.options import MODEL, SEED, emit, image_tokenizer_option, preset_option
from mmada.errors import MAX_ROWS, check_folder

__all__ = ["Convert", "Info"]


@dataclass(frozen=True, kw_only=True)
class Info:
    """Describe a model: sizes, vocabulary, tokenizers, where it came from; and what this CPU offers it. Its weights are not read.

    Example: mmada info nano
    """

    model: str = argument("The bundled model, a folder with a checkpoint, or a hub id.", MODEL, "nano")
    json: bool = flag("Print one line of JSON instead of text.")
    preset: str | None = preset_option()
    image_tokenizer: str | None = image_tokenizer_option()

    def check(self) -> None:
        """Nothing here depends on another option."""

    def run(self) -> None:
        """Print the facts."""
        from mmada.io.cpu import use_physical_cores
        from mmada.pipeline.info import describe

        use_physical_cores()  # as the commands that compute
        facts = describe(self.model, image_tokenizer=self.image_tokenizer, preset=self.preset)
        width = max(len(name) for name in facts)
        emit(self.json, facts, "\n".join(f"{name:{width}}  {_line(name, value)}" for name, value in facts.items()))


def _line(name: str, value: object) -> str:
    """A fact in a line; memory in GiB, of weights by type."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {v} GiB" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value} GiB" if name == "cpu_memory" else str(value)


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Write a model in the released layout: with another type, with rows for image codes, with LoRA adapters merged in.

    Example: mmada convert GSAI-ML/LLaDA-8B-Instruct mmada-start --rows 134656
    """

    source: str = argument("The model to read, in the layout of MMaDA or of LLaDA.", text("FOLDER|HUB-ID"))
    out: Path = argument("The folder to write; it must be empty or new.", path("OUT"))
    dtype: str = option(
        "Type of the weights; int8 and int4 are for a CPU, and load in seconds.",
        choice("stored", "float32", "bfloat16", "float16", "int8", "int4"),
        "stored",
    )
    rows: int | None = option(
        "Resize embedding and head to this many rows; MMaDA-8B has 134656.", whole(1, MAX_ROWS), None, shown="as they are"
    )
    noise: float = option("New rows are the mean of the old ones plus X standard deviations of noise.", number(), 0.0)
    seed: int = option("Random seed of that noise.", SEED, 0)
    adapter: Path | None = option("LoRA adapters to merge in.", FOLDER, None, shown="none")
    preset: str | None = preset_option("Settings to write: mixcot, base, pretrain or llada.")
    mean: tuple[str, ...] = option(
        "Models whose weights are averaged with the source's.", text("FOLDER|HUB-ID"), (), many="list", shown="none"
    )
    shard_size: str = option("Maximum size of one file of weights.", text("SIZE"), "5GB")

    def check(self) -> None:
        """Raise `InputError` for a file in the folder's place."""
        check_folder("out", self.out)

    def run(self) -> None:
        """Read, write, and say where."""
        import torch

        from mmada.pipeline.convert import convert

        quantisation: Any = self.dtype if self.dtype in ("int8", "int4") else None
        written = convert(
            self.source, self.out, dtype=None if quantisation or self.dtype == "stored" else getattr(torch, self.dtype),
            quantisation=quantisation, rows=self.rows,
            noise=self.noise, seed=self.seed, shard_size=self.shard_size, adapter=self.adapter, preset=self.preset,
            mean=self.mean,
        )  # fmt: skip
        print(written)
