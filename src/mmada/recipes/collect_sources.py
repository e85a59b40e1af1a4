"""Where reasoning examples come from: public sets, the nano world, folders of ours, and a model's own answers.

    gsm8k:train.jsonl        a public set, from a file in its own layout (`mmada.data.public_sets.READERS`)
    nano:math:1000           the nano world: math, vision or image
    folder:runs/reason       what an earlier run kept
    own:SOURCE:200           a model's own answers to the first 200 prompts of any of these (rejection sampling)

A source yields candidates: an example and how its correctness is judged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from mmada.data.public_sets import MATHEMATICS, READERS, find_picture, rows
from mmada.data.reasoning import Reasoned, read_reasoned
from mmada.errors import InputError, check_choice, check_whole, unknown_name
from mmada.io.images import load_image
from mmada.nano.world.arithmetic import EQUATION, Problem, Step, problem
from mmada.nano.world.captions import Drawable, Group, Meaning, describe, drawable, satisfies
from mmada.nano.world.detector import detect, shows_flag
from mmada.nano.world.flags import flag_picture
from mmada.nano.world.knowledge import KnowledgeItem, knowledge_item
from mmada.nano.world.questions import Question, ask_about, check_reasoning
from mmada.nano.world.render import CLEAN, LOOSE, render
from mmada.nano.world.scenes import Scene, sample_scene
from mmada.pipeline import MMaDA
from mmada.rewards.completion import Prompt
from mmada.rewards.math_verify import Formulas
from mmada.rl.rollout import Sampler, roll_out
from mmada.sampling import Frame
from mmada.tasks.mathematics import Known, need_math_verify, same_short
from mmada.tokenizers.prompt import split_thinking, well_formed

__all__ = ["Candidate", "Formulas", "Own", "Source", "source_of"]

Random = np.random.Generator
Verdict = Callable[[Reasoned], str]
"""What is wrong with an example's answer, in two or three words; empty if nothing is."""


@dataclass(frozen=True)
class Candidate:
    """An example that may be kept.

    ``broken``: why the source's row holds none; empty if it does. ``amiss``: why it is not kept though the row is fine, in two or
    three words; empty if nothing is known against it. ``alone``: ``judge`` speaks of this example only, and could not judge
    another answer to its prompt.
    """

    example: Reasoned
    judge: Verdict
    broken: str = ""
    amiss: str = ""
    alone: bool = False


class Source(Protocol):
    """Candidates without their number known beforehand; each iteration begins anew."""

    def __iter__(self) -> Iterator[Candidate]: ...


def compared(example: Reasoned, formulas: Formulas | None) -> str:
    """The verdict on an answer by the set's own gold answer: the same words, or by ``formulas`` the same mathematics."""
    if not example.gold:
        return "no gold answer"
    if same_short(example.gold, example.answer):
        return ""
    return "wrong answer" if formulas is None else formulas(example.gold, example.answer)


@dataclass(frozen=True)
class PublicSet:
    """A file of a public set. ``images``: folders that its pictures are looked for in."""

    name: str
    path: Path
    images: tuple[Path, ...]
    formulas: Formulas

    def __iter__(self) -> Iterator[Candidate]:
        judge = partial(compared, formulas=self.formulas if self.name in MATHEMATICS else None)
        folders = (*self.images, self.path.parent, self.path.parent / "images")
        for row in rows(self.path):
            try:
                example = READERS[self.name](row)
                json.dumps(example.texts(), ensure_ascii=False).encode()  # broken Unicode is no text
            except (ValueError, TypeError, AttributeError, KeyError) as error:
                yield Candidate(Reasoned(source=self.name, task="math", prompt=ascii(row)[:200]), judge, fault_of(error))
                continue
            if isinstance(example.picture, str):
                example = replace(example, picture=find_picture(example.picture, folders))
            yield Candidate(example, judge)


def fault_of(error: Exception) -> str:
    """Why a row is no example, in words of rows."""
    if isinstance(error, UnicodeError):
        return "its text is broken"
    return str(error) if type(error) is ValueError else "it has another layout"


@dataclass(frozen=True)
class Folder:
    """A folder of ours. Its examples of the nano world are judged by the steps that are kept with them."""

    path: Path
    formulas: Formulas

    def __iter__(self) -> Iterator[Candidate]:
        for example in read_reasoned(self.path):
            made = example.source.rpartition("own:")[2]
            if example.task == "image":  # judged when it was made; what its prompt means is not kept
                yield Candidate(example, lambda _: "", alone=True)
            elif not example.gold:  # it was kept unchecked
                yield Candidate(example, lambda _: "no gold answer", alone=True)
            elif made == "nano:math":
                yield Candidate(example, partial(right_steps, kept_problem(example)))
            elif made == "nano:vision":
                yield Candidate(example, partial(same_look, example))
            else:
                yield Candidate(example, partial(compared, formulas=self.formulas))


def kept_problem(example: Reasoned) -> Problem:
    """The problem of worded arithmetic that an example was made of; its steps were right then."""
    steps = (Step(int(a), operator, int(b), int(c)) for a, operator, b, c in EQUATION.findall(example.thinking))
    return Problem(example.prompt, example.gold, tuple(steps))


def same_look(kept: Reasoned, given: Reasoned) -> str:
    """As `Verdict`: a question about a scene has one right trace, and it is kept."""
    if not Question("", kept.prompt, kept.gold, kept.thinking).verify(given.answer):
        return "wrong answer"
    return "" if given.thinking.split() == kept.thinking.split() else "wrong reasoning"


@dataclass(frozen=True)
class Nano:
    """The training split of the nano world."""

    task: str
    count: int
    seed: int

    def __iter__(self) -> Iterator[Candidate]:
        for index in range(self.count):
            yield NANO[self.task](np.random.default_rng((self.seed, 7, list(NANO).index(self.task), index)))


def nano_math(rng: Random) -> Candidate:
    """Worded arithmetic."""
    asked = problem(rng)
    made = Reasoned(
        source="nano:math", task="math", prompt=asked.text, thinking=asked.reasoning, answer=asked.answer, gold=asked.answer
    )
    return Candidate(made, partial(right_steps, asked))


def right_steps(asked: Problem, given: Reasoned) -> str:
    """As `Verdict`."""
    if asked.solved(given.thinking, given.answer):
        return ""
    return "wrong reasoning" if asked.verify(given.answer) else "wrong answer"


def nano_vision(rng: Random) -> Candidate:
    """A question about a scene."""
    scene = sample_scene(rng)
    asked = ask_about(scene, rng)
    shown = Image.fromarray(render(scene, rng, LOOSE))
    made = Reasoned(source="nano:vision", task="vision", prompt=asked.text, thinking=asked.reasoning, answer=asked.answer,
                    gold=asked.answer, picture=shown)  # fmt: skip
    return Candidate(made, partial(right_look, asked))


def right_look(asked: Question, given: Reasoned) -> str:
    """As `Verdict`."""
    if not asked.verify(given.answer):
        return "wrong answer"
    return "" if check_reasoning(given.thinking, asked) else "wrong reasoning"


def nano_image(rng: Random) -> Candidate:
    """A thought, then the picture: of knowledge, or of what a caption says."""
    plain = np.random.default_rng(0)  # the canonical style draws nothing from it
    wanted: KnowledgeItem | Drawable
    if rng.random() < 0.6:
        wanted = item = knowledge_item(rng)
        prompt, thought = item.prompt, item.think
        shown = flag_picture(item.flag) if item.flag is not None else render(item.scene or Scene(()), plain, CLEAN)
    else:
        wanted = drawn = drawable(rng)
        prompt, thought, shown = drawn.text, describe(drawn.scene), render(drawn.scene, plain, CLEAN)
    made = Reasoned(source="nano:image", task="image", prompt=prompt, thinking=thought, picture=Image.fromarray(shown))
    return Candidate(made, partial(right_picture, wanted, thought))


def right_picture(wanted: KnowledgeItem | Drawable, thought: str, given: Reasoned) -> str:
    """As `Verdict`."""
    assert isinstance(given.picture, Image.Image)
    pixels = np.asarray(given.picture.convert("RGB"))
    if isinstance(wanted, Drawable):
        shown = satisfies(wanted.meaning, detect(pixels))
    elif wanted.flag is not None:
        shown = shows_flag(pixels, wanted.flag)
    else:
        assert wanted.scene is not None
        thing = wanted.scene.things[0]
        shown = satisfies(Meaning((Group(1, thing.color, thing.shape),)), detect(pixels))
    if not shown:
        return "wrong picture"
    return "" if given.thinking.strip() == thought else "wrong reasoning"


NANO: dict[str, Callable[[Random], Candidate]] = {"math": nano_math, "vision": nano_vision, "image": nano_image}
"""Task -> one example of it."""


@dataclass(frozen=True, kw_only=True)
class Own:
    """Rejection sampling: a model's answers, ``samples`` of each prompt, judged as the prompts' own answers are.

    A prompt to which no new answer could be judged is not asked; it comes once, as one that "cannot be judged".
    """

    model: Callable[[], MMaDA]
    prompts: Source
    count: int
    samples: int
    sampler: Sampler
    seed: int

    def __iter__(self) -> Iterator[Candidate]:
        model = self.model()
        asked = islice(self.prompts, self.count)
        size = max(1, self.sampler.batch // self.samples)
        number = 0
        while some := list(islice(asked, size)):
            faults = [(c, unusable(c) or unreadable(c.example)) for c in some]
            yield from (Candidate(own_name(c.example), c.judge, broken=why) for c, why in faults if why)
            fine = [c for c, why in faults if not why]
            yield from (Candidate(own_name(c.example), c.judge, amiss="cannot be judged") for c in fine if c.alone)
            drawn = [c for c in fine if not c.alone and c.example.task == "image"]
            told = [c for c in fine if not c.alone and c.example.task != "image"]
            seed = int(np.random.default_rng((self.seed, 8, number)).integers(2**62))
            if told:
                yield from self.answers(model, told, seed)
            if drawn:
                yield from self.drawings(model, drawn, seed)
            number += 1

    def answers(self, model: MMaDA, some: Sequence[Candidate], seed: int) -> Iterator[Candidate]:
        """Texts with reasoning, by the rollouts of reinforcement."""
        asked = [Prompt(c.example.prompt, Known(truth(c.example)), picture(c.example)) for c in some]
        made = roll_out(model, asked, group=self.samples, seed=seed, sampler=self.sampler).completions
        for index, completion in enumerate(made):
            candidate = some[index // self.samples]
            answer, thinking = split_thinking(completion.written)
            # Prompt for again by its gold answer, also where the set has none but the one that it wrote.
            own = own_name(replace(candidate.example, thinking=thinking, answer=answer, gold=truth(candidate.example)))
            yield Candidate(own, candidate.judge, amiss="" if well_formed(completion.written) else "not well formed")

    def drawings(self, model: MMaDA, some: Sequence[Candidate], seed: int) -> Iterator[Candidate]:
        """Pictures after a thought on the same canvas."""
        every = [c for c in some for _ in range(self.samples)]
        seeds = (np.random.SeedSequence(seed).generate_state(len(every), np.uint64) >> np.uint64(2)).tolist()
        frames: list[Frame] = []
        shown = model.draw(
            [c.example.prompt for c in every],
            thinking=True,
            seed=seeds,
            steps=self.sampler.image_steps,
            guidance=self.sampler.guidance,
            temperature=self.sampler.image_temperature,
            callback=frames.append,
        )
        thoughts = model.engine.text_results(tuple(frames))
        for candidate, made, thought in zip(every, shown, thoughts, strict=True):
            written = model.engine.parts.text.decode(list(thought.tokens)).rstrip()
            formed = written.endswith("</think>") and well_formed(f"{written} picture")
            own = own_name(replace(candidate.example, thinking=thought.thinking or thought.text, picture=made))
            yield Candidate(own, candidate.judge, amiss="" if formed else "not well formed")


def unusable(candidate: Candidate) -> str:
    """Why an example cannot be asked of a model; empty if it can."""
    example = candidate.example
    if candidate.broken or not example.prompt.strip():
        return candidate.broken or "there is no prompt"
    if example.task != "image" and not truth(example):
        return "there is no answer to judge by"
    return "its picture is not found" if example.task == "vision" and example.picture is None else ""


def unreadable(example: Reasoned) -> str:
    """Whether an example's picture cannot be read: one damaged file should not end the work."""
    try:
        picture(example)
    except InputError:
        return "unreadable picture"
    return ""


def truth(example: Reasoned) -> str:
    """The right answer to a prompt: the gold one, or the only one that its set has."""
    return example.gold or example.answer


def own_name(example: Reasoned) -> Reasoned:
    """The example as one that a model made."""
    return replace(example, source=f"own:{example.source}")


def picture(example: Reasoned) -> Image.Image | None:
    """The picture that is asked about."""
    return None if example.picture is None else load_image(example.picture, f"picture of {example.source}")


def source_of(
    text: str,
    *,
    images: tuple[Path, ...],
    seed: int,
    formulas: Formulas,
    own: Callable[[Source, int], Own],
) -> Source:
    """A source by its name, see the top. ``own``: how a model answers (prompts, their number). Raises InputError."""
    kind, _, rest = text.partition(":")
    if kind == "own":
        inner, _, count = rest.rpartition(":")
        if not inner:
            raise InputError(f"source '{text}' is not complete; write own:SOURCE:PROMPTS, as in own:nano:math:200")
        if inner.startswith("nano:") and inner.count(":") == 1:  # own:nano:math:200
            inner = f"{inner}:{count}"
        if inner.startswith("own:"):
            raise InputError(f"source '{text}' asks for own answers to own answers; name where the prompts are")
        prompts = source_of(inner, images=images, seed=seed, formulas=formulas, own=own)
        return own(prompts, whole(text, count))
    if kind == "nano":
        task, _, count = rest.partition(":")
        check_choice(f"source '{text}': its task", task, NANO)
        return Nano(task, whole(text, count), seed)
    if kind == "folder":
        list(islice(read_reasoned(Path(rest)), 1))  # raises here, before any work
        return Folder(Path(rest), formulas)
    if kind not in READERS:
        raise unknown_name("source", kind, [*READERS, "nano", "folder", "own"])
    if not rest:
        raise InputError(f"source '{text}' names no file; write {kind}:FILE")
    if kind in MATHEMATICS:
        need_math_verify()
    if not Path(rest).is_file():
        raise InputError(f"source file '{rest}' does not exist; check the path")
    return PublicSet(kind, Path(rest), images, formulas)


def whole(text: str, count: str) -> int:
    """The number at the end of a source."""
    if not count.isdecimal():
        raise InputError(f"source '{text}' should end in how many, as in nano:math:1000 or own:nano:math:200")
    return check_whole(f"source '{text}': its number", int(count), 1)
