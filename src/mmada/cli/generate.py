"""Commands that answer with text: generate, ask, infill."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmada.cli.arguments import NUMBER, argument, option, path, switch, text, whole
from mmada.cli.options import OWN, SamplingOptions, SpeedOptions, emit, prompt_text

if TYPE_CHECKING:
    from mmada.pipeline import TextResult

__all__ = ["Ask", "Generate", "Infill"]


@dataclass(frozen=True, kw_only=True)
class AnswerOptions(SpeedOptions):
    """How an answer is decoded, block after block."""

    thinking: bool | None = switch("Reason step by step before the answer, or answer at once.", shown=OWN)
    length: int | None = option("Maximum length of the answer, in tokens.", whole(1), None, shown=OWN)
    block: int | None = option("Tokens of one semi-autoregressive block.", whole(1), None, shown=OWN)
    temperature: float = option("Sampling temperature; 0 takes the most probable token.", NUMBER, 0.0)
    guidance: float = option("Scale of classifier-free guidance; 0 turns it off.", NUMBER, 0.0)

    def decoding(self) -> dict[str, Any]:
        """The options as keyword arguments of the pipeline."""
        return {
            "thinking": self.thinking,
            "length": self.length,
            "steps": self.steps,
            "block": self.block,
            "temperature": self.temperature,
            "guidance": self.guidance,
            **vars(self.speed()),
            "seed": self.seed,
        }


@dataclass(frozen=True, kw_only=True)
class Generate(AnswerOptions):
    """Answer a prompt.

    Example: mmada generate "tom has 3 red and 4 blue pens. how many pens does he have?" --thinking
    """

    prompt: str = argument("The prompt, or - to read it from standard input.", text("PROMPT"))

    def run(self) -> None:
        """Print the answer."""
        prompt = prompt_text("prompt", self.prompt)
        model = self.load()
        with self.watching(model) as watch:
            result = model.generate(prompt, callback=watch, **self.decoding())
        _show(self, {"command": "generate", "prompt": prompt}, result)


@dataclass(frozen=True, kw_only=True)
class Ask(AnswerOptions):
    """Ask a question about an image.

    Example: mmada ask scene.png "how many circles are there?" --thinking
    """

    image: Path = argument("The image: PNG, JPEG, WebP, GIF, BMP, TIFF or PPM.", path("IMAGE"))
    question: str = argument("The question, or - to read it from standard input.", text("QUESTION"))

    def run(self) -> None:
        """Print the answer."""
        from mmada.io.images import load_image

        image = load_image(self.image)
        question = prompt_text("question", self.question)
        model = self.load()
        with self.watching(model) as watch:
            result = model.ask(image, question, callback=watch, **self.decoding())
        _show(self, {"command": "ask", "image": str(self.image), "question": question}, result)


@dataclass(frozen=True, kw_only=True)
class Infill(SpeedOptions):
    """Fill the gaps of a text.

    Example: mmada infill "2 + [MASK] = 5"
    """

    text: str = argument("The text, each gap written as [MASK] (one token a mark), or - for standard input.", text("TEXT"))
    temperature: float = option("Sampling temperature; 0 takes the most probable token.", NUMBER, 0.0)

    def run(self) -> None:
        """Print the completed text."""
        given = prompt_text("text", self.text)
        model = self.load()
        with self.watching(model) as watch:
            result = model.infill(
                given, steps=self.steps, temperature=self.temperature, seed=self.seed, callback=watch, **vars(self.speed())
            )
        _show(self, {"command": "infill", "prompt": given}, result)


def _show(options: SamplingOptions, asked: dict[str, object], result: TextResult) -> None:
    """Print a result; the reasoning, if there is any, stands above the answer."""
    record = {**asked, "text": result.text, "thinking": result.thinking, "tokens": len(result.tokens)}
    record["passes"] = result.nfe
    record |= {"model": options.model, "seed": options.seed}
    shown = f"{result.thinking}\n\n{result.text}" if result.thinking else result.text
    emit(options.json, record, shown)
