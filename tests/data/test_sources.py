"""Sources: files and patterns, tables of each format, fields, joins, classes, splits."""

import pickle
from pathlib import Path

import pytest
from tests.data.layouts import COLOURS, document, encoded, lines, parquet, picture, tar, turns

from mmada.data import load
from mmada.data.dataset import Example
from mmada.data.mixture import Mixture
from mmada.data.reasoning import ReasoningExample, Writer
from mmada.data.sources import json_index, offsets, text_tables
from mmada.data.sources.paths import files_of
from mmada.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, colour in enumerate(COLOURS):
        picture(tmp_path / f"images/{number}.png", colour)
    return tmp_path


def read(folder: Path, text: str, split: str = "train") -> dict[str, list[Example]]:
    """The examples of each set that a YAML text describes."""
    (folder / "data.yaml").write_text(text)
    found = load(folder / "data.yaml").split(split)
    return {name: [dataset[i] for i in range(len(dataset))] for name, dataset in found.items()}


def texts(folder: Path, text: str) -> list[str]:
    """The texts of the one set."""
    ((_, found),) = read(folder, text).items()
    return [one.text for one in found]


def mixture_of(folder: Path, text: str) -> Mixture:
    (folder / "data.yaml").write_text(text)
    return load(folder / "data.yaml")


# Files


def test_patterns_find_files_in_natural_order(tmp_path: Path) -> None:
    for name in ("s/10.txt", "s/9.txt", "s/b/1.txt", "odd[1].txt", "007.txt", "008.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = lambda *patterns: [name for name, _ in files_of(list(patterns), tmp_path, "files")]  # noqa: E731
    assert found("s/*.txt") == ["9.txt", "10.txt"]
    assert found("s/**/*.txt") == ["9.txt", "10.txt", "b/1.txt"]
    assert found("odd[1].txt") == ["odd[1].txt"]
    assert found("{007..008}.txt") == ["007.txt", "008.txt"]
    assert found("s/{9,10}.txt", "s/9.txt") == ["9.txt", "10.txt"]
    with pytest.raises(InputError, match=r"lacks 1 of 3 files, first '009.txt'"):
        found("{007..009}.txt")
    with pytest.raises(InputError, match="finds nothing"):
        found("*.parquet")


@pytest.mark.parametrize("name", ["a.tgz", "a.tar.gz", "a.jsonl.gz", "a.zip", "a.json.zst"])
def test_compressed_files_are_explained(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x1f\x8b")
    with pytest.raises(InputError, match="is compressed, so its rows cannot be read in any order; unpack"):
        read(tmp_path, f"a: {{use: text, files: {name}}}")


def test_a_compressed_archive_named_tar_is_explained(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(InputError, match=r"'.*a.tar' is compressed \(gzip\)"):
        read(tmp_path, "a: {use: pair, files: a.tar}")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tar", b"x" * 2000, "is not a whole .tar"),
        ("a.json", b'[{"text": "one"}, {"te', "is not whole JSON near byte 1"),
        ("a.json", b'[{"text": "one"} {"text": "two"}]', "is not whole JSON"),
        ("a.json", b'[{"text": "one"}] x', "something follows its end"),
        ("a.json", b"3", "does not begin with a list or an object"),
        ("a.json", b'[{"a": ' + b"[" * 100_000, "is nested too deeply|is damaged or cut short"),
        ("a.json", b'{"a": [{}], "b": [{}]}', "has the lists a, b; say which one holds the rows, as in rows: a"),
        ("a.parquet", b"PAR1", "is not a whole parquet file"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b"a,a\n1,2\n", "has two columns named 'a'"),
        ("a.jsonl", b"\n \n", "has no rows"),
        ("a.xyz", b"x", "is of an unknown kind; say which one with kind: jsonl"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "is a git-lfs pointer"),
    ],
)
def test_files_that_are_not_what_they_say(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path, f"a: {{use: text, files: {name}}}")


# Tables


def test_the_same_rows_in_every_format(folder: Path) -> None:
    pytest.importorskip("pyarrow")
    rows = [{"file": f"{i}.png", "words": f'thing "{i}",\nof two lines, é'} for i in range(5)]
    lines(folder / "a.jsonl", *rows)
    document(folder / "a.json", rows)
    document(folder / "deep.json", {"info": {"rows": [1, 2]}, "data": rows})
    document(folder / "keyed.json", {f"k{i}": row for i, row in enumerate(rows)})
    quoted = ['"{}"'.format(row["words"].replace('"', '""')) for row in rows]
    (folder / "a.csv").write_text("file;words\r\n" + "".join(f"{r['file']};{q}\r\n" for r, q in zip(rows, quoted, strict=True)))
    (folder / "a.tsv").write_text("file\twords\n" + "".join(f"{r['file']}\t{q}\n" for r, q in zip(rows, quoted, strict=True)))
    parquet(folder / "a.parquet", rows)
    expected = [row["words"] for row in rows]
    for name in ("a.jsonl", "a.json", "deep.json", "keyed.json", "a.csv", "a.tsv", "a.parquet"):
        found = read(folder, f"a: {{use: pair, files: {name}, image: file, caption: words, ways: draw}}")["a"]
        assert [one.text for one in found] == expected, name
        assert [Path(str(one.images[0])).name for one in found] == [row["file"] for row in rows]


def test_indexes_do_not_depend_on_the_pieces_in_which_a_file_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": "é" * i + f" {i}", "n": [i, {"x": 12345}]} for i in range(40)]
    lines(folder / "a.jsonl", *rows)
    document(folder / "a.json", rows)
    document(folder / "b.json", {"n": 12345, "rows": rows, "end": None})
    whole = {name: texts(folder, f"a: {{use: text, files: {name}}}") for name in ("a.jsonl", "a.json", "b.json")}
    assert all(found == [row["text"] for row in rows] for found in whole.values())
    for size in (1, 7, 64, 1000):
        monkeypatch.setattr(offsets, "CHUNK", size)
        monkeypatch.setattr(json_index, "CHUNK", size)
        for name, expected in whole.items():
            assert texts(folder, f"a: {{use: text, files: {name}}}") == expected


def test_the_index_of_a_large_file_is_kept_and_made_again_for_another_file(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MMADA_CACHE", str(cache))
    monkeypatch.setattr(offsets, "CACHED_FROM", 0)
    lines(folder / "a.jsonl", *({"text": str(i)} for i in range(5)))
    tar(folder / "a.tar", {"1.jpg": encoded(), "1.txt": "one", "2.jpg": encoded(), "2.txt": "two"})
    for _ in range(2):
        assert texts(folder, "a: {use: text, files: a.jsonl}") == ["0", "1", "2", "3", "4"]
        assert texts(folder, "a: {use: pair, files: a.tar, ways: draw}") == ["one", "two"]
        assert len(list((cache / "index").iterdir())) == 2
    lines(folder / "a.jsonl", {"text": "other"})
    assert texts(folder, "a: {use: text, files: a.jsonl}") == ["other"]
    for file in (cache / "index").iterdir():
        file.write_bytes(b"damaged")
    assert texts(folder, "a: {use: text, files: a.jsonl}") == ["other"]
    assert texts(folder, "a: {use: pair, files: a.tar, ways: draw}") == ["one", "two"]


def test_an_archive_keeps_samples_apart(folder: Path) -> None:
    tar(folder / "a.tar", {
        "x/1.jpg": encoded(), "x/1.txt": "one", "y/1.jpg": encoded(), "y/1.txt": "two", "__MACOSX/._1.jpg": b"", "3.a.jpg": b"",
        "3.b.png": encoded(), "3.txt": "three",
    })  # fmt: skip
    (folder / "data.yaml").write_text("a: {use: pair, files: a.tar, image: [b.png, jpg], caption: txt, ways: draw}")
    mixture = load(folder / "data.yaml")
    dataset = mixture.split("train")["a"]
    assert [dataset[i].text for i in range(3)] == ["one", "two", "three"]
    assert [mixture.sets["a"].id("train", i) for i in range(3)] == ["x/1", "y/1", "3"]


def test_parquet_reads_only_what_a_set_needs(folder: Path) -> None:
    pytest.importorskip("pyarrow")
    from mmada.data.sources.parquet import ParquetTable

    parquet(folder / "a.parquet", [{"content": f"text {i}", "big": b"x" * 100, "size": i} for i in range(5)])
    mixture = mixture_of(folder, "a: {use: text, files: a.parquet, text: content, where: size > 1}")
    table = mixture.sets["a"].table  # type: ignore[attr-defined]
    assert isinstance(table, ParquetTable)
    assert set(table.wanted) == {"content", "size"}
    dataset = mixture.split("train")["a"]
    assert [dataset[i].text for i in (2, 0, 1)] == ["text 4", "text 2", "text 3"]


def test_class_names_come_from_the_schema_a_file_or_the_folders(folder: Path) -> None:
    pytest.importorskip("pyarrow")
    rows = [{"image": {"bytes": encoded(), "path": None}, "label": i % 2} for i in range(4)]
    parquet(folder / "a.parquet", rows, {"label": {"names": ["tench, Tinca", "gold_fish"], "_type": "ClassLabel"}})
    assert texts(folder, "a: {use: class, files: a.parquet, ways: draw}") == ["tench", "gold_fish"] * 2
    document(folder / "index.json", {"0": ["n01", "great_white"], "1": ["n02", "hen"]})
    assert texts(folder, "a: {use: class, files: a.parquet, ways: draw, names: index.json}") == ["great white", "hen"] * 2
    (folder / "names.txt").write_text("cat\ndog\n")
    made = texts(folder, 'a: {use: class, files: a.parquet, ways: draw, names: names.txt, caption: "one {name}, {names}"}')
    assert made == ["one cat, cat", "one dog, dog"] * 2
    picture(folder / "set/left_turn/1.png")
    picture(folder / "set/stop/1.png")
    assert texts(folder, "a: {use: class, files: set, ways: draw}") == ["left turn", "stop"]
    assert texts(folder, "a: {use: class, files: set, ways: draw, names: [turn, halt]}") == ["turn", "halt"]
    with pytest.raises(InputError, match=r"names of set 'a' .* are 3 for 2 folders"):
        texts(folder, "a: {use: class, files: set, ways: draw, names: [turn, halt, go]}")
    assert texts(folder, "a: {use: class, files: set, ways: draw, names: {stop: halt, left_turn: go}}") == ["go", "halt"]
    tar(folder / "a.tar", {"1.jpg": encoded(), "1.cls": "1\n"})
    assert texts(folder, "a: {use: class, files: a.tar, ways: draw, names: [cat, dog]}") == ["dog"]


def test_a_folder_of_pictures_with_captions_beside_them_or_in_a_table(folder: Path) -> None:
    (folder / "images/0.txt").write_text(" one \n")
    (folder / "images/1.json").write_text('{"caption": "two"}')
    for number in (2, 3, 4):
        (folder / f"images/{number}.png").unlink()
    assert texts(folder, "a: {use: pair, files: images, ways: draw}") == ["one", "two"]
    lines(folder / "images/metadata.jsonl", {"file_name": "1.png", "text": "from the table"})
    assert texts(folder, "a: {use: pair, files: images, ways: draw}") == ["from the table"]


def test_suffixes_in_capitals_are_the_same_fields(folder: Path) -> None:
    tar(folder / "a.tar", {"1.JPG": encoded(), "1.TXT": "one"})
    assert texts(folder, "a: {use: pair, files: a.tar, image: jpg, caption: txt, ways: draw}") == ["one"]
    picture(folder / "set/1.PNG")
    (folder / "set/1.TXT").write_text("two")
    assert texts(folder, "a: {use: pair, files: set, image: png, caption: txt, ways: draw}") == ["two"]


def test_a_folder_of_texts(folder: Path) -> None:
    for name in ("b/2.txt", "1.md", "3.pdf"):
        (folder / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "texts" / name).write_text(f"text\n{name}")
    assert texts(folder, "a: {use: text, files: texts}") == ["text\n1.md", "text\nb/2.txt"]
    with pytest.raises(InputError, match=r"set 'a' of data.yaml has no .txt or .md in"):
        texts(folder, "a: {use: text, files: images}")


def test_rows_are_scanned_in_pieces_as_they_are_read_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["é" * (i % 7) + f" {i}" for i in range(60)]
    lines(folder / "a.jsonl", *({"text": text, "n": i} for i, text in enumerate(words)))
    (folder / "a.jsonl").write_bytes((folder / "a.jsonl").read_bytes() + b"\n{broken\n\n")
    expected = [text.strip() for text in words[::3]]
    for size in (1, 50, 300, 10**6):
        monkeypatch.setattr(text_tables, "BYTES_AT_ONCE", size)
        monkeypatch.setattr(text_tables, "ROWS_AT_ONCE", 1 + size % 17)
        mixture = mixture_of(folder, "a: {use: text, files: a.jsonl, where: n % 3 == 0}")
        dataset = mixture.split("train")["a"]
        assert [dataset[i].text.strip() for i in range(20)] == expected
        assert len(dataset) == 21  # the broken row is kept, to be counted
        with pytest.raises(ValueError, match="row is not JSON"):
            dataset[20]


def test_a_quote_that_is_not_closed_spoils_its_line_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offsets, "MAX_QUOTED", 100)
    rows = ['"two\nlines"', *(f"row {i}" for i in range(30)), '"5 inch', *(f"row {i}" for i in range(30, 60)), '"two\nagain"']
    (folder / "a.csv").write_text("text\n" + "\n".join(rows))
    mixture = mixture_of(folder, "a: {use: text, files: a.csv, max_bad: 1}")
    dataset = mixture.split("train")["a"]
    assert len(dataset) == 63
    with pytest.raises(ValueError, match="row is not CSV"):
        dataset[31]
    assert [dataset[i].text for i in (0, 30, 32, 61, 62)] == ["two\nlines", "row 29", "row 30", "row 59", "two\nagain"]


# Fields


def test_paths_templates_alternatives_and_fixed_texts(folder: Path) -> None:
    lines(folder / "a.jsonl", {"a": {"b": ["x", {"c": "deep"}]}, "odd.name": "odd", "n": 3, "gap": None, "blank": " "})
    for field, expected in (
        ("a.b.1.c", "deep"), ("a.b.-1.c", "deep"), ("odd.name", "odd"), ("n", "3"), ("[gap, blank, gone, n]", "3"),
        ('"{n} of {a.b.0}{gap}"', "3 of x"), ('"{{{n}}}"', "{3}"), ('"=fixed"', "fixed"), ('["{gone}", "=else"]', "else"),
    ):  # fmt: skip
        assert texts(folder, f"a: {{use: text, files: a.jsonl, text: {field}}}") == [expected]
    for field in ('"{n"', '"{n!r}"', '"{n:3}"', '"{}"'):
        with pytest.raises(InputError, match="is not a template"):
            texts(folder, f"a: {{use: text, files: a.jsonl, text: {field}}}")


def test_several_captions_are_examples_each(folder: Path) -> None:
    lines(
        folder / "a.jsonl",
        {"image": "0.png", "c": ["one", "two", "one"], "short": "s", "long": "l"},
        {"image": "1.png", "c": "three", "long": "m"},
    )
    found = read(folder, "a: {use: pair, files: a.jsonl, caption: c, ways: draw}")["a"]
    assert [one.text for one in found] == ["one", "two", "one", "three", "three", "three"]
    found = read(folder, "a: {use: pair, files: a.jsonl, captions: [short, long]}")["a"][:4]
    assert [one.text or one.messages[1].content for one in found] == ["s", "s", "l", "l"]


def test_questions_of_descriptions_take_turns(folder: Path) -> None:
    lines(folder / "a.jsonl", *({"image": f"{i % 5}.png", "caption": f"c {i}"} for i in range(40)))
    found = read(folder, 'a: {use: pair, files: a.jsonl, ways: describe, question: ["what?", "who?"]}')["a"]
    asked = [one.messages[0].content for one in found]
    assert 8 <= asked.count("what?") <= 32
    assert asked == [one.messages[0].content for one in read(folder, (folder / "data.yaml").read_text())["a"]]


def test_a_chat_by_fields_has_its_parts(folder: Path) -> None:
    lines(folder / "a.jsonl", {"sys": "be brief", "q": "<image>\nwhat?", "a": "that", "img": "0"})
    one = read(folder, "a: {use: chat, files: a.jsonl, system: sys, user: q, assistant: a, image: img, reasoning: true}")["a"][0]
    assert [(turn.role, turn.content) for turn in one.messages] == [
        ("system", "be brief"),
        ("user", "what?"),
        ("assistant", "that"),
    ]
    assert len(one.images) == 1
    assert one.reasoning


def test_pictures_inside_messages_are_found(folder: Path) -> None:
    parts = [{"type": "image_url", "image_url": {"url": "0.png"}}, {"type": "text", "text": "what?"}, {"type": "image"}]
    talk = [{"role": "user", "content": parts}, {"role": "assistant", "content": "both"}]
    lines(folder / "a.jsonl", {"messages": talk, "images": ["1.png"]})
    one = read(folder, "a: {use: chat, files: a.jsonl}")["a"][0]
    assert len(one.images) == 2
    assert one.messages[0].content == "what?"


def test_joined_rows(folder: Path) -> None:
    lines(folder / "a.jsonl", {"image": "0.png", "n": 7}, {"image": "1.png", "n": 9}, {"image": "2.png", "n": 8})
    (folder / "b.csv").write_text("number,words\n7,seven\n8,eight\n")
    yaml = "a: {use: pair, files: a.jsonl, ways: draw, caption: join.words, join: {files: b.csv, key: number, by: n}, max_bad: 1}"
    mixture = mixture_of(folder, yaml)
    dataset = mixture.split("train")["a"]
    assert [dataset[i].text for i in (0, 2)] == ["seven", "eight"]
    with pytest.raises(ValueError, match="nothing to join"):
        dataset[1]
    assert mixture.rejected["a"] == {"nothing to join": 1}
    coco = {"images": [{"id": 5, "file_name": "3.png"}], "annotations": [{"image_id": 5, "caption": "c"}]}
    document(folder / "coco.json", coco)
    assert texts(folder, """
a: {use: pair, files: coco.json, rows: annotations, image: join.file_name, ways: draw,
    join: {files: coco.json, rows: images, key: id, by: image_id}}""") == ["c"]  # fmt: skip
    with pytest.raises(InputError, match="finds no field 'nr' in any row"):
        read(folder, yaml.replace("key: number", "key: nr"))


def test_a_json_of_names_and_captions(folder: Path) -> None:
    """As the captions of JourneyDB come: one object of all pictures."""
    document(folder / "captions.json", {"0": ["one", "uno"], "1.jpg": ["two", "dos"], "images/2": ["three", "tres"]})
    found = read(folder, "a: {use: pair, files: captions.json, image: __key__, caption: value, images: [images, .], ways: draw}")[
        "a"
    ]
    assert [one.text for one in found] == ["one", "uno", "two", "dos", "three", "tres"]
    assert [Path(str(one.images[0])).name for one in found[::2]] == ["0.png", "1.png", "2.png"]


def test_collected_reasoning_is_a_set(folder: Path) -> None:
    (folder / "kept").mkdir()
    with Writer(folder / "kept") as writer:
        writer.add(ReasoningExample(source="x", task="math", prompt="2 + 2?", thinking="2 and 2", answer="4", gold="4"))
        writer.add(ReasoningExample(source="x", task="vision", prompt="colour?", thinking="seen", answer="red", gold="red",
                                    picture=folder / "images/0.png"))  # fmt: skip
    found = read(folder, "a: {use: reason, files: kept}")["a"]
    assert [one.messages[1].content for one in found] == ["<think> 2 and 2</think> 4", "<think> seen</think> red"]
    assert [len(one.images) for one in found] == [0, 1]
    with Writer(folder / "kept") as writer:
        writer.add(ReasoningExample(source="x", task="image", prompt="a cat", thinking="legs", picture=folder / "images/0.png"))
    found = read(folder, "a: {use: reason, files: kept}")["a"]
    assert [(one.text, one.thought, one.learn) for one in found] == [("a cat", "legs", "thought"), ("a cat", "legs", "image")]


# Splits


def split_ids(mixture: Mixture, name: str = "a") -> dict[str, set[str]]:
    one = mixture.sets[name]
    return {split: {one.id(split, i) for i in range(len(one.split(split)))} for split in ("train", "validation", "test")}


def test_splits_do_not_move_when_rows_or_files_come_or_go(tmp_path: Path) -> None:
    rows = [{"text": f"row {i}"} for i in range(1000)]
    yaml = "a: {use: text, files: '*.jsonl'}\nmixture: {split: {validation: 0.1, test: 0.05}}"
    lines(tmp_path / "a.jsonl", *rows)
    before = split_ids(mixture_of(tmp_path, yaml))
    assert 60 < len(before["validation"]) < 140
    assert 25 < len(before["test"]) < 80
    lines(tmp_path / "0.jsonl", *({"text": f"new {i}"} for i in range(500)))
    lines(tmp_path / "a.jsonl", *reversed(rows[100:]))
    after = split_ids(mixture_of(tmp_path, yaml))
    everything = set.union(*after.values())
    for name, ids in before.items():
        assert ids & everything <= after[name]
    more = split_ids(mixture_of(tmp_path, yaml.replace("0.1", "0.2")))
    assert after["validation"] <= more["validation"]
    assert after["test"] == more["test"]


def test_rows_of_one_id_stay_together(folder: Path) -> None:
    lines(folder / "a.jsonl", *({"image": f"{i % 5}.png", "caption": f"c {i}", "group": i % 50} for i in range(500)))
    found = split_ids(mixture_of(folder, "a: {use: pair, files: a.jsonl, id: group, split: {validation: 0.3}}"))
    assert not found["train"] & found["validation"]
    assert found["validation"]
    assert set.union(*found.values()) == {str(i) for i in range(50)}


def test_a_set_says_its_split_by_name_or_field(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", *({"text": str(i), "split": ("train", "val", "test", "extra")[i % 4]} for i in range(8)))
    found = mixture_of(
        tmp_path, "a: {use: text, files: a.jsonl, split: {field: split}}\nb: {use: text, files: a.jsonl, split: test}"
    )
    one = found.sets["a"]
    assert {name: [one.split(name)[i].text for i in range(2)] for name in ("train", "validation", "test")} == {
        "train": ["0", "4"], "validation": ["1", "5"], "test": ["2", "6"],
    }  # fmt: skip
    assert one.left_out == {"split": 2}  # type: ignore[attr-defined]
    assert list(found.split("test")) == ["a", "b"]
    assert list(found.split("train")) == ["a"]


def test_a_small_set_keeps_all_rows_unless_its_file_says_otherwise(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", *({"text": str(i)} for i in range(150)))
    assert len(mixture_of(tmp_path, "a: {use: text, files: a.jsonl}").split("train")["a"]) == 150
    assert "a" in mixture_of(tmp_path, "a: {use: text, files: a.jsonl}\nmixture: {split: {validation: 0.2}}").split("validation")


def test_the_rows_that_parquet_holds_out_are_spread(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    parquet(tmp_path / "a.parquet", [{"text": str(i)} for i in range(2000)])
    found = split_ids(mixture_of(tmp_path, "a: {use: text, files: a.parquet, split: {validation: 0.1}}"))["validation"]
    assert 140 < len(found) < 260
    assert len({int(one.partition("#")[2]) // 200 for one in found}) == 10


# The whole


def test_a_set_can_be_sent_to_another_process(folder: Path) -> None:
    """Examples are; the sets themselves are opened again from the file."""
    lines(folder / "a.jsonl", {"image": "0.png", "conversations": turns("q", "a")})
    one = read(folder, "a: {use: chat, files: a.jsonl}")["a"][0]
    assert pickle.loads(pickle.dumps(one)).messages == one.messages
