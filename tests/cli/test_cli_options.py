"""The command line is a promise: every command and option, frozen. A change belongs in the changelog too."""

import re
import shlex
from dataclasses import fields

import pytest

from mmada.cli import parse
from mmada.cli.arguments import options_of, spellings
from mmada.cli.commands import COMMANDS, command_class

MODEL = ["--adapter", "--device", "--dtype", "--image-tokenizer", "--json", "--model", "--preset"]
SAMPLING = [*MODEL, "--seed", "--steps", "--watch", "--temperature", "--guidance", "--parallel", "--reuse", "--lookahead"]
OPEN = ["--open-vocabulary", "--no-open-vocabulary"]
THINKING = ["--thinking", "--no-thinking"]
ANSWER = [*SAMPLING, *THINKING, *OPEN, "--block", "--length", "--stop", "--stop-at-eos", "--no-stop-at-eos"]
OUT = ["-o", "--out", "--output"]
IMAGE = [*SAMPLING, *OUT, "--schedule", "--order-noise", "--annealing"]
OPTIONS: dict[str, list[str]] = {
    "demo": [*OUT, "--image", "--prompt"],
    "generate": ["PROMPT", *ANSWER],
    "chat": ["MESSAGE", *ANSWER, "--system", "--image", "--fit"],
    "ask": ["IMAGE", "QUESTION", *ANSWER, "--fit"],
    "draw": ["PROMPT", *IMAGE, *THINKING, "--count", "--gif", "--size"],
    "inpaint": ["IMAGE", "MASK", "PROMPT", *IMAGE],
    "extend": ["IMAGE", *IMAGE, "--down", "--left", "--prompt", "--right", "--up"],
    "infill": ["TEXT", *SAMPLING, *OPEN],
    "score": ["PROMPT", "COMPLETION", *MODEL, "--image", "--fit", "--thinking", "--samples", "--seed"],
    "train": ["RECIPE", *OUT, "--data", "--fields", "--list", "--resume", "--set", "--start-from"],
    "eval": [
        "SUITE",
        "FILE",
        *MODEL,
        *OUT,
        "--clip",
        "--compare",
        "--group",
        "--limit",
        "--resume",
        "--samples",
        "--seeds",
        "--split",
    ],
    "bench": [*MODEL, *OUT, "--examples", "--modes", "--rounds", "--seeds", "--workload"],
    "collect": [
        "SOURCE",
        *MODEL,
        *OUT,
        "--decontaminate",
        "--images",
        "--max-tokens",
        "--per-prompt",
        "--plain",
        "--samples",
        "--seed",
        "--temperature",
        "--unchecked",
    ],
    "data check": ["FILE", "--json", "--model", "--sheet"],
    "data build": [
        "FILE",
        *OUT,
        "--actors",
        "--batch",
        "--device",
        "--engine",
        "--image-size",
        "--json",
        "--model",
        "--shard-mb",
        "--shard-rows",
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
    assert [re.split(r"  +", line.strip())[0] for line in listed.splitlines()] == list(OPTIONS)


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


@pytest.mark.parametrize(
    ("command", "method"), [("generate", "text"), ("chat", "text"), ("ask", "text"), ("draw", "image"), ("infill", "")]
)
def test_every_sampling_option_is_an_option_of_the_command(command: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are those of `TextSampling` and `ImageSampling`; the command passes them on under these names."""
    monkeypatch.undo()  # the real pipeline
    from mmada.diffusion.schedule import SCHEDULES
    from mmada.pipeline import ImageSampling, TextSampling

    kind = command_class(command)
    taken = {field.name for field in fields({"text": TextSampling, "image": ImageSampling}.get(method, TextSampling))}
    if not method:
        taken -= {"length", "block", "stop", "stop_at_eos"}
    assert {*kind.SAMPLING} == taken  # type: ignore[attr-defined]
    assert taken <= {*options_of(kind)}
    assert command != "draw" or options_of(kind)["schedule"].kind.metavar == "|".join(SCHEDULES)
