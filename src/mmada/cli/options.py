"""Options that commands share: the model, sampling, acceleration, output; and how a model is loaded and watched."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from mmada.cli.arguments import FASTER, FOLDER, NUMBER, Kind, choice, flag, option, text, whole
from mmada.errors import MAX_SEED, MAX_STEPS, InputError, check_text

if TYPE_CHECKING:
    from pathlib import Path

    from mmada.pipeline import Frame, MMaDA

__all__ = [
    "COUNT",
    "MODEL",
    "OWN",
    "SEED",
    "STEPS",
    "Command",
    "ModelOptions",
    "SamplingOptions",
    "emit",
    "fit_option",
    "image_tokenizer_option",
    "output_option",
    "preset_option",
    "prompt_text",
    "remark",
]

OWN = "the model's own"
"""How the help says that the model's preset decides."""
MODEL = text("nano|FOLDER|HUB-ID")
SEED = whole(0, MAX_SEED)
STEPS = whole(1, MAX_STEPS)
COUNT = whole(1, 10**9)
"""A number of things; the upper bound catches typos."""
MAX_INPUT = 1_000_000
"""Bytes that are read from standard input: far more than any model takes, far less than the memory."""


class Command(Protocol):
    """One command, its options filled in."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def check(self) -> None:
        """Raise `InputError` for options that do not go together; needs no model and no torch."""

    def run(self) -> None:
        """Do it, after `check`; raises `InputError` before anything is written when an input is wrong."""


def output_option(help: str, default: Path, kind: Kind) -> Any:
    """``-o``, ``--out`` or ``--output``: the one name of what a command writes."""
    return option(help, kind, default, names=("-o", "--output"))


def image_tokenizer_option() -> Any:
    """The option ``--image-tokenizer``."""
    return option("Another image tokenizer: a folder or a hub id.", text("FOLDER|HUB-ID"), None, group="model", shown=OWN)


def preset_option(help: str = "Settings of a known checkpoint: mixcot, base, pretrain or llada.") -> Any:
    """The option ``--preset``."""
    return option(help, text("NAME"), None, group="model", shown=OWN)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model, and how to print."""

    json: bool = flag("Print one line of JSON instead of text.")
    model: str = option("The bundled model, a folder with a checkpoint, or a hub id.", MODEL, "nano", group="model")
    preset: str | None = preset_option()
    image_tokenizer: str | None = image_tokenizer_option()
    device: str = option("Device to compute on: auto, cpu, cuda, cuda:1, mps.", text("DEVICE"), "auto", group="model")
    dtype: str | None = option(
        "Type of the weights; int8, fp8 and int4 quantize them (on a GPU, and fp8 anywhere, this needs torchao).",
        choice("float32", "bfloat16", "float16", "int8", "fp8", "int4"),
        None,
        group="model",
        shown=OWN,
    )
    adapter: Path | None = option("LoRA adapters to merge into the model.", FOLDER, None, group="model", shown="none")

    def check(self) -> None:
        """Nothing here depends on another option."""

    def load(self) -> MMaDA:
        """Load the model. Imports torch, so it comes after every check that does not need it."""
        import torch

        from mmada.io.cpu import use_physical_cores
        from mmada.pipeline import MMaDA

        use_physical_cores()
        quantisation: Any = self.dtype if self.dtype in ("int8", "fp8", "int4") else None
        return MMaDA.load(
            self.model,
            device=self.device,
            dtype=None if self.dtype is None or quantisation else getattr(torch, self.dtype),
            image_tokenizer=self.image_tokenizer,
            preset=self.preset,
            quantisation=quantisation,
            adapter=self.adapter,
        )


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(ModelOptions):
    """Options of every command that completes a canvas: the fields of `mmada.pipeline.options.Sampling`, and how it is shown."""

    SAMPLING: ClassVar[tuple[str, ...]] = ("steps", "temperature", "guidance", "parallel", "reuse", "lookahead")
    """Options that are passed on to the model's method under the same names, where they are given."""

    steps: int | None = option("Denoising steps; more are slower and mostly better.", STEPS, None, shown=OWN)
    temperature: float | None = option("Sampling temperature; 0 takes the most probable token.", NUMBER, None, shown=OWN)
    guidance: float | None = option("Scale of classifier-free guidance; 0 turns it off.", NUMBER, None, shown=OWN)
    seed: int = option("Random seed; the same seed gives the same output.", SEED, 0)
    watch: bool = flag("Show the denoising live in the terminal (with --json on the error stream).")
    parallel: str | None = option(
        "Parallel unmasking: threshold=0.9, margin=0.8, factor=1, entropy=0.1, hierarchical=0.6,0.92, stable=0.01,2, "
        "draft or none.",
        text("RULE"),
        None,
        group=FASTER,
        shown=OWN,
    )
    reuse: str | None = option(
        "Keep keys and values between steps: prefix, block, delayed, drift or none.", text("RULE"), None, group=FASTER, shown=OWN
    )
    lookahead: int | None = option(
        "Draft length of speculative decoding: steps that one forward pass verifies. Exact.",
        whole(0),
        None,
        group=FASTER,
        shown=OWN,
    )

    def sampling(self) -> dict[str, Any]:
        """The sampling options that are given, as keyword arguments of the model's methods."""
        return {name: value for name in self.SAMPLING if (value := getattr(self, name)) not in (None, ())}

    def load(self) -> MMaDA:
        """Load the model, after the sampling options are known to go together."""
        from mmada.pipeline.options import ImageSampling, TextSampling

        (ImageSampling if "schedule" in self.SAMPLING else TextSampling)(**self.sampling())
        return super().load()

    @contextmanager
    def watching(
        self, model: MMaDA, keep: Callable[[Any], None] | None = None, size: tuple[int, int] | None = None
    ) -> Iterator[Callable[[Frame], None] | None]:
        """The callback of a call of ``model``: the live view with ``--watch``, else one line of progress on a terminal.

        ``keep`` is given each view. ``size``: of the image, as in `MMaDA.draw`.
        """
        from rich.console import Console

        from mmada.io.live_view import ProgressLine, Watcher

        def viewing(show: Callable[[Any], None]) -> Callable[[Frame], None]:
            def on_frame(frame: Frame) -> None:
                view = model.view(frame, size=size)
                show(view)
                if keep:
                    keep(view)

            return on_frame

        kept = viewing(lambda view: None) if keep else None
        console = Console(stderr=True)
        if self.watch:
            with Watcher(console if self.json else Console()) as watcher:
                yield viewing(watcher.show)
        elif self.json or not console.is_terminal:
            yield kept
        else:
            with ProgressLine(console) as line:

                def on_frame(frame: Frame) -> None:
                    line.show(frame.step, frame.steps, max(frame.nfe, default=0))
                    if kept:
                        kept(frame)

                yield on_frame


def fit_option() -> Any:
    """The option ``--fit``."""
    return option(
        "An image that is not square: cut to its middle square, out of proportion, or with white around it.",
        choice("crop", "squash", "pad"),
        None,
        shown=OWN,
    )


def remark(note: str) -> None:
    """Tell the user something about a result, on the error stream."""
    if note:
        print(f"mmada: note: {note}", file=sys.stderr)


def prompt_text(field: str, value: str) -> str:
    """The value of an argument, or the text of standard input where it is "-". Raises InputError."""
    if value != "-":
        return value
    if sys.stdin is None:
        raise InputError(f"{field} is '-' but standard input is closed; give the text itself")
    stream = getattr(sys.stdin, "buffer", None)
    try:
        data = sys.stdin.read(MAX_INPUT + 1).encode() if stream is None else stream.read(MAX_INPUT + 1)
        read: str = data.decode()
    except (UnicodeError, OSError) as error:
        raise InputError(f"{field} cannot be read from standard input; give text in UTF-8") from error
    if len(data) > MAX_INPUT:
        raise InputError(f"{field} from standard input is longer than {MAX_INPUT // 1000} kB; give less text")
    if not read.strip():
        raise InputError(f"{field} is '-' but standard input is empty; give some text")
    check_text(field, read)
    return read.rstrip("\r\n")


def emit(as_json: bool, record: Mapping[str, object], text: str) -> None:
    """Print ``record`` as one line of JSON, or ``text``."""
    print(json.dumps(record, ensure_ascii=False) if as_json else text)
