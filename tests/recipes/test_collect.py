"""Reasoning data: readers of public sets, what is kept and why not, a model's own answers, and the way into training."""

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.training.test_training import SMALL

from mmada.cli import main
from mmada.data.public_sets import READERS, boxed
from mmada.data.reasoning import ReasoningExample, Writer, form_error, read_reasoned
from mmada.data.set_files import prompts_in, rows
from mmada.data.sources.pictures import find_picture
from mmada.errors import InputError
from mmada.nano.sources import CANDIDATES as NANO
from mmada.nano.sources import check_picture
from mmada.pipeline import ImageSampling, MMaDA, TextSampling
from mmada.recipes.collect import Report, Selection, collect_reasoning
from mmada.recipes.collect_sources import Candidate, SelfGenerated
from mmada.recipes.run import run
from mmada.rl.rollout import RolloutSampling

RNG = np.random.default_rng
GSM8K = {
    "question": "Weng earns $12 an hour. She worked 50 minutes. How much did she earn?",
    "answer": "She earns 12/60 = $<<12/60=0.2>>0.2 a minute.\nFor 50 minutes that is 0.2 x 50 = $<<0.2*50=10>>10.\n#### 10",
}
GEO = {
    "image": "geo3k/7.png",
    "conversations": [
        {"from": "human", "value": "<image>\nFirst perform reasoning, then finally select the question from the choices in the "
         "following format: Answer: xxx.\nQuestion:In triangle ABC, what is angle B?\nChoices:\nA:35.0\nB:55.0\nC:90.0"},
        {"from": "gpt", "value": "Angle C is 90 degrees and angle A is 35 degrees, so angle B is 55°.\nAnswer:B"},
    ],
}  # fmt: skip
CLEVR = {
    "image_filename": "CLEVR_train_000000.png", "question": "How many red cubes are there?", "answer": "2",
    "program": [{"function": "scene", "inputs": [], "value_inputs": []},
                {"function": "filter_color", "inputs": [0], "value_inputs": ["red"]},
                {"function": "filter_shape", "inputs": [1], "value_inputs": ["cube"]},
                {"function": "count", "inputs": [2], "value_inputs": []}],
}  # fmt: skip
BOXED = "Two and two make $\\boxed{4}$."
OPEN = "<|begin_of_thought|>\n\n2 + 2 = 4\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n" + BOXED + "\n\n<|end_of_solution|>"


def talk(question: str, answer: str, *, roles: tuple[str, str] = ("user", "assistant"), keys: str = "from value") -> list[Any]:
    """A conversation of one turn."""
    who, what = keys.split()
    return [{who: roles[0], what: question}, {who: roles[1], what: answer}]


# (set, a row of its layout, what must come of it)
ROWS: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = [
    ("gsm8k", GSM8K, {"prompt": GSM8K["question"], "answer": "10", "gold": "10", "task": "math",
                      "thinking": "She earns 12/60 = $0.2 a minute.\nFor 50 minutes that is 0.2 x 50 = $10."}),
    ("gsm8k", {**GSM8K, "answer": "It is 1,000 + 200 = 1,200 dollars.\n#### 1,200"}, {"answer": "1200", "gold": "1200"}),
    ("gsm8k", {**GSM8K, "answer": "It is 3 + 4 = 7.\n#### 8"}, {"answer": "7", "gold": "8"}),
    ("limo", {"question": "2+2?", "solution": BOXED, "answer": "4"}, {"thinking": BOXED, "answer": "4", "gold": "4"}),
    ("s1k", {"question": "2+2?", "solution": "4", "deepseek_thinking_trajectory": "hm.", "deepseek_attempt": BOXED},
     {"thinking": "hm.", "answer": BOXED, "gold": "4"}),
    ("s1k", {"question": "2+2?", "solution": f"So {BOXED}", "thinking_trajectories": ["hm.", "x"], "attempt": "4"},
     {"thinking": "hm.", "answer": "4", "gold": "4"}),
    ("openthoughts", {"system": "s", "conversations": talk("2+2?", OPEN)},
     {"prompt": "2+2?", "thinking": "2 + 2 = 4", "answer": BOXED, "gold": ""}),
    ("openthoughts", {"problem": "2+2?", "deepseek_reasoning": "hm.", "deepseek_solution": BOXED, "ground_truth_solution": BOXED},
     {"thinking": "hm.", "answer": BOXED, "gold": "4"}),
    ("acemath", {"messages": talk("2+2?", BOXED, keys="role content"), "answer": "4"},
     {"thinking": BOXED, "answer": "4", "gold": "4"}),
    ("reasonflux", {"instruction": "Add.", "input": "2+2", "output": f"<think>hm.</think>{BOXED}"},
     {"prompt": "Add.\n2+2", "thinking": "hm.", "answer": BOXED, "gold": ""}),
    ("geo170k", GEO, {"task": "vision", "prompt": "In triangle ABC, what is angle B?\nChoices:\nA:35.0\nB:55.0\nC:90.0",
                      "thinking": "Angle C is 90 degrees and angle A is 35 degrees, so angle B is 55°.", "answer": "B",
                      "gold": "B"}),
    ("clevr", CLEVR, {"task": "vision", "thinking": "scene. filter color: red. filter shape: cube. count.", "answer": "2",
                      "gold": "2", "picture": "CLEVR_train_000000.png"}),
    ("clevr", {"image": {"bytes": b"png", "path": None}, "problem": "How many?", "solution": "<answer> 3 </answer>"},
     {"thinking": "", "answer": "", "gold": "3", "picture": b"png"}),
    ("llava", {"id": 1, "image": "a.jpg", "conversations": talk("<image>\nWhat is it?", "A cat.", roles=("human", "gpt"))},
     {"task": "vision", "prompt": "What is it?", "thinking": "", "answer": "A cat.", "gold": ""}),
    ("llava", {"image": "a.jpg", "conversations": talk(
        "How many?", "<SUMMARY>s</SUMMARY><REASONING> one, two. </REASONING><CONCLUSION>2</CONCLUSION>", roles=("human", "gpt"))},
     {"thinking": "one, two.", "answer": "2"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "wanted"), ROWS)
def test_a_set_is_read_from_its_own_fields(name: str, row: dict[str, Any], wanted: Mapping[str, Any]) -> None:
    made = READERS[name](row)
    assert made.source == name
    assert {field: getattr(made, field) for field in wanted} == wanted


@pytest.mark.parametrize("name", READERS)
def test_a_row_of_another_layout_is_not_an_example(name: str) -> None:
    with pytest.raises(ValueError, match=r"missing|has no"):
        READERS[name]({"text": "hello", "answer": "no mark", "conversations": []})


def test_geometry_that_concludes_something_else_than_its_label_is_found() -> None:
    wrong = json.loads(json.dumps(GEO))
    wrong["conversations"][1]["value"] = "Angle A is 55 degrees, so angle B is 90 - 55 = 35.0°. Therefore, the answer is B."
    made = READERS["geo170k"](wrong)
    assert (made.answer, made.gold) == ("A", "B")
    assert "Therefore" not in made.thinking


def test_boxes_are_balanced() -> None:
    assert boxed("\\boxed{1} and \\boxed{\\frac{1}{2}}.") == "\\frac{1}{2}"
    assert boxed("\\boxed{open") == boxed("none") == ""


def dump(path: Path, what: object) -> Path:
    path.write_text("\n".join(map(json.dumps, what)) if path.suffix == ".jsonl" else json.dumps(what))
    return path


def test_files_are_read_by_their_suffix_and_faults_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(rows(dump(tmp_path / "a.jsonl", [GSM8K, CLEVR]))) == [GSM8K, CLEVR]
    assert list(rows(dump(tmp_path / "a.json", {"info": {}, "questions": [CLEVR]}))) == [CLEVR]
    assert list(prompts_in(tmp_path / "a.jsonl")) == [GSM8K["question"], CLEVR["question"]]
    (tmp_path / "b.jsonl").write_text('{"a": 1}\n{"a": ')
    with pytest.raises(InputError, match=r"row is not JSON \(row 2\)"):
        list(rows(tmp_path / "b.jsonl"))
    with pytest.raises(InputError, match="one list of examples"):
        list(rows(dump(tmp_path / "c.json", {"a": [], "b": []})))
    with pytest.raises(InputError, match=r"should end in \.jsonl"):
        list(rows(dump(tmp_path / "c.csv", {})))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install 'mmada\[parquet\]'"):
        list(rows(dump(tmp_path / "d.parquet", {})))


def test_parquet_is_read(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = sys.modules["pyarrow"].Table.from_pylist([{"question": "q", "image": {"bytes": b"x", "path": None}}])
    parquet.write_table(table, tmp_path / "a.parquet")
    assert list(rows(tmp_path / "a.parquet")) == [{"question": "q", "image": {"bytes": b"x", "path": None}}]
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:40])
    with pytest.raises(InputError, match="is not a whole parquet file"):
        list(rows(tmp_path / "b.parquet"))


GOOD = ReasoningExample(source="s", task="math", prompt="2+2?", thinking="2 + 2 = 4.", answer="4", gold="4")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"prompt": " "}, "no prompt"),
        ({"thinking": "\n"}, "no reasoning"),
        ({"answer": ""}, "no answer"),
        ({"thinking": "a <think> b"}, "leftover tags"),
        ({"answer": "4<|end_of_solution|>"}, "leftover tags"),
        ({"answer": "</think> 4"}, "leftover tags"),
        ({"task": "vision"}, "no picture"),
        ({"picture": "a.png"}, "picture not asked for"),
        ({"task": "image", "answer": "", "picture": "a.png"}, ""),
        ({"thinking": "a < b and |x| <= 2"}, ""),
    ],
)
def test_the_form_is_checked(change: dict[str, Any], reason: str) -> None:
    assert form_error(replace(GOOD, **change)) == reason


def test_answers_of_mathematics_are_compared_by_value(tmp_path: Path) -> None:
    wrong = {"question": "3+4?", "answer": "It is 3 + 4 = 7.\n#### 8"}
    report = collected(tmp_path, f"gsm8k:{dump(tmp_path / 'train.jsonl', [GSM8K, wrong])}")
    assert report.table()[0] == {"source": "gsm8k", "read": 2, "kept": 1, "unchecked": 0, "dropped": {"wrong answer": 1}}


def collected(folder: Path, *sources: str, choice: Selection | None = None, **options: Any) -> Report:
    """Run on sources, without a model."""

    def none() -> MMaDA:
        raise AssertionError("no source asks for a model")

    return collect_reasoning(sources, folder / "out", load=none, tokenizer="nano", choice=choice, **options)


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """CLEVR and LLaVA files with a picture."""
    (tmp_path / "images").mkdir()
    for name in ("one.png", "two.png"):
        Image.fromarray(RNG(len(name)).integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(tmp_path / "images" / name)
    good = {**CLEVR, "image_filename": "one.png"}
    made = [good, good, {**good, "image_filename": "two.png"}, {**good, "question": "Is it  RED, or not?"},
            {**good, "image_filename": "gone.png"}, {**good, "image_filename": "../images/one.png"},
            {**good, "image_filename": "cut.png"}, {**good, "question": "\ud800"}, {"text": 1}]  # fmt: skip
    (tmp_path / "images" / "cut.png").write_bytes((tmp_path / "images" / "one.png").read_bytes()[:200])
    dump(tmp_path / "clevr.json", {"info": {}, "questions": made})
    thought = talk("What?", "<think>it purrs.</think> a cat", roles=("human", "gpt"))
    dump(tmp_path / "llava.json", [{"image": "one.png", "conversations": thought}])
    (tmp_path / "test.txt").write_text("Is it red or not?\n")
    return tmp_path


def test_what_is_dropped_is_counted_by_reason(sets: Path) -> None:
    sources = [f"clevr:{sets / 'clevr.json'}", f"llava:{sets / 'llava.json'}", "nano:math:5"]
    report = collected(sets, *sources, decontaminate=[sets / "test.txt"])
    clevr = {"duplicate": 1, "forbidden prompt": 1, "no picture": 2, "unusable row: its text is not valid Unicode": 1,
             "unusable row: field answer is missing": 1, "unreadable picture": 1}  # fmt: skip
    assert [(row["source"], row["kept"], row["dropped"]) for row in report.table()] == [
        ("clevr", 2, clevr),
        ("llava", 0, {"no gold answer": 1}),
        ("nano:math", 5, {}),
    ]
    out = sets / "out"
    assert sorted(p.name for p in out.iterdir()) == ["dropped.jsonl", "examples.jsonl", "pictures", "report.json"]
    assert json.loads((out / "report.json").read_text())["sources"] == report.table()
    dropped = [json.loads(line) for line in (out / "dropped.jsonl").read_text().splitlines()]
    assert sorted(line["reason"] for line in dropped) == sorted([*clevr, "no picture", "no gold answer"])
    kept = list(read_reasoned(out))
    assert len(kept) == 7
    assert {p.name for p in out.glob("pictures/*")} == {k.picture.name for k in kept if isinstance(k.picture, Path)}


def test_the_selection_limits_stored_examples(sets: Path) -> None:
    both = [f"llava:{sets / 'llava.json'}", "nano:math:30"]
    report = collected(sets, *both, choice=Selection(unchecked=True, max_tokens=40))
    assert report.unchecked == {"llava": 1, "nano:math": 0}
    assert 0 < report.kept["nano:math"] < 30
    assert report.dropped["nano:math", "too long"] == 30 - report.kept["nano:math"]
    again = collected(sets / "images", f"folder:{sets / 'out'}")  # what was kept unchecked is not taken for checked
    assert again.kept == {"nano:math": report.kept["nano:math"]}
    assert again.dropped == {("llava", "no gold answer"): 1}


def test_nothing_is_left_half_written(sets: Path) -> None:
    (sets / "broken.jsonl").write_text(json.dumps(CLEVR) + "\n{")
    for sources, said in {
        ("nano:math:3", f"clevr:{sets / 'broken.jsonl'}"): r"row is not JSON \(row 2\)",
        (f"geo170k:{sets / 'clevr.json'}",): "no usable row .*conversations is missing",
        (f"llava:{sets / 'llava.json'}",): "no usable example among 1 .no gold answer 1",
        ("nano:maths:3",): "must be one of math, vision, image",
        ("nano:math:many",): "should end with a number",
        ("gsm8l:a",): "did you mean 'gsm8k'",
        ("self:self:nano:math:3",): "answers to a model's own answers",
        ("folder:nowhere",): r"has no examples\.jsonl",
        (f"clevr:{sets / 'gone.json'}",): "does not exist",
    }.items():
        with pytest.raises(InputError, match=said):
            collected(sets, *sources)
        assert {p.name for p in sets.iterdir()} == {"images", "clevr.json", "llava.json", "test.txt", "broken.jsonl"}


def test_pictures_and_lines_of_strangers_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"")
    inner = tmp_path / "in"
    inner.mkdir()
    for name in ("../secret.png", str(tmp_path / "secret.png"), "..\\secret.png", "a\0.png", ""):
        assert find_picture(name, [inner]) is None
    line = {**GOOD.texts(), "task": "vision", "picture": "../secret.png"}
    for text, said in {
        json.dumps(line): "lies outside",
        "[1]": "should have the texts",
        "{": "line 1",
        '{"task": 3}': "texts",
    }.items():
        (inner / "examples.jsonl").write_text(text + "\n")
        with pytest.raises(InputError, match=said):
            list(read_reasoned(inner))


def test_records_survive_the_folder(tmp_path: Path) -> None:
    pixels = RNG(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    picture = replace(GOOD, task="vision", picture=pixels, thinking="line\nline ≤ \u2028 é")
    with Writer(tmp_path) as writer:
        for example in (GOOD, picture):
            writer.add(example)
    first, second = read_reasoned(tmp_path)
    assert first == GOOD
    assert second.texts() == picture.texts()
    assert isinstance(second.picture, Path)
    assert np.array_equal(np.asarray(Image.open(second.picture)), pixels)


def test_the_nano_world_is_right_by_its_own_judges() -> None:
    for task, make in NANO.items():
        for seed in range(12):
            candidate = make(RNG(seed))
            assert form_error(candidate.example) == candidate.judge(candidate.example) == "", task
            assert make(RNG(seed)).example.key == candidate.example.key
            assert candidate.judge(replace(candidate.example, thinking="1 + 1 = 2.")) == "wrong reasoning"
            if task != "image":
                assert candidate.judge(replace(candidate.example, answer="nonsense")) == "wrong answer"
    candidate = NANO["image"](RNG(0))
    assert candidate.judge.func is check_picture  # type: ignore[attr-defined]
    assert candidate.judge(replace(candidate.example, picture=Image.new("RGB", (64, 64), "grey"))) == "wrong picture"


def own(model: MMaDA, prompts: list[Candidate], count: int) -> list[ReasoningExample]:
    sampling = RolloutSampling(text=TextSampling(length=8, steps=4), image=ImageSampling(steps=3, guidance=2.0), batch=4)
    made = SelfGenerated(model=lambda: model, prompts=prompts, count=count, samples=2, sampling=sampling, seed=3)
    return [candidate.example for candidate in made]


def test_own_answers_come_of_each_prompt_and_of_the_seed(model: MMaDA) -> None:
    prompts = [NANO[task](RNG(seed)) for seed in range(2) for task in NANO]
    made = own(model, prompts, 5)
    blind = replace(prompts[1].example, picture=None)
    lacking = [replace(prompts[1], example=blind), Candidate(replace(GOOD, gold="", answer=""), lambda _: "")]
    sampling = RolloutSampling(text=TextSampling(length=8, steps=4))
    given = SelfGenerated(model=lambda: model, prompts=lacking, count=9, samples=2, sampling=sampling, seed=3)
    assert [c.parse_error for c in given] == ["its picture is not found", "there is no answer to judge by"]
    assert len(made) == 10
    assert sorted(m.prompt for m in made) == sorted(c.example.prompt for c in prompts[:5] for _ in range(2))
    assert {m.source for m in made} == {"self:nano:math", "self:nano:vision", "self:nano:image"}
    assert [m.key for m in made] == [m.key for m in own(model, prompts, 5)]
    drawn = [m.picture for m in made if m.task == "image"]
    assert all(isinstance(p, Image.Image) for p in drawn)
    gold = {c.example.prompt: c.example.gold for c in prompts}
    assert all(m.gold == gold[m.prompt] for m in made)


def test_correct_answers_of_the_bundled_model_are_stored(tmp_path: Path) -> None:
    report = collect_reasoning(
        ["self:nano:math:2"], tmp_path / "out", load=lambda: MMaDA.load("nano"), samples=2, choice=Selection(per_prompt=1)
    )
    assert report.read == {"self:nano:math": 4}
    kept = list(read_reasoned(tmp_path / "out"))
    assert 0 < len(kept) == len({k.prompt for k in kept}) <= 2
    truths = {c.example.prompt: c.example for c in (NANO["math"](RNG((0, 17, 0, i))) for i in range(2))}
    assert all(k.answer == truths[k.prompt].answer for k in kept)


def test_the_command_reports_and_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert main(["collect", "nano:math:4", "--out", out, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == [{"source": "nano:math", "read": 4, "kept": 4, "unchecked": 0, "dropped": {}}]
    for arguments, message in {
        ("nano:math:4", "--out", out): "already holds files",
        ("nano:math:0", "--out", f"{out}2"): "whole number of 1 to",
        ("nano:math:4", "--out", f"{out}2", "--temperature", "0"): "temperature is 0",
        ("nano:math:4", "--out", f"{out}2", "--decontaminate", "gone.txt"): "decontaminate: file 'gone.txt' does not exist",
        ("--out", f"{out}2"): "source",
    }.items():
        assert main(["collect", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_recipe_learns_from_the_folder(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collected(tmp_path, "nano:math:4", "nano:vision:2", "nano:image:2")
    told = {"data": f"{{reasoning: {tmp_path / 'out'}}}", "data_share": "1.0", "plan.steps": "1", "plan.sample_every": "9",
            "row_length": "300"}  # fmt: skip
    run("cot", overrides=SMALL | told, out=tmp_path / "run", start_from=folder)
    logged = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    assert logged["loss"] > 0
    assert (tmp_path / "run" / "model" / "config.json").is_file()
    capsys.readouterr()
    for change, said in (
        ({"row_length": "20"}, "has no example that can be used"),
        ({"data_share": "1.5"}, "data_share must be a number of 0 to 1"),
    ):
        with pytest.raises(InputError, match=said):
            run("cot", overrides=SMALL | told | change, out=tmp_path / "other", start_from=folder)
