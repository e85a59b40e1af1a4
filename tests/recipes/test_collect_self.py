"""Self-generated examples are never stored unjudged or edited; test questions are excluded however they are read."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from tests.recipes.test_collect import GEO, GOOD, dump

from mmada.data.public_sets import READERS
from mmada.data.reasoning import ReasoningExample, Writer, normalised, read_reasoned
from mmada.data.set_files import prompts_in
from mmada.errors import InputError
from mmada.nano.sources import CANDIDATES as NANO
from mmada.pipeline import MMaDA
from mmada.recipes.collect import Report, Selection, collect_reasoning
from mmada.recipes.collect_sources import Source, source_of
from mmada.rl.rollout import RolloutSampling
from mmada.tasks.task import Completion, Prompt


def gathered(out: Path, source: str, model: object = None, *, samples: int = 1, **choice: Any) -> Report:
    """Run on one source, with a fixed answer of math beside it so that something is kept."""
    sources = [source, "nano:math:1"]
    return collect_reasoning(sources, out, load=lambda: cast(MMaDA, model), samples=samples, seed=5, choice=Selection(**choice))


def kept_folder(path: Path, *examples: ReasoningExample) -> Path:
    path.mkdir()
    with Writer(path) as writer:
        for example in examples:
            writer.add(example)
    return path


def writing(
    monkeypatch: pytest.MonkeyPatch,
    texts: Callable[[Prompt], list[str]],
    draws: Callable[[str], Image.Image] = lambda _: Image.new("RGB", (64, 64), "grey"),
) -> list[str]:
    """Let rollouts write and draw these; the prompts that were sampled so far."""
    seen: list[str] = []

    def answers(model: object, prompts: Sequence[Prompt], *, group_size: int, sampling: RolloutSampling, **_: Any) -> Any:
        seen.extend(one.text for one in prompts)
        assert all(len(texts(one)) == group_size for one in prompts)
        drawing = prompts[0].task.output == "image"
        assert sampling.image_thinking == drawing
        made = [Completion(one, text, image=draws(one.text) if drawing else None) for one in prompts for text in texts(one)]
        return SimpleNamespace(completions=made)

    monkeypatch.setattr("mmada.recipes.collect_sources.roll_out", answers)
    return seen


def test_new_pictures_for_prompts_of_a_folder_are_not_stored_unjudged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = {c.example.prompt: c.example for c in (NANO["image"](np.random.default_rng(seed)) for seed in range(3))}
    folder = kept_folder(tmp_path / "kept", *right.values())
    seen = writing(monkeypatch, lambda prompt: [f"<think> {right[prompt.text].thinking}</think>"])
    for unchecked in (False, True):
        report = gathered(tmp_path / f"out{unchecked}", f"self:folder:{folder}:3", unchecked=unchecked)
        assert report.dropped == {("self:nano:image", "cannot be judged"): 3}
        assert not report.kept["self:nano:image"]
        assert not seen  # nothing is drawn for nothing
    assert gathered(tmp_path / "again", f"folder:{folder}").kept["nano:image"] == 3  # what was judged once stays


def test_unchecked_answers_are_not_gold_for_new_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = kept_folder(
        tmp_path / "kept", ReasoningExample(source="llava", task="math", prompt="2+2?", thinking="hm.", answer="5")
    )
    seen = writing(monkeypatch, lambda _: ["<think> two and three.</think> 7"])
    report = gathered(tmp_path / "out", f"self:folder:{folder}:1", unchecked=True)
    assert report.dropped == {("self:llava", "cannot be judged"): 1}
    assert not seen


def test_a_nano_prompt_of_a_folder_keeps_the_check_of_each_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [NANO[task](np.random.default_rng(seed)).example for task in ("math", "vision") for seed in range(4)]
    again = ReasoningExample(**{**vars(asked[-1]), "source": "self:nano:vision"})
    folder = kept_folder(tmp_path / "kept", *asked[:-1], again)
    right = {one.prompt: one for one in asked}

    def texts(one: Prompt) -> list[str]:
        known = right[one.text]
        steps = f"<think> {known.thinking}  </think> "
        return [steps + known.answer, f"<think> 1 + 1 = 2.</think> {known.answer}", f"{steps}nonsense"]

    writing(monkeypatch, texts)
    report = gathered(tmp_path / "out", f"self:folder:{folder}:8", samples=3)
    for source, number in {"self:nano:math": 4, "self:nano:vision": 3, "self:self:nano:vision": 1}.items():
        assert (
            report.kept[source] == report.dropped[source, "wrong reasoning"] == report.dropped[source, "wrong answer"] == number
        )
    assert all(one.thinking == right[one.prompt].thinking for one in read_reasoned(tmp_path / "out") if one.source != "nano:math")


def test_own_answers_are_dropped_in_another_form_than_the_one_that_is_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"image": None, "conversations": [{"from": "human", "value": "9+3?"},
                                            {"from": "gpt", "value": "<think> 9 + 3 = 12.</think> 12"}]}  # fmt: skip
    source = dump(tmp_path / "llava.json", [row])
    texts = ["12 <think> 3 + 9 = 12.</think>", "1<think> 3 + 9 = 12. </think>2", "<think> 9 + 3 = 12.</think> 12", "12"]
    writing(monkeypatch, lambda _: texts)
    report = gathered(tmp_path / "out", f"self:llava:{source}:1", samples=4)
    assert report.dropped == {("self:llava", "not well formed"): 2, ("self:llava", "no reasoning"): 1}
    assert [one.thinking for one in read_reasoned(tmp_path / "out") if one.source == "self:llava"] == ["9 + 3 = 12."]


def test_examples_with_unreadable_pictures_are_not_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"question": f"what is in {name}?", "answer": "3", "image_filename": name, "program": []} for name in "ab"]
    rows.append({**rows[0], "image_filename": "c" * 5000})  # no file can have this name
    source = dump(tmp_path / "clevr.json", {"questions": rows})
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a", "png")
    (tmp_path / "b").write_bytes(b"no picture")
    writing(monkeypatch, lambda _: ["<think> one, two, three.</think> 3"])
    report = gathered(tmp_path / "out", f"self:clevr:{source}:3", samples=1)
    assert report.kept["self:clevr"] == 1
    assert sum(n for (_, reason), n in report.dropped.items() if reason.startswith("unusable row")) == 2


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ("<think> {}</think>", ""),
        ("oh <think> {}</think>", "not well formed"),
        ("<think> {}</think> oh", "not well formed"),
        ("<think> {}", "not well formed"),
    ],
)
def test_the_thought_before_an_own_picture_is_as_it_was_written(
    tmp_path: Path, form: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {}
    for index in range(2):
        example = NANO["image"](np.random.default_rng((5, 17, 2, index))).example
        made[example.prompt] = example
    writing(
        monkeypatch,
        lambda prompt: [form.format(made[prompt.text].thinking)],
        lambda text: cast(Image.Image, made[text].picture).copy(),
    )
    report = gathered(tmp_path / "out", "self:nano:image:2")
    assert report.dropped == ({("self:nano:image", reason): 2} if reason else {})
    assert report.kept["self:nano:image"] == (0 if reason else 2)


def test_the_thoughts_of_the_real_drawing_are_read(tmp_path: Path, model: MMaDA) -> None:
    report = gathered(tmp_path / "out", "self:nano:image:2", model)
    assert report.read["self:nano:image"] == 2


ADD = {"instruction": "Add.", "input": "2+2", "output": "<think>hm.</think> 4", "answer": "4"}


@pytest.mark.parametrize(
    ("name", "row", "less"),
    [("geo170k", GEO, "conversations"), ("reasonflux", ADD, "output")],
)
def test_a_set_that_rewrites_its_prompts_is_forbidden_by_its_own_file(
    tmp_path: Path, name: str, row: dict[str, Any], less: str
) -> None:
    pytest.importorskip("math_verify")
    prompt = normalised(READERS[name](row).prompt)
    assert prompt in map(normalised, prompts_in(dump(tmp_path / "test.json", [row])))
    blind = json.loads(json.dumps(row))  # a test file without what only the answer needs
    if less == "conversations":
        blind[less][1]["value"] = "I do not know."
    else:
        del blind[less]
    blind_file = dump(tmp_path / "blind.json", [blind])
    assert prompt in map(normalised, prompts_in(blind_file))
    source = dump(tmp_path / "train.json", [row])
    (tmp_path / "geo3k").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "geo3k" / "7.png")
    report = collect_reasoning(
        [f"folder:{kept_folder(tmp_path / 'kept', GOOD)}", f"{name}:{source}"],
        tmp_path / "out",
        load=lambda: cast(MMaDA, None),
        decontaminate=[blind_file],
    )
    assert report.dropped == {(name, "forbidden prompt"): 1}


def test_a_plain_row_forbids_its_prompt_once(tmp_path: Path) -> None:
    rows = [{"question": "3+4?", "answer": "#### 7"}, {"prompt": "<image>\nHow many?"}, {"problem": "x?", "question": "y?"}]
    assert list(prompts_in(dump(tmp_path / "a.jsonl", rows))) == ["3+4?", "How many?", "y?", "x?"]


def test_own_answers_are_to_other_prompts_than_the_gold_ones() -> None:
    """Both sources drew the same problems once, so that right answers were duplicates of the gold ones."""

    def prompts(text: str) -> list[str]:
        made: list[Source] = []

        def own(source: Source, count: int) -> Any:
            made.append(source)
            return source

        source_of(text, images=(), seed=0, own=own)
        source = made[0] if made else source_of(text, images=(), seed=0, own=own)
        return [candidate.example.prompt for candidate in source]

    for name in ("math", "vision", "image"):
        gold, own = prompts(f"nano:{name}:60"), prompts(f"self:nano:{name}:60")
        assert len(gold) == len(own) == 60
        assert sum(a == b for a, b in zip(gold, own, strict=True)) < 10
    assert len(set(prompts("nano:math:60")) & set(prompts("self:nano:math:60"))) < 6  # short problems may come up twice


@pytest.mark.parametrize("count", ["99999999999999999999", "1" + "0" * 5000, "100000001", "0", "-1", "1.5", "", "²", "１"])
@pytest.mark.parametrize("prefix", ["nano:math", "self:nano:vision", "self:nano:math:5"])
def test_the_number_of_a_source_has_bounds(prefix: str, count: str) -> None:
    with pytest.raises(InputError, match="source"):
        source_of(f"{prefix}:{count}", images=(), seed=0, own=lambda *_: cast(Any, None))
