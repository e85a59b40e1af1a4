"""Pictures of public sets: used as they are, or the row is dropped with a reason; never lost, never edited away."""

from pathlib import Path
from typing import Any

import pytest

from mmada.data.public_sets import READERS
from mmada.recipes.collect import Selection, collect_reasoning

Row = dict[str, Any]


def talk(question: str, answer: str, kind: tuple[str, str] = ("human", "gpt")) -> list[Row]:
    return [{"from": kind[0], "value": question}, {"from": kind[1], "value": answer}]


CHOICES = "What is angle B?\nChoices:\nA:35.0\nB:55.0"
ROWS: dict[str, Row] = {
    "gsm8k": {"question": "1 + 1?", "answer": "1 + 1 = 2.\n#### 2"},
    "limo": {"question": "1 + 1?", "solution": "so \\boxed{2}", "answer": "2"},
    "s1k": {"question": "1 + 1?", "deepseek_thinking_trajectory": "hm", "deepseek_attempt": "2", "solution": "2"},
    "openthoughts": {"problem": "1 + 1?", "deepseek_reasoning": "hm", "deepseek_solution": "2", "ground_truth_solution": "2"},
    "acemath": {"messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "so \\boxed{2}"}],
                "answer": "2"},
    "reasonflux": {"instruction": "1 + 1?", "output": "<think>hm</think> 2", "answer": "2"},
    "geo170k": {"image": "a.png", "conversations": talk(f"<image>\n{CHOICES}", "It is 55.0.\nAnswer:B")},
    "clevr": {"question": "how many?", "answer": "2", "image_filename": "a.png", "program": [{"function": "scene"}]},
    "llava": {"image": "a.png", "conversations": talk("<image>\nWhat?", "<think>hm</think> a cat")},
}  # fmt: skip
SHOWN = ("geo170k", "clevr", "llava")
FIELD = {"clevr": "image_filename"}


def reading(name: str, row: Row) -> str:
    """Why a row is refused; empty if it is read."""
    try:
        READERS[name](row)
    except ValueError as error:
        return str(error)
    return ""


def test_every_reader_is_tried() -> None:
    assert set(ROWS) == set(READERS)
    for name, row in ROWS.items():
        assert reading(name, row) == "", name
        assert (READERS[name](row).picture is not None) == (name in SHOWN)
        assert "<image>" not in READERS[name](row).prompt


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (["a.png", "b.png"], "it has 2 pictures; one can be used"),
        (["a.png", None, {"bytes": b"x", "path": None}, "c.png"], "it has 3 pictures"),
        ({"bytes": None, "path": None}, "has neither the bytes nor the path"),
        ({"bytes": b"", "path": ""}, "has neither the bytes nor the path"),
        ({}, "has neither the bytes nor the path"),
        ([{"bytes": None, "path": None}], "has neither the bytes nor the path"),
        (3, "is a number, not a picture"),
        (0, "is a number, not a picture"),
        (True, "is true or false, not a picture"),
        ([[1, 2], [3, 4]], "is a list, not a picture"),
        ({"bytes": [1, 2], "path": None}, "is a list, not a picture"),
        ({"path": 7}, "is a number, not a picture"),
        (b"", "is bytes, not a picture"),
    ],
)
@pytest.mark.parametrize("name", list(ROWS))
def test_what_is_not_one_picture_is_a_reason(name: str, value: Any, reason: str) -> None:
    assert reason in reading(name, ROWS[name] | {FIELD.get(name, "image"): value})


@pytest.mark.parametrize("name", SHOWN)
@pytest.mark.parametrize(
    "value", ["a.png", b"data", ["a.png"], {"bytes": b"data", "path": None}, {"path": "a.png"}, [None, "a.png"]]
)
def test_one_picture_in_any_form_is_used(name: str, value: Any) -> None:
    picture = READERS[name](ROWS[name] | {FIELD.get(name, "image"): value}).picture
    assert picture in ("a", "a.png", b"data")


@pytest.mark.parametrize("field", ["image", "images", "image_path", "picture", "img"])
@pytest.mark.parametrize("name", [name for name in ROWS if name not in SHOWN])
def test_a_picture_of_a_set_of_texts_is_not_lost(name: str, field: str) -> None:
    assert "it has a picture" in reading(name, ROWS[name] | {field: "a.png"})
    assert reading(name, ROWS[name] | {field: None}) == reading(name, ROWS[name] | {field: ""}) == ""


@pytest.mark.parametrize("field", ["images", "image_path", "picture"])
@pytest.mark.parametrize("name", SHOWN)
def test_a_second_field_is_a_second_picture(name: str, field: str) -> None:
    assert "it has 2 pictures" in reading(name, ROWS[name] | {field: "b.png"})


@pytest.mark.parametrize("marker", ["<image>", "<IMAGE>", "<image_1>", "<image1>", "<|image|>", "<img>", "<|image_1|>"])
def test_a_text_that_names_a_picture_needs_one(marker: str) -> None:
    without = {"image": None}
    assert f"its question names {marker}, but it has no picture" in reading(
        "llava", {"conversations": talk(f"{marker} What?", "a cat")}
    )
    assert "names" in reading("llava", ROWS["llava"] | without | {"conversations": talk(f"What is in {marker}?", "a cat")})
    assert "names" in reading("gsm8k", ROWS["gsm8k"] | {"question": f"{marker} 1 + 1?"})
    assert "names" in reading("clevr", {"problem": f"{marker} how many?", "solution": "<answer> 2 </answer>"})
    assert "names 2 pictures" in reading("llava", ROWS["llava"] | {"conversations": talk(f"{marker} and {marker}?", "a cat")})
    assert "its answer names" in reading("llava", ROWS["llava"] | {"conversations": talk("What?", f"see {marker}")})
    assert "its reasoning names" in reading("limo", ROWS["limo"] | {"solution": f"see {marker}, \\boxed{{2}}"})
    kept = READERS["llava"](ROWS["llava"] | {"conversations": talk(f"What is it? {marker}", "a cat")})
    assert kept.prompt == "What is it?"


@pytest.mark.parametrize("marker", ["<video>", "<audio>", "<|video|>"])
@pytest.mark.parametrize("name", ["llava", "gsm8k"])
def test_other_media_are_a_reason(name: str, marker: str) -> None:
    row = {"llava": {"conversations": talk(f"{marker} What?", "a cat")}, "gsm8k": {"question": f"{marker} 1 + 1?"}}[name]
    assert f"its question names {marker}" in reading(name, ROWS[name] | row)


@pytest.mark.parametrize("value", [["2"], {"value": "2"}, True, b"2"])
@pytest.mark.parametrize(
    ("name", "field"),
    [("gsm8k", "answer"), ("limo", "answer"), ("acemath", "answer"), ("reasonflux", "answer"), ("reasonflux", "input"),
     ("openthoughts", "ground_truth_solution"), ("clevr", "answer"), ("s1k", "solution")],
)  # fmt: skip
def test_a_field_of_another_type_is_not_read_as_absent(name: str, field: str, value: Any) -> None:
    assert f"field {field} is" in reading(name, ROWS[name] | {field: value})


@pytest.mark.parametrize("content", [[{"type": "image"}, {"type": "text", "text": "What?"}], {"text": "What?"}, True])
def test_turns_of_parts_are_not_read_as_absent(content: Any) -> None:
    row = {"conversations": [{"role": "user", "content": content}, {"role": "assistant", "content": "a cat"}]}
    assert "field content is" in reading("llava", row)


@pytest.mark.parametrize("value", [{"from": "human"}, "What?", 3, True])
def test_a_conversation_that_is_not_a_list_is_a_reason(value: Any) -> None:
    assert "not a list of turns" in reading("llava", {"conversations": value})


def test_reasons_are_counted_in_plain_words(tmp_path: Path) -> None:
    import json

    rows = [
        ROWS["llava"] | {"image": ["a.png", "b.png"]},
        {"conversations": talk("<image> What?", "<think>hm</think> a cat")},
        {"conversations": talk("Who?", "a cat")},
        {"conversations": talk("Why?", "<think>hm</think> so")},
    ]
    (tmp_path / "llava.json").write_text(json.dumps(rows))

    def dropped(out: str, **choice: Any) -> dict[tuple[str, str], int]:
        chosen = Selection(unchecked=True, **choice)
        return collect_reasoning([f"llava:{tmp_path / 'llava.json'}"], tmp_path / out, load=never, choice=chosen).dropped

    def never() -> Any:
        raise AssertionError("no model is needed")

    unusable = {
        ("llava", "unusable row: it has 2 pictures; one can be used"): 1,
        ("llava", "unusable row: its question names <image>, but it has no picture"): 1,
    }
    assert dropped("strict") == unusable | {("llava", "no reasoning"): 1}
    assert dropped("plain", plain=True) == unusable
    lines = [json.loads(line) for line in (tmp_path / "plain" / "examples.jsonl").read_text().splitlines()]
    assert [line["thinking"] for line in lines] == ["", "hm"]
