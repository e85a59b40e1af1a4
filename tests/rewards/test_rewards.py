"""Rewards: the tasks' own verdicts, weights, and everything that can go wrong with one."""

import math
import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from tests.completions import drawn, written

from mmada.errors import InputError
from mmada.nano.tasks import MATH, VISION
from mmada.nano.world.arithmetic import EquationStep, Problem
from mmada.nano.world.captions import Group, Meaning, drawable, satisfies, share
from mmada.nano.world.detector import FoundThing
from mmada.nano.world.questions import ask_about, check_reasoning
from mmada.nano.world.scenes import sample_scene
from mmada.rewards import (
    Correctness,
    Detector,
    Failure,
    Format,
    Reasoning,
    RewardSum,
    WeightedReward,
    reward_of,
    reward_sum_of,
)
from mmada.tasks.task import Completion, Prompt


def lengths(completions: Sequence[Completion]) -> list[float]:
    return [float(len(c.answer)) for c in completions]


def failing(completions: Sequence[Completion]) -> list[float]:
    if any(c.answer == "bad" for c in completions):
        raise ValueError("no such answer")
    return lengths(completions)


def dying(completions: Sequence[Completion]) -> list[float]:
    if any(c.answer == "bad" for c in completions):
        os._exit(3)
    return lengths(completions)


def hanging(completions: Sequence[Completion]) -> list[float]:
    if any(c.answer == "bad" for c in completions):
        time.sleep(60)
    return lengths(completions)


def test_an_answer_is_right_where_evaluation_says_so() -> None:
    assert Correctness()([written("RIGHT"), written("it is RIGHT."), written("RIGHT 1"), written("")]) == [1, 1, 0, 0]
    rng = np.random.default_rng(0)
    scene = sample_scene(rng)
    question = ask_about(scene, rng)
    asked = Prompt(question.text, VISION, question)
    answers = [f" {question.answer.upper()}.", "perhaps"]
    assert Correctness()([Completion(asked, answer=answer) for answer in answers]) == [1, 0]


def test_pictures_are_judged_by_the_detector() -> None:
    item = drawable(np.random.default_rng(1))
    more = len(item.scene.things) % 4 + 1
    other = sample_scene(np.random.default_rng(2), count=more)
    assert Correctness()([drawn(), drawn(other)]) == [1, 0]
    right, wrong = Detector()([drawn(), drawn(other)])
    assert right == 1
    assert 0 <= wrong < 1
    with pytest.raises(InputError, match="detector cannot judge"):
        Detector()([written("RIGHT")])
    with pytest.raises(InputError, match="has no picture"):
        Detector()([Completion(drawn().prompt)])


def test_the_share_of_a_meaning_is_one_exactly_where_it_is_satisfied() -> None:
    def thing(color: str, shape: str, x: float = 0) -> FoundThing:
        return FoundThing(color, shape, "medium", 1, x, (0, 0, 1, 1))

    red, circle = thing("red", "square"), thing("blue", "circle")
    loose = Meaning((Group(1, "red"), Group(1, None, "circle")))
    red_circle = thing("red", "circle")
    assert share(loose, [red_circle, red]) == 1  # the red circle must leave the place "red" to the square
    assert share(loose, [red]) == 0.5
    assert share(loose, [red, circle, circle]) == pytest.approx(2 / 3)
    assert share(loose, []) == 0
    left = Meaning((Group(1, "red"), Group(1, "blue")), "left")
    assert share(left, [thing("red", "star", 0), thing("blue", "star", 2)]) == 1
    assert share(left, [thing("red", "star", 2), thing("blue", "star", 0)]) == pytest.approx(2 / 3)
    rng = np.random.default_rng(0)
    for _ in range(50):
        meaning, scene = drawable(rng).meaning, drawable(rng).scene
        assert (share(meaning, scene.things) == 1) == satisfies(meaning, scene.things)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("<think> 3 + 4 = 7.</think> 7", True),
        (" <think>a\nb</think>7", True),
        ("7", False),
        ("<think> 3 + 4 = 7. 7", False),
        ("<think></think> 7", False),
        ("<think> 3</think> ", False),
        ("so <think> 3</think> 7", False),
        ("<think> 3</think> 7 <think> 4</think>", False),
        ("<think> <think> 3</think> 7", False),
        ("", False),
    ],
)
def test_the_format_is_reasoning_in_tags_then_an_answer(text: str, good: bool) -> None:
    assert Format()([Completion(written("").prompt, text)]) == [good]


def test_reasoning_is_right_where_evaluation_says_so() -> None:
    """Of many questions, with traces that are right, that end in a comma, and that are another's."""
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(40)]
    asked = [ask_about(scene, rng) for scene in scenes]
    traces = [q.reasoning for q in asked]
    given = [*traces, *(f"{t[:-1]}," for t in traces), *traces[1:], traces[0]]
    right = [check_reasoning(t, q) for t, q in zip(given, asked * 3, strict=True)]
    parts = [Completion(Prompt(q.text, VISION, q), f"<think> {t}</think> x") for t, q in zip(given, asked * 3, strict=True)]
    shares = Reasoning()(parts)
    assert [share == 1 for share in shares] == right
    assert all(right[:40])
    assert all(0 < share < 1 for share in shares[40:80])
    assert Reasoning()([replace(parts[0], raw_text=w) for w in ("", "<think></think> 3", "<think> none.</think> 3")]) == [0, 0, 0]


def test_steps_of_a_problem_may_come_in_another_order() -> None:
    steps = (EquationStep(3, "+", 4, 7), EquationStep(5, "-", 2, 3), EquationStep(7, "+", 3, 10))
    target = Problem("3 and 4, 5 less 2", "10", steps)
    asked = Prompt(target.text, MATH, target)
    other, half = "5 - 2 = 3. 3 + 4 = 7. 7 + 3 = 10.", "3 + 4 = 7. 5 - 2 = 4. 7 + 4 = 11."
    traces = [target.reasoning, other, half, "so 10."]
    shares = Reasoning()([Completion(asked, f"<think> {t}</think> 10") for t in traces])
    assert shares == [1, 1, pytest.approx(1 / 3), 0]
    with pytest.raises(InputError, match="reasoning cannot judge"):
        Reasoning()([drawn()])


def test_terms_are_weighted_and_computed_in_batches() -> None:
    sizes: list[int] = []

    def counted(completions: Sequence[Completion]) -> list[float]:
        sizes.append(len(completions))
        return lengths(completions)

    parts = [written("a" * n) for n in range(5)]
    scores = RewardSum([WeightedReward("long", counted, 2.0, batch=2), WeightedReward("format", Format(), 0.5)])(parts)
    assert scores.total_B.tolist() == [0, 2, 4, 6, 8]
    assert scores.terms == {"long": [0, 1, 2, 3, 4], "format": [0] * 5}
    assert sizes == [2, 2, 1]
    assert scores.failures == ()


@pytest.mark.parametrize("where", ["thread", "process"])
def test_a_reward_that_raises_is_reported_and_leaves_one_completion_without_a_total(where: str) -> None:
    parts = [written("a"), written("bad"), written("abc")]
    with RewardSum([WeightedReward("long", failing, isolation=where)]) as judge:
        scores = judge(parts)
    assert scores.total_B[[0, 2]].tolist() == [1, 3]
    assert math.isnan(scores.total_B[1])
    (failure,) = scores.failures
    assert (failure.term, failure.index, failure.kind) == ("long", 1, "raised")
    assert "no such answer" in failure.detail


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_a_number_is_reported(value: float) -> None:
    def odd(completions: Sequence[Completion]) -> list[float]:
        return [value if c.answer == "bad" else 1.0 for c in completions]

    scores = RewardSum([WeightedReward("odd", odd), WeightedReward("long", lengths)])([written("a"), written("bad")])
    assert scores.total_B[0] == 2
    assert math.isnan(scores.total_B[1])
    assert scores.failures == (Failure("odd", 1, "not finite", str(value)),)


def test_a_reward_too_large_to_learn_from_is_reported() -> None:
    def large(completions: Sequence[Completion]) -> list[float]:
        return [1e31, -1e31, 1e30]

    scores = RewardSum([WeightedReward("large", large)])([written("a"), written("b"), written("c")])
    assert scores.failures == (Failure("large", 0, "too large", "1e+31"), Failure("large", 1, "too large", "-1e+31"))
    assert scores.total_B.isnan().tolist() == [True, True, False]
    (failure,) = RewardSum([WeightedReward("large", lambda _: [1e20], 1e20)])([written("a")]).failures
    assert failure == Failure("total", 0, "too large", "1e+40")


@pytest.mark.parametrize(("weights", "said"), [((1e308, 0.0), "inf"), ((1e308, 1e308), "inf"), ((1e308, -1e308), "nan")])
def test_terms_that_add_up_to_no_number_are_a_failure(weights: tuple[float, float], said: str) -> None:
    scores = RewardSum([WeightedReward("long", lengths, weights[0]), WeightedReward("same", lengths, weights[1])])(
        [written(""), written("abc")]
    )
    assert scores.total_B[0] == 0
    assert math.isnan(scores.total_B[1])
    assert scores.failures == (Failure("total", 1, "not finite", said),)
    assert scores.terms == {"long": [0, 3], "same": [0, 3]}


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_reward_that_would_end_the_program_is_reported_at_once(error: type[BaseException]) -> None:
    def ending(completions: Sequence[Completion]) -> list[float]:
        if any(c.answer == "bad" for c in completions):
            raise error("enough")
        return lengths(completions)

    began = time.perf_counter()
    scores = RewardSum([WeightedReward("long", ending, timeout=10.0)])([written("a"), written("bad")])
    assert time.perf_counter() - began < 5
    assert scores.total_B[0] == 1
    assert scores.failures == (Failure("long", 1, "raised", f"RuntimeError: {error.__name__}: enough"),)


@pytest.mark.multiprocess
@pytest.mark.parametrize("where", ["thread", "process"])
def test_a_reward_that_hangs_is_given_up_and_the_next_batch_is_judged(where: str) -> None:
    parts = [written("a"), written("bad"), written("abc")]
    with RewardSum([WeightedReward("long", hanging, batch=1, timeout=1.0, isolation=where)]) as judge:
        began = time.perf_counter()
        scores = judge(parts)
        took = time.perf_counter() - began
    assert took < 50
    assert scores.total_B[[0, 2]].tolist() == [1, 3]
    assert scores.failures == (Failure("long", 1, "timed out", "1 s"),)


@pytest.mark.multiprocess
def test_a_reward_whose_process_dies_is_reported_and_started_again() -> None:
    with RewardSum([WeightedReward("long", dying, batch=1, isolation="process")]) as judge:
        scores = judge([written("bad"), written("abc")])
    assert math.isnan(scores.total_B[0])
    assert scores.total_B[1] == 3
    assert [(f.index, f.kind) for f in scores.failures] == [(0, "raised")]


def test_a_reward_that_cannot_be_sent_to_a_process_is_refused() -> None:
    with pytest.raises(InputError, match=r"reward local: it cannot be sent to a process .*use isolation=thread"):
        RewardSum([WeightedReward("local", lambda completions: [1.0] * len(completions), isolation="process")])


@dataclass
class Guarded:
    """A reward with a lock, which pickles only while a process starts."""

    lock: Any = field(default_factory=multiprocessing.get_context("spawn").Lock)

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        with self.lock:
            return lengths(completions)


def test_a_reward_with_a_lock_runs_in_a_process() -> None:
    with RewardSum([WeightedReward("guarded", Guarded(), isolation="process")]) as judge:
        assert judge([written("abc")]).total_B.tolist() == [3]


def test_a_wrong_count_of_rewards_is_reported() -> None:
    scores = RewardSum([WeightedReward("short", lambda completions: [1.0])])([written("a"), written("b")])
    assert scores.total_B.isnan().all()
    assert {f.kind for f in scores.failures} == {"wrong count"}


@pytest.mark.parametrize("given", [{0: 1.0}, "1", ["1"], {1.0}, [[1.0, 2.0]], 1.0, None])
def test_rewards_must_be_lists_of_numbers(given: Any) -> None:
    scores = RewardSum([WeightedReward("odd", lambda completions: given)])([written("a")])
    assert scores.total_B.isnan().all()
    assert {f.kind for f in scores.failures} == {"raised"}


@pytest.mark.parametrize("given", [(1,), np.ones(1), torch.ones(1), [np.float32(1)], [torch.ones(())], (True for _ in range(1))])
def test_numbers_come_in_lists_arrays_or_tensors(given: Any) -> None:
    assert RewardSum([WeightedReward("even", lambda completions: given)])([written("a")]).total_B.tolist() == [1]


def test_no_completions_have_no_rewards() -> None:
    assert RewardSum([WeightedReward("long", lengths)])([]).total_B.tolist() == []


def test_rewards_by_name() -> None:
    assert reward_of("correctness") == Correctness()
    assert reward_of("math:fsum") is math.fsum
    scores = reward_sum_of({"correctness": 2.0, "format": 0.5}, timeout=5, isolation="thread")([written("RIGHT")])
    assert scores.total_B.tolist() == [2.0]
    with pytest.raises(InputError, match="correctness"):
        reward_of("corectness")
    for name in ("math:nothing", "no_such_module:f", ":f"):
        with pytest.raises(InputError, match="cannot be imported"):
            reward_of(name)


@pytest.mark.parametrize("body", ["raise RuntimeError('no licence')", "import sys; sys.exit(5)", "def f(:", "x = 1 / 0"])
def test_a_module_of_rewards_that_fails_is_reported(body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"failing_rewards_{len(body)}"
    (tmp_path / f"{name}.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=f"'{name}:f' cannot be imported"):
        reward_of(f"{name}:f")
    with pytest.raises(InputError, match="cannot be imported"):
        reward_of(".relative:f")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": 3}, "not callable"),
        ({"reward": lambda: [0.0]}, "cannot be called with a list of completions"),
        ({"reward": lambda completions, more: []}, "cannot be called with a list of completions"),
        ({"reward": lambda *, completions: []}, "cannot be called with a list of completions"),
        ({"reward": Correctness}, "is a class"),
        ({"weight": math.nan}, "weight of the reward long"),
        ({"batch": 0}, "batch of the reward long"),
        ({"timeout": 0}, "timeout of the reward long"),
        ({"timeout": -1}, "timeout of the reward long"),
        ({"isolation": "gpu"}, "isolation of the reward long"),
        ({"name": " "}, "name of a reward"),
    ],
)
def test_wrong_terms(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WeightedReward(**{"name": "long", "reward": lengths, **change})


def test_terms_that_make_no_judge() -> None:
    with pytest.raises(InputError, match="different names"):
        RewardSum([WeightedReward("long", lengths), WeightedReward("long", lengths)])
    with pytest.raises(InputError, match="at least one term"):
        RewardSum([])


class Model:
    """A reward with something to read, which fails or is slow."""

    def __init__(self, kind: str) -> None:
        self.kind, self.ready = kind, False

    def prepare(self) -> None:
        if self.kind == "broken":
            raise OSError("no disk")
        if self.kind == "dying":
            os._exit(3)
        time.sleep(1.0)
        self.ready = True

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        return [float(self.ready)] * len(completions)


@pytest.mark.parametrize("where", ["thread", pytest.param("process", marks=pytest.mark.multiprocess)])
def test_models_are_read_before_the_time_out_counts(where: Literal["thread", "process"]) -> None:
    with RewardSum([WeightedReward("model", Model("slow"), timeout=0.5, isolation=where)]) as judge:
        judge.prepare()
        assert judge([written("RIGHT")]).total_B.tolist() == [1.0]
    said = "^reward model: it cannot be prepared .OSError: no disk"
    with RewardSum([WeightedReward("model", Model("broken"), isolation=where)]) as judge, pytest.raises(InputError, match=said):
        judge.prepare()


@pytest.mark.multiprocess
def test_a_process_that_dies_while_it_reads_its_model_is_reported() -> None:
    said = "^reward model: its process did not start"
    with (
        RewardSum([WeightedReward("model", Model("dying"), isolation="process")]) as judge,
        pytest.raises(InputError, match=said),
    ):
        judge.prepare()
