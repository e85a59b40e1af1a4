"""Commands that show: demo, info."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from mmada.commands.options import emit
from mmada.errors import check_text
from mmada.images import check_output, load_image

__all__ = ["Demo", "Info"]


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
        from mmada.demo import run_demo

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

    def check(self) -> None:
        """Raise `InputError` for an option out of range."""
        check_text("model", self.model)

    def run(self) -> None:
        """Print it."""
        from mmada.pipeline import MMaDA

        facts = MMaDA.load(self.model).info()
        width = max(len(name) for name in facts)
        emit(self.json, facts, "\n".join(f"{name:{width}}  {value}" for name, value in facts.items()))
