"""Silence for libraries that print between the lines of a log: progress bars and notes about their own optional parts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["no_progress_bars", "quiet_imports"]

_NOTES = {
    "torchao": ("Failed to load", "Skipping import of cpp extensions"),
    "torch.utils._pytree": ("is an Enum subclass",),
}
"""Logger -> what its notes contain that say nothing about a user's model: kernels of torchao that this torch cannot load."""


class _Without(logging.Filter):
    """Drops records that contain one of some texts."""

    def __init__(self, texts: tuple[str, ...]) -> None:
        super().__init__()
        self.texts = texts

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is shown."""
        message = record.getMessage()
        return not any(text in message for text in self.texts)


def quiet_imports() -> None:
    """Drop the notes of torchao on its own loading, which transformers and peft import where it is installed."""
    for name, texts in _NOTES.items():
        logger = logging.getLogger(name)
        if not any(isinstance(other, _Without) for other in logger.filters):
            logger.addFilter(_Without(texts))


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Turn off the progress bars of transformers inside the block, such as "Writing model shards"."""
    from transformers.utils import logging as transformers_logging

    untyped: Any = transformers_logging
    shown = untyped.is_progress_bar_enabled()
    untyped.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            untyped.enable_progress_bar()
