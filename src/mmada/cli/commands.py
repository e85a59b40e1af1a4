"""The commands by name. A class is imported when its command is used, so that one command does not pay for the others."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmada.cli.options import Command

__all__ = ["COMMANDS", "command_class"]

COMMANDS = {
    "demo": "demo:Demo",
    "generate": "generate:Generate",
    "chat": "generate:Chat",
    "ask": "generate:Ask",
    "draw": "draw:Draw",
    "inpaint": "draw:Inpaint",
    "extend": "draw:Extend",
    "infill": "generate:Infill",
    "score": "generate:ScoreText",
    "train": "train:Train",
    "eval": "evaluate:Eval",
    "bench": "evaluate:Bench",
    "collect": "collect:Collect",
    "data check": "data:DataCheck",
    "data build": "data_build:DataBuild",
    "tokenizer": "train:Tokenizer",
    "info": "info:Info",
    "convert": "info:Convert",
}
"""Every command, in the order of the help page: its module and class. A name may be of two words."""


def command_class(name: str) -> type[Command]:
    """The class of a command: a frozen dataclass whose fields are its options and whose docstring is its help."""
    module, _, kind = COMMANDS[name].partition(":")
    found: type[Command] = getattr(import_module(f"mmada.cli.{module}"), kind)
    return found
