"""The grammar of a YAML file of data: a set is where its rows come from (``files``) and what each row means (``use``).

    captions: {use: pair, files: "shards/{000..127}.tar", image: jpg, caption: [json.recaption, txt], where: "json.width >= 256"}
    chats:    {use: chat, files: chats.jsonl, turns: conversations, images: [pictures], weight: 2}
    mixture:  {weights: examples, split: {validation: 0.05}}

Each use has its own fields. An unknown one is an error that names the nearest.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from mmada.data.mixture import MAX_BAD, SPLITS, By, Split
from mmada.data.public_sets import READERS
from mmada.data.sources.opening import Kind
from mmada.errors import InputError, quote

__all__ = [
    "USES",
    "ChatSpec",
    "ClassSpec",
    "EditSpec",
    "JoinSpec",
    "MixtureSpec",
    "OneOrMore",
    "PairSpec",
    "PromptsSpec",
    "ReasonSpec",
    "SetSpec",
    "ShardsSpec",
    "Shares",
    "SplitField",
    "TextSpec",
    "WithImages",
    "parse_mixture",
    "parse_set",
]

OneOrMore = str | list[str]
Task = Literal["math", "vision", "image"]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]


Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """A part of the file; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Shares(Strict):
    """Shares of the rows that are held out, by a hash of each row's id."""

    validation: Share = 0.05
    test: Share = 0.0


class SplitField(Strict):
    """A field whose value ("train", "validation" or "test") says the split of a row; rows of other values are left out."""

    field: str


class MixtureSpec(Strict):
    """How sets are mixed: what ``weights`` are shares of, and what is held out of each."""

    weights: By = "examples"
    split: Shares | None = None
    max_bad: Annotated[float, Field(ge=0, le=1)] = MAX_BAD

    @field_validator("split", mode="plain")
    @classmethod
    def shares(cls, value: Any, info: ValidationInfo) -> Shares:
        """Shares, with errors that name their place."""
        return parsed(Shares, value, f"split in {info.context}")


class JoinSpec(Strict):
    """Rows of other files, found by a key: their fields are ``join.NAME``.

    ``key``: their field that holds the key; ``by``: the field of this set's rows that holds the same, by default of that name.
    """

    files: OneOrMore
    kind: Kind | None = None
    rows: str = ""
    key: str = "__key__"
    by: str = ""


class SetSpec(Strict):
    """What every set may say.

    ``id``: the field that identifies a row, for splits: rows of one id are never on both sides. ``where``: an expression over the
    fields, false for rows that are left out. ``replace``: texts to put in the place of others. ``rows``: the list of a .json that
    holds the rows. ``images``: folders in which pictures are looked for.
    """

    use: str
    files: OneOrMore
    kind: Kind | None = None
    rows: str = ""
    weight: Weight = 1.0
    where: str = ""
    join: JoinSpec | None = None
    replace: dict[str, str] = Field(default_factory=dict)
    id: OneOrMore | None = None
    split: Split | Shares | SplitField | None = None
    max_bad: Annotated[float, Field(ge=0, le=1)] | None = None

    @field_validator("join", mode="plain")
    @classmethod
    def join_of(cls, value: Any, info: ValidationInfo) -> JoinSpec:
        """A join, with errors that name their place."""
        return parsed(JoinSpec, value, f"join in {info.context}")

    @field_validator("split", mode="plain")
    @classmethod
    def split_of(cls, value: Any, info: ValidationInfo) -> str | Shares | SplitField:
        """A name, shares or a field."""
        if isinstance(value, str) and value in SPLITS:
            return value
        if isinstance(value, Mapping):
            kind: type[Shares | SplitField] = SplitField if "field" in value else Shares
            return parsed(kind, value, f"split in {info.context}")
        raise ValueError(f"give {', '.join(SPLITS)}, shares such as {{validation: 0.05}}, or {{field: NAME}}")

    @field_validator("files")
    @classmethod
    def some_files(cls, value: OneOrMore) -> OneOrMore:
        """At least one file."""
        if not value or not all(value if isinstance(value, list) else [value]):
            raise ValueError("give a file, a pattern or a folder")
        return value


class WithImages(SetSpec):
    """Sets whose rows may have pictures."""

    images: OneOrMore = Field(default_factory=list)


class TextSpec(SetSpec):
    """Plain texts."""

    text: OneOrMore = Field(default_factory=lambda: ["text", "content"])


class PairSpec(WithImages):
    """Pictures with captions, learned both ways: to draw and to describe.

    ``caption``: a field, or the first of several that is there; a field that holds a list of captions gives an example for each.
    ``captions``: several fields, each of which gives an example. ``thought``: what to think before drawing.
    """

    image: OneOrMore | None = None
    caption: OneOrMore | None = None
    captions: list[str] = Field(default_factory=list)
    ways: Literal["draw", "describe", "both"] = "both"
    question: OneOrMore = "Describe the picture."
    thought: OneOrMore | None = None


class ClassSpec(WithImages):
    """Pictures with a class. ``names``: class names as a file, a list or a mapping; ``caption``: with {name} or {names}."""

    image: OneOrMore | None = None
    label: OneOrMore = Field(default_factory=lambda: ["label", "cls", "labels", "class"])
    names: str | list[str] | dict[str | int, str] | None = None
    caption: str = "{name}"
    ways: Literal["draw", "describe", "both"] = "both"
    question: OneOrMore = "What is this?"


class ChatSpec(WithImages):
    """Conversations, with pictures or without: ``turns`` is a list of them, or ``user`` and ``assistant`` are one exchange."""

    turns: OneOrMore | None = None
    system: OneOrMore | None = None
    user: OneOrMore | None = None
    assistant: OneOrMore | None = None
    image: OneOrMore | None = None
    reasoning: bool = False


class EditSpec(WithImages):
    """Pairs of pictures, the second made from the first by an instruction."""

    source: OneOrMore
    instruction: OneOrMore
    target: OneOrMore


class ReasonSpec(WithImages):
    """Questions with reasoning and answers, by the ``reader`` of a public set or by fields."""

    reader: str | None = None
    prompt: OneOrMore | None = None
    thinking: OneOrMore | None = None
    answer: OneOrMore | None = None
    image: OneOrMore | None = None

    @field_validator("reader")
    @classmethod
    def known_reader(cls, value: str | None) -> str | None:
        """A name of `READERS`."""
        if value is not None and value not in READERS:
            near = get_close_matches(value, READERS, 1)
            raise ValueError(f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(READERS)}")
        return value


class PromptsSpec(ReasonSpec):
    """Prompts for policy optimisation, with their gold answers. ``task``: math, vision or image (a caption to draw)."""

    gold: OneOrMore | None = None
    task: Task | None = None
    thinking: None = None
    answer: None = None


class ShardsSpec(Strict):
    """A set that is read from a folder of shards. ``set``: its name there, if it has another; ``weight``: None: as it was."""

    shards: str
    set: str = ""
    weight: Weight | None = None


USES: dict[str, type[SetSpec]] = {
    "text": TextSpec,
    "pair": PairSpec,
    "class": ClassSpec,
    "chat": ChatSpec,
    "edit": EditSpec,
    "reason": ReasonSpec,
    "prompts": PromptsSpec,
}
"""Use -> what a set of it may say."""


def parse_set(name: str, given: Any, where: str) -> SetSpec | ShardsSpec:
    """A set from its YAML. Raises InputError, which begins with the set and the file (``where``)."""
    label = f"set {quote(name)} of {where}"
    if not isinstance(given, Mapping):
        raise InputError(f"{label} is not a mapping; write it as {name}: {{use: pair, files: ...}}")
    if "shards" in given:
        return parsed(ShardsSpec, given, label)
    use = given.get("use")
    if not isinstance(use, str) or use not in USES:
        near = get_close_matches(str(use), USES, 1, 0.5)
        fix = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(USES)}"
        raise InputError(f"{label} has no use; {fix}" if use is None else f"use {quote(use)} of {label} is unknown; {fix}")
    return parsed(USES[use], given, label)


def parse_mixture(given: Any, where: str) -> MixtureSpec:
    """The reserved key ``mixture`` from its YAML. Raises InputError."""
    return parsed(MixtureSpec, given, f"'mixture' of {where}")


def parsed(kind: type[Model], given: Any, label: str) -> Model:
    """A checked copy of a mapping. Raises InputError for the first thing that is wrong."""
    if not isinstance(given, Mapping):
        raise InputError(f"{label} is {quote(given)}, not a mapping; write it as {{{next(iter(kind.model_fields))}: ...}}")
    odd = [key for key in given if not isinstance(key, str)]
    if odd:
        said = "YAML reads on, off, yes and no as true and false"
        raise InputError(f"key {quote(odd[0])} of {label} is not a text; put it in quotes, as {said}")
    try:
        return kind.model_validate(dict(given), context=label)
    except ValidationError as error:
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        cause = first.get("ctx", {}).get("error")
        raise cause if isinstance(cause, InputError) else InputError(sentence(kind, first, label)) from error


def sentence(kind: type[BaseModel], error: Any, label: str) -> str:
    """What is wrong, and the fix, in one sentence."""
    name = str(error["loc"][0])
    if error["type"] == "missing":
        return f"{label} has no {name}; give it"
    if error["type"] == "extra_forbidden":
        known = list(kind.model_fields)
        near = get_close_matches(name.lower(), known, 1, 0.6)
        return f"{quote(name)} in {label} is unknown; {f'did you mean {near[0]!r}?' if near else 'known: ' + ', '.join(known)}"
    wanted = error["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("should be ")
    fix = wanted if error["type"] == "value_error" else f"it should be {wanted}"
    return f"{name} of {label} cannot be {quote(error['input'])}; {fix}"
