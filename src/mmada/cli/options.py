"""What the commands share: options of the model, checks that need no model, and output."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from rich.console import Console
from tyro.conf import FlagCreatePairsOff, arg
from tyro.constructors import PrimitiveConstructorSpec

from mmada.errors import MAX_SEED, MAX_STEPS, check_number, check_text, check_whole
from mmada.io.live_view import Watcher

if TYPE_CHECKING:
    from mmada.pipeline import Frame, MMaDA
    from mmada.sampling import Acceleration

__all__ = [
    "MODEL_DEFAULT",
    "Command",
    "Count",
    "Guidance",
    "ModelOptions",
    "OwnPart",
    "SamplingOptions",
    "SpeedOptions",
    "Temperature",
    "Whole",
    "check_number_given",
    "check_whole_given",
    "emit",
]


def _whole(texts: list[str]) -> int:
    try:
        return int(texts[0])
    except ValueError:
        raise ValueError(f"'{texts[0]}' is no whole number.") from None


MODEL_DEFAULT = "(default: the model's own)"
"""How the help says that the model's preset decides."""
Whole = PrimitiveConstructorSpec(
    nargs=1,
    metavar="N",
    instance_from_str=_whole,
    is_instance=lambda value: value is None or isinstance(value, int),
    str_from_instance=lambda value: [str(value)],
)
"""How an optional whole number is read: None is 'not given', and cannot be typed."""
Count = Annotated[int | None, Whole, arg(help_behavior_hint=MODEL_DEFAULT)]
Temperature = Annotated[float | None, arg(metavar="T", help_behavior_hint=MODEL_DEFAULT)]
Guidance = Annotated[float | None, arg(metavar="W", help_behavior_hint=MODEL_DEFAULT)]


OwnPart = Annotated[str | None, arg(metavar="FOLDER|HUB-ID", help_behavior_hint=MODEL_DEFAULT)]
Dtype = Literal["float32", "bfloat16", "float16", "int8", "fp8", "int4"]


class Command(Protocol):
    """One command, its options filled in."""

    def check(self) -> None:
        """Raise `InputError` for an option out of range; needs no model and no torch."""

    def run(self) -> None:
        """Do it, after `check`; raises `InputError` before anything is written when an input is wrong."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model, and how to print."""

    model: Annotated[str, arg(metavar="nano|FOLDER|HUB-ID")] = "nano"
    """The bundled model, a folder with a checkpoint, or a hub id."""
    json: FlagCreatePairsOff[bool] = False
    """Print JSON instead of text; what --watch shows then goes to the error stream."""
    image_tokenizer: OwnPart = None
    """Image tokenizer in place of the model's own: a folder or a hub id."""
    preset: Annotated[str | None, arg(metavar="NAME", help_behavior_hint=MODEL_DEFAULT)] = None
    """Settings of a known checkpoint: mixcot, base, pretrain or llada."""
    device: Annotated[str, arg(metavar="auto|cpu|cuda|mps")] = "auto"
    """Where to compute."""
    dtype: Annotated[Dtype | None, arg(metavar="float32|bfloat16|float16|int8|fp8|int4", help_behavior_hint=MODEL_DEFAULT)] = None
    """Type of the weights; int8, fp8 and int4 quantize them (needs torchao)."""

    adapter: Annotated[str | None, arg(metavar="FOLDER", help_behavior_hint="(default: none)")] = None
    """LoRA adapters to put on the model (needs peft)."""

    def check(self) -> None:
        """Raise `InputError` for an option out of range."""
        check_text("model", self.model)

    def load(self) -> MMaDA:
        """The model. Imports torch, so it comes after every check that does not need it."""
        import torch

        from mmada.pipeline import MMaDA

        quantised = None if self.dtype == "float32" or self.dtype == "bfloat16" or self.dtype == "float16" else self.dtype
        return MMaDA.load(
            self.model,
            device=self.device,
            dtype=None if self.dtype is None or quantised else getattr(torch, self.dtype),
            image_tokenizer=self.image_tokenizer,
            preset=self.preset,
            quantisation=quantised,
            adapter=self.adapter,
        )


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(ModelOptions):
    """The options that every command has that completes a canvas."""

    seed: Annotated[int, Whole] = 0
    """Seed of all randomness: the same seed gives the same output."""
    steps: Count = None
    """Denoising steps: more are slower and mostly better."""
    watch: FlagCreatePairsOff[bool] = False
    """Show the denoising live in the terminal."""

    def check(self) -> None:
        """Raise `InputError` for an option out of range."""
        super().check()
        check_whole("seed", self.seed, 0, MAX_SEED)
        check_whole_given("steps", self.steps, 1, MAX_STEPS)

    @contextmanager
    def watching(
        self, model: MMaDA, keep: Callable[[Any], None] | None = None, size: tuple[int, int] | None = None
    ) -> Iterator[Callable[[Frame], None] | None]:
        """The ``watch`` argument for a call of ``model``: shows frames if asked to, and feeds ``keep``; ``size`` of a picture."""
        if not self.watch:
            yield (lambda frame: keep(model.view(frame, size=size))) if keep else None
            return
        with Watcher(Console(stderr=self.json)) as watcher:

            def show(frame: Frame) -> None:
                view = model.view(frame, size=size)
                watcher.show(view)
                if keep:
                    keep(view)

            yield show


@dataclass(frozen=True, kw_only=True)
class SpeedOptions(SamplingOptions):
    """How fast a canvas is completed, beside its steps; the defaults approximate nothing."""

    parallel: Annotated[str | None, arg(metavar="RULE", help_behavior_hint="(default: the fixed pace)")] = None
    """Parallel unmasking: threshold=0.9, margin=0.8, factor=1, entropy=0.1, hierarchical=0.6,0.92, stable=0.01,2 or draft."""
    reuse: Annotated[str | None, arg(metavar="RULE", help_behavior_hint="(default: none)")] = None
    """Keep keys and values between steps: prefix, block, delayed or drift."""
    lookahead: Annotated[int, Whole] = 0
    """Steps to guess ahead in one pass; exact."""

    def check(self) -> None:
        """Raise `InputError` for an option out of range."""
        super().check()
        check_whole("lookahead", self.lookahead, 0)

    def load(self) -> MMaDA:
        """The model, after the choices are known to be right."""
        self.speed()
        return super().load()

    def speed(self) -> Acceleration:
        """The choices. Imports torch."""
        from mmada.sampling import Acceleration

        return Acceleration.of(self.parallel, self.reuse, self.lookahead)


def check_whole_given(field: str, value: int | None, least: int, most: int | None = None) -> None:
    """`check_whole`; None is 'not given' and passes."""
    if value is not None:
        check_whole(field, value, least, most)


def check_number_given(field: str, value: float | None) -> None:
    """`check_number`; None is 'not given' and passes."""
    if value is not None:
        check_number(field, value)


def emit(as_json: bool, record: Mapping[str, object], text: str) -> None:
    """Print ``record`` as one line of JSON, or ``text``."""
    print(json.dumps(record, ensure_ascii=False) if as_json else text)
