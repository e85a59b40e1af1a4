"""Rows of any JSON at all: a data set makes an example of one or says why not, and raises nothing else."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tests.data.layouts import picture

from mmada.data import load
from mmada.data.dataset import Example, UnusableRow
from mmada.data.public_sets import READERS

VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    3.5,
    10**400,
    float("nan"),
    float("inf"),
    "",
    " ",
    "a",
    "a.png",
    "\0",
    "../x",
    "/etc/passwd",
    "half \ud800",
    "x" * 5000,
    "data:image/png;base64,xx",
    "https://x/y.png",
    "~",
    "a" * 300 + ".png",
    [],
    {},
    [None],
    [[]],
    ["a.png"],
    {"bytes": 3},
    {"path": "a.png"},
    {"bytes": "x", "path": None},
    [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
    [{"role": "user"}],
    [{"role": None, "content": 3}],
    [{"role": "user", "content": [{"type": "image", "image": {}}]}, {"role": "assistant", "content": "x"}],
    {"a": {"b": "c"}},
    "<image>",
    "#### 4",
    "<think>",
    "<answer> 3 </answer>",
    "\\boxed{",
    "train",
]
NAMES = sorted(
    {
        "image",
        "caption",
        "text",
        "label",
        "messages",
        "conversations",
        "prompt",
        "question",
        "problem",
        "instruction",
        "input",
        "output",
        "answer",
        "solution",
        "thinking",
        "gold",
        "source",
        "target",
        "system",
        "user",
        "assistant",
        "task",
        "metadata",
        "program",
        "deepseek_reasoning",
        "deepseek_solution",
        "thinking_trajectories",
        "attempt",
        "image_filename",
        "split",
        "id",
        "thought",
    }
)
SETS = """
text: {use: text, files: a.jsonl}
pair: {use: pair, files: a.jsonl}
thought: {use: pair, files: a.jsonl, thought: thought, captions: [caption, text]}
class: {use: class, files: a.jsonl, names: [a, b], caption: "{name} {caption}"}
turns: {use: chat, files: a.jsonl}
fields: {use: chat, files: a.jsonl, user: "{question}{input}", assistant: answer, system: system}
edit: {use: edit, files: a.jsonl, source: source, instruction: instruction, target: target}
reason: {use: reason, files: a.jsonl}
prompts: {use: prompts, files: a.jsonl}
chosen: {use: text, files: a.jsonl, id: id, split: {field: split},
         where: "text > 3 or label + 1 < 2 or len(caption) == 1 or 'a' in task"}
joined: {use: pair, files: a.jsonl, join: {files: a.jsonl, key: id}, caption: join.caption}
"""


def rows(count: int) -> list[dict[str, Any]]:
    chosen = random.Random(0)
    return [{name: chosen.choice(VALUES) for name in chosen.sample(NAMES, chosen.randint(0, len(NAMES)))} for _ in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    picture(folder / "a.png")
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(400)))
    readers = "".join(f"{name}: {{use: reason, files: a.jsonl, reader: {name}}}\n" for name in READERS)
    (folder / "data.yaml").write_text(f"{SETS}{readers}mixture: {{max_bad: 1}}\n")
    return folder


def test_odd_rows_are_examples_or_reasons(folder: Path) -> None:
    mixture = load(folder / "data.yaml")
    reasons: dict[str, str] = {}
    made = 0
    for one in mixture.sets.values():
        for split in ("train", "validation", "test"):
            dataset = one.prompts(split) if one.use == "prompts" else one.split(split)
            for index in range(len(dataset)):
                try:
                    example = dataset[index]
                except UnusableRow as error:
                    reasons[error.reason] = error.where
                    continue
                made += 1
                for text in (example.text, *(turn.content for turn in example.messages)) if isinstance(example, Example) else ():
                    text.encode()
    assert made > 100
    assert all(reasons.values())
    assert len(reasons) < 200, "reasons group rows"
    assert all(len(reason) < 120 for reason in reasons), max(reasons, key=len)
