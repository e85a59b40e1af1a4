"""Commands that answer with text: generate, ask, infill."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import FlagCreatePairsOff, Positional, arg

from mmada.cli.options import MODEL_DEFAULT, Count, SamplingOptions, SpeedOptions, check_whole_given, emit
from mmada.errors import InputError, check_number, check_text
from mmada.io.images import load_image

if TYPE_CHECKING:
    from mmada.pipeline import TextResult

__all__ = ["Ask", "Generate", "Infill"]

OwnDefault = Annotated[FlagCreatePairsOff[bool], arg(help_behavior_hint=MODEL_DEFAULT)]


@dataclass(frozen=True, kw_only=True)
class AnswerOptions(SpeedOptions):
    """How an answer is decoded, block after block."""

    thinking: OwnDefault = False
    """Reason step by step before the answer."""
    no_thinking: OwnDefault = False
    """Answer at once."""
    length: Count = None
    """Longest answer, in tokens."""
    block: Count = None
    """Tokens of one semi-autoregressive block."""
    temperature: Annotated[float, arg(metavar="T")] = 0.0
    """Sampling temperature; 0 takes the likeliest token."""
    guidance: Annotated[float, arg(metavar="W")] = 0.0
    """Weight of classifier-free guidance; 0 is without."""

    def check(self) -> None:
        """Raise `InputError` for an option out of range."""
        super().check()
        if self.thinking and self.no_thinking:
            raise InputError("thinking is both asked for and forbidden; give --thinking or --no-thinking.")
        check_whole_given("length", self.length, 1)
        check_whole_given("block", self.block, 1)
        check_number("temperature", self.temperature)
        check_number("guidance", self.guidance)

    def decoding(self) -> dict[str, Any]:
        """The options as keyword arguments of the pipeline."""
        return {
            "thinking": True if self.thinking else False if self.no_thinking else None,
            "length": self.length,
            "steps": self.steps,
            "block": self.block,
            "temperature": self.temperature,
            "guidance": self.guidance,
            "speed": self.speed(),
            "seed": self.seed,
        }


@dataclass(frozen=True, kw_only=True)
class Generate(AnswerOptions):
    """Answer a prompt.

    Example: mmada generate "tom has 3 red and 4 blue pens. how many pens does he have?" --thinking
    """

    prompt: Annotated[Positional[str], arg(metavar="PROMPT")]
    """What to answer."""

    def check(self) -> None:
        """Raise `InputError` for an option out of range."""
        super().check()
        check_text("prompt", self.prompt)

    def run(self) -> None:
        """Print the answer."""
        model = self.load()
        with self.watching(model) as watch:
            result = model.generate(self.prompt, watch=watch, **self.decoding())
        _show(self, {"command": "generate", "prompt": self.prompt}, result)


@dataclass(frozen=True, kw_only=True)
class Ask(AnswerOptions):
    """Ask a question about a picture.

    Example: mmada ask scene.png "how many circles are there?" --thinking
    """

    image: Annotated[Positional[Path], arg(metavar="IMAGE")]
    """The picture: PNG, JPEG, WebP, GIF, BMP, TIFF or PPM."""
    question: Annotated[Positional[str], arg(metavar="QUESTION")]
    """What to ask."""

    def check(self) -> None:
        """Raise `InputError` for an option out of range."""
        super().check()
        check_text("question", self.question)

    def run(self) -> None:
        """Print the answer."""
        image = load_image(self.image)
        model = self.load()
        with self.watching(model) as watch:
            result = model.ask(image, self.question, watch=watch, **self.decoding())
        _show(self, {"command": "ask", "image": str(self.image), "question": self.question}, result)


@dataclass(frozen=True, kw_only=True)
class Infill(SpeedOptions):
    """Fill the gaps of a text.

    Example: mmada infill "2 + [MASK] = 5"
    """

    text: Annotated[Positional[str], arg(metavar="TEXT")]
    """The text, each gap written as [MASK] (one token a mark)."""
    temperature: Annotated[float, arg(metavar="T")] = 0.0
    """Sampling temperature; 0 takes the likeliest token."""

    def check(self) -> None:
        """Raise `InputError` for an option out of range."""
        super().check()
        check_text("text", self.text)
        check_number("temperature", self.temperature)

    def run(self) -> None:
        """Print the completed text."""
        model = self.load()
        with self.watching(model) as watch:
            result = model.infill(
                self.text, steps=self.steps, temperature=self.temperature, speed=self.speed(), seed=self.seed, watch=watch
            )
        _show(self, {"command": "infill", "prompt": self.text}, result)


def _show(options: SamplingOptions, asked: dict[str, object], result: TextResult) -> None:
    """The reasoning, if there is any, stands above the answer."""
    record = {**asked, "text": result.text, "thinking": result.thinking, "tokens": len(result.tokens)}
    record["passes"] = result.nfe
    record |= {"model": options.model, "seed": options.seed}
    text = f"{result.thinking}\n\n{result.text}" if result.thinking else result.text
    emit(options.json, record, text)
