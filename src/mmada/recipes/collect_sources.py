"""Sources of reasoning examples: public sets, registered generators, stored folders, and a model's own answers.

    gsm8k:train.jsonl        a public set, from a file in its own layout (`mmada.data.public_sets.READERS`)
    KIND:NAME:1000           a kind of `mmada.registry.SOURCES` that generates examples
    folder:runs/reason       the folder of an earlier run
    self:SOURCE:200          the model's own answers to the first 200 prompts of any of these (rejection sampling)

A source yields candidates: an example, and a function that judges answers to its prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from mmada.data.public_sets import MATHEMATICS, READERS
from mmada.data.reasoning import ReasoningExample, read_reasoned
from mmada.data.set_files import rows
from mmada.data.sources.pictures import find_picture
from mmada.errors import InputError, check_choice, check_whole, unknown_name
from mmada.io.images import load_image
from mmada.pipeline import MMaDA
from mmada.registry import SOURCES
from mmada.rl.rollout import RolloutSampling, roll_out
from mmada.tasks.mathematics import Mathematics, same_answer
from mmada.tasks.task import Prompt, Task
from mmada.tasks.text_to_image import TextToImage
from mmada.tasks.vqa import VQA
from mmada.tokenizers.prompt import split_thinking, well_formed

__all__ = ["Candidate", "SelfGenerated", "Source", "SourceKind", "Verdict", "source_of", "task_of_example"]

Verdict = Callable[[ReasoningExample], str]
"""Judge of an answer: why it is rejected, in two or three words; empty if it is right."""
MAX_EXAMPLES = 100_000_000
"""Upper bound of the number of examples of one source."""
GOLD, SELF = 7, 17
"""Random streams of generated examples: with reference answers, and as prompts that a model answers."""


@dataclass(frozen=True)
class Candidate:
    """An example that may be stored.

    ``parse_error``: why the row of the source holds no example; empty if it does. ``reject_reason``: why a well-formed row is not
    stored, in two or three words; empty if there is no known reason. ``rejudgeable``: whether ``judge`` can also judge other
    answers to the same prompt.
    """

    example: ReasoningExample
    judge: Verdict
    parse_error: str = ""
    reject_reason: str = ""
    rejudgeable: bool = True


class Source(Protocol):
    """A re-iterable stream of candidates of unknown number."""

    def __iter__(self) -> Iterator[Candidate]: ...


class SourceKind(Protocol):
    """A registered kind of source (`mmada.registry.SOURCES`): a random generator of examples and prompts, by name."""

    @property
    def tasks(self) -> Mapping[str, Task]:
        """Names of the kind, each with the task that scores its completions."""
        ...

    def prompt(self, name: str, rng: np.random.Generator) -> Prompt:
        """A prompt for policy optimisation."""
        ...

    def candidate(self, name: str, rng: np.random.Generator) -> Candidate:
        """An example with reasoning and its judge."""
        ...

    def verdict(self, name: str, example: ReasoningExample) -> Verdict | None:
        """The judge of other answers to the prompt of a stored example of this kind; None if it cannot be recovered."""
        ...


def compared(example: ReasoningExample) -> str:
    """Verdict by comparison with the gold answer of the data set."""
    if not example.gold:
        return "no gold answer"
    return "" if same_answer(example.gold, example.answer) else "wrong answer"


@dataclass(frozen=True)
class PublicSet:
    """A file of a public set. ``images``: folders that are searched for its pictures."""

    name: str
    path: Path
    images: tuple[Path, ...]

    def __iter__(self) -> Iterator[Candidate]:
        folders = (*self.images, self.path.parent, self.path.parent / "images")
        for row in rows(self.path):
            try:
                example = READERS[self.name](row)
                json.dumps(example.texts(), ensure_ascii=False).encode()  # raises for lone surrogates
            except (ValueError, TypeError, AttributeError, KeyError) as error:
                yield Candidate(
                    ReasoningExample(source=self.name, task="math", prompt=ascii(row)[:200]), compared, parse_error(error)
                )
                continue
            if isinstance(example.picture, str):
                example = replace(example, picture=find_picture(example.picture, folders))
            yield Candidate(example, compared)


def parse_error(error: Exception) -> str:
    """Why a row is not an example, in words about the row."""
    if isinstance(error, UnicodeError):
        return "its text is not valid Unicode"
    return str(error) if type(error) is ValueError else "it has another layout"


@dataclass(frozen=True)
class Folder:
    """A folder written by an earlier run. Examples of a registered kind are judged by that kind again."""

    path: Path

    def __iter__(self) -> Iterator[Candidate]:
        for example in read_reasoned(self.path):
            kind, _, name = example.source.rpartition("self:")[2].partition(":")
            if example.task == "image":  # judged when it was made; the meaning of its prompt is not stored
                yield Candidate(example, lambda _: "", rejudgeable=False)
            elif not example.gold:  # it was stored unchecked
                yield Candidate(example, lambda _: "no gold answer", rejudgeable=False)
            else:
                verdict = SOURCES[kind].verdict(name, example) if name and kind in SOURCES else None
                yield Candidate(example, verdict or compared)


@dataclass(frozen=True)
class Generated:
    """Examples of a registered kind; example i depends on (seed, stream, name, i) alone."""

    kind: SourceKind
    name: str
    count: int
    seed: int
    stream: int = GOLD

    def __iter__(self) -> Iterator[Candidate]:
        number = list(self.kind.tasks).index(self.name)
        for index in range(self.count):
            yield self.kind.candidate(self.name, np.random.default_rng((self.seed, self.stream, number, index)))


@dataclass(frozen=True, kw_only=True)
class SelfGenerated:
    """Rejection sampling: a model's own answers, ``samples`` to each prompt, judged as the prompts' gold answers are.

    A prompt whose new answers cannot be judged is not sampled; it is reported once as "cannot be judged".
    """

    model: Callable[[], MMaDA]
    prompts: Source
    count: int
    samples: int
    sampling: RolloutSampling
    seed: int

    def __iter__(self) -> Iterator[Candidate]:
        model = self.model()
        prompts = islice(self.prompts, self.count)
        size = max(1, self.sampling.batch // self.samples)
        number = 0
        while some := list(islice(prompts, size)):
            errors = [(c, unusable(c) or unreadable(c.example)) for c in some]
            yield from (Candidate(self_named(c.example), c.judge, parse_error=why) for c, why in errors if why)
            fine = [c for c, why in errors if not why]
            yield from (
                Candidate(self_named(c.example), c.judge, reject_reason="cannot be judged") for c in fine if not c.rejudgeable
            )
            drawings = [c for c in fine if c.rejudgeable and c.example.task == "image"]
            texts = [c for c in fine if c.rejudgeable and c.example.task != "image"]
            seed = int(np.random.default_rng((self.seed, 8, number)).integers(2**62))
            if texts:
                yield from self.answers(model, texts, seed)
            if drawings:
                yield from self.drawings(model, drawings, seed)
            number += 1

    def answers(self, model: MMaDA, some: Sequence[Candidate], seed: int) -> Iterator[Candidate]:
        """Texts with reasoning."""
        prompts = [prompt_of(c.example) for c in some]
        made = roll_out(model, prompts, group_size=self.samples, seed=seed, sampling=self.sampling).completions
        for index, completion in enumerate(made):
            candidate = some[index // self.samples]
            answer, thinking = split_thinking(completion.raw_text)
            # An answer of a set without gold answers becomes the gold answer, for judging a later `self:folder:`.
            own = self_named(replace(candidate.example, thinking=thinking, answer=answer, gold=truth(candidate.example)))
            reason = "" if well_formed(completion.raw_text) else "not well formed"
            yield Candidate(own, candidate.judge, reject_reason=reason)

    def drawings(self, model: MMaDA, some: Sequence[Candidate], seed: int) -> Iterator[Candidate]:
        """Pictures after a thought on the same canvas."""
        prompts = [prompt_of(c.example) for c in some]
        sampling = replace(self.sampling, image_thinking=True)
        made = roll_out(model, prompts, group_size=self.samples, seed=seed, sampling=sampling).completions
        for index, completion in enumerate(made):
            candidate = some[index // self.samples]
            raw_text = completion.raw_text.rstrip()
            formed = raw_text.endswith("</think>") and well_formed(f"{raw_text} picture")
            text, thinking = split_thinking(raw_text)
            own = self_named(replace(candidate.example, thinking=thinking or text, picture=completion.image))
            yield Candidate(own, candidate.judge, reject_reason="" if formed else "not well formed")


def prompt_of(example: ReasoningExample) -> Prompt:
    """The prompt of an example, scored by its right answer."""
    image = picture(example) if example.task == "vision" else None
    return Prompt(example.prompt, task_of_example(example), truth(example), () if image is None else (image,))


def task_of_example(example: ReasoningExample) -> Task:
    """The task of an example of a set."""
    if example.task == "image":
        return TextToImage()
    return Mathematics() if example.source.rpartition(":")[2] in MATHEMATICS else VQA()


def unusable(candidate: Candidate) -> str:
    """Why an example cannot be a prompt; empty if it can."""
    example = candidate.example
    if candidate.parse_error or not example.prompt.strip():
        return candidate.parse_error or "there is no prompt"
    if example.task != "image" and not truth(example):
        return "there is no answer to judge by"
    return "its picture is not found" if example.task == "vision" and example.picture is None else ""


def unreadable(example: ReasoningExample) -> str:
    """Why an example's picture cannot be read; one damaged file should not end the run."""
    try:
        picture(example)
    except InputError:
        return "unreadable picture"
    return ""


def truth(example: ReasoningExample) -> str:
    """The reference answer to a prompt: the gold answer, else the answer of its set."""
    return example.gold or example.answer


def self_named(example: ReasoningExample) -> ReasoningExample:
    """The example with its source marked as self-generated."""
    return replace(example, source=f"self:{example.source}")


def picture(example: ReasoningExample) -> Image.Image | None:
    """The picture of an example, read now."""
    return None if example.picture is None else load_image(example.picture, f"picture of {example.source}")


def source_of(
    text: str,
    *,
    images: tuple[Path, ...],
    seed: int,
    own: Callable[[Source, int], SelfGenerated],
    stream: int = GOLD,
) -> Source:
    """A source by its name (see the module). ``own``: maps (prompts, number) to a model's own answers. Raises InputError."""
    kind, _, rest = text.partition(":")
    if kind == "self":
        inner, _, count = rest.rpartition(":")
        if not inner:
            raise InputError(f"source '{text}' is not complete; write self:SOURCE:PROMPTS, as in self:gsm8k:train.jsonl:200")
        if inner.partition(":")[0] in SOURCES and inner.count(":") == 1:  # self:KIND:NAME:200: one number for both
            inner = f"{inner}:{count}"
        if inner.startswith("self:"):
            raise InputError(f"source '{text}' asks for answers to a model's own answers; name the source of the prompts")
        prompts = source_of(inner, images=images, seed=seed, own=own, stream=SELF)
        return own(prompts, whole(text, count))
    if kind in SOURCES:
        name, _, count = rest.partition(":")
        check_choice(f"source '{text}': its task", name, SOURCES[kind].tasks)
        return Generated(SOURCES[kind], name, whole(text, count), seed, stream)
    if kind == "folder":
        list(islice(read_reasoned(Path(rest)), 1))  # raise before any work is done
        return Folder(Path(rest))
    if kind not in READERS:
        raise unknown_name("source", kind, [*READERS, *SOURCES, "folder", "self"])
    if not rest:
        raise InputError(f"source '{text}' names no file; write {kind}:FILE")
    if not Path(rest).is_file():
        raise InputError(f"source file '{rest}' does not exist; check the path")
    return PublicSet(kind, Path(rest), images)


def whole(text: str, count: str) -> int:
    """The number at the end of a source."""
    if not (count.isascii() and count.isdecimal()):
        raise InputError(f"source '{text}' should end with a number of examples, as in {text.partition(':')[0]}:...:1000")
    if len(count) > 20:
        raise InputError(f"source '{text[:100]}' asks for too many examples; give 1 to {MAX_EXAMPLES}")
    return check_whole(f"source '{text}': its number", int(count), 1, MAX_EXAMPLES)
