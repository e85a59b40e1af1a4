"""Fields of a row of a data set: texts and pictures, read strictly, so that nothing of an unforeseen type is taken for absent."""

from __future__ import annotations

import re
from typing import Any

from mmada.io.images import ImageSource

__all__ = ["MARKER", "OTHER_MEDIA", "Row", "kind_of", "optional", "picture_of", "question_about", "text_of"]

Row = dict[str, Any]


def text_of(row: Row, *names: str) -> str:
    """The first of the fields that the row has, as text. Raises ValueError if it has none, or for a value that is not text."""
    for name in names:
        value = row.get(name)
        if value is None or value != value:  # NaN is how tables write a missing value
            continue
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            return str(value).strip()
        raise ValueError(f"field {name} is {kind_of(value)}, not text")
    raise ValueError(f"field {' or '.join(names)} is missing")


def optional(row: Row, *names: str) -> str:
    """The same, empty if the row has none of the fields."""
    return text_of({**row, "": ""}, *names, "")


def kind_of(value: object) -> str:
    """A JSON value's kind, as words."""
    kinds = {bool: "true or false", list: "a list", dict: "an object", bytes: "bytes", str: "a text", type(None): "null"}
    return kinds.get(type(value), "a number" if isinstance(value, (int, float)) else f"a {type(value).__name__}")


PICTURE_FIELDS = ("image", "images", "image_filename", "image_path", "picture", "pictures", "img")
MARKER = re.compile(r"<\|?(?:image|img)(?:[_ ]?\d+)?\|?>", re.I)
"""References to a picture in a text. One may be taken out of a question that has a picture."""
OTHER_MEDIA = re.compile(r"<\|?(?:video|audio|speech)(?:[_ ]?\d+)?\|?>", re.I)


def picture_of(row: Row) -> ImageSource | None:
    """The picture of a row: a file's name, or the bytes that parquet files hold; None if it has none.

    Raises ValueError for several pictures, and for anything that is not one.
    """
    found: list[ImageSource] = []
    for name in PICTURE_FIELDS:
        value = row.get(name)
        some = value if isinstance(value, list) else [value]
        found += [picture_from(name, one) for one in some if one is not None and one != ""]
    if len(found) > 1:
        raise ValueError(f"it has {len(found)} pictures; one can be used")
    return found[0] if found else None


def picture_from(field: str, value: object) -> ImageSource:
    """One value of a picture field. Raises ValueError for one that holds no picture."""
    if isinstance(value, dict):
        data, path = value.get("bytes"), value.get("path")
        if not data and not path:
            raise ValueError(f"field {field} has neither the bytes nor the path of a picture")
        value = data or path
    if isinstance(value, (str, bytes)) and value:
        return value
    raise ValueError(f"field {field} is {kind_of(value)}, not a picture")


def question_about(question: str, picture: ImageSource | None) -> str:
    """A question without its marker of the picture. Raises ValueError if it refers to pictures that the row does not have."""
    markers = MARKER.findall(question)
    if markers and picture is None:
        raise ValueError(f"its question names {markers[0]}, but it has no picture")
    if len(markers) > 1:
        raise ValueError(f"its question names {len(markers)} pictures; one can be used")
    return MARKER.sub("", question).strip()
