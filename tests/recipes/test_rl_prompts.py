"""Prompts of policy optimisation from files: public sets, folders of reasoning, captions."""

import importlib
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.helpers import SHORT_RUN

from mmada.data.reasoning import ReasoningExample, Writer
from mmada.errors import InputError
from mmada.io.jsonl import read_log
from mmada.nano.rl_recipes import rl
from mmada.pipeline import MMaDA
from mmada.recipes.rl_prompts import DrawPrompt, read_prompts
from mmada.recipes.run import run
from mmada.rewards import Correctness, Detector, RewardSum, WeightedReward
from mmada.tasks.task import Completion
from mmada.tasks.text_to_image import TextToImage

SUMS = [
    {"question": f"tom has {n} pens and gets {n}. how many?", "answer": f"{n} + {n} = {2 * n}.\n#### {2 * n}"} for n in (2, 3)
]
SHORT = SHORT_RUN | {"sampling.text.length": "6", "sampling.image.steps": "1"}
HERE = "tests.recipes.test_rl_prompts"


def letters(completions: Sequence[Completion]) -> list[float]:
    """A reward that differs between completions."""
    return [len(set(c.raw_text)) + float(np.asarray(c.image or 0).mean()) for c in completions]


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in SUMS))
    return path


def pool(source: dict[str, str], model: MMaDA, length: int | None) -> DrawPrompt:
    (name,) = source
    return read_prompts(source)[name].drawing(name, model, length)


@pytest.fixture(scope="module")
def model(folder: Path) -> MMaDA:
    return MMaDA.load(folder, device="cpu")


def test_a_public_set_gives_prompts_and_reference_answers(sums: Path, model: MMaDA, caplog: pytest.LogCaptureFixture) -> None:
    with sums.open("a") as file:
        file.write(
            json.dumps({"question": "and so?"}) + "\n" + json.dumps({"question": "why? " * 400, "answer": "#### 3"}) + "\n"
        )
    with caplog.at_level(logging.WARNING):
        ask = pool({"math": f"gsm8k:{sums}"}, model, 8)
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "1 of 4 rows left out" in said
    assert "1 of 3 are too long" in said
    rng = np.random.default_rng(0)
    asked = [ask(rng) for _ in range(40)]
    assert {one.text for one in asked} == {row["question"] for row in SUMS}
    one = next(one for one in asked if " 2 pens" in one.text)
    assert Correctness()([Completion(one, answer, answer) for answer in ("4", "4.0")]) == [1, 1]
    assert Correctness()([Completion(one, answer, answer) for answer in ("\\boxed{8/2}", "5", "")]) == [1, 0, 0]


def test_an_answer_that_never_ends_is_wrong_and_stops_nothing(sums: Path, model: MMaDA) -> None:
    """In a thread one huge power would keep all others waiting, the time-out too."""
    asked = pool({"math": f"gsm8k:{sums}"}, model, 8)(np.random.default_rng(0))
    answers = ["10^{10^{10}}", "\\frac{" + str(2 * int(asked.target)) + "}{2}"]
    scores = RewardSum([WeightedReward("correctness", Correctness())])([Completion(asked, answer, answer) for answer in answers])
    assert scores.total_B.tolist() == [0, 1]


def test_prompts_with_unreadable_pictures_are_not_drawn(tmp_path: Path, model: MMaDA, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"question": f"what is in {name}?", "answer": "3", "image_filename": name, "program": []} for name in "abc"]
    (tmp_path / "clevr.json").write_text(json.dumps({"questions": rows}))
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a", "png")
    (tmp_path / "b").write_bytes(b"no picture")
    with caplog.at_level(logging.WARNING):
        ask = pool({"vision": f"clevr:{tmp_path / 'clevr.json'}"}, model, 8)
        rng = np.random.default_rng(1)
        assert {ask(rng).text for _ in range(12)} == {"what is in a?"}
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "1 of 3 rows left out: its picture is not found (1)" in said
    assert "another prompt is drawn" in said


def test_rows_that_are_not_prompts_are_reported_in_words_about_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = ["[1]", "null", json.dumps({"question": "\ud800?", "answer": "#### 1"})]
    (tmp_path / "p.jsonl").write_text("\n".join([*broken, json.dumps({"question": "1 + 1?", "answer": "#### 2"})]))
    with caplog.at_level(logging.WARNING):
        read_prompts({"math": f"gsm8k:{tmp_path / 'p.jsonl'}"})
    assert "3 of 4 rows left out: field answer is missing (2), its text is not valid Unicode (1)" in caplog.text


def test_unchecked_examples_are_not_prompts(tmp_path: Path, model: MMaDA) -> None:
    with Writer(tmp_path) as writer:
        writer.add(ReasoningExample(source="openthoughts", task="math", prompt="1 + 1?", thinking="1 + 1 = 3.", answer="3"))
    with pytest.raises(InputError, match=r"hold no usable prompt \(there is no gold answer \(1\)\)"):
        pool({"math": f"folder:{tmp_path}"}, model, 8)


def test_pictures_of_a_folder_are_looked_at(tmp_path: Path, model: MMaDA) -> None:
    seen = {"source": "clevr", "task": "vision", "prompt": "which colour?", "thinking": "red.", "answer": "red", "gold": "red"}
    told = {"source": "gsm8k", "task": "math", "prompt": "1 + 1?", "thinking": "1 + 1 = 2.", "answer": "2", "gold": "2"}
    with Writer(tmp_path) as writer:
        writer.add(ReasoningExample(**seen, picture=Image.new("RGB", (64, 64), "red")))
        writer.add(ReasoningExample(**told))
    ask = pool({"vision": f"folder:{tmp_path}"}, model, 8)
    asked = ask(np.random.default_rng(0))
    assert asked.text == "which colour?"
    assert asked.images
    assert asked.images[0].getpixel((3, 3)) == (255, 0, 0)


def test_captions_are_drawn_and_only_their_words_known(tmp_path: Path, model: MMaDA) -> None:
    (tmp_path / "c.txt").write_text("a cat\n\n  a dog \n")
    ask = pool({"image": f"captions:{tmp_path / 'c.txt'}"}, model, None)
    rng = np.random.default_rng(0)
    asked = [ask(rng) for _ in range(20)]
    assert {(one.text, one.task) for one in asked} == {("a cat", TextToImage()), ("a dog", TextToImage())}
    drawn = Completion(asked[0], image=Image.new("RGB", (8, 8)))
    for reward in (Correctness(), Detector()):
        with pytest.raises(InputError, match="cannot judge"):
            reward([drawn])


def test_a_run_on_prompts_from_files(folder: Path, sums: Path, tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    (tmp_path / "c.txt").write_text("a cat\na dog\n")
    reward = {f"{HERE}:letters": 1.0}
    settings = SHORT | {
        "tasks": "{math: 2, image: 1}",
        "prompts": json.dumps({"math": f"gsm8k:{sums}", "image": f"captions:{tmp_path / 'c.txt'}"}),
        "rewards": json.dumps({"math": {"correctness": 2.0, **reward}, "image": reward}),
    }
    run("rl", overrides=settings, out=tmp_path / "run", start_from=folder)
    groups = [json.loads(line) for line in (tmp_path / "run" / "groups.jsonl").read_text().splitlines()]
    assert len(groups) == 6
    assert {group["prompt"] for group in groups} <= {"a cat", "a dog", *(row["question"] for row in SUMS)}
    log = read_log(tmp_path / "run" / "log.jsonl")
    assert any(row["grad_norm"] > 0 for row in log)
    assert all(row["failed"] == 0 for row in log)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("{maths: 'nano:math', vision: 'nano:vision', image: 'nano:image'}", "did you mean 'math'"),
        ("{math: 'captions:x', vision: 'nano:vision', image: 'nano:image'}", "rewards of math have 'correctness'"),
        ("{math: 'nano:math', vision: 'nano:vision', image: 'gsm8k:x'}", "rewards of image have 'detector'"),
        ("{math: 'nano:maths', vision: 'nano:vision', image: 'nano:image'}", "the name after nano: must be one of math"),
        ("{math: 'nano:math:3', vision: 'nano:vision', image: 'nano:image'}", "the name after nano: must be one of math"),
        ("{math: 'self:gsm8k:x:3', vision: 'nano:vision', image: 'nano:image'}", "a model's own answers"),
        (
            "{math: 'nano:math', vision: 'nano:vision', image: 'captions:x'}",
            "rewards of image have 'detector', which needs drawings",
        ),
        ("{math: 'geo170k:nowhere.jsonl', vision: 'nano:vision', image: 'nano:image'}", "does not exist"),
        ("{math: 'gsm9k:nowhere.jsonl', vision: 'nano:vision', image: 'nano:image'}", "did you mean 'gsm8k'"),
        ("{math: 'nano:math', vision: 'clevr:HERE', image: 'nano:image'}", "hold no usable prompt"),
        ("{math: 'folder:HERE', vision: 'nano:vision', image: 'nano:image'}", "folder"),
        ("{math: 'nano:math'}", "prompts of vision are missing"),
    ],
)
def test_prompts_that_cannot_be_used(
    prompts: str,
    message: str,
    folder: Path,
    sums: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The error is raised before a model is read, which may take minutes."""
    monkeypatch.setattr(importlib.import_module("mmada.recipes.rl"), "read_start", None)
    settings = SHORT | {"tasks": "{math: 1, vision: 1, image: 1}", "prompts": prompts.replace("HERE", str(sums))}
    with pytest.raises(InputError, match=message):
        run("rl", overrides=settings, out=tmp_path / "run", start_from=folder)
    assert not (tmp_path / "run").exists()
    assert "reasoning is left out" not in caplog.text, "one sentence says what is wrong"


def test_the_default_rewards_judge_prompts_of_a_file_without_their_reasoning(
    folder: Path, sums: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = SHORT | {
        "prompts": f"{{math: 'gsm8k:{sums}', vision: 'nano:vision'}}",
        "tasks": "{math: 1, vision: 1}",
        "plan.steps": "1",
    }
    with caplog.at_level(logging.WARNING):
        run("rl", overrides=settings, out=tmp_path / "run", start_from=folder)
    assert "rewards of math: reasoning is left out, as it cannot judge these prompts" in caplog.text
    terms = {tuple(group["terms"]) for group in map(json.loads, (tmp_path / "run" / "groups.jsonl").read_text().splitlines())}
    assert terms == {("correctness", "format"), ("correctness", "format", "reasoning")}


def test_an_answer_about_a_picture_may_be_judged_by_clip() -> None:
    replace(rl(), tasks={"vision": 1}, rewards={"vision": {"clip": 1.0}}).check()


def test_a_task_may_have_any_name(folder: Path, sums: Path, tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    settings = SHORT | {
        "tasks": "{pens: 1, shapes: 1}",
        "prompts": f"{{pens: 'gsm8k:{sums}', shapes: 'nano:vision'}}",
        "rewards": f"{{pens: {{format: 1, '{HERE}:letters': 1}}, shapes: {{reasoning: 1, '{HERE}:letters': 1}}}}",
        "plan.steps": "1",
    }
    run("rl", overrides=settings, out=tmp_path / "run", start_from=folder)
    groups = [json.loads(line) for line in (tmp_path / "run" / "groups.jsonl").read_text().splitlines()]
    assert {group["task"] for group in groups} == {"pens", "shapes"}
    (row,) = read_log(tmp_path / "run" / "log.jsonl")
    assert {"reward_pens_format", "reward_shapes_reasoning"} <= set(row)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": "{vision: 'clevr:HERE'}"}, "prompts of math are missing, and tasks has 1 of it"),
        ({"image_folders": "[nowhere]"}, "image_folders 'nowhere' does not exist"),
        (
            {"prompts": "{math: 'gsm8k:HERE'}", "rewards": "{math: {reasoning: 1}}"},
            "rewards of math have only 'reasoning', which needs a task that can check reasoning; take",
        ),
        (
            {"prompts": "{math: 'gsm8k:HERE'}", "sampling.text.length": "4000"},
            "sampling.text.length must be a whole number of 1 to 191, got 4000",
        ),
    ],
)
def test_prompts_that_would_be_of_no_use(
    settings: dict[str, str], message: str, folder: Path, sums: Path, tmp_path: Path
) -> None:
    filled = SHORT | {"tasks": "{math: 1}"} | {name: value.replace("HERE", str(sums)) for name, value in settings.items()}
    with pytest.raises(InputError, match=message):
        run("rl", overrides=filled, out=tmp_path / "run", start_from=folder)
    assert not (tmp_path / "run").exists()
