"""Readers: training data in common file formats as data sets in memory, for the recipe `sft`.

    captions     FOLDER of pictures, each with a caption in a .txt beside it, or all captions in metadata.jsonl
    chat         FILE.jsonl of conversations, in the OpenAI or the LLaVA form, with pictures or without
    text         FILE.txt, a text a line, or FILE.jsonl with a "text" a line
    reasoning    FOLDER of reasoning data that mmada collected

Each is a set of `mmada.data.sources` with the usual names of fields; a YAML file says more, and reads sets of any size. A reader
is a function of a path (and options) that returns `Examples`; it is registered in `mmada.registry.DATASETS`, and `sft` names it
as a kind. Rows that cannot be used are counted by reason, never dropped silently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmada.data.dataset import Example, UnusableRow
from mmada.data.reasoning import read_reasoned
from mmada.data.sources.loading import load_sets
from mmada.data.sources.pictures import SUFFIXES
from mmada.data.sources.reasons import reasoned
from mmada.errors import InputError

__all__ = ["Examples", "captions", "chat", "pictures_in", "reasoning", "text"]


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


def read_set(**described: Any) -> Examples:
    """All examples of a set that is described as in a YAML file. Raises InputError."""
    mixture = load_sets({"data": described | {"split": "train"}}, Path())
    dataset = mixture.split("train")["data"]

    def found() -> Iterable[Example | str]:
        for index in range(len(dataset)):
            try:
                yield dataset[index]
            except UnusableRow as error:
                yield error.reason

    return Examples.of(found())


def captions(path: Path, *, describe: str = "") -> Examples:
    """Pictures of a folder with their captions, to be drawn; with ``describe``, as answers to that question about the picture.

    Captions are in ``metadata.jsonl`` (``{"file_name": "a.png", "text": "..."}`` a line, as Hugging Face's image folders have
    them) or in a .txt of the same name beside each picture.
    """
    check_exists(path, folder=True)
    if describe:
        return read_set(use="pair", files=str(path), ways="describe", question=describe)
    return read_set(use="pair", files=str(path), ways="draw")


def pictures_in(folder: Path) -> list[Path]:
    """All pictures in a folder and those below it, sorted. Raises InputError where there is none."""
    check_exists(folder, folder=True)
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(f"data '{folder}' has no pictures ({', '.join(SUFFIXES)}); check the path")
    return found


def text(path: Path) -> Examples:
    """Plain texts to continue the language pretraining with: the lines of a .txt, or the "text" of each line of a .jsonl."""
    check_exists(path)
    return read_set(use="text", files=str(path), kind="jsonl" if path.suffix == ".jsonl" else "lines", text="text")


def chat(path: Path, *, images: str = "", reasoning: bool = False) -> Examples:
    """Conversations, one a line, of which the assistant's turns are learned.

    A line is ``{"messages": [{"role", "content"}, ...]}`` (OpenAI) or ``{"conversations": [{"from", "value"}, ...]}`` (LLaVA),
    with ``"image"`` or ``"images"``: names of pictures below the folder ``images`` (by default the file's own). ``reasoning``:
    the last question asks for reasoning, so answers should begin with ``<think>``.
    """
    check_exists(path)
    roots = [images] if images else []
    return read_set(use="chat", files=str(path), kind="jsonl", images=roots, reasoning=reasoning)


def reasoning(path: Path) -> Examples:
    """Reasoning data of a folder. An example that ends in a picture is two: one learns the thought, one the picture after it."""
    check_exists(path, folder=True)
    return Examples.of(example for one in read_reasoned(path) for example in reasoned(one))


def check_exists(path: Path, *, folder: bool = False) -> None:
    """Raise InputError where a file or folder is missing, or one is where the other should be."""
    if path.is_dir() if folder else path.is_file():
        return
    if not path.exists():
        raise InputError(f"data '{path}' does not exist; check the path")
    wanted = "folder" if folder else "file"
    raise InputError(f"data '{path}' is not a {wanted}, and this kind of data is read from one; give a {wanted} or another kind")
