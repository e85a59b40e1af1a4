"""Messages of a conversation in the form of the field: dicts with a role and a content of text and image parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmada.errors import InputError, check_text, kind_of, quote, unknown_name
from mmada.io.images import ImageSource
from mmada.tokenizers.prompt import Message

__all__ = ["conversations", "read_messages"]

ROLES = ("system", "user", "assistant")
TEXT_PARTS = ("text", "input_text")
IMAGE_PARTS = ("image", "image_url", "input_image")


def read_messages(messages: object) -> tuple[list[Message], list[ImageSource]]:
    """(the turns, the images of all of them in order) of a conversation.

    A message is ``{"role": "system" | "user" | "assistant", "content": ...}``; a content is a text, or a list of parts:
    ``{"type": "text", "text": ...}``, ``{"type": "image", "image": IMAGE}`` with any form of an image that methods take, or
    ``{"type": "image_url", "image_url": {"url": ...}}`` with a ``data:`` URL. Texts of one message are joined by a line end.
    Images stand before the conversation on the canvas, whichever message they are in. Raises InputError that names the message.
    """
    if not isinstance(messages, (list, tuple)) or not messages:
        raise InputError(f"messages must be a list of at least one message, got {quote(messages)}")
    turns, images = [], list[ImageSource]()
    for number, message in enumerate(messages):
        field = f"messages[{number}]"
        role, content = _role_and_content(field, message)
        texts, own = _parts(f"{field}.content", content)
        text = "\n".join(texts)
        check_text(f"{field}.content", text, empty=role != "user" or bool(own))
        turns.append(Message(role, text))  # type: ignore[arg-type]
        images += own
    if turns[-1].role != "user":
        raise InputError(f"messages end with a turn of the {turns[-1].role}; end them with one of the user, to be answered")
    return turns, images


def _role_and_content(field: str, message: object) -> tuple[str, object]:
    if isinstance(message, Message):
        role, content = message.role, message.content
    elif isinstance(message, Mapping):
        for key in ("role", "content"):
            if key not in message:
                raise InputError(f"{field} has no {key}; write it as {{'role': 'user', 'content': '...'}}")
        role, content = message["role"], message["content"]
    else:
        raise InputError(f"{field} is {kind_of(message)}; give a dict with role and content")
    if role not in ROLES:
        if isinstance(role, str):
            raise unknown_name(f"{field}.role", role, ROLES)
        raise InputError(f"{field}.role must be one of {', '.join(ROLES)}, got {quote(role)}")
    return role, content


def _parts(field: str, content: object) -> tuple[list[str], list[ImageSource]]:
    if isinstance(content, str):
        return [content], []
    if not isinstance(content, (list, tuple)):
        raise InputError(f"{field} is {kind_of(content)}; give text, or a list of parts")
    texts, images = list[str](), list[ImageSource]()
    for number, part in enumerate(content):
        name = f"{field}[{number}]"
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = part.get("type") if isinstance(part, Mapping) else None
        if not isinstance(part, Mapping) or not isinstance(kind, str):
            raise InputError(f"{name} is not a part; write it as {{'type': 'text', 'text': '...'}}")
        if kind in TEXT_PARTS:
            text = part.get("text")
            check_text(f"{name}.text", text, empty=True)
            texts.append(str(text))
        elif kind in IMAGE_PARTS:
            images.append(_image(name, part))
        else:
            raise unknown_name(f"{name}.type", kind, (*TEXT_PARTS, *IMAGE_PARTS))
    return texts, images


def _image(field: str, part: Mapping[str, Any]) -> ImageSource:
    source: Any = next((part[key] for key in ("image", "image_url", "url") if part.get(key) is not None), None)
    if isinstance(source, Mapping):
        source = source.get("url")
    if source is None:
        raise InputError(f"{field} has no image; give it as 'image', or as a data: URL in 'image_url'")
    if isinstance(source, str) and source.lower().startswith(("http://", "https://")):
        raise InputError(f"{field} is the address {quote(source)}; nothing is downloaded, so give the file or a data: URL")
    found: ImageSource = source
    return found


def conversations(messages: Sequence[object]) -> bool:
    """Whether these are several conversations rather than the messages of one."""
    return bool(messages) and all(isinstance(one, (list, tuple)) for one in messages)
