"""Policy optimisation as recipes: every one run short, rewards that fail or say nothing, and settings."""

import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.reinforcing import FEW, MODULE, NANO, draw_nothing, mixed, rewarded, rows, weights

from mmada.errors import InputError
from mmada.nano.rl_recipes import PAPER_REWARDS, rl
from mmada.pipeline import MMaDA
from mmada.recipes.overrides import override
from mmada.recipes.rl_methods import MethodChoice
from mmada.recipes.run import run
from mmada.registry import RECIPES
from mmada.rl import Algorithm1, CoupledCounts, Kl, RandomMasks, SampledSteps, Systematic, policy_loss
from mmada.tasks.task import Completion
from mmada.training import loop
from mmada.training.optim import build_optimisers


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """No run draws samples but the short one of every recipe."""
    if "short_run" not in request.node.name:
        draw_nothing(monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("rl")])
def test_a_short_run_of_every_recipe(name: str, tmp_path: Path) -> None:
    tasks = list(RECIPES[name]().tasks)
    few = FEW | {"plan.steps": "3", "method.updates": "2", "tasks": str(dict.fromkeys(tasks, 1)), "sampling.text.length": "24"}
    few |= {"sample_prompts": "[a red circle]"}
    model = run(name, overrides=few, out=tmp_path / "run", start_from="nano")
    first, second, third = rows(tmp_path / "run")
    for task in tasks:
        assert {f"reward_{task}", f"length_{task}", f"diversity_{task}"} <= set(first)
    assert "reward" not in second
    assert "reward" in third
    groups = [json.loads(line) for line in (tmp_path / "run" / "groups.jsonl").read_text().splitlines()]
    assert [(g["batch"], g["task"]) for g in groups] == [(batch, task) for batch in (0, 1) for task in tasks]
    assert all(len(g["rewards"]) == len(g["lengths"]) == 3 for g in groups)
    assert (tmp_path / "run" / "recipe.yaml").is_file()
    assert list((tmp_path / "run" / "samples").glob("*.png"))
    loaded = MMaDA.load(model, device="cpu")
    assert loaded.preset == MMaDA.load(NANO, device="cpu").preset
    assert loaded.generate("2 + 3 =").tokens


def test_gradients_that_are_not_finite_change_no_weight(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(parts: Any) -> dict[str, float]:
        found = backward(parts)
        if next(calls) == 1:
            next(p for p in seen[0].parameters() if p.grad is not None).grad[0] = torch.inf
        return found

    seen: list[torch.nn.Module] = []
    calls, backward, build = itertools.count(), loop.backward, build_optimisers
    monkeypatch.setattr(loop, "build_optimisers", lambda module, optim: (seen.append(module), build(module, optim))[1])
    monkeypatch.setattr(loop, "backward", broken)
    settings = mixed() | {"plan.steps": "3", "tasks": "{math: 1}"}
    run("rl", overrides=settings, out=tmp_path / "run", start_from=folder)
    assert [row.get("skipped") for row in rows(tmp_path / "run")] == [None, 1, None]
    assert sum("the step is skipped" in record.message for record in caplog.records) == 1
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())


def test_a_part_of_a_batch_without_a_finite_loss_is_left_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The other parts go on teaching, and every part is as small as it can be."""
    learning, spans = sys.modules["mmada.rl.learner"], []

    def broken(*given: Any, rows: slice, **named: Any) -> Any:
        loss, found = policy_loss(*given, rows=rows, **named)
        spans.append(rows)
        return (loss * torch.nan, {"kl": loss * torch.nan}) if len(spans) == 2 else (loss, found)

    monkeypatch.setattr(learning, "policy_loss", broken)
    settings = mixed() | {"plan.steps": "2", "tasks": "{math: 2}", "micro_batch": "1"}
    run("rl", overrides=settings, out=tmp_path / "run", start_from=folder)
    first, second = rows(tmp_path / "run")
    assert first["left_out"] == 1
    assert "left_out" not in second
    assert sum("left out" in record.message for record in caplog.records) == 1
    assert len(spans) > 4
    for row in (first, second):
        assert row["grad_norm"] > 0
        assert all(np.isfinite(value) for value in row.values())
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())


@pytest.mark.parametrize("reward", ["equal", "raising", "nothing", "sleeping"])
def test_rewards_that_teach_nothing_change_nothing_and_are_counted(
    reward: str, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = FEW | rewarded(reward) | {"plan.steps": "2", "tasks": "{math: 1}", "timeout": "0.2"}
    run("rl", overrides=settings, out=tmp_path / "run", start_from=folder)
    first, second = rows(tmp_path / "run")
    assert first["grad_norm"] == second["grad_norm"] == 0
    assert first["equal"] == 1
    begun = MMaDA.load(folder, device="cpu").engine.parts.model.state_dict()  # type: ignore[attr-defined]
    for name, value in weights(tmp_path / "run").items():
        assert torch.equal(value, begun[name.removeprefix("model.")].float())
    kind = {"raising": "raised", "nothing": "not_finite", "sleeping": "timed_out"}.get(reward)
    assert first["failed"] == (0 if kind is None else 3)
    assert ("no completion got a reward" in caplog.text) == (kind is not None)
    if kind is None:
        assert first["reward"] == pytest.approx(0.7)
    else:
        assert first[f"failed_{MODULE}:{reward}_{kind}"] == 3
        assert "reward" not in first


def test_training_continues_with_the_judged_completions(folder: Path, tmp_path: Path) -> None:
    settings = FEW | rewarded("half_broken") | {"plan.steps": "2", "tasks": "{math: 2}"}
    run("rl", overrides=settings, out=tmp_path / "run", start_from=folder)
    first = rows(tmp_path / "run")[0]
    assert first["failed"] == 2
    assert first["grad_norm"] > 0


@pytest.mark.slow
@pytest.mark.multiprocess
def test_rewards_in_processes_and_passes_in_bfloat16(folder: Path, tmp_path: Path) -> None:
    settings = FEW | rewarded("varied") | {"plan.steps": "2", "tasks": "{math: 1, image: 1}"}
    run("rl", overrides=settings | {"isolation": "process", "bf16": "true"}, out=tmp_path / "run", start_from=folder)
    first, second = rows(tmp_path / "run")
    assert first["failed"] == 0
    assert min(first["grad_norm"], second["grad_norm"]) > 0
    assert {value.dtype for value in weights(tmp_path / "run").values()} == {torch.float32}


@pytest.mark.parametrize(("bf16", "tiles", "expected"), [("auto", True, True), ("auto", False, False), ("true", False, True)])
def test_passes_are_in_bfloat16_where_that_is_faster(
    bf16: str, tiles: bool, expected: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def learner(*_: Any, **options: Any) -> None:
        seen.append(options["bf16"])
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": tiles}, raising=False)
    monkeypatch.setattr("mmada.recipes.rl.PolicyLearner", learner)
    with pytest.raises(KeyboardInterrupt):
        run("rl", overrides=FEW | rewarded("varied") | {"bf16": bf16}, out=tmp_path / "run", start_from=folder)
    assert seen == [expected]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": "{maths: 1}"}, "tasks"),
        ({"tasks": "{math: 0}"}, "hold no prompt"),
        ({"tasks": "{math: -1}"}, "tasks of math"),
        ({"rewards": "{}"}, "rewards have none for 'math'"),
        ({"rewards": "{math: {correctness: 0, format: 0}}"}, "rewards have none for 'math'"),
        (
            {"rewards": "{math: {format: 1}, maths: {format: 1}}"},
            "rewards are given for 'maths', which is not in tasks",
        ),
        ({"rewards": "{math: {format: 1}, vision: {bogus: 1}}"}, "reward 'bogus' is unknown"),
        ({"group_size": "1000000000000"}, "group_size must be a whole number of 2 to 4096"),
        ({"tasks": "{math: 1000000000000}"}, "tasks of math must be a whole number of 0 to 4096"),
        ({"reward_device": "nope"}, "reward_device 'nope' is not available"),
        ({"bf16": "banana"}, "'bf16' cannot be 'banana'"),
        ({"rewards": "{math: {corectness: 1}}"}, "did you mean 'correctness'"),
        (
            {"rewards": "{math: {detector: 1}}"},
            "rewards of math have 'detector', which needs drawings",
        ),
        ({"rewards": "{math: {format: 1, clip: 1}}"}, "rewards of math have 'clip', which compares pictures with text"),
        (
            {"tasks": "{image: 1}", "rewards": "{image: {format: 1}}"},
            "rewards of image have 'format', which judges text, but the task asks",
        ),
        (
            {"isolation": "process", "rewards": "{math: {'tests.recipes.test_rl_recipes:nameless': 1}}"},
            "cannot be sent to a process .*isolation=thread",
        ),
        ({"sampling.text.length": "100000"}, r"sampling\.text\.length must be a whole number of 1 to 511"),
        ({"sampling.image.steps": "100000"}, r"steps must be"),
        ({"sampling.text.length": "40", "sampling.text.steps": "1"}, "sampling with the model's preset: steps"),
        ({"group_size": "1"}, "group_size"),
        ({"sampling.text.parallel": "treshold=0.9"}, "parallel 'treshold=0.9' is not a known rule"),
        ({"isolation": "gpu"}, "isolation"),
        ({"reward_models": "{detector: folder}"}, "reward_models has 'detector', which is not a reward with a model"),
        ({"reward_models": "{clip: nofolder}"}, "reward_models has 'clip', which no task has as a reward"),
        ({"reward_models": "{image_reward: x}", "rewards": "{math: {format: 1}, image: {image_reward: 1}}"}, "no task has"),
        ({"timeout": "0"}, "timeout"),
        ({"method.name": "ppo"}, r"method\.name"),
        ({"method.masking": "linear"}, r"method\.masking"),
        ({"method.updates": "0"}, r"method\.updates"),
        ({"method.name": "spg", "method.epsilon": "0.2"}, "method.clip"),
        ({"plan.seed": str(2**63 - 1)}, r"plan\.seed"),
        ({"plan.optim.lr": ".inf"}, r"optim\.lr"),
        ({"plan.optim.weight_decay": ".nan"}, r"optim\.weight_decay"),
        ({"plan.optim.muon_lr": "-1"}, r"optim\.muon_lr"),
        ({"plan.optim.beta2": "1.5"}, r"optim\.beta2"),
        ({"plan.optim.warmup": "-1"}, r"optim\.warmup"),
        ({"lora.dropout": "2"}, r"lora\.dropout"),
        ({"prompts": "2020-13-45"}, "'prompts' cannot be"),
        ({"method": "{name: unigrpo, maskin: full}"}, r"'method\.maskin' is unknown; did you mean 'masking'"),
        ({"plan": "{optim: {lrr: 1}}"}, r"'plan\.optim\.lrr' is unknown; did you mean 'lr'"),
        ({"method": "unigrpo"}, "it should be names with values, as in"),
        ({"image_folders": "nowhere"}, r"it should be a list, as in \[a, b\]"),
        ({"bf16": "maybe"}, "it should be a valid boolean or 'auto'$"),
        ({"tasks": "{math: x}"}, r"it should be a valid integer \(at math\)$"),
    ],
)
def test_wrong_settings(settings: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run("rl_math", overrides=settings, out=tmp_path / "run", start_from=NANO)


def nameless(completions: Sequence[Completion]) -> list[float]:
    """Its name is taken away below, so that nothing can find it again."""
    return [0.0] * len(completions)


nameless.__qualname__ = "nowhere"


def test_settings_are_checked_together_whatever_their_order(tmp_path: Path) -> None:
    """Questions alone have no reward yet where tasks come first."""
    pairs = [("tasks", "{vision: 3}"), ("rewards", "{vision: {format: 1}}"), ("plan.steps", "3"), ("plan.optim.lr", "0.5")]
    made = [override(replace(rl(), tasks={"math": 1}, rewards={"math": {"format": 1.0}}), dict(p)) for p in permutations(pairs)]
    assert all(one == made[0] for one in made)
    assert (made[0].plan.steps, made[0].plan.optim.lr, dict(made[0].tasks)) == (3, 0.5, {"vision": 3})


def test_a_mapping_sets_the_fields_that_it_names() -> None:
    """Those of the recipe stay; a part is set after its whole."""
    base = rl()
    made = override(base, {"plan.steps": "4", "plan": "{steps: 3, optim: {lr: 5e-5}}", "sampling": "{text: {temperature: 0.9}}"})
    assert made.plan == replace(base.plan, steps=4, optim=replace(base.plan.optim, lr=5e-5))
    assert made.sampling == replace(base.sampling, text=replace(base.sampling.text, temperature=0.9))


@pytest.mark.parametrize(
    ("recipe", "setting", "value", "message"),
    [
        ("rl", "plan", "{optim: {lr: x}}", r"setting 'plan\.optim\.lr' cannot be 'x': it should be a valid number"),
        ("rl", "plan", "{optim: {rate: 1}}", r"setting 'plan\.optim\.rate' is unknown"),
        ("cot", "curriculum", "[{until: 1.0, mixture: {asking: 1}, wieght: 3}]", r"'curriculum' cannot be .* \(at 0\.wieght\)"),
    ],
)
def test_what_is_wrong_inside_a_mapping_is_named(recipe: str, setting: str, value: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        override(RECIPES[recipe](), {setting: value})


def test_steps_of_texts_mean_nothing_where_pictures_alone_are_drawn(folder: Path, tmp_path: Path) -> None:
    settings = FEW | {"tasks": "{image: 1}", "sampling.text.steps": "3", "sampling.text.length": "7", "sampling.image.steps": "2"}
    run("rl_image", overrides=settings, out=tmp_path / "run", start_from=folder)
    assert len(rows(tmp_path / "run")) == int(FEW["plan.steps"])


def test_a_refused_run_leaves_a_folder_as_it_was(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused as late as in the first batch."""
    (tmp_path / "mine.txt").write_text("")

    def refused(*_: object, **__: object) -> None:
        raise InputError("no such prompt")

    monkeypatch.setattr("mmada.recipes.rl.roll_out", refused)
    with pytest.raises(InputError, match="no such prompt"):
        run("rl_math", overrides={"device": "cpu"}, out=tmp_path, start_from=folder)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_image_tokenizer_alone_is_not_a_start(tmp_path: Path) -> None:
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "image_tokenizer").symlink_to(NANO / "image_tokenizer")
    with pytest.raises(InputError, match="holds no trained model"):
        run("rl_math", out=tmp_path / "run", start_from=tmp_path / "start")


@pytest.mark.parametrize(
    ("start", "message"),
    [("nanno", "did you mean 'nano'"), ("./nowhere", "does not exist"), (Path("nowhere"), "not found at nowhere")],
)
def test_a_start_that_is_not_there(start: str | Path, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run("rl_math", out=tmp_path / "run", start_from=start)
    assert not list(tmp_path.iterdir())


def test_a_method_is_its_parts() -> None:
    method = MethodChoice(masking="algorithm1", updates=3, kl=0.5, epsilon=0.1).build()
    assert method.masking == RandomMasks(Algorithm1())
    assert (method.updates, method.kl) == (3, Kl(0.5))
    assert method.clip is not None
    assert method.clip.high == 0.1


@pytest.mark.parametrize(
    ("name", "updates"), [("path_grpo", 1), ("unigrpo", 5), ("diffu_grpo", 12), ("mask_grpo_text", 12), ("espo", 8)]
)
def test_a_method_has_its_own_number_of_updates_unless_one_is_given(name: str, updates: int) -> None:
    assert MethodChoice(name=name).build().updates == updates
    assert MethodChoice(name=name, updates=3).build().updates == 3
    assert isinstance(masking := MethodChoice(name="mask_grpo_text").build().masking, RandomMasks)
    assert masking.order == "fading"


def test_views_an_update_are_a_choice_where_a_plan_draws_some() -> None:
    assert MethodChoice().build().masking == SampledSteps(samples=4)
    assert MethodChoice(samples=7).build().masking == SampledSteps(samples=7)
    assert MethodChoice(name="unigrpo", samples=3).build().masking == RandomMasks(Systematic(), samples=3)
    assert MethodChoice(name="espo", samples=3).build().masking == CoupledCounts(3)
    with pytest.raises(InputError, match=r"method\.samples 2 has no meaning for FullMask"):
        MethodChoice(masking="full", samples=2)
    with pytest.raises(InputError, match=r"method\.samples must be"):
        MethodChoice(samples=0)
    with pytest.raises(InputError, match=r"method\.samples must be a whole number of 1 to 64"):
        MethodChoice(samples=65)


def test_the_recipes_as_they_stand() -> None:
    assert rl().follows == "cot"
    assert set(rl().tasks) == {"math", "vision", "image"}
    assert rl().rewards["math"] == {"correctness": 2.0, "format": 0.5, "reasoning": 1.0}
    assert PAPER_REWARDS["math"] == {"correctness": 2.0, "format": 0.5}
