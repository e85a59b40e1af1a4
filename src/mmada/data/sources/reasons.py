"""Questions with reasoning and answers, and prompts for policy optimisation: rows as `ReasoningExample`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mmada.data.dataset import Example, UnusableRow
from mmada.data.public_sets import READERS
from mmada.data.reasoning import ReasoningExample, Task, form_error
from mmada.data.sources.conversations import without_marks
from mmada.data.sources.fields import Field, as_text, replaced
from mmada.data.sources.pictures import picture_from
from mmada.data.sources.uses import Place, names_of
from mmada.tokenizers.prompt import Message

__all__ = ["Fields", "Reason", "reasoned"]

TEXTS = ("prompt", "thinking", "answer", "gold")


@dataclass(frozen=True)
class Fields:
    """Where the parts of a record stand in a row. ``task``: None: "vision" for a row with a picture, else "math"."""

    source: str
    prompt: Field
    thinking: Field | None = None
    answer: Field | None = None
    gold: Field | None = None
    image: Field | None = None
    task: Field | None = None

    def record(self, place: Place) -> ReasoningExample:
        """The record of a row. Raises UnusableRow."""
        texts = {name: place.text(getattr(self, name), name) for name in TEXTS}
        pictures = place.pictures(self.image)
        if len(pictures) > 1:
            raise UnusableRow(f"{len(pictures)} pictures where one is used")
        texts["prompt"], marks = without_marks(texts["prompt"])
        if marks > len(pictures):
            raise UnusableRow("<image> does not match the pictures given")
        task = as_text(self.task.value(place.row), "task") if self.task else ""
        task = task or ("vision" if pictures else "math")
        if task not in ("math", "vision", "image"):
            raise UnusableRow("task is none of math, vision, image")
        return ReasoningExample(source=self.source, task=task, picture=pictures[0] if pictures else None, **texts)  # type: ignore[arg-type]

    @property
    def names(self) -> frozenset[str]:
        """The fields that are read."""
        return names_of(self.prompt, self.thinking, self.answer, self.gold, self.image, self.task)


@dataclass(frozen=True)
class Reason:
    """A question, reasoning and an answer, by the ``reader`` of a public set or by ``given`` fields.

    ``task``: what every record is for, None: what its row says. ``parts`` is 2 where pictures are drawn after a thought: one
    example learns the thought, one the picture; a row of text among them is two equal examples, so that rows count the same.
    """

    reader: str = ""
    given: Fields | None = None
    task: Task | None = None
    parts: int = 1

    @property
    def fields(self) -> frozenset[str] | None:
        """As `Use`; a reader may look at any field."""
        return None if self.given is None else self.given.names

    def record(self, place: Place) -> ReasoningExample:
        """The record of a row. Raises UnusableRow."""
        found = self.given.record(place) if self.given is not None else self.read(place)
        return found if self.task is None else replace(found, task=self.task)

    def read(self, place: Place) -> ReasoningExample:
        """The record of a row in the layout of a public set."""
        try:
            found = READERS[self.reader](dict(place.row))
        except UnusableRow:
            raise
        except Exception as error:  # readers fail in many ways on rows of another layout
            raise UnusableRow(str(error) if type(error) is ValueError else "row has another layout than the reader's") from error
        texts = {name: replaced(as_text(getattr(found, name), name), place.replace) for name in TEXTS}
        picture = None if found.picture is None else picture_from(found.picture, place.folders)
        return replace(found, picture=picture, **texts)  # type: ignore[arg-type]

    def example(self, place: Place, part: int) -> Example:
        """As `Use`."""
        record = self.record(place)
        record = replace(record, answer=record.answer or record.gold)
        if reason := form_error(record, plain=True):
            raise UnusableRow(reason)
        made = list(reasoned(record))
        return made[part % len(made)]

    def prompt(self, place: Place) -> ReasoningExample:
        """The record as a prompt, without reasoning. Raises UnusableRow where it cannot be judged."""
        record = replace(self.record(place), thinking="")
        if not record.prompt:
            raise UnusableRow("no prompt")
        if record.task != "image" and not (record.gold or record.answer):
            raise UnusableRow("no gold answer")
        if record.task == "math" and record.picture is not None:
            raise UnusableRow("picture not asked for")
        if record.task == "vision" and record.picture is None:
            raise UnusableRow("no picture")
        return replace(record, gold=record.gold or record.answer)


def reasoned(one: ReasoningExample) -> Iterator[Example]:
    """The training examples of one record; one that ends in a picture is two: the thought, and the picture after it."""
    images = () if one.picture is None else (one.picture,)
    if one.task == "image":
        for learn in ("thought", "image"):
            yield Example(objective="text_to_image", text=one.prompt, thought=one.thinking, learn=learn, images=images)
        return
    turns = (Message("user", one.prompt), Message("assistant", one.target_text))
    yield Example(objective="chat", messages=turns, images=images, reasoning=bool(one.thinking.strip()))
