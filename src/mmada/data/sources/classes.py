"""Pictures with a class: from a label to the names of its class, and from these to a caption."""

from __future__ import annotations

import csv
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmada.data.dataset import Example, UnusableRow
from mmada.data.row_fields import kind_of
from mmada.data.sources.fields import Field, is_blank
from mmada.data.sources.uses import Pair, Place
from mmada.errors import InputError, quote
from mmada.io.documents import read_json, read_lines

__all__ = ["Classes", "Names", "class_names"]


@dataclass(frozen=True)
class Names:
    """Class names: ``order`` by number, ``by_label`` by label (a synset). Without either, a label is its own name."""

    order: tuple[str, ...] = ()
    by_label: Mapping[str, str] | None = None

    def of(self, label: Any) -> str:
        """The names of a class, separated by commas. Raises UnusableRow for a label that is none of them."""
        if is_blank(label):
            raise UnusableRow("no label")
        if isinstance(label, float) and label.is_integer():
            label = int(label)
        if isinstance(label, bool) or not isinstance(label, (int, str)):
            raise UnusableRow(f"label is {kind_of(label)}, not a whole number or a name")
        text = str(label).strip()
        if self.by_label and text in self.by_label:
            return self.by_label[text]
        if self.order and text.lstrip("-").isascii() and text.lstrip("-").isdigit():
            if 0 <= int(text) < len(self.order):
                return self.order[int(text)]
            raise UnusableRow("label is outside the class names")
        if (self.by_label or self.order) and text not in self.order:
            raise UnusableRow("label is not among the class names")
        return text if self.order else text.replace("_", " ")


def class_names(given: str | list[str] | Mapping[Any, str] | None, base: Path, what: str) -> Names:
    """Class names from a list, a mapping, or a file of them. Raises InputError.

    A file has a name a line, or a label and names (``n01440764 tench, Tinca tinca``); or it is a .json list, or an object of
    label -> name or [label, name]; or a .csv or .tsv with label and name.
    """
    if given is None:
        return Names()
    if isinstance(given, Mapping):
        return Names(by_label={str(label): name for label, name in given.items()})
    if isinstance(given, list):
        return Names(tuple(given))
    path = next((one / given for one in (base, Path()) if (one / given).is_file()), None)
    if path is None:
        raise InputError(f"{what} {quote(base / given)} is not a file; check the path, or give a list of names")
    if path.suffix.lower() == ".json":
        return json_names(read_json(path, what), f"{what} {quote(path)}")
    lines = [line.strip() for line in read_lines(path, what)]
    lines = [line for line in lines if line]
    if not lines:
        raise InputError(f"{what} {quote(path)} is empty; give a class name a line")
    if path.suffix.lower() in (".csv", ".tsv"):
        rows = list(csv.reader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
        return Names(by_label={row[0].strip(): row[1].strip() for row in rows if len(row) > 1})
    words = [line.split(maxsplit=1) for line in lines]
    if all(len(one) == 2 and is_synset(one[0]) for one in words):
        return Names(tuple(one[1].strip() for one in words), {one[0]: one[1].strip() for one in words})
    return Names(tuple(lines))


def is_synset(word: str) -> bool:
    """Whether a word is a WordNet id such as n01440764."""
    return len(word) == 9 and word[0] in "nv" and word[1:].isdigit()


def json_names(value: Any, label: str) -> Names:
    """Names from a JSON value. Raises InputError."""
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return Names(tuple(value))
    pairs: dict[str, str] = {}
    for key, one in value.items() if isinstance(value, dict) else ():
        if isinstance(one, list) and one and all(isinstance(part, str) for part in one):
            pairs |= {part: ", ".join(one[1:] or one).replace("_", " ") for part in (key, one[0])}
        elif isinstance(one, str):
            pairs[key] = one
    if not pairs:
        raise InputError(f"{label} has no class names; give a list of names, or an object of label and name")
    return Names(by_label=pairs)


@dataclass(frozen=True)
class Classes:
    """A picture with a class, learned as a captioned picture is. ``caption``: what is made of {name} and {names}."""

    pair: Pair
    label: Field
    names: Names

    @property
    def fields(self) -> frozenset[str]:
        """As `Use`."""
        return self.label.names | self.pair.fields

    @property
    def parts(self) -> int:
        """As `Use`."""
        return self.pair.parts

    def example(self, place: Place, part: int) -> Example:
        """As `Use`."""
        names = self.names.of(self.label.value(place.row))
        first = names.partition(",")[0].strip()
        row = ChainMap({"name": first, "names": names}, place.row)  # type: ignore[arg-type]
        return self.pair.example(Place(row, place.key, place.folders, place.replace), part)
