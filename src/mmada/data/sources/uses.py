"""What a row means: each use makes the examples of a row. Nothing in them is random.

A use has ``parts`` examples for a row (a picture is drawn and described; each of its captions is one), numbered from 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from mmada.data.dataset import Example, UnusableRow
from mmada.data.sources.conversations import IMAGE_MARK, messages_of, without_marks
from mmada.data.sources.fields import Field, as_text, is_blank, replaced
from mmada.data.sources.pictures import pictures_from
from mmada.data.sources.tables import Row, hash_of
from mmada.io.images import ImageSource
from mmada.tokenizers.prompt import Message

__all__ = ["Chat", "Edit", "Pair", "Place", "Text", "Use"]

Part = Literal["draw", "describe", "thought", "image"]


@dataclass(frozen=True)
class Place:
    """A row with what is needed to read it: its key, the folders of its pictures, and the texts to replace."""

    row: Row
    key: str
    folders: tuple[Path, ...]
    replace: Mapping[str, str] = field(default_factory=dict)

    def text(self, one: Field | None, what: str) -> str:
        """A field as text, empty where there is none."""
        return "" if one is None else one.text(self.row, what, self.replace)

    def needed(self, one: Field, what: str) -> str:
        """A field as text. Raises UnusableRow where there is none."""
        found = self.text(one, what)
        if not found:
            raise UnusableRow(f"no {what}")
        return found

    def pictures(self, one: Field | None) -> tuple[ImageSource, ...]:
        """The pictures of a field."""
        return () if one is None else pictures_from(one.value(self.row), self.folders)

    def picture(self, one: Field, what: str = "picture") -> ImageSource:
        """The one picture of a field. Raises UnusableRow."""
        found = self.pictures(one)
        if len(found) != 1:
            raise UnusableRow(f"{len(found)} pictures where one is used" if found else f"no {what}")
        return found[0]


class Use(Protocol):
    """How examples are made of a row."""

    @property
    def fields(self) -> frozenset[str] | None:
        """The fields that are read; None: the whole row."""
        ...

    @property
    def parts(self) -> int:
        """Examples of a row."""
        ...

    def example(self, place: Place, part: int) -> Example:
        """One example of a row. Raises UnusableRow."""
        ...


def names_of(*fields: Field | None) -> frozenset[str]:
    """What several fields read."""
    return frozenset(name for one in fields if one is not None for name in one.names)


@dataclass(frozen=True)
class Text:
    """Plain text."""

    text: Field
    parts: int = 1

    @property
    def fields(self) -> frozenset[str]:
        """As `Use`."""
        return names_of(self.text)

    def example(self, place: Place, part: int) -> Example:
        """As `Use`."""
        found = self.text.value(place.row)
        text = replaced(as_text(found, "text"), place.replace) if place.replace or not isinstance(found, str) else found
        if not as_text(found, "text"):
            raise UnusableRow("no text")
        return Example(objective="text", text=text)


@dataclass(frozen=True)
class Pair:
    """A picture with captions. ``captions``: fields that give one or several each; ``most``: examples made of them a way."""

    image: Field
    captions: tuple[Field, ...]
    ways: tuple[Part, ...]
    questions: tuple[str, ...]
    thought: Field | None = None
    most: int = 1

    @property
    def fields(self) -> frozenset[str]:
        """As `Use`."""
        return names_of(self.image, self.thought, *self.captions)

    @property
    def parts(self) -> int:
        """As `Use`."""
        return len(self.ways) * self.most

    def captions_of(self, place: Place) -> list[str]:
        """The captions of a row, without doubles. Raises UnusableRow where it has none."""
        found: list[str] = []
        for one in self.captions:
            value = one.value(place.row)
            some = value if isinstance(value, (list, tuple)) else [value]
            found += [replaced(as_text(text, "caption"), place.replace) for text in some]
        captions = list(dict.fromkeys(text for text in found if text))
        if not captions:
            raise UnusableRow("no caption")
        return captions

    def example(self, place: Place, part: int) -> Example:
        """As `Use`. A row with fewer captions than others has some of them twice, so that every row counts the same."""
        way, number = self.ways[part % len(self.ways)], part // len(self.ways)
        captions = self.captions_of(place)
        caption = captions[number % len(captions)]
        return self.made(place, way, caption, number)

    def made(self, place: Place, way: Part, caption: str, number: int) -> Example:
        """The example of one caption."""
        images = (place.picture(self.image),)
        if way == "describe":
            question = self.questions[(hash_of(place.key) + number) % len(self.questions)]
            turns = (Message("user", question), Message("assistant", caption))
            return Example(objective="chat", messages=turns, images=images)
        if way == "draw":
            return Example(objective="text_to_image", text=caption, images=images)
        assert self.thought is not None
        thought = place.needed(self.thought, "thought")
        return Example(objective="text_to_image", text=caption, thought=thought, learn=way, images=images)


@dataclass(frozen=True)
class Chat:
    """A conversation: ``turns``, or ``user`` and ``assistant``. ``reasoning``: its last question asks for reasoning."""

    image: Field
    turns: Field | None = None
    user: Field | None = None
    assistant: Field | None = None
    system: Field | None = None
    reasoning: bool = False
    parts: int = 1

    @property
    def fields(self) -> frozenset[str]:
        """As `Use`."""
        return names_of(self.image, self.turns, self.user, self.assistant, self.system)

    def example(self, place: Place, part: int) -> Example:
        """As `Use`."""
        if self.turns is not None:
            messages, inside, marks = messages_of(listed(self.turns.value(place.row)), place.replace)
        else:
            messages, inside, marks = self.exchange(place), [], 0
            texts = [without_marks(one.content) for one in messages]
            marks = sum(count for _, count in texts)
            messages = [Message(one.role, text) for one, (text, _) in zip(messages, texts, strict=True)]
        if system := place.text(self.system, "system prompt"):
            messages.insert(0, Message("system", system))
        found = self.image.value(place.row)
        given = [*([] if is_blank(found) else found if isinstance(found, (list, tuple)) else [found]), *inside]
        if marks and marks != len(given):
            raise UnusableRow(f"{IMAGE_MARK} does not match the pictures given")
        images = pictures_from(given, place.folders)
        if not any(one.role == "assistant" and one.content for one in messages):
            raise UnusableRow("no answer to learn")
        if not any(one.role == "user" and (one.content or images) for one in messages):
            raise UnusableRow("no question")
        return Example(objective="chat", messages=tuple(messages), images=images, reasoning=self.reasoning)

    def exchange(self, place: Place) -> list[Message]:
        """One question and its answer."""
        assert self.user is not None
        assert self.assistant is not None
        return [Message("user", place.text(self.user, "question")), Message("assistant", place.text(self.assistant, "answer"))]


def listed(turns: Any) -> Any:
    """Turns as a list; parquet files hold some as {"from": [...], "value": [...]}."""
    if isinstance(turns, Mapping) and turns and all(isinstance(value, list) for value in turns.values()):
        return [dict(zip(turns, values, strict=False)) for values in zip(*turns.values(), strict=False)]
    return turns


@dataclass(frozen=True)
class Edit:
    """A picture, an instruction, and the picture made by it."""

    source: Field
    instruction: Field
    target: Field
    parts: int = 1

    @property
    def fields(self) -> frozenset[str]:
        """As `Use`."""
        return names_of(self.source, self.instruction, self.target)

    def example(self, place: Place, part: int) -> Example:
        """As `Use`."""
        instruction = place.needed(self.instruction, "instruction")
        sources: Sequence[ImageSource] = place.pictures(self.source)
        if not sources:
            raise UnusableRow("no source picture")
        target = place.picture(self.target, "target picture")
        return Example(objective="edit", text=instruction, images=(*sources, target))
