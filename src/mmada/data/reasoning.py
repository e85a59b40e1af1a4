"""Reasoning examples: one record type for all tasks, and the folder format that stores them.

    FOLDER/examples.jsonl    one record a line: source, task, prompt, thinking, answer, gold, picture
    FOLDER/pictures/*.png    the files that ``picture`` of a record names, relative to the folder

The target text has the same form for every task: ``<think> thinking</think> answer``, and for a picture to be drawn
``<think> thinking</think>`` before the picture itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from PIL import Image

from mmada.errors import InputError
from mmada.io.documents import read_lines
from mmada.io.fingerprint import fingerprint
from mmada.io.images import ImageSource, load_image, save_image
from mmada.tokenizers.prompt import well_formed, with_thinking

__all__ = ["EXAMPLES", "ReasoningExample", "Task", "Writer", "form_error", "normalised", "read_reasoned", "safe_path"]

Task = Literal["math", "vision", "image"]
EXAMPLES = "examples.jsonl"
"""Name of the file with the records."""
TEXTS = ("source", "task", "prompt", "thinking", "answer", "gold")
LEFTOVER = re.compile(r"</?(?:think|answer|image|summary|caption|reasoning|conclusion)>|<\|[^|<>\s]+\|>", re.I)


@dataclass(frozen=True, kw_only=True)
class ReasoningExample:
    """A prompt with its reasoning and answer.

    ``task``: "math" is text only, "vision" is a question about ``picture``, and with "image" the picture is the answer. ``gold``:
    the reference answer of the data set; empty if it has none.
    """

    source: str
    task: Task
    prompt: str
    thinking: str = ""
    answer: str = ""
    gold: str = ""
    picture: ImageSource | None = None

    @property
    def target_text(self) -> str:
        """The text that a model is trained to write: the reasoning in tags, if any, then the answer."""
        return with_thinking(self.thinking, self.answer) if self.thinking.strip() else self.answer.strip()

    @property
    def prompt_key(self) -> str:
        """A key of the prompt with its picture: equal for prompts that differ only in case, punctuation and spacing."""
        return fingerprint(normalised(self.prompt), self.task, "" if self.task == "image" else picture_key(self.picture))

    @property
    def key(self) -> str:
        """A key of the whole example: equal for exact duplicates."""
        return fingerprint(self.prompt, self.task, self.thinking, self.answer, picture_key(self.picture))

    def texts(self) -> dict[str, str]:
        """Everything but the picture, as a line of the file."""
        return {name: getattr(self, name) for name in TEXTS}


def normalised(text: str) -> str:
    """A text with case, punctuation and spacing removed, for comparing prompts."""
    return " ".join(re.findall(r"\w+|[^\w\s.,;:!?'\"]", text.casefold()))


def picture_key(picture: ImageSource | None) -> str:
    """Fingerprint of the content of a picture; for a file, its name."""
    return str(picture or "") if picture is None or isinstance(picture, (str, Path)) else fingerprint(picture)


def form_error(example: ReasoningExample, *, plain: bool = False) -> str:
    """Why an example is not well formed, in two or three words; empty if it is.

    ``plain``: answers may come without reasoning. A picture to be drawn always needs a thought before it.
    """
    if not example.prompt.strip():
        return "no prompt"
    without = not example.thinking.strip()
    if without and (not plain or example.task == "image"):
        return "no reasoning"
    answer = "picture" if example.task == "image" else example.answer
    if not answer.strip():
        return "no answer"
    if any(LEFTOVER.search(text) for text in (example.prompt, example.thinking, answer)):
        return "leftover tags"
    if not without and not well_formed(with_thinking(example.thinking, answer)):
        return "not well formed"
    if (example.task == "math") != (example.picture is None):
        return "no picture" if example.picture is None else "picture not asked for"
    return ""


def safe_path(name: str) -> PurePosixPath | None:
    """A file name from a data set as a relative path; None if it would leave the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    return None if not name or path.is_absolute() or ".." in path.parts or "\0" in name else path


class Writer:
    """Writer of records and their pictures into an existing, empty folder; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = (folder / EXAMPLES).open("w", encoding="utf-8")
        self.pictures = 0

    def add(self, example: ReasoningExample) -> None:
        """Write one record. Raises InputError for a picture that cannot be read."""
        line: dict[str, str] = example.texts()
        if example.picture is not None:
            picture = load_image(example.picture, f"picture of {example.source}")
            (self.folder / "pictures").mkdir(exist_ok=True)
            line["picture"] = f"pictures/{self.pictures:07d}.png"
            pixels = Image.fromarray(np.asarray(picture))  # drop metadata such as EXIF
            save_image(pixels, self.folder / line["picture"])
            self.pictures += 1
        self.file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def read_reasoned(folder: Path) -> Iterator[ReasoningExample]:
    """The records of a folder, their pictures as paths. Raises InputError for a folder or line that `Writer` did not write."""
    path = folder / EXAMPLES
    if not path.is_file():
        raise InputError(f"reasoning folder '{folder}' has no {EXAMPLES}; give a folder that `mmada collect` wrote")
    for number, line in enumerate(read_lines(path, "reasoning data"), 1):
        try:
            yield of_fields(json.loads(line), folder)
        except ValueError as error:
            raise InputError(f"{path} is damaged in line {number} ({error}); make it again with `mmada collect`") from error


def of_fields(fields: Mapping[str, Any], folder: Path) -> ReasoningExample:
    """A record from the fields of a line. Raises ValueError for an invalid line."""
    if not isinstance(fields, dict) or not all(isinstance(fields.get(name), str) for name in TEXTS):
        raise ValueError(f"it should have the texts {', '.join(TEXTS)}")
    if fields["task"] not in ("math", "vision", "image"):
        raise ValueError(f"its task is {fields['task']!r}")
    name = fields.get("picture")
    picture = None
    if name is not None:
        below = safe_path(name) if isinstance(name, str) else None
        if below is None:
            raise ValueError(f"its picture {name!r} lies outside the folder")
        picture = folder / below
    return ReasoningExample(**{name: fields[name] for name in TEXTS}, picture=picture)
