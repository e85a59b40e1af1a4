"""Readers: training data in common file formats as data sets.

    captions     FOLDER of pictures, each with a caption in a .txt beside it, or all captions in metadata.jsonl
    chat         FILE.jsonl of conversations, in the OpenAI or the LLaVA form, with pictures or without
    text         FILE.txt, a text a line, or FILE.jsonl with a "text" a line
    reasoning    FOLDER of reasoning data that mmada collected

A reader is a function of a path (and options) that returns `Examples`; it is registered in `mmada.registry.DATASETS`, and `sft`
names it as a kind. Rows that cannot be used are counted by reason, never dropped silently.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmada.data.dataset import Example
from mmada.data.reasoning import read_reasoned, safe_path
from mmada.errors import InputError
from mmada.io.documents import read_lines
from mmada.tokenizers.prompt import Message

__all__ = ["Examples", "captions", "chat", "pictures_in", "reasoning", "text"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
METADATA = "metadata.jsonl"
ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
IMAGE_MARK = "<image>"
"""Placeholder of a picture in a LLaVA-style message."""


@dataclass(frozen=True)
class Examples:
    """Examples that were read, and how many rows were not used, by reason."""

    items: tuple[Example, ...]
    rejected: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Example:
        return self.items[index]

    @staticmethod
    def of(found: Iterable[Example | str]) -> Examples:
        """Examples, and reasons (texts) why rows were rejected."""
        items: list[Example] = []
        rejected = Counter[str]()
        for one in found:
            if isinstance(one, str):
                rejected[one] += 1
            else:
                items.append(one)
        return Examples(tuple(items), rejected)


NOT_UNICODE = "text is not valid Unicode"


def is_unicode(*texts: str) -> bool:
    """Whether texts can be tokenised: JSON can escape half a character ("\\ud800"), which no tokenizer takes."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True


def captions(path: Path, *, describe: str = "") -> Examples:
    """Pictures of a folder with their captions, to be drawn; with ``describe``, as answers to that question about the picture.

    Captions are in ``metadata.jsonl`` (``{"file_name": "a.png", "text": "..."}`` a line, as Hugging Face's image folders have
    them) or in a .txt of the same name beside each picture.
    """
    check_exists(path, folder=True)
    return Examples.of(captioned(picture, caption, describe) for picture, caption in captions_of(path))


def captions_of(folder: Path) -> Iterator[tuple[Path | str, str]]:
    """(picture, caption) pairs; a text in the picture's place is the reason why the row cannot be used."""
    table = folder / METADATA
    if not table.is_file():
        for picture in pictures_in(folder):
            beside = picture.with_suffix(".txt")
            try:
                yield picture, beside.read_text(encoding="utf-8-sig") if beside.is_file() else ""
            except UnicodeDecodeError:
                yield "caption is not UTF-8", ""
        return
    for row in rows_of(table):
        name, caption = row.get("file_name"), row.get("text")
        yield picture_in(folder, name), caption if isinstance(caption, str) else ""


def pictures_in(folder: Path) -> list[Path]:
    """All pictures in a folder and those below it, sorted. Raises InputError where there is none."""
    check_exists(folder, folder=True)
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(f"data '{folder}' has no pictures ({', '.join(SUFFIXES)}); check the path")
    return found


def captioned(picture: Path | str, caption: str, describe: str) -> Example | str:
    """The example of a captioned picture, or why there is none."""
    if isinstance(picture, str):
        return picture
    if not caption.strip():
        return "no caption"
    if not is_unicode(caption):
        return NOT_UNICODE
    caption = caption.strip()
    if describe:
        turns = (Message("user", describe), Message("assistant", caption))
        return Example(objective="chat", messages=turns, images=(picture,))
    return Example(objective="text_to_image", text=caption, images=(picture,))


def picture_in(folder: Path, name: Any) -> Path | str:
    """The file of a picture that a row names, or why it cannot be used."""
    below = safe_path(name) if isinstance(name, str) else None
    if below is None:
        return "no picture named" if name is None else "picture name is not a path inside the folder"
    return folder / below if (folder / below).is_file() else "picture is missing"


def text(path: Path) -> Examples:
    """Plain texts to continue the language pretraining with: the lines of a .txt, or the "text" of each line of a .jsonl."""
    check_exists(path)
    if path.suffix == ".jsonl":
        lines: Iterable[Any] = (row.get("text") for row in rows_of(path))
    else:
        lines = (line.rstrip("\r\n") for line in read_lines(path, "data"))
    return Examples.of(plain_text(line) for line in lines)


def plain_text(line: object) -> Example | str:
    """The example of a text, or why there is none."""
    if not isinstance(line, str) or not line.strip():
        return "no text"
    return Example(objective="text", text=line) if is_unicode(line) else NOT_UNICODE


def chat(path: Path, *, images: str = "", reasoning: bool = False) -> Examples:
    """Conversations, one a line, of which the assistant's turns are learned.

    A line is ``{"messages": [{"role", "content"}, ...]}`` (OpenAI) or ``{"conversations": [{"from", "value"}, ...]}`` (LLaVA),
    with ``"image"`` or ``"images"``: names of pictures below the folder ``images`` (by default the file's own). ``reasoning``:
    the last question asks for reasoning, so answers should begin with ``<think>``.
    """
    check_exists(path)
    folder = Path(images) if images else path.parent
    return Examples.of(conversation(row, folder, reasoning) for row in rows_of(path))


def conversation(row: dict[str, Any], folder: Path, reasoning: bool) -> Example | str:
    """The example of one line, or why there is none."""
    turns, pictures = [], names_of(row)
    if isinstance(pictures, str):
        return pictures
    given = row.get("messages", row.get("conversations"))
    if not isinstance(given, list) or not given:
        return "no messages"
    marks = 0
    for one in given:
        turn = turn_of(one)
        if isinstance(turn, str):
            return turn
        marks += turn.content.count(IMAGE_MARK)
        turns.append(Message(turn.role, turn.content.replace(IMAGE_MARK, "").strip()))
    if marks and marks != len(pictures):
        return f"{IMAGE_MARK} does not match the pictures given"
    found = [picture_in(folder, name) for name in pictures]
    if reasons := [one for one in found if isinstance(one, str)]:
        return reasons[0]
    if not any(turn.role == "assistant" and turn.content for turn in turns):
        return "no answer to learn"
    images = tuple(one for one in found if isinstance(one, Path))
    return Example(objective="chat", messages=tuple(turns), images=images, reasoning=reasoning)


def turn_of(one: Any) -> Message | str:
    """A turn of a conversation, or what is wrong with it."""
    if not isinstance(one, dict):
        return "message is not an object"
    role, content = one.get("role", one.get("from")), one.get("content", one.get("value"))
    if isinstance(content, list):  # parts, as OpenAI has them; pictures are named in the row
        texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
        if not all(isinstance(part, str) for part in texts):
            return "message has parts other than text"
        content = "\n".join(str(part) for part in texts)
    if not isinstance(role, str) or role not in ROLES:
        return "unknown role"
    if not isinstance(content, str):
        return "message without text"
    if not is_unicode(content):
        return NOT_UNICODE
    return Message(ROLES[role], content)  # type: ignore[arg-type]


def names_of(row: dict[str, Any]) -> list[Any] | str:
    """The pictures that a row names, or why they cannot be used."""
    given = row.get("images", row.get("image"))
    if given is None:
        return []
    return [given] if isinstance(given, str) else given if isinstance(given, list) else "image is not a file name"


def reasoning(path: Path) -> Examples:
    """Reasoning data of a folder. An example that ends in a picture is two: one learns the thought, one the picture after it."""
    check_exists(path, folder=True)
    return Examples.of(example for one in read_reasoned(path) for example in reasoned(one))


def reasoned(one: Any) -> Iterator[Example]:
    """The training examples of one record."""
    images = () if one.picture is None else (one.picture,)
    if one.task == "image":
        for learn in ("thought", "image"):
            yield Example(objective="text_to_image", text=one.prompt, thought=one.thinking, learn=learn, images=images)
        return
    turns = (Message("user", one.prompt), Message("assistant", one.target_text))
    yield Example(objective="chat", messages=turns, images=images, reasoning=bool(one.thinking.strip()))


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl. Raises InputError that names the line which is none."""
    for number, line in enumerate(read_lines(path, "data"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is not JSON in line {number}; fix that line or remove it") from error
        if not isinstance(row, dict):
            raise InputError(f"{path} has no object in line {number}; write one as {{...}}")
        yield row


def check_exists(path: Path, *, folder: bool = False) -> None:
    """Raise InputError where a file or folder is missing, or one is where the other should be."""
    if path.is_dir() if folder else path.is_file():
        return
    if not path.exists():
        raise InputError(f"data '{path}' does not exist; check the path")
    wanted = "folder" if folder else "file"
    raise InputError(f"data '{path}' is not a {wanted}, and this kind of data is read from one; give a {wanted} or another kind")
