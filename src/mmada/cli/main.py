"""The command line: ``mmada COMMAND ...``.

Exit status: 0 done; 1 an error of the program; 2 bad input, reported in one sentence with nothing written; 130 interrupted
(SIGINT); 143 terminated (SIGTERM). Torch is imported by the commands that need a model, after every check that does not need it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmada.errors import InputError, quote, unknown_name
from mmada.io.atomic import system_sentence
from mmada.io.signals import Terminated, signals_as_exceptions

if TYPE_CHECKING:
    from mmada.cli.options import Command

__all__ = ["main", "parse"]

_EXTRAS = {"sklearn": "scikit-learn", "matplotlib": "matplotlib"}
MAX_WORD = 120
"""Characters of one value that an error repeats."""
MAX_SENTENCE = 1200


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; ``arguments`` are those of the process by default."""
    for stream in (sys.stdout, sys.stderr):  # a terminal or pipe that is not UTF-8 shows escapes instead of failing
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            with signals_as_exceptions():
                return _run(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader is gone (`mmada ... | head`); Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(arguments: Sequence[str]) -> int:
    try:
        command = parse(arguments)
        command.check()
        command.run()
    except InputError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        package = _EXTRAS.get((error.name or "").partition(".")[0])
        if package is None:
            raise
        return _fail(f"this needs {package}; install it with: pip install 'mmada[nano]'")
    except Exception as error:
        if sentence := system_sentence(error):
            return _fail(sentence)
        raise
    except KeyboardInterrupt:
        print("mmada: interrupted", file=sys.stderr)
        return 130
    except Terminated as end:
        print(f"mmada: {end}", file=sys.stderr)
        return 128 + end.number
    return 0


def parse(arguments: Sequence[str]) -> Command:
    """The command that ``arguments`` ask for.

    Raises `InputError` for an unknown command and for misused options, and exits (0) for ``--help`` and ``--version``.
    """
    from mmada.cli.arguments import parse_command
    from mmada.cli.commands import COMMANDS, command_class

    first, *rest = arguments or ["--help"]
    if " ".join(arguments[:2]) in COMMANDS:
        first, rest = " ".join(arguments[:2]), list(arguments[2:])
    if first == "--version":
        from mmada import __version__

        print(f"mmada {__version__}")
        raise SystemExit(0)
    if first in ("--help", "-h"):
        print(_help())
        raise SystemExit(0)
    if first in COMMANDS:
        if first == "train":
            _recipe_help(rest)
        return parse_command(first, command_class(first), rest)
    if some := [name for name in COMMANDS if name.startswith(f"{first} ")]:
        if rest[:1] in (["--help"], ["-h"]):
            print(_help(some))
            raise SystemExit(0)
        second = [name.partition(" ")[2] for name in some]
        if not rest or rest[0].startswith("-"):
            raise InputError(f"command {quote(first)} is not complete; add {' or '.join(second)}")
        raise unknown_name(f"command {first}", rest[0], second)
    if first.startswith("-"):
        raise InputError(f"option {quote(first)} is unknown here; give a command first, see mmada --help")
    raise unknown_name("command", first, COMMANDS)


def _recipe_help(words: Sequence[str]) -> None:
    """``mmada train RECIPE --help`` also lists the recipe's fields."""
    from mmada.registry import RECIPES

    recipe = next((word for word in words if word in RECIPES), None)
    if recipe is not None and not {"-h", "--help"}.isdisjoint(words):
        from mmada.cli.arguments import parser_of
        from mmada.cli.train import Train, print_fields

        parser_of("train", Train).print_help()
        print(f"\nfields of {recipe}, for --set:")
        print_fields(recipe)
        raise SystemExit(0)


def _help(some: Sequence[str] = ()) -> str:
    """The help page of the program, of ``some`` commands or all."""
    from mmada.cli.commands import COMMANDS, command_class

    names = some or list(COMMANDS)
    width = max(map(len, names))
    lines = [f"  {name:{width}}  {(command_class(name).__doc__ or '').partition('.')[0]}." for name in names]
    return "\n".join(
        [
            "usage: mmada COMMAND ...",
            "",
            "Unified masked diffusion over text and images: write, look and draw with one model.",
            "",
            "commands:",
            *lines,
            "",
            "options:",
            "  -h, --help  Show this help and stop.",
            "  --version   Show the version and stop.",
            "",
            "Help on a command: mmada COMMAND --help",
        ]
    )


def _fail(sentence: str) -> int:
    print(f"mmada: error: {one_line(sentence)}", file=sys.stderr)
    return 2


def one_line(sentence: str) -> str:
    """An error on one line: control characters escaped, long values without their middle."""
    line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in sentence)
    line = re.sub(rf"\S{{{MAX_WORD},}}", lambda match: quote(match[0])[1:-1], line)
    return line if len(line) <= MAX_SENTENCE else f"{line[:MAX_SENTENCE]}..."
