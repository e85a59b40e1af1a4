"""Rows that cannot be used: each is counted under its reason, none is silent, none ends the run."""

import json
import struct
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.data.layouts import encoded, lines, picture, tar, turns

from mmada.data import load
from mmada.data.dataset import Example, UnusableRow
from mmada.data.mixture import FIRST_ROWS, Mixture
from mmada.data.pictures import read_picture
from mmada.errors import InputError


def row(**fields: Any) -> str:
    return json.dumps({"image": "a.png", "caption": "a thing", "size": 3} | fields)


PAIRS: list[tuple[str, str | bytes]] = [
    ("row is not JSON", '{"image": "a.png", "caption'),
    ("row is not an object", '["a.png", "a thing"]'),
    ("row is not UTF-8", '{"image": "a.png", "caption": "caf\xe9"}'.encode("latin-1")),
    ("JSON is nested too deeply", "[" * 100_000),
    ("no caption", row(caption=None)),
    ("no caption", row(caption="  ")),
    ("caption is an object, not text", row(caption={"en": "a thing"})),
    ("caption is true or false, not text", row(caption=True)),
    ("text is not valid Unicode", row(caption="half \ud83d")),
    ("no picture", row(image=None)),
    ("picture is missing", row(image="gone.png")),
    ("picture name is not a path inside the folder", row(image="../../etc/passwd.png")),
    ("picture name is not a path inside the folder", row(image="/etc/hostname")),
    ("picture is a web address", row(image="https://example.org/a.png")),
    ("picture is a number, not a file name or bytes", row(image=7)),
    ("picture has neither bytes nor a path", row(image={"bytes": None, "path": None})),
    ("2 pictures where one is used", row(image=["a.png", "a.png"])),
    ("where needs a number and finds an object", row(size={})),
    ("picture is damaged", row(image="cut.jpg")),
    ("picture is not in a known format", row(image="text.jpg")),
    ("picture is too large", row(image="bomb.png")),
]
CHATS: list[tuple[str, Any]] = [
    ("no messages", {}),
    ("no messages", {"conversations": "hi"}),
    ("message is not an object", {"conversations": ["hi", "hello"]}),
    ("unknown role", {"conversations": [{"from": "tool", "value": "x"}]}),
    ("message without text", {"conversations": [{"from": "human", "value": 3}]}),
    ("message has parts other than text", {"messages": [{"role": "user", "content": [{"type": "audio"}]}]}),
    ("no answer to learn", {"conversations": turns("hi", "")}),
    ("<image> does not match the pictures given", {"conversations": turns("<image> <image>", "two"), "image": "a.png"}),
    ("<image> does not match the pictures given", {"conversations": turns("<image> what?", "none")}),
    ("no picture named", {"conversations": turns("what?", "x"), "image": ["a.png", None]}),
]


def bomb() -> bytes:
    """A PNG that says it has 100,000 x 100,000 pixels and has one."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(4))) + chunk(b"IEND", b"")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    picture(tmp_path / "a.png")
    (tmp_path / "cut.jpg").write_bytes(encoded()[:-100])
    (tmp_path / "text.jpg").write_text("not found")
    (tmp_path / "bomb.png").write_bytes(bomb())
    return tmp_path


def read_all(mixture: Mixture, name: str) -> tuple[list[Example], Counter[str]]:
    """Every example with its pictures decoded, and the reasons of the others."""
    found, reasons = list[Example](), Counter[str]()
    dataset = mixture.split("train")[name]
    for index in range(len(dataset)):
        try:
            example = dataset[index]
            for image in example.images:
                read_picture(image)
            found.append(example)
        except UnusableRow as error:
            reasons[error.reason] += 1
    return found, reasons


def test_each_broken_row_is_counted_under_its_reason(folder: Path) -> None:
    times = 10
    assert len(PAIRS) >= 20
    with (folder / "pairs.jsonl").open("wb") as file:
        for _ in range(times):
            file.write(row().encode() + b"\n")
            for _, line in PAIRS:
                file.write((line if isinstance(line, bytes) else line.encode()) + b"\n")
    (folder / "d.yaml").write_text(
        "pairs: {use: pair, files: pairs.jsonl, ways: draw, where: size + 0 > 1, split: train, max_bad: 1}"
    )
    mixture = load(folder / "d.yaml")
    found, reasons = read_all(mixture, "pairs")
    expected = Counter[str]()
    for reason, _ in PAIRS:
        expected[reason] += times
    assert reasons == expected
    assert len(found) == times
    own = {reason: count for reason, count in expected.items() if reason not in ("picture is damaged", "picture is too large")}
    del own["picture is not in a known format"]  # seen by whoever decodes
    assert mixture.rejected["pairs"] == own
    read_all(mixture, "pairs")
    assert mixture.rejected["pairs"] == own  # a row counts once


def test_broken_conversations(folder: Path) -> None:
    lines(folder / "chats.jsonl", {"conversations": turns("hi", "hello")}, *(chat for _, chat in CHATS))
    (folder / "d.yaml").write_text("chats: {use: chat, files: chats.jsonl}")
    found, reasons = read_all(load(folder / "d.yaml"), "chats")
    assert len(found) == 1
    assert reasons == Counter(reason for reason, _ in CHATS)


def test_broken_members_of_an_archive(folder: Path) -> None:
    tar(folder / "a.tar", {
        "1.jpg": encoded(), "1.txt": "one", "2.jpg": b"", "2.txt": "two", "3.txt": "no picture", "4.jpg": encoded(),
        "5.jpg": encoded(), "5.txt": b"caf\xe9", "6.jpg": encoded()[:-50], "6.txt": "six", "7.jpg": encoded(), "7.json": "{",
    })  # fmt: skip
    (folder / "d.yaml").write_text("a: {use: pair, files: a.tar, caption: [json.caption, txt], ways: draw}")
    found, reasons = read_all(load(folder / "d.yaml"), "a")
    assert [one.text for one in found] == ["one"]
    assert reasons == {"no picture": 2, "no caption": 1, "caption is not UTF-8": 1, "picture is damaged": 1, "row is not JSON": 1}


def test_too_many_bad_rows_stop_with_the_reasons(folder: Path) -> None:
    rows = [row() for _ in range(97)] + [row(caption="")] * 2 + [row(image="gone.png")]
    (folder / "pairs.jsonl").write_text("\n".join(rows))
    (folder / "d.yaml").write_text("pairs: {use: pair, files: pairs.jsonl, ways: draw}")
    mixture = load(folder / "d.yaml")
    dataset = mixture.split("train")["pairs"]
    for index in range(98):
        mixture.check_rejected()
        if index < 97:
            assert dataset[index]
    read_all(mixture, "pairs")
    with pytest.raises(InputError, match=r"'pairs' has 3 bad rows .* \(no caption 2, picture is missing 1\); .* raise max_bad"):
        mixture.check_rejected()
    (folder / "d.yaml").write_text("pairs: {use: pair, files: pairs.jsonl, ways: draw}\nmixture: {max_bad: 0.03}")
    mixture = load(folder / "d.yaml")
    read_all(mixture, "pairs")
    mixture.check_rejected()


def test_only_the_first_rows_decide(folder: Path) -> None:
    rows = [row(caption=str(number)) for number in range(FIRST_ROWS)] + [row(caption="")] * 1000
    (folder / "pairs.jsonl").write_text("\n".join(rows))
    (folder / "d.yaml").write_text("pairs: {use: pair, files: pairs.jsonl, ways: draw, split: train}")
    mixture = load(folder / "d.yaml")
    dataset = mixture.split("train")["pairs"]
    for index in range(len(dataset)):
        with suppress(UnusableRow):
            dataset[index]
    assert mixture.rejected["pairs"] == {"no caption": 1000}
    mixture.check_rejected()
