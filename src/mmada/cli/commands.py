"""The commands: each a frozen dataclass whose fields are its options and whose docstring is its help."""

from __future__ import annotations

from collections.abc import Callable

from mmada.cli.collect import Reason
from mmada.cli.draw import Draw, Extend, Inpaint
from mmada.cli.generate import Ask, Generate, Infill
from mmada.cli.options import Command
from mmada.cli.show import Convert, Demo, Info
from mmada.cli.train import Bench, Eval, Tokenizer, Train

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
