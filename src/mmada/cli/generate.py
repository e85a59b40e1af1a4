"""Commands that answer with text: generate, chat, ask, infill, score."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmada.cli.arguments import argument, flag, option, path, switch, text
from mmada.cli.options import COUNT, OWN, SEED, ModelOptions, SamplingOptions, emit, fit_option, prompt_text, remark
from mmada.errors import InputError

if TYPE_CHECKING:
    from mmada.pipeline import MMaDA, TextResult

__all__ = ["Ask", "Chat", "Generate", "Infill", "ScoreText"]

PROMPT = text("PROMPT")
IMAGE = path("IMAGE")


@dataclass(frozen=True, kw_only=True)
class AnswerOptions(SamplingOptions):
    """How an answer is decoded, block after block: the fields of `mmada.pipeline.TextSampling`."""

    SAMPLING = (*SamplingOptions.SAMPLING, "length", "block", "stop", "stop_at_eos", "open_vocabulary")

    thinking: bool | None = switch("Reason step by step before the answer, or answer at once.", shown=OWN)
    length: int | None = option("Maximum length of the answer, in tokens.", COUNT, None, shown=OWN)
    block: int | None = option("Tokens of one semi-autoregressive block.", COUNT, None, shown=OWN)
    stop: tuple[str, ...] = option("End the answer before this text.", text(empty=True), (), many="repeat", shown="none")
    stop_at_eos: bool | None = switch("End with the block that holds an end token, or fill the whole length.", shown=OWN)
    open_vocabulary: bool | None = switch("Let image codes and control tokens compete with text tokens.", shown=OWN)


@dataclass(frozen=True, kw_only=True)
class Generate(AnswerOptions):
    """Answer a prompt.

    Example: mmada generate "tom has 3 red and 4 blue pens. how many pens does he have?" --thinking
    """

    prompt: str = argument("The prompt, or - to read it from standard input.", PROMPT)

    def run(self) -> None:
        """Print the answer."""
        prompt = prompt_text("prompt", self.prompt)
        model = self.load()
        with self.watching(model) as callback:
            result = model.generate(prompt, thinking=self.thinking, seed=self.seed, callback=callback, **self.sampling())
        _show(self, {"command": "generate", "prompt": prompt}, result)


@dataclass(frozen=True, kw_only=True)
class Chat(AnswerOptions):
    """Hold a conversation, about images too. Without MESSAGE each line of standard input is a turn, until its end.

    Example: mmada chat "what is the capital of france?" --system "answer in one word."
    """

    message: str | None = argument("One message to answer, or - to read it from standard input.", text("MESSAGE"), None)
    system: str | None = option("The system prompt.", text(), None, shown="none")
    image: tuple[Path, ...] = option("Image to talk about.", IMAGE, (), many="repeat", shown="none")
    fit: str | None = fit_option()

    def run(self) -> None:
        """Print the answers."""
        from mmada.io.images import load_image

        images = [{"type": "image", "image": load_image(file)} for file in self.image]
        message = None if self.message is None else prompt_text("message", self.message)
        model = self.load()
        messages: list[dict[str, Any]] = [] if self.system is None else [{"role": "system", "content": self.system}]
        for turn in _lines() if message is None else [message]:
            messages.append({"role": "user", "content": [*images, {"type": "text", "text": turn}]})
            images = []
            result = self._answer(model, messages)
            _show(self, {"command": "chat", "message": turn}, result)
            messages.append({"role": "assistant", "content": result.text or result.raw_text})
        if message is None and not messages[self.system is not None :]:
            raise InputError("message is missing and standard input is empty; give a message")

    def _answer(self, model: MMaDA, messages: list[dict[str, Any]]) -> TextResult:
        with self.watching(model) as callback:
            options: dict[str, Any] = {"thinking": self.thinking, "fit": self.fit, "seed": self.seed, "callback": callback}
            result: Any = model.chat(messages, **options, **self.sampling())
            answer: TextResult = result
            return answer


@dataclass(frozen=True, kw_only=True)
class Ask(AnswerOptions):
    """Ask a question about an image.

    Example: mmada ask scene.png "how many circles are there?" --thinking
    """

    image: Path = argument("The image: PNG, JPEG, WebP, GIF, BMP, TIFF or PPM.", IMAGE)
    question: str = argument("The question, or - to read it from standard input.", text("QUESTION"))
    fit: str | None = fit_option()

    def run(self) -> None:
        """Print the answer."""
        from mmada.io.images import load_image

        image = load_image(self.image)
        question = prompt_text("question", self.question)
        model = self.load()
        with self.watching(model) as callback:
            options: dict[str, Any] = {"thinking": self.thinking, "fit": self.fit, "seed": self.seed, "callback": callback}
            result = model.ask(image, question, **options, **self.sampling())
        _show(self, {"command": "ask", "image": str(self.image), "question": question}, result)


@dataclass(frozen=True, kw_only=True)
class Infill(SamplingOptions):
    """Fill the gaps of a text.

    Example: mmada infill "2 + [MASK] = 5"
    """

    SAMPLING = (*SamplingOptions.SAMPLING, "open_vocabulary")

    text: str = argument("The text, each gap written as [MASK] (one token a mark), or - for standard input.", text("TEXT"))
    open_vocabulary: bool | None = switch("Let image codes and control tokens compete with text tokens.", shown=OWN)

    def run(self) -> None:
        """Print the completed text."""
        given = prompt_text("text", self.text)
        model = self.load()
        with self.watching(model) as callback:
            result = model.infill(given, seed=self.seed, callback=callback, **self.sampling())
        _show(self, {"command": "infill", "prompt": given}, result)


@dataclass(frozen=True, kw_only=True)
class ScoreText(ModelOptions):
    """Score a completion of a prompt: a lower bound on its log-likelihood, in nats.

    Example: mmada score "tom has 3 red and 4 blue pens. how many pens does he have?" "7"
    """

    prompt: str = argument("The prompt, or - to read it from standard input.", PROMPT)
    completion: str = argument("The completion to score.", text("COMPLETION", empty=True))
    image: tuple[Path, ...] = option("Image that is shown before the prompt.", IMAGE, (), many="repeat", shown="none")
    fit: str | None = fit_option()
    thinking: bool = flag("The prompt asks for reasoning; the completion is then '<think> reasoning</think> answer'.")
    samples: int = option("Random mask patterns to average over.", COUNT, 32)
    seed: int = option("Random seed; compare completions with the same one.", SEED, 0)

    def run(self) -> None:
        """Print the bound."""
        from mmada.io.images import load_image

        images = [load_image(file) for file in self.image]
        prompt = prompt_text("prompt", self.prompt)
        options: dict[str, Any] = {"thinking": self.thinking, "fit": self.fit, "samples": self.samples, "seed": self.seed}
        bound = self.load().score(prompt, self.completion, images=images, **options)
        record = {"command": "score", "prompt": prompt, "completion": self.completion, "nats": bound.nats}
        record |= {"tokens": bound.tokens, "per_token": bound.per_token, "samples": self.samples, "seed": self.seed}
        emit(
            self.json,
            record | {"model": self.model},
            f"{bound.nats:.3f} nats for {bound.tokens} tokens, {bound.per_token:.3f} a token ({self.samples} samples)",
        )


def _lines() -> Iterator[str]:
    """The lines of standard input that are not blank; on a terminal each is asked for."""
    prompt = "> " if sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty() else ""
    while sys.stdin is not None:
        print(prompt, end="", file=sys.stderr, flush=True)
        try:
            line = sys.stdin.readline()
        except UnicodeDecodeError as error:
            raise InputError("message cannot be read from standard input; give text in UTF-8") from error
        if not line:
            return
        if line.strip():
            yield line.strip()


def _show(options: SamplingOptions, asked: dict[str, object], result: TextResult) -> None:
    """Print a result; the reasoning, if there is any, stands above the answer, and notes on the error stream."""
    record = {**asked, "text": result.text, "thinking": result.thinking, "finish_reason": result.finish_reason}
    record |= {"tokens": len(result.tokens), "nfe": result.nfe, "seconds": round(result.seconds, 3), "note": result.note}
    record |= {"model": options.model, "seed": options.seed}
    shown = f"{result.thinking}\n\n{result.text}" if result.thinking else result.text
    emit(options.json, record, shown)
    if not options.json:
        remark(result.note)
        if result.finish_reason == "unfinished thought":
            remark(f"the reasoning did not end within {len(result.tokens)} tokens, so there is no answer; give a larger --length")
