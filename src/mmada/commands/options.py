"""What the commands share: options of the model, checks that need no model, and output."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from rich.console import Console
from tyro.conf import FlagCreatePairsOff, arg
from tyro.constructors import PrimitiveConstructorSpec

from mmada.errors import MAX_SEED, MAX_STEPS, check_number, check_text, check_whole
from mmada.terminal import Watcher

if TYPE_CHECKING:
    from mmada.pipeline import Frame, MMaDA

__all__ = [
    "MODEL_DEFAULT",
    "Command",
    "Count",
    "Guidance",
    "ModelOptions",
    "SamplingOptions",
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

    def check(self) -> None:
        """Raise `InputError` for an option out of range."""
        check_text("model", self.model)

    def load(self) -> MMaDA:
        """The model. Imports torch, so it comes after every check that does not need it."""
        from mmada.pipeline import MMaDA

        return MMaDA.load(self.model)


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
    def watching(self, model: MMaDA, keep: Callable[[Any], None] | None = None) -> Iterator[Callable[[Frame], None] | None]:
        """The ``watch`` argument for a call of ``model``: shows frames if asked to, and feeds ``keep``."""
        if not self.watch:
            yield (lambda frame: keep(model.view(frame))) if keep else None
            return
        with Watcher(Console(stderr=self.json)) as watcher:

            def show(frame: Frame) -> None:
                view = model.view(frame)
                watcher.show(view)
                if keep:
                    keep(view)

            yield show


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
