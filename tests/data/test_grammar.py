"""The grammar of a YAML file of data: what is wrong is one sentence that names the set, the field and the fix."""

from pathlib import Path

import pytest
from tests.data.layouts import lines

from mmada.data import load
from mmada.data.sources.where import parse_where
from mmada.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines(tmp_path / "a.jsonl", {"text": "one"}, {"text": "two"})
    return tmp_path


A = "a: {use: text, files: a.jsonl"
WRONG = [
    ("", "describes no set"),
    ("3", "describes no set"),
    ("a: [", "is not valid YAML"),
    ("mixture: {}", "describes no set"),
    ("a: 3", "set 'a' of d.yaml is not a mapping"),
    ("a: {files: a.jsonl}", "set 'a' of d.yaml has no use; choose one of text, pair, class"),
    ("a: {use: pairs, files: a.jsonl}", "use 'pairs' of set 'a' of d.yaml is unknown; did you mean 'pair'?"),
    ("a: {use: text}", "set 'a' of d.yaml has no files"),
    ("a: {use: text, files: gone.jsonl}", r"files of set 'a' .*gone.jsonl' does not exist"),
    ("a: {use: text, files: []}", "give a file, a pattern or a folder"),
    (A + ", wieght: 2}", "'wieght' in set 'a' of d.yaml is unknown; did you mean 'weight'?"),
    (A + ", zzz: 2}", "'zzz' in set 'a' of d.yaml is unknown; known: use, files, kind"),
    (A + ", image: x}", "'image' in set 'a' of d.yaml is unknown"),
    (A + ", weight: -1}", "weight of set 'a' of d.yaml cannot be -1; it should be greater than or equal to 0"),
    (A + ", weight: .inf}", "weight of set 'a' .* finite"),
    (A + ", weight: much}", "weight of set 'a' .* valid number"),
    (A + ", weight: 0}", "no set of d.yaml has a weight above 0"),
    (A + ", max_bad: 2}", "max_bad of set 'a' .* less than or equal to 1"),
    (A + ", split: trian}", "split of set 'a' of d.yaml cannot be 'trian'; give train, validation, test, shares"),
    (A + ", split: {validaton: 0.1}}", "'validaton' in split in set 'a' of d.yaml is unknown; did you mean 'validation'"),
    (A + ", split: {validation: 1.5}}", "validation of split in set 'a' of d.yaml cannot be 1.5"),
    (A + ", split: {validation: 0.6, test: 0.5}}", "holds out 0.6 and 0.5, which leaves nothing"),
    (A + ", join: {files: a.jsonl, kay: x}}", "'kay' in join in set 'a' of d.yaml is unknown; did you mean 'key'?"),
    (A + ", join: {files: a.jsonl, on: x}}", "is not a text; put it in quotes, as YAML reads on, off"),
    (A + ", kind: jsonlines}", "kind of set 'a' .* it should be 'jsonl', 'json'"),
    (A + ", kind: folder}", "is a file, and kind folder is read from a folder"),
    (A + ", rows: x}", "rows names a list in a .json; leave rows out"),
    (A + ", where: 'text ='}", "where of set 'a' of d.yaml 'text =' is not an expression"),
    (A + ", where: gone > 3 or gone < 3}", "where of set 'a' keeps none of 2 rows; check what it says of the fields gone"),
    (A + ", split: {field: text}}", "split of set 'a' keeps none of 2 rows; check what it says of the fields text"),
    (A + ", replace: {a: 3}}", "replace of set 'a' .* valid string"),
    ("a: {use: chat, files: a.jsonl, user: q}", "has no assistant; give user and assistant together"),
    ("a: {use: chat, files: a.jsonl, user: q, assistant: b, turns: c}", "has both turns and user"),
    ("a: {use: pair, files: a.jsonl, caption: q, captions: [b]}", "has both caption and captions"),
    ("a: {use: pair, files: a.jsonl, images: gone}", "images of set 'a' .*gone' is not a folder"),
    ("a: {use: pair, files: a.jsonl, ways: paint}", "ways of set 'a' .* 'draw', 'describe' or 'both'"),
    ("a: {use: reason, files: a.jsonl, reader: gsm}", "reader of set 'a' of d.yaml cannot be 'gsm'; did you mean 'gsm8k'?"),
    ("a: {use: reason, files: a.jsonl, reader: gsm8k, prompt: x}", "has both reader and prompt"),
    ("a: {use: prompts, files: a.jsonl, task: maths}", "task of set 'a' .* 'math', 'vision' or 'image'"),
    ("a: {use: edit, files: a.jsonl}", "set 'a' of d.yaml has no source"),
    ("a: {use: class, files: a.jsonl, names: gone.txt}", "names of set 'a' .* is not a file"),
    (A + "}\nmixture: {weights: token}", "weights of 'mixture' of d.yaml cannot be 'token'; it should be 'examples' or 'tokens'"),
    (A + "}\nmixture: {wieghts: tokens}", "'wieghts' in 'mixture' of d.yaml is unknown; did you mean 'weights'?"),
    (A + "}\n" + A + "}", "has the key 'a' twice"),
    ("yes: {use: text, files: a.jsonl}", "name True of a set of d.yaml is not a text; put it in quotes"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_what_is_wrong_is_one_sentence(folder: Path, text: str, message: str) -> None:
    (folder / "d.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load(folder / "d.yaml")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("n > 1", "bcd"),
        ("n > 1 and n < 3", "b"),
        ("1 < n <= 3", "bc"),
        ("not (n == 2 or n == '3')", "ad"),
        ("lang in ['en', 'de']", "ac"),
        ("lang not in ['en']", "bcd"),
        ("deep.x >= 256", "cd"),
        ("deep.list[0] == 5", "c"),
        ("row['odd name'] == 'yes'", "b"),
        ("lang == null", "d"),
        ("lang is not null", "abc"),
        ("len(lang) == 2 and lower(name) == 'c'", "c"),
        ("startswith(name, 'A') or endswith(name, 'B')", "ab"),
        ("words(name) == 1", "abcd"),
        ("n % 2 == 0 and n * 2 - 4 == 0", "b"),
        ("size > 10", "bd"),
        ("'n' in lang", "a"),
        ("flag", "a"),
        ("flag == true", "a"),
    ],
)
def test_conditions(tmp_path: Path, where: str, kept: str) -> None:
    rows = [
        {"name": "A", "n": 1, "lang": "en", "size": "9", "flag": True},
        {"name": "B", "n": 2, "lang": "fr", "odd name": "yes", "size": "11", "deep": {"x": 255}},
        {"name": "C", "n": 3, "lang": "de", "deep": {"x": 256, "list": [5]}, "size": None},
        {"name": "D", "n": 4, "lang": None, "deep": {"x": 300.5}, "size": 12},
    ]
    lines(tmp_path / "a.jsonl", *rows)
    condition = where.replace('"', '\\"')
    (tmp_path / "d.yaml").write_text(f'a: {{use: text, files: a.jsonl, text: name, where: "{condition}"}}')
    found = load(tmp_path / "d.yaml").split("train")["a"]
    assert "".join(found[i].text.lower() for i in range(len(found))) == kept


@pytest.mark.parametrize(
    "where",
    [
        "__import__('os').system('x')", "open('/etc/passwd')", "(lambda: 1)()", "[x for x in row]", "n ** 9 ** 9", "f'{n}'",
        "n if n else 1", "n.__class__()", "len(n, n)", "len(*n)", "{'a': 1}", "n := 3", "b'x' == n", "n << 3", "print(n)", "",
        "n;n", "(" * 500, "n" + " + n" * 1000, "~n", "row[n]", "1j",
    ],
)  # fmt: skip
def test_conditions_can_do_nothing_else(where: str) -> None:
    with pytest.raises(InputError, match=r"^where '"):
        parse_where(where, "where")
