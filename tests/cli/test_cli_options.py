"""The command line is a promise: every command and option, frozen. A change belongs in the changelog too."""

import re
import shlex

import pytest

from mmada.cli import parse
from mmada.cli.commands import COMMANDS

MODEL = ["--adapter", "--device", "--dtype", "--image-tokenizer", "--json", "--model", "--preset"]
COMMON = [*MODEL, "--seed", "--steps", "--watch"]
SPEED = [*COMMON, "--lookahead", "--parallel", "--reuse"]
ANSWER = [*SPEED, "--block", "--guidance", "--length", "--no-thinking", "--temperature", "--thinking"]
PICTURE = [*SPEED, "--guidance", "--output", "--temperature", "-o"]
OPTIONS: dict[str, list[str]] = {
    "demo": ["--image", "--out", "--prompt", "-o"],
    "generate": ["PROMPT", *ANSWER],
    "ask": ["IMAGE", "QUESTION", *ANSWER],
    "draw": ["PROMPT", *PICTURE, "--count", "--gif", "--no-thinking", "--size", "--thinking"],
    "inpaint": ["IMAGE", "MASK", "PROMPT", *PICTURE],
    "extend": ["IMAGE", *PICTURE, "--down", "--left", "--prompt", "--right", "--up"],
    "infill": ["TEXT", *SPEED, "--temperature"],
    "train": ["[RECIPE]", "--list", "--out", "--resume", "--set", "--start-from"],
    "reason": [
        "SOURCE",
        *MODEL,
        "--forbid",
        "--images",
        "--longest",
        "--out",
        "--per-prompt",
        "--samples",
        "--seed",
        "--temperature",
        "--unchecked",
        "-o",
    ],
    "eval": ["SUITE", *MODEL, "--beside", "--limit", "--out", "--samples", "--seeds", "-o"],
    "bench": [*MODEL, "--examples", "--modes", "--out", "--rounds", "--seeds", "--work", "-o"],
    "tokenizer": ["--out"],
    "info": ["[nano|FOLDER|HUB-ID]", "--image-tokenizer", "--json", "--preset"],
    "convert": [
        "FOLDER|HUB-ID",
        "OUT",
        "--adapter",
        "--dtype",
        "--mean",
        "--noise",
        "--preset",
        "--rows",
        "--seed",
        "--shard-size",
    ],
}


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        parse([command, "--help"] if command else ["--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


def names_in(text: str) -> set[str]:
    """The positional arguments and option names at the left edge of the help; a pipe shows no boxes."""
    positional, options = re.split(r"^\W{1,3}options\b", text, flags=re.M)
    found = set(re.findall(r"^[│ ] (?! )([^-\s]\S*)", positional.partition("arguments")[2], flags=re.M))
    for column in re.findall(r"^[│ ] (-.*?)(?:  |│|$)", options, flags=re.M):
        found |= set(re.findall(r"(?:^|, )(--?[a-z][a-z-]*)", column))
    return found - {"-h", "--help"}


def test_commands_are_frozen(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(COMMANDS) == list(OPTIONS)
    assert re.findall(r"• (\w+)", help_of("", capsys)) == list(OPTIONS)


@pytest.mark.parametrize("command", OPTIONS)
def test_options_are_frozen(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert names_in(help_of(command, capsys)) == set(OPTIONS[command])


@pytest.mark.parametrize("command", OPTIONS)
def test_help_has_an_example_that_parses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(command, capsys)
    example = re.search(r"Example: mmada (.*?)\n\n", text, flags=re.S)
    assert example, "the help shows no example"
    parsed = parse(shlex.split(example[1].replace("\n", " ")))
    assert type(parsed) is COMMANDS[command]


def test_no_arguments_is_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([])
    assert "inpaint" in capsys.readouterr().out
