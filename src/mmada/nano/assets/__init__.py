"""The bundled model `nano`: weights, tokenizers and preset."""

from __future__ import annotations

from pathlib import Path

__all__ = ["folder"]


def folder() -> Path:
    """The folder of the bundled model."""
    return Path(__file__).parent
