"""The command line is a promise: every command and option, frozen. A change belongs in the changelog too."""

import re
import shlex

import pytest

from mmada.cli import parse
from mmada.cli.arguments import options_of, spellings
from mmada.cli.commands import COMMANDS, command_class

MODEL = ["--adapter", "--device", "--dtype", "--image-tokenizer", "--json", "--model", "--preset"]
COMMON = [*MODEL, "--seed", "--steps", "--watch"]
SPEED = [*COMMON, "--lookahead", "--parallel", "--reuse"]
ANSWER = [*SPEED, "--block", "--guidance", "--length", "--no-thinking", "--temperature", "--thinking"]
OUT = ["-o", "--out", "--output"]
IMAGE = [*SPEED, *OUT, "--guidance", "--temperature"]
OPTIONS: dict[str, list[str]] = {
    "demo": [*OUT, "--image", "--prompt"],
    "generate": ["PROMPT", *ANSWER],
    "ask": ["IMAGE", "QUESTION", *ANSWER],
    "infill": ["TEXT", *SPEED, "--temperature"],
    "draw": ["PROMPT", *IMAGE, "--count", "--gif", "--no-thinking", "--size", "--thinking"],
    "inpaint": ["IMAGE", "MASK", "PROMPT", *IMAGE],
    "extend": ["IMAGE", *IMAGE, "--down", "--left", "--prompt", "--right", "--up"],
    "train": ["RECIPE", *OUT, "--fields", "--list", "--resume", "--set", "--start-from"],
    "eval": ["SUITE", *MODEL, *OUT, "--compare", "--limit", "--samples", "--seeds"],
    "bench": [*MODEL, *OUT, "--examples", "--modes", "--rounds", "--seeds", "--workload"],
    "collect": [
        "SOURCE",
        *MODEL,
        *OUT,
        "--decontaminate",
        "--images",
        "--max-tokens",
        "--per-prompt",
        "--samples",
        "--seed",
        "--temperature",
        "--unchecked",
    ],
    "tokenizer": OUT,
    "info": ["nano|FOLDER|HUB-ID", "--image-tokenizer", "--json", "--preset"],
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


def test_commands_are_frozen(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(COMMANDS) == list(OPTIONS)
    listed = help_of("", capsys).partition("commands:\n")[2].partition("\n\n")[0]
    assert [line.split()[0] for line in listed.splitlines()] == list(OPTIONS)


@pytest.mark.parametrize("command", OPTIONS)
def test_options_are_frozen_and_in_the_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    specs = options_of(command_class(command))
    positional = {spec.kind.metavar for spec in specs.values() if spec.positional}
    names = {*spellings(specs)} - {"--help"}
    assert positional | names == set(OPTIONS[command])
    text = help_of(command, capsys)
    for name in (*positional, *names):
        assert re.search(rf"^ +(.*, )?{re.escape(name)}\b", text, flags=re.M), name


@pytest.mark.parametrize("command", OPTIONS)
def test_help_is_for_people(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Defaults that say nothing, and private spellings, are not shown; a command's own options come before the model's."""
    text = help_of(command, capsys)
    for wrong in ("(default: False)", "(default: )", "(default: '')", "None", "MISSING", "lambda"):
        assert wrong not in text, wrong
    if "\nmodel:\n" in text:
        assert text.index("\noptions:\n") < text.index("\nmodel:\n")
    assert all(len(line) <= 110 for line in text.splitlines())


@pytest.mark.parametrize("command", OPTIONS)
def test_help_has_an_example_that_parses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(command, capsys)
    example = re.search(r"Example: mmada (.*?)\n\n", text, flags=re.S)
    assert example, "the help shows no example"
    parsed = parse(shlex.split(example[1].replace("\n", " ")))
    assert type(parsed) is command_class(command)


def test_no_arguments_is_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([])
    shown = capsys.readouterr().out
    assert "inpaint" in shown
    assert "--version" in shown
