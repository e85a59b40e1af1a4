"""The command line: ``mmada COMMAND ...``.

Exit status: 0 done; 1 a fault of the program; 2 bad input, said in one sentence and with nothing written; 130
interrupted. Torch is imported by the commands that need a model, after everything that can be checked without
it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmada.errors import InputError, unknown_name

if TYPE_CHECKING:
    from mmada.commands.options import Command

__all__ = ["main", "parse"]

_DESCRIPTION = """Unified masked diffusion over text and images: write, look and draw with one model.

Help on a command: mmada COMMAND --help"""

_EXTRAS = {"sklearn": "scikit-learn", "matplotlib": "matplotlib"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; ``arguments`` are those of the process by default."""
    try:
        try:
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
    except KeyboardInterrupt:
        print("mmada: interrupted", file=sys.stderr)
        return 130
    return 0


def parse(arguments: Sequence[str]) -> Command:
    """The command that ``arguments`` ask for.

    Raises `InputError` for an unknown command, and exits for ``--help`` (0) and misused options (2).
    """
    import tyro

    from mmada.commands import COMMANDS

    arguments = arguments or ["--help"]
    first, *rest = arguments
    if first == "--version":
        from mmada import __version__

        print(f"mmada {__version__}")
        raise SystemExit(0)
    if first in COMMANDS:  # this one's parser alone: quicker, and its help says just what it takes
        return tyro.cli(COMMANDS[first], prog=f"mmada {first}", args=rest)
    if not first.startswith("-"):
        raise unknown_name("command", first, COMMANDS)
    command: Command = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="mmada", description=_DESCRIPTION, args=arguments)
    return command


def _fail(sentence: str) -> int:
    print(f"mmada: error: {sentence}", file=sys.stderr)
    return 2
