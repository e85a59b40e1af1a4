"""A model that draws one colour and notes how it is called: what the tests of the command line run instead of a network."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from mmada.errors import InputError
from mmada.io.live_view import View

__all__ = ["CALLS", "FakeMMaDA"]

CALLS: list[tuple[str, dict[str, Any]]] = []


@dataclass(frozen=True)
class Result:
    text: str
    thinking: str
    tokens: tuple[int, ...] = (1, 2, 3)
    nfe: int = 4
    finish_reason: str = "stop"
    seconds: float = 0.5
    note: str = ""
    raw_text: str = ""


@dataclass(frozen=True)
class Bound:
    nats: float
    tokens: int

    @property
    def per_token(self) -> float:
        return self.nats / self.tokens


@dataclass(frozen=True)
class Frame:
    step: int
    steps: int = 3

    @property
    def nfe(self) -> tuple[int, ...]:
        return (self.step,)


def watched(options: dict[str, Any]) -> None:
    if options.get("callback"):
        for step in range(1, 4):
            options["callback"](Frame(step))


class FakeMMaDA:
    """Has the methods of the real one (a test compares them) and notes every call."""

    engine = SimpleNamespace(check_length=lambda canvas: None, prompter=SimpleNamespace(draw=lambda prompt: prompt))

    @classmethod
    def load(cls, source: str = "nano", **options: Any) -> "FakeMMaDA":
        if source != "nano":
            raise InputError(f"model '{source}' is unknown; did you mean 'nano'?")
        return cls()

    def generate(self, prompt: str, **options: Any) -> Result:
        CALLS.append(("generate", {"prompt": prompt, **options}))
        watched(options)
        thinking = "3 + 4 = 7" if options["thinking"] else ""
        if options.get("length") == 1:
            return Result("", "3 +", finish_reason="unfinished thought")
        return Result("7", thinking)

    def chat(self, messages: list[Any], **options: Any) -> Result:
        CALLS.append(("chat", {"messages": [*messages], **options}))
        return Result(f"answer {len(messages)}", "")

    def score(self, prompt: str, completion: str, **options: Any) -> Bound:
        CALLS.append(("score", {"prompt": prompt, "completion": completion, **options}))
        return Bound(-6.0, 3)

    def ask(self, image: Image.Image, question: str, **options: Any) -> Result:
        CALLS.append(("ask", {"image": image, "question": question, **options}))
        return Result("two", "", note="only the middle square of the image is seen")

    def infill(self, text: str, **options: Any) -> Result:
        CALLS.append(("infill", {"text": text, **options}))
        return Result("2 + 3 = 5", "")

    def draw(self, prompt: Any, **options: Any) -> Any:
        CALLS.append(("draw", {"prompt": prompt, **options}))
        watched(options)
        image = Image.new("RGB", (8, 8), (options.get("seed", 0), 0, 0))
        if options.get("thinking"):
            image.info["thinking"] = "a red disc on white"
        return image if isinstance(prompt, str) else [image] * len(prompt)

    def inpaint(self, image: Image.Image, mask: np.ndarray, prompt: str = "", **options: Any) -> Image.Image:
        CALLS.append(("inpaint", {"image": image, "mask": mask, "prompt": prompt, **options}))
        return image

    def extend(self, image: Image.Image, prompt: str = "", **options: Any) -> Image.Image:
        CALLS.append(("extend", {"image": image, "prompt": prompt, **options}))
        return image

    def view(self, frame: Frame, row: int = 0, *, size: tuple[int, int] | None = None) -> View:
        return View(frame.step, 3, (("seven", frame.step < 3),), Image.new("RGB", (8, 8), (0, 80 * frame.step, 0)))

    def info(self) -> dict[str, object]:
        return {"source": "nano", "parameters": 7}
