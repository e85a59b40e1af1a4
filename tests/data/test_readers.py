"""Readers: what each file format may hold, and why rows are not used."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmada.data.readers import captions, chat, pictures_in, text
from mmada.errors import InputError


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name in ("a.png", "b.jpg", "sub/c.PNG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    return tmp_path


def test_captions_beside_pictures(pictures: Path) -> None:
    (pictures / "a.txt").write_text(" a red square \n")
    (pictures / "sub" / "c.txt").write_text("another")
    found = captions(pictures)
    assert [(e.objective, e.text, Path(str(e.images[0])).name) for e in found.items] == [
        ("text_to_image", "a red square", "a.png"), ("text_to_image", "another", "c.PNG"),
    ]  # fmt: skip
    assert found.rejected == {"no caption": 1}
    described = captions(pictures, describe="what is this?")[0]
    assert [(m.role, m.content) for m in described.messages] == [("user", "what is this?"), ("assistant", "a red square")]


def test_captions_in_a_table(pictures: Path) -> None:
    lines(
        pictures / "metadata.jsonl",
        {"file_name": "a.png", "text": "one"}, {"file_name": "sub/c.PNG", "text": "two"}, {"file_name": "gone.png", "text": "x"},
        {"file_name": "../a.png", "text": "x"}, {"file_name": "/etc/passwd", "text": "x"}, {"text": "x"},
        {"file_name": 3, "text": "x"},
        {"file_name": "b.jpg"}, {"file_name": "b.jpg", "text": "  "}, {"file_name": "b.jpg", "text": {"en": "x"}},
    )  # fmt: skip
    found = captions(pictures)
    assert [e.text for e in found.items] == ["one", "two"]
    assert found.rejected == {
        "picture is missing": 1, "picture name is not a path inside the folder": 2, "no picture": 1, "no caption": 2,
        "picture is a number, not a file name or bytes": 1, "caption is an object, not text": 1,
    }  # fmt: skip


def user(content: Any = "hi", role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": content}


def test_conversations_of_both_forms(pictures: Path) -> None:
    llava = [{"from": "human", "value": "<image>\nwhat is it?"}, {"from": "gpt", "value": "a square"}]
    path = lines(
        pictures / "chat.jsonl",
        {
            "messages": [
                user("be brief", "system"),
                user("hi"),
                user("hello", "assistant"),
                user("bye"),
                user("bye!", "assistant"),
            ]
        },
        {"messages": [user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), user("c", "assistant")]},
        "",
        {"conversations": llava, "image": "a.png"},
        {"messages": [user("which?"), user("both", "assistant")], "images": ["a.png", "b.jpg"]},
    )
    found = chat(path)
    assert not found.rejected
    one, two, three, four = found.items
    assert [m.role for m in one.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert two.messages[0].content == "a\nb"
    assert (three.messages[0].content, three.messages[1].role) == ("what is it?", "assistant")
    assert [len(e.images) for e in found.items] == [0, 0, 1, 2]
    assert not four.reasoning
    assert chat(path, reasoning=True)[0].reasoning
    (pictures / "else").mkdir()
    assert chat(path, images=str(pictures / "else")).rejected == {"picture is missing": 2}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "no messages"),
        ({"messages": []}, "no messages"),
        ({"messages": "hi"}, "no messages"),
        ({"messages": ["hi"]}, "message is not an object"),
        ({"messages": [user()]}, "no answer to learn"),
        ({"messages": [user(), user("", "assistant")]}, "no answer to learn"),
        ({"messages": [user(role="tool"), user("a", "assistant")]}, "unknown role"),
        ({"messages": [{"content": "a"}]}, "unknown role"),
        ({"messages": [user(3), user("a", "assistant")]}, "message without text"),
        ({"messages": [user([{"type": "image_url"}]), user("a", "assistant")]}, "message has parts other than text"),
        ({"messages": [user("<image> what?"), user("a", "assistant")]}, "<image> does not match the pictures given"),
        ({"messages": [user("<image> <image>"), user("a", "assistant")], "image": "a.png"}, "<image> does not match"),
        (
            {"messages": [user(), user("a", "assistant")], "image": {"bytes": None, "path": None}},
            "picture has neither bytes nor a path",
        ),
        ({"messages": [user(), user("a", "assistant")], "image": 3}, "picture is a number, not a file name"),
        ({"messages": [user(), user("a", "assistant")], "images": ["a.png", None]}, "no picture named"),
        ({"messages": [user(), user("a", "assistant")], "images": ["gone.png"]}, "picture is missing"),
        ({"messages": [user(), user("a", "assistant")], "image": "../x.png"}, "not a path inside the folder"),
    ],
)
def test_conversations_that_cannot_be_used_are_counted(pictures: Path, row: dict[str, Any], reason: str) -> None:
    found = chat(lines(pictures / "chat.jsonl", row))
    assert not found.items
    assert sum(found.rejected.values()) == 1
    assert reason in next(iter(found.rejected))


def test_texts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n", encoding="utf-8")
    assert [e.text for e in text(tmp_path / "a.txt").items] == ["one", "two"]
    assert not text(tmp_path / "a.txt").rejected  # a blank line is no row
    found = text(lines(tmp_path / "a.jsonl", {"text": "one"}, {"text": {}}, {"other": "x"}, {"text": ""}))
    assert ([e.text for e in found.items], found.rejected) == (["one"], {"no text": 2, "text is an object, not text": 1})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{broken", "row is not JSON"),
        ("[1]", "row is not an object"),
        ('"text"', "row is not an object"),
        ("null", "row is not an object"),
        ("[" * 100_000, "JSON is nested too deeply"),
    ],
)
def test_a_damaged_line_is_counted(tmp_path: Path, line: str, reason: str) -> None:
    path = lines(tmp_path / "a.jsonl", {"text": "one", "messages": [user(), user("a", "assistant")]}, line)
    for read in (text, chat):
        found = read(path)
        assert (len(found), found.rejected) == (1, {reason: 1})


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "shift_jis"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_lines_in_other_encodings_are_counted(tmp_path: Path, encoding: str, name: str) -> None:
    """Replaced characters would be learned."""
    word = "\u4e00" if encoding == "shift_jis" else "caf\xe9"
    fields = {"text": word, "messages": [user(word), user("a", "assistant")]}
    row = word if name == "a.txt" else json.dumps(fields, ensure_ascii=False)
    (tmp_path / name).write_bytes(row.encode(encoding) + b"\n")
    for read in (text, chat) if name == "a.jsonl" else (text,):
        found = read(tmp_path / name)
        assert (len(found), found.rejected) == (0, {"row is not UTF-8": 1})


def test_a_byte_order_mark_is_not_text(pictures: Path) -> None:
    (pictures / "a.txt").write_text("one\r\ntwo\r\n", encoding="utf-8-sig", newline="")
    assert [e.text for e in text(pictures / "a.txt").items] == ["one", "two"]
    (pictures / "t.jsonl").write_text('{"text": "one"}\n', encoding="utf-8-sig")
    assert [e.text for e in text(pictures / "t.jsonl").items] == ["one"]
    (pictures / "a.txt").write_text("a red square", encoding="utf-8-sig")
    assert captions(pictures)[0].text == "a red square"


@pytest.mark.parametrize("half", ["\ud800", "a\udfff b"])
def test_half_characters_are_counted(pictures: Path, half: str) -> None:
    """JSON can escape them and no tokenizer takes them."""
    whole = "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")
    rows = [{"messages": [user(one), user(two, "assistant")]} for one, two in ((half, "a"), ("a", half), (whole, "a"))]
    found = chat(lines(pictures / "chat.jsonl", *rows))
    assert (len(found), found.rejected) == (1, {"text is not valid Unicode": 2})
    found = text(lines(pictures / "t.jsonl", {"text": half}, {"text": whole}))
    assert (len(found), found.rejected) == (1, {"text is not valid Unicode": 1})
    lines(pictures / "metadata.jsonl", {"file_name": "a.png", "text": half}, {"file_name": "a.png", "text": whole})
    for describe in ("", "what is this?"):
        found = captions(pictures, describe=describe)
        assert (len(found), found.rejected) == (1, {"text is not valid Unicode": 1})


def test_captions_in_another_encoding_are_counted(pictures: Path) -> None:
    (pictures / "a.txt").write_bytes("caf\xe9".encode("latin-1"))
    (pictures / "b.txt").write_text("a caf\xe9", encoding="utf-8")
    found = captions(pictures)
    assert [e.text for e in found.items] == ["a caf\xe9"]
    assert found.rejected == {"caption is not UTF-8": 1, "no caption": 1}


def test_missing_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for read in (text, chat):
        with pytest.raises(InputError, match="does not exist"):
            read(tmp_path / "gone.jsonl")
        with pytest.raises(InputError, match=r"is not a file, .* give a file or another kind"):
            read(tmp_path)
    for read_folder in (captions, pictures_in):
        with pytest.raises(InputError, match="does not exist"):
            read_folder(tmp_path / "gone")
        with pytest.raises(InputError, match=r"is not a folder, .* give a folder or another kind"):
            read_folder(tmp_path / "file")
        with pytest.raises(InputError, match="has no pictures"):
            read_folder(tmp_path)
