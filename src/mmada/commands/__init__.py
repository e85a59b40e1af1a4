"""The commands: each a frozen dataclass whose fields are its options and whose docstring is its help."""

from __future__ import annotations

from collections.abc import Callable

from mmada.commands.options import Command
from mmada.commands.pictures import Draw, Extend, Inpaint
from mmada.commands.reason import Reason
from mmada.commands.runs import Bench, Eval, Tokenizer, Train
from mmada.commands.show import Convert, Demo, Info
from mmada.commands.text import Ask, Generate, Infill

__all__ = ["COMMANDS"]

COMMANDS: dict[str, Callable[..., Command]] = {
    "demo": Demo,
    "generate": Generate,
    "ask": Ask,
    "draw": Draw,
    "inpaint": Inpaint,
    "extend": Extend,
    "infill": Infill,
    "train": Train,
    "reason": Reason,
    "eval": Eval,
    "bench": Bench,
    "tokenizer": Tokenizer,
    "info": Info,
    "convert": Convert,
}
"""Every command by name, in the order of the help page."""
