"""The command line: ``mmada COMMAND ...``.

Exit status: 0 done; 1 a fault of the program; 2 bad input, said in one sentence and with nothing written; 130
interrupted. Torch is imported by the commands that need a model, after everything that can be checked without
it.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import TYPE_CHECKING

from mmada.errors import InputError, unknown_name
from mmada.io.atomic import no_place

if TYPE_CHECKING:
    from mmada.cli.options import Command

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
    except Exception as error:
        if sentence := no_place(error):
            return _fail(sentence)
        raise
    except KeyboardInterrupt:
        print("mmada: interrupted", file=sys.stderr)
        return 130
    return 0


def parse(arguments: Sequence[str]) -> Command:
    """The command that ``arguments`` ask for.

    Raises `InputError` for an unknown command and for misused options, and exits (0) for ``--help``.
    """
    import tyro

    from mmada.cli.commands import COMMANDS

    arguments = arguments or ["--help"]
    first, *rest = arguments
    if first == "--version":
        from mmada import __version__

        print(f"mmada {__version__}")
        raise SystemExit(0)
    if first in COMMANDS:  # this one's parser alone: quicker, and its help says just what it takes
        with _one_sentence():
            asked = tyro.cli(COMMANDS[first], prog=f"mmada {first}", args=rest)
        for name, value in vars(asked).items():
            if value == () and f"--{name}" in rest:  # which the parser takes for a list of none
                raise InputError(f"--{name} has no value; give it at least one, or leave it out")
        return asked
    if not first.startswith("-"):
        raise unknown_name("command", first, COMMANDS)
    with _one_sentence():
        command: Command = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="mmada", description=_DESCRIPTION, args=arguments)
        return command


@contextmanager
def _one_sentence() -> Iterator[None]:
    """The parser draws its errors as boxes of many lines; this makes an `InputError` of what stands in them."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            yield
    except SystemExit as end:
        if end.code in (0, None):
            raise
        lines = [line.strip(" │╭╮╰╯─") for line in said.getvalue().splitlines()]
        reason = " ".join(line for line in lines if line)
        reason = re.sub(r"^(Parsing error|Value error|Unrecognized options|Required options) ", "", reason)
        reason = re.sub(r" (Argument helptext:|Arguments are applied|For full helptext).*", "", reason)
        reason = re.sub(r" Perhaps you meant: (\S+).*", r"; did you mean \1?", reason)
        raise InputError(f"{reason.rstrip('.') or 'the options cannot be read'}; see --help") from end


def _fail(sentence: str) -> int:
    print(f"mmada: error: {sentence}", file=sys.stderr)
    return 2
