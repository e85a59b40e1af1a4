"""Conversations in the layouts of OpenAI ({role, content}) and LLaVA ({from, value}), as messages and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmada.data.dataset import UnusableRow
from mmada.data.row_fields import MARKER
from mmada.data.sources.fields import as_text, is_blank
from mmada.tokenizers.prompt import Message

__all__ = ["IMAGE_MARK", "messages_of", "without_marks"]

ROLES = {
    "system": "system", "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
}  # fmt: skip
IMAGE_MARK = "<image>"
"""Placeholder of a picture in a message."""


def messages_of(turns: Any, replace: Mapping[str, str]) -> tuple[list[Message], list[Any], int]:
    """(messages, pictures that stand inside them, how many pictures they refer to). Raises UnusableRow."""
    if not isinstance(turns, list) or not turns:
        raise UnusableRow("no messages")
    messages, pictures, marks = list[Message](), list[Any](), 0
    for turn in turns:
        if not isinstance(turn, Mapping):
            raise UnusableRow("message is not an object")
        role = turn.get("role", turn.get("from"))
        if not isinstance(role, str) or role.lower() not in ROLES:
            raise UnusableRow("unknown role")
        text, inside, bare = content_of(turn.get("content", turn.get("value")))
        text, found = without_marks(as_text(text, "message"))
        for old, new in replace.items():
            text = text.replace(old, new)
        pictures += inside
        marks += found + bare + len(inside)
        messages.append(Message(ROLES[role.lower()], text.strip()))  # type: ignore[arg-type]
    return messages, pictures, marks


def content_of(content: Any) -> tuple[str, list[Any], int]:
    """(text, pictures, places of pictures that the row has elsewhere) of a message in either form."""
    if isinstance(content, str):
        return content, [], 0
    if not isinstance(content, list):
        raise UnusableRow("message without text")
    texts, pictures, bare = list[str](), list[Any](), 0
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in ("image", "image_url") and not is_blank(found := picture_in(part)):
            pictures.append(found)
        elif kind == "image":
            bare += 1
        else:
            raise UnusableRow("message has parts other than text")
    return "\n".join(texts), pictures, bare


def picture_in(part: Mapping[str, Any]) -> Any:
    """The picture of a part of a message."""
    found = part.get("image_url", part.get("image", part.get("url")))
    return found.get("url") if isinstance(found, Mapping) and "url" in found else found


def without_marks(text: str) -> tuple[str, int]:
    """A text without its references to pictures, and how many there were; they stand before it or behind it."""
    return MARKER.sub("", text).strip(), len(MARKER.findall(text))
