"""The preparation of the emoji: from packages as npm has them to pictures, rows, and a mixture that loads."""

import io
import json
import runpy
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmada.data import load

EXAMPLE = Path(__file__).parents[1] / "examples" / "emoji"
GROUPS = {"groups": [{"order": 1, "message": "people & body"}, {"order": 4, "message": "food & drink"},
                     {"order": 9, "message": "flags"}],
          "subgroups": [{"order": 16, "message": "fingers open"}, {"order": 30, "message": "fruit"},
                        {"order": 90, "message": "country flags"}]}  # fmt: skip
FRUIT = (
    "red apple",
    "green apple",
    "pear",
    "peach",
    "cherries",
    "mango",
    "lemon",
    "banana",
    "olive",
    "coconut",
    "melon",
    "grapes",
)


def emoji() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"label": name, "hexcode": f"1F34{n:X}", "tags": ["fruit", name.split()[0]], "group": 4, "subgroup": 30}
        for n, name in enumerate(FRUIT)
    ]
    tones = [
        {"label": f"waving hand: {tone} skin tone", "hexcode": f"1F44B-1F3F{letter}", "group": 1, "subgroup": 16}
        for tone, letter in (("light", "B"), ("medium-dark", "E"))
    ]
    hand = {"label": "waving hand", "hexcode": "1F44B", "tags": ["hello"], "group": 1, "subgroup": 16, "skins": tones}
    others = [
        {"label": f"{tone} skin tone", "hexcode": f"1F3F{letter}"} for tone, letter in (("light", "B"), ("medium-dark", "E"))
    ]
    japan = {"label": "flag: Japan", "hexcode": "1F1EF-1F1F5", "group": 9, "subgroup": 90}
    return [*found, hand, japan, *others]


def tarball(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def png(number: int) -> bytes:
    picture = Image.new("RGBA", (64, 64))
    picture.paste((200, 10 * number % 256, 30, 255), (8, 8, 56, 56))
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def packages(folder: Path) -> Path:
    folder.mkdir()
    tables = {"en/data.json": json.dumps(emoji()).encode(), "en/messages.json": json.dumps(GROUPS).encode()}
    tarball(folder / "emojibase-data-17.0.1.tgz", {**tables, "../outside.json": b"{}"})
    codes = [f"1f34{n:x}" for n in range(len(FRUIT))] + ["1f44b", "1f44b-1f3fb", "1f1ef-1f1f5", "1f999"]
    for house, name in (("google", "emoji-datasource-google"), ("twitter", "emoji-datasource-twitter")):
        drawn = {f"img/{house}/64/{code}.png": png(n) for n, code in enumerate(codes)}
        tarball(folder / f"{name}-16.0.0.tgz", {**drawn, f"img/{house}/sheets/64.png": b"not read"})
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><circle cx="16" cy="16" r="12" fill="#c00"/></svg>'
    names = ("red-apple", "waving-hand-default", "waving-hand-medium-dark", "flag-japan", "unheard-of")
    tarball(folder / "fluentui-emoji-1.3.0.tgz", {f"icons/{kind}/{n}.svg": svg for kind in ("flat", "modern") for n in names})
    return folder


@pytest.fixture
def prepare(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("resvg_py")
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield runpy.run_path(str(EXAMPLE / "prepare.py"))["main"]
    for name in ("concepts", "packages"):
        sys.modules.pop(name, None)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]


def test_packages_become_pictures_and_rows(prepare: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "emoji"
    assert prepare(["--packages", str(packages(tmp_path / "given")), "--out", str(out), "--variants", "1"]) == 0
    said = capsys.readouterr().out
    for reason in ("1 noto: code without a name", "1 flat: file name that is no concept's name"):
        assert f"not used: {reason}" in said
    rows = rows_of(out)
    assert {row["style"] for row in rows} == {"noto", "twemoji", "flat", "modern"}
    for row in rows:
        with Image.open(out / row["image"]) as picture:
            assert (picture.mode, picture.size) == ("RGB", (64, 64))
            if not row["variant"]:
                assert picture.getpixel((0, 0)) == (255, 255, 255)
    by_id = {row["id"]: row for row in rows}
    hand = by_id["1f44b-1f3fb/noto/0"]
    assert hand["caption"] == "waving hand, light skin tone"
    assert hand["thought"] == "parts: waving hand, light skin tone."
    assert by_id["1f1ef-1f1f5/noto/0"]["caption_article"] == "the flag of Japan"
    apple = by_id["1f340/noto/0"]
    assert (apple["caption_article"], apple["group"], apple["keywords"]) == ("a red apple", "food & drink", "fruit, red")
    assert {row["concept"] for row in rows if row["style"] == "flat"} == {"1F340", "1F44B", "1F44B-1F3FE", "1F1EF-1F1F5"}
    assert not list(tmp_path.rglob("outside.json"))


def test_splits_do_not_move_and_varied_pictures_are_for_training(prepare: Any, tmp_path: Path) -> None:
    given = packages(tmp_path / "given")
    for name in ("one", "two"):
        assert prepare(["--packages", str(given), "--out", str(tmp_path / name), "--variants", "2"]) == 0
    first, second = rows_of(tmp_path / "one"), rows_of(tmp_path / "two")
    assert first == second
    assert {row["split"] for row in first if row["variant"]} == {"train"}
    held = {row["concept"] for row in first if row["split"] == "test"}
    assert not held & {row["concept"] for row in first if row["split"] != "test"}
    for row in first:
        assert row["image"].startswith(f"{row['split']}/{row['style']}/")
        assert (tmp_path / "one" / row["image"]).read_bytes() == (tmp_path / "two" / row["image"]).read_bytes()


def test_the_mixture_of_the_example_loads(prepare: Any, tmp_path: Path) -> None:
    out = tmp_path / "emoji"
    assert prepare(["--packages", str(packages(tmp_path / "given")), "--out", str(out)]) == 0
    mixture = load(out / "emoji.yaml")
    plain = sum(row["split"] == "train" and not row["variant"] for row in rows_of(out))
    train = mixture.split("train")
    assert set(train) == set(mixture.sets)
    assert len(train["draw"]) == plain
    assert len(train["think"]) == 2 * plain  # the thought, and the picture after it
    assert len(train["name"]) == 3 * plain
    for dataset in train.values():
        for index in range(len(dataset)):
            assert dataset[index].images
    assert not any(mixture.rejected.values())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda given, out: out.mkdir(), "is there already"),
        (lambda given, out: (given / "fluentui-emoji-1.3.0.tgz").unlink(), "has no fluentui-emoji-VERSION.tgz"),
        (lambda given, out: (given / "emoji-datasource-google-16.0.0.tgz").write_bytes(b"no archive"), "is damaged"),
        (lambda given, out: tarball(given / "emojibase-data-17.0.1.tgz", {"en/data.json": b"[]"}), "lacks"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_left(
    prepare: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, said: str
) -> None:
    given, out = packages(tmp_path / "given"), tmp_path / "emoji"
    change(given, out)
    assert prepare(["--packages", str(given), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not out.exists() or not list(out.iterdir())
