"""Every option of every command, given the odd values of its kind; commands run in this process on a tiny random model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from tests.odd_inputs.run import Tally, run_command
from tests.odd_inputs.tables import CHOICES, NUMBERS, PATHS, SETTINGS, SIZES, TEXTS, WHOLES, odd_images, odd_places, odd_settings

from mmada.cli.arguments import OptionSpec, option_name, options_of
from mmada.cli.commands import COMMANDS, command_class

pytestmark = pytest.mark.slow

USUAL: dict[str, list[str]] = {
    "demo": ["--prompt", "a red circle"],
    "generate": ["tom has 3 red pens", "--steps", "2", "--length", "8", "--block", "8"],
    "ask": ["SCENE", "how many?", "--steps", "2", "--length", "8", "--block", "8"],
    "chat": ["hello", "--steps", "2", "--length", "8", "--block", "8"],
    "infill": ["2 + [MASK] = 5"],
    "score": ["2 + 3", "5", "--samples", "1"],
    "draw": ["a red circle", "--steps", "1"],
    "inpaint": ["SCENE", "HOLE", "a red circle", "--steps", "1"],
    "extend": ["SCENE", "--right", "1", "--steps", "1"],
    "train": ["cot"],
    "eval": ["nano", "--limit", "1", "--seeds", "1"],
    "bench": ["--workload", "math", "--modes", "exact", "--rounds", "1", "--examples", "1"],
    "collect": ["nano:math:1", "--out", "reason"],
    "data check": ["DATA"],
    "data build": ["DATA", "--out", "shards"],
    "tokenizer": [],
    "info": ["MODEL"],
    "convert": ["MODEL", "out"],
}
"""Arguments with which a command works; capitals are replaced."""
HEAVY = {"demo", "train", "eval", "bench", "tokenizer"}
"""Commands that take long when nothing is wrong: they are given only what is wrong without doubt."""
DOUBTFUL = {"reuse", "parallel", "modes", "source", "set", "mean", "shard_size"}
"""Options with a grammar of their own."""


@pytest.fixture
def places(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Odd files, a good picture with its mask and the model by the names in the tables; commands run in an empty folder."""
    found = odd_places(tmp_path / "places")
    (tmp_path / "lines.txt").write_text("one line\n")
    (tmp_path / "data.yaml").write_text("lines: {use: text, files: lines.txt}\n")
    found["DATA"] = str(tmp_path / "data.yaml")
    for name, mode in {"SCENE": "RGB", "HOLE": "L"}.items():
        Image.new(mode, (32, 32), "white").save(tmp_path / f"{name}.png")
        found[name] = str(tmp_path / f"{name}.png")
    found["MODEL"] = str(folder)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    yield found
    os.chmod(found["LOCKED"], 0o600)


def table(field: str, spec: OptionSpec) -> tuple[list[str], bool]:
    """The odd values of an option's kind, and whether each of them is wrong."""
    kind = spec.kind.metavar
    if field in DOUBTFUL:
        return (SETTINGS, True) if field == "set" else ([*TEXTS, *CHOICES], field in ("modes",))
    if kind in ("N", "X", "WxH"):
        return {"N": WHOLES, "X": NUMBERS, "WxH": SIZES}[kind], True
    if kind in ("FILE", "FOLDER", "IMAGE", "MASK", "OUT"):
        return PATHS, field in ("image", "mask", "compare", "adapter", "decontaminate")
    if kind in ("nano|FOLDER|HUB-ID", "FOLDER|HUB-ID"):
        return PATHS, True
    if kind in ("DEVICE", "NAME", "RECIPE", "SUITE") or "|" in kind:
        return [*CHOICES, *TEXTS], True
    return TEXTS, False


def command_line(command: str, field: str, spec: OptionSpec, value: str, places: dict[str, str]) -> list[str]:
    """The usual arguments with one of them odd."""
    usual = [places.get(word, word) for word in USUAL[command]]
    if not spec.positional and option_name(field) in usual:
        at = usual.index(option_name(field))
        del usual[at : at + 2]
    takes_model = "model" in options_of(command_class(command)) and command not in ("info", "collect")
    if takes_model and field != "model":
        usual += ["--model", places["MODEL"]]
    if spec.positional:
        names = [name for name, one in options_of(command_class(command)).items() if one.positional]
        index = names.index(field)
        given = next((i for i, word in enumerate(usual[: len(names)]) if word.startswith("--")), len(names))
        head, rest = usual[:given], usual[given:]
        head[index : index + 1] = [value]
        return [command, *rest, "--", *head]
    return [command, *usual, f"{option_name(field)}={value}"]


CASES = [
    (command, field) for command in COMMANDS for field, spec in options_of(command_class(command)).items() if spec.on_off is None
]


@pytest.mark.parametrize(("command", "field"), CASES)
def test_an_odd_value_of_an_option(command: str, field: str, places: dict[str, str]) -> None:
    spec = options_of(command_class(command))[field]
    values, wrong = table(field, spec)
    if command in HEAVY and not wrong:
        values, wrong = ["", " ", "\0", "\ud800"], field not in ("prompt", "source")
        values = values if wrong else ["", " ", "\ud800"]
        wrong = True
    tally = Tally()
    for value in values:
        word = places.get(value, value)
        outcome = run_command(
            command_line(command, field, spec, word, places),
            field=names(command, field),
            must_fail=wrong and may_not_pass(command, field, value),
        )
        tally.add(f"{command} {field}={value[:60]!a}", outcome.fault)
        clean()
    tally.check()


def names(command: str, field: str) -> str:
    """Words of which one is in the error."""
    more = {
        "text": "[MASK]",
        "source": "model",
        "modes": "mode",
        "lookahead": "draft",
        "size": "width|height",
        "set": "plan|optim",
        "question": "prompt",
        "message": "prompt",
        "system": "prompt",
        "completion": "prompt",
    }
    return f"{field}|{more[field]}" if field in more else field


def may_not_pass(command: str, field: str, value: str) -> bool:
    """Whether a value of a table is wrong for this option of its kind, too."""
    looks_only = command in ("generate", "chat", "infill", "score", "bench")  # an id of the hub is read with the first image
    return not (field == "image_tokenizer" and looks_only and value.count("/") == 1 and value.replace("/", "").isalpha())


def clean() -> None:
    """Remove what a command wrote that was fine."""
    for path in sorted(Path().rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.mark.parametrize("command", ["ask", "inpaint", "extend"])
def test_odd_images(command: str, places: dict[str, str], tmp_path: Path) -> None:
    tally = Tally()
    for name, (path, readable) in odd_images(tmp_path / "images").items():
        for field in ("SCENE", "HOLE"):
            if field in USUAL[command]:
                usual = [path if word == field else places.get(word, word) for word in USUAL[command]]
                outcome = run_command([command, *usual, "--model", places["MODEL"]], field="image|mask", must_fail=not readable)
                tally.add(f"{command} {field}={name}", outcome.fault)
                clean()
    tally.check()


@pytest.mark.parametrize("name", odd_settings())
@pytest.mark.parametrize(
    "file",
    [
        "config.json",
        "preset.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "image_tokenizer/config.json",
        "model.safetensors",
        "image_tokenizer/model.safetensors",
    ],
)
def test_odd_model_folders(file: str, name: str, places: dict[str, str], tmp_path: Path) -> None:
    """A model folder with one file damaged: every command that reads the file says which."""
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in Path(places["MODEL"]).rglob("*"):
        if path.is_file():
            target = damaged / path.relative_to(places["MODEL"])
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(odd_settings()[name] if str(target.relative_to(damaged)) == file else path.read_bytes())
    tally = Tally()
    optional = file == "tokenizer_config.json" and name in ("object", "wrong_types")
    for arguments in (["draw", "a", "--steps", "1", "--model"], ["info"], ["convert"]):
        out = ["out"] if arguments == ["convert"] else []
        reads = arguments != ["info"] or not file.endswith(".safetensors")
        copies = arguments == ["convert"] and file in (
            "preset.json",
            "image_tokenizer/model.safetensors",
            "image_tokenizer/config.json",
            "tokenizer_config.json",
        )
        outcome = run_command([*arguments, str(damaged), *out], must_fail=reads and not copies and not optional)
        tally.add(f"{arguments[0]} of a folder with {file} {name}", outcome.fault)
        clean()
    tally.check()


@pytest.mark.parametrize("command", [*COMMANDS])
def test_odd_words(command: str, places: dict[str, str]) -> None:
    """Options that do not exist, values that are missing, words too many."""
    tally = Tally()
    for word in (
        "--nope",
        "--",
        "---",
        "-",
        "-x",
        "--=",
        "--steps",
        "--seed=",
        "-o",
        "--out",
        "--watch=1",
        "--json=1",
        "--no-json",
        "--no-watch",
        "--thinking=1",
        "--he",
        "\0",
        "\ud800",
        "",
        " ",
        "--\ud800",
        "--nope=" + "x" * 9999,
        "--\n",
        "extra",
        "@file",
    ):
        outcome = run_command([command, word, "--nope", "x"], must_fail=True)
        tally.add(f"{command} {word!a}", outcome.fault)
    tally.check()


def test_odd_commands(places: dict[str, str]) -> None:
    tally = Tally()
    for word in [*TEXTS, *CHOICES, "-", "--", "--nope", "-v", "Draw", "DRAW", "draw ", "--version=1", "help"]:
        tally.add(word, run_command([word], field="command|option", must_fail=True).fault)
    tally.check()


def test_odd_standard_input(places: dict[str, str]) -> None:
    tally = Tally()
    for command in ("generate", "infill", "draw"):
        for data in (b"", b" ", b"\n", b"\xff\xfe\x00", b"\0", b"x" * 2_000_000, b"\xed\xa0\x80"):
            outcome = run_command([command, "-", "--model", places["MODEL"], "--steps", "2"], field="prompt|text", stdin=data)
            tally.add(f"{command} with {data[:9]!r}", outcome.fault)
            clean()
    tally.check()
