"""Edge cases of studies: no reward, stored rollouts of another training_config, adapters as a start."""

import json
import shutil
from typing import Any

import pytest
from tests.experiments.test_study import FEW, judged  # noqa: F401
from tests.recipes.test_rl_resume import draw_nothing, mixed, run_until, same

from mmada.errors import InputError
from mmada.recipes.overrides import override
from mmada.recipes.run import run
from mmada.registry import RECIPES


def broken(completions: Any) -> Any:
    raise ValueError("no")


def test_a_study_of_two_tasks_without_any_reward_still_ends_with_its_table(judged: Any, folder: Any, tmp_path: Any) -> None:  # noqa: F811
    pytest.importorskip("matplotlib")
    rewards = f"{{math: {{'{__name__}:broken': 1}}, vision: {{'{__name__}:broken': 1}}}}"
    few = FEW | {"seeds": "1", "base.tasks": "{math: 1, vision: 1}", "base.rewards": rewards}
    run("study_noising", overrides=few, out=tmp_path / "study", start_from=folder)
    assert (tmp_path / "study" / "results.json").is_file()
    assert (tmp_path / "study" / "study.png").is_file()


def test_what_is_wrong_with_an_arm_is_said_of_that_arm(judged: Any, folder: Any, tmp_path: Any) -> None:  # noqa: F811
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"question": "what is 2 + 3?", "answer": "2 + 3 = 5\n#### 5"}))
    arms = "{one: {rewards: {math: {format: 1}}}, other: {rewards: {math: {reasoning: 1}}}}"
    few = FEW | {"base.prompts": f"{{math: 'gsm8k:{asked}'}}", "arms": arms}
    with pytest.raises(InputError, match="arm other: rewards of math have only 'reasoning'"):
        run("study_noising", overrides=few, out=tmp_path / "study", start_from=folder)


@pytest.mark.slow
def test_rollouts_that_followed_from_settings_left_again_are_not_used(folder: Any, tmp_path: Any, monkeypatch: Any) -> None:
    draw_nothing(monkeypatch)
    first = mixed() | {"plan.steps": "9", "plan.save_every": "4", "tasks": "{math: 2}", "method.updates": "3"}
    other = first | {"plan.optim.lr": "1e-1", "plan.save_every": "1"}
    out, clean = tmp_path / "back", tmp_path / "clean"
    run_until(7, monkeypatch, overrides=first, out=out, start_from=folder)
    run_until(5, monkeypatch, made=False, overrides=other, out=out, start_from=folder, resume=True)
    shutil.copytree(out, clean)
    for file in (clean / "rollouts").glob("*2.safetensors"):
        file.unlink()
    for run_of in (out, clean):
        run("rl", overrides=first, out=run_of, start_from=folder, resume=True)
    assert same(out, clean)


def test_prompts_of_a_file_are_not_judged_by_reasoning_and_weights_of_zero(folder: Any, tmp_path: Any) -> None:
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"question": "what is 2 + 3?", "answer": "2 + 3 = 5\n#### 5"}))
    rewards = "{math: {reasoning: 1, correctness: 0}}"
    settings = {"tasks": "{math: 1}", "prompts": f"{{math: 'gsm8k:{asked}'}}", "rewards": rewards}
    with pytest.raises(InputError, match="rewards of math have only 'reasoning'"):
        run("rl", overrides=mixed() | settings, out=tmp_path / "r", start_from=folder)


def test_adapters_are_no_start(folder: Any, tmp_path: Any) -> None:
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    (adapters / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="holds adapters"):
        run("rl", overrides=mixed(), out=tmp_path / "r", start_from=adapters)


def test_a_mapping_keeps_its_order_and_may_have_dotted_names() -> None:
    recipe = override(RECIPES["study_noising"](), {"base": "{tasks: {vision: 1, math: 2}, plan.optim.lr: 1e-4}"})
    assert list(recipe.base.tasks) == ["vision", "math"]
    assert recipe.base.plan.optim.lr == 1e-4


def test_a_field_that_text_cannot_name_is_refused_in_one_sentence() -> None:
    with pytest.raises(InputError, match=r"losses\.text\.schedule"):
        override(RECIPES["pretrain"](), {"losses.text.schedule": "cosine"})
