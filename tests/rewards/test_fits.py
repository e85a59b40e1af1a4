"""Fit of rewards and tasks: every pair, and registered rewards."""

import importlib
import pickle
import pkgutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import mmada.rewards
from mmada.errors import InputError
from mmada.nano.rl_recipes import rl
from mmada.registry import TASKS
from mmada.rewards import misfit, rewards
from mmada.rewards.registry import check_name, is_model, reward_of
from mmada.tasks.task import Completion, Prompt

FITTING = {
    "mathematics": {"correctness", "format"},
    "vqa": {"correctness", "format", "clip"},
    "text_to_image": {"clip", "image_reward"},
    "nano_math": {"correctness", "format", "reasoning"},
    "nano_vision": {"correctness", "format", "reasoning", "clip"},
    "nano_image": {"correctness", "detector", "clip", "image_reward"},
}


def test_every_task_is_in_the_table() -> None:
    assert set(TASKS) == set(FITTING)
    assert all(TASKS[name].name == name for name in TASKS)
    assert all(pickle.loads(pickle.dumps(TASKS[name])) == TASKS[name] for name in TASKS)


@pytest.mark.parametrize("reward", list(rewards()))
@pytest.mark.parametrize("task", list(FITTING))
def test_a_reward_says_which_tasks_it_fits(task: str, reward: str) -> None:
    reason = misfit(rewards()[reward](), TASKS[task])
    assert (reason == "") == (reward in FITTING[task])


@pytest.mark.parametrize("reward", [name for name in rewards() if not is_model(name)])
@pytest.mark.parametrize("task", list(FITTING))
def test_a_reward_refuses_completions_of_tasks_that_it_does_not_fit(task: str, reward: str) -> None:
    if reward in FITTING[task] or reward == "format":  # which sees texts alone and needs no task
        return
    with pytest.raises(InputError, match="cannot judge"):
        rewards()[reward]()([Completion(Prompt("x", TASKS[task], target="x"), raw_text="x", answer="x")])


def test_functions_fit_every_task() -> None:
    assert all(misfit(lambda completions: [0.0] * len(completions), TASKS[name]) == "" for name in TASKS)


def test_a_new_reward_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "brevity.py").write_text(
        "class Brevity:\n"
        "    name = 'brevity'\n"
        "    def fits(self, task):\n"
        "        return '' if task.output == 'text' else 'counts letters'\n"
        "    def __call__(self, completions):\n"
        "        return [-float(len(c.answer)) for c in completions]\n"
        "REWARD = Brevity\n"
    )
    monkeypatch.setattr(mmada.rewards, "__path__", [*mmada.rewards.__path__, str(tmp_path)])
    rewards.cache_clear()
    try:
        assert "brevity" in {info.name for info in pkgutil.iter_modules(mmada.rewards.__path__)}
        check_name("brevity")
        assert reward_of("brevity")([Completion(Prompt("x", TASKS["vqa"]), answer="abc")]) == [-3]
        recipe = rl()
        assert replace(recipe, rewards={**recipe.rewards, "math": {"brevity": 1.0}}).fitting_rewards("math") == {"brevity": 1.0}
        with pytest.raises(InputError, match="rewards of image have 'brevity', which counts letters"):
            replace(recipe, rewards={**recipe.rewards, "image": {"brevity": 1.0}}).fitting_rewards("image")
    finally:
        rewards.cache_clear()
        sys.modules.pop("mmada.rewards.brevity", None)
        importlib.invalidate_caches()
