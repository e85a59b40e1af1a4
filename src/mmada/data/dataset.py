"""Training data: examples, data sets, mixtures, and the stateless sampler that maps (seed, step) to examples.

A data set is a sequence of examples, or draws them from a generator (procedural). Neither keeps any state, so the whole state of
a run is its step number: a run that was killed resumes with the very examples it would have seen.

    sampler = Sampler({"captions": my_set, "chat": other}, Formatter(prompter), max_length=512)
    for canvas in sampler.canvases({"captions": 0.7, "chat": 0.3}, step_generator(seed, step)): ...

A new kind of data is one class with `__len__` and `__getitem__` (or `draw`), or one reader (`mmada.data.readers`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from mmada.canvas import Canvas
from mmada.errors import InputError, check_choice, check_number, check_text, check_whole
from mmada.io.images import ImageSource
from mmada.tokenizers.prompt import Message, Prompter
from mmada.tokenizers.vocabulary import Codes

__all__ = [
    "Dataset",
    "DatasetLike",
    "Example",
    "Formatter",
    "Objective",
    "ProceduralDataset",
    "Sampler",
    "Subset",
    "UnusableRow",
    "check_mixture",
    "step_generator",
]

Random = np.random.Generator
Objective = Literal["text", "infill", "chat", "text_to_image", "edit"]
OBJECTIVES: tuple[Objective, ...] = ("text", "infill", "chat", "text_to_image", "edit")
PATIENCE = 1000
"""Examples in a row that may be too long before a mixture is given up."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """One training example before tokenisation. ``objective`` says which fields it has and what is learned:

    - "text": ``text``, all of it.
    - "infill": ``parts``, (text, learned) pieces of one text.
    - "chat": ``messages``, about ``images`` if there are any; the assistant's turns are learned. ``reasoning``: the last user
      message asks for reasoning first. ``padding``: end-of-text tokens after the last answer, None: as the `Formatter` has it.
    - "text_to_image": the one of ``images`` for the caption ``text``, or only its cells where ``hole`` is True (inpainting).
      With a ``thought``, ``learn`` is either "image" (the picture after the thought) or "thought". ``masked_words``: numbers
      of the caption's tokens that are masked, so that the picture is learned from the others.

    - "edit": the last of ``images``, made from those before it by the instruction ``text``; the last one is learned.

    ``images`` are pictures, or ``codes`` once they are encoded.
    """

    objective: Objective
    text: str = ""
    parts: tuple[tuple[str, bool], ...] = ()
    messages: tuple[Message, ...] = ()
    reasoning: bool = False
    padding: int | None = None
    images: tuple[ImageSource, ...] = ()
    codes: tuple[Codes, ...] = ()
    hole: np.ndarray[Any, Any] | None = None
    thought: str = ""
    learn: Literal["image", "thought"] = "image"
    masked_words: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_choice("objective", self.objective, OBJECTIVES)
        check_choice("learn", self.learn, ("image", "thought"))
        if self.objective == "text":
            check_text("text", self.text)
        for words in (self.text, self.thought, *(turn.content for turn in self.messages)):
            check_text(f"text of an example of {self.objective}", words, empty=True)
        if self.objective == "infill" and not any(learned and piece for piece, learned in self.parts):
            raise InputError("parts have nothing to learn; mark at least one piece of text as learned")
        if self.objective == "chat" and not any(m.role == "assistant" for m in self.messages):
            raise InputError("messages have no assistant turn; there is nothing to learn")
        if self.objective == "text_to_image" and len(self.images) + len(self.codes) != 1:
            raise InputError(f"text_to_image has {len(self.images) + len(self.codes)} images; give one")
        if self.objective == "edit" and len(self.images) + len(self.codes) < 2:
            raise InputError(f"edit has {len(self.images) + len(self.codes)} images; give those to edit and the result")


class UnusableRow(ValueError):
    """A row that cannot be used. ``reason``: a short phrase that groups such rows ("picture missing"); ``where``: which row."""

    def __init__(self, reason: str, where: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.where = where


@runtime_checkable
class Dataset(Protocol):
    """A sequence of examples. Nothing in it is random: the same index is the same example.

    ``[i]`` raises `UnusableRow` where the row holds no usable example; whoever iterates counts the reason and goes on.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Example: ...


@runtime_checkable
class ProceduralDataset(Protocol):
    """Examples without end, each made from a generator's draws alone."""

    def draw(self, rng: Random) -> Example:
        """One example."""
        ...


DatasetLike = Dataset | ProceduralDataset


def check_mixture(weights: Mapping[str, float], known: Iterable[str]) -> None:
    """Raise InputError for a name that is not ``known``, a weight that is not a number of at least 0, or weights all 0."""
    names = tuple(known)
    for name, weight in weights.items():
        if name not in names:
            raise InputError(f"mixture names {name!r}; choose from {', '.join(names)}")
        check_number(f"mixture's weight of {name}", weight)
    if not sum(weights.values()):
        raise InputError("mixture has no weight above 0; give at least one data set a weight")


def step_generator(seed: int, step: int) -> Random:
    """The generator of a training step: what it draws depends on (seed, step) alone."""
    return np.random.default_rng((seed, step))


@dataclass(frozen=True)
class Formatter:
    """Turns examples into training canvases in a model's prompt format.

    ``answer_lengths``: a chat's last answer is padded with end-of-text tokens to the shortest of these that holds it, beyond them
    to a multiple of the longest; without any, answers are not padded. A model learns from the padding to end a text early on the
    fixed number of masks that it is decoded from. ``thought_length``: tokens of a thought before a picture, padding included.
    """

    prompter: Prompter
    answer_lengths: tuple[int, ...] = ()
    thought_length: int = 32

    def __post_init__(self) -> None:
        for length in self.answer_lengths:
            check_whole("answer_lengths", length, 1)
        check_whole("thought_length", self.thought_length, 1)

    def canvas(self, example: Example, max_length: int | None = None) -> Canvas:
        """The canvas of an example: true tokens, ``editable`` where they are learned. Pictures must be encoded.

        ``max_length`` shortens the formatter's own padding, nothing else.
        """
        if example.images:
            raise ValueError("the images of an example are encoded before it is formatted")
        if example.objective == "text":
            return self.prompter.language(example.text)
        if example.objective == "infill":
            return self.prompter.gaps(example.parts)
        if example.objective == "chat":
            return self._chat(example, max_length)
        if example.objective == "edit":
            return self.prompter.edit_example(example.text, example.codes)
        return self._text_to_image(example)

    def _chat(self, example: Example, max_length: int | None) -> Canvas:
        if example.padding is not None:
            return self.prompter.chat(example.messages, images=example.codes, thinking=example.reasoning, padding=example.padding)
        padding = self._padding(example.messages[-1])
        canvas = self.prompter.chat(example.messages, images=example.codes, thinking=example.reasoning, padding=padding)
        if max_length is None or canvas.length <= max_length:
            return canvas
        length = max(canvas.length - padding, max_length)
        return Canvas(*(tensor[:, :length] for tensor in canvas.tensors))

    def _padding(self, last: Message) -> int:
        if not self.answer_lengths or last.role != "assistant":
            return 0
        needed = len(self.prompter.text.encode(last.content.strip())) + 1  # the end-of-turn token
        longest = max(self.answer_lengths)
        room = min((n for n in self.answer_lengths if n >= needed), default=-(-needed // longest) * longest)
        return room - needed

    def _text_to_image(self, example: Example) -> Canvas:
        codes = example.codes[0]
        if not example.thought:
            canvas = self.prompter.draw_example(example.text, codes, hole=example.hole)
        elif example.learn == "thought":
            canvas = self.prompter.draw(example.text, think=example.thought, think_length=self.thought_length, edit="think")
        else:
            canvas = self.prompter.think_draw_example(example.text, example.thought, self.thought_length, codes)
        return self._with_words_masked(canvas, example.masked_words) if example.masked_words else canvas

    def _with_words_masked(self, canvas: Canvas, words: Sequence[int]) -> Canvas:
        tokens_BL, v = canvas.tokens_BL.clone(), self.prompter.vocabulary
        row = tokens_BL[0].tolist()
        first = row.index(v.bos) + 1
        last = row.index(v.eos, first)
        for word in words:
            if first + word < last:  # a caption may be cut by the prompt format
                tokens_BL[0, first + word] = v.mask
        return canvas.with_tokens(tokens_BL)

    def whole_canvas(self, example: Example, max_length: int) -> Canvas:
        """`canvas` of an example that can be learned whole from ``max_length`` tokens. Raises `UnusableRow` for any other."""
        if example.thought and len(self.prompter.text.encode(f"<think> {example.thought}</think>")) > self.thought_length:
            raise UnusableRow(f"thought over {self.thought_length} tokens")
        canvas = self.canvas(example, max_length)
        if canvas.length > max_length:
            raise UnusableRow(f"over {max_length} tokens")
        return canvas

    def reject_reason(self, example: Example, max_length: int) -> str:
        """Why an example cannot be learned whole from ``max_length`` tokens; empty if it can. Pictures need not be encoded."""
        blank = np.zeros(self.prompter.image_tokens, np.int64)
        codes = example.codes or (blank,) * len(example.images)
        try:
            self.whole_canvas(replace(example, images=(), codes=codes), max_length)
        except UnusableRow as unusable:
            return unusable.reason
        return ""


@dataclass(frozen=True)
class Subset:
    """Some examples of a data set, by index."""

    dataset: Dataset
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.dataset[self.indices[index]]


@dataclass(frozen=True)
class Sampler:
    """Draws examples from data sets by weight. It has no state: what it draws depends on the generator alone.

    ``max_length``: longest canvas, in tokens. The rare procedural example that is longer is drawn again.
    """

    datasets: Mapping[str, DatasetLike]
    formatter: Formatter
    max_length: int

    def example(self, name: str, rng: Random) -> Example:
        """One example of a data set."""
        dataset = self.datasets[name]
        if isinstance(dataset, ProceduralDataset):
            return dataset.draw(rng)
        return dataset[int(rng.integers(len(dataset)))]

    def examples(self, weights: Mapping[str, float], rng: Random) -> Iterator[Example]:
        """Examples without end, from each data set by its weight. Raises InputError as `check_mixture`."""
        check_mixture(weights, self.datasets)
        names = list(weights)
        shares = np.array([weights[name] for name in names])
        shares = shares / shares.sum()
        while True:
            yield self.example(names[int(rng.choice(len(names), p=shares))], rng)

    def canvases(self, weights: Mapping[str, float], rng: Random) -> Iterator[Canvas]:
        """The same as training canvases of at most ``max_length`` tokens."""
        return self.fitting(self.formatter.canvas(example, self.max_length) for example in self.examples(weights, rng))

    def fitting(self, canvases: Iterable[Canvas]) -> Iterator[Canvas]:
        """Those of at most ``max_length`` tokens. Raises InputError when `PATIENCE` in a row are longer."""
        misses = 0
        for canvas in canvases:
            if canvas.length <= self.max_length:
                misses = 0
                yield canvas
            elif (misses := misses + 1) >= PATIENCE:
                raise InputError(f"row_length {self.max_length} is too short for all of {PATIENCE} examples; raise it")
