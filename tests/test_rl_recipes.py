"""Policy optimisation as recipes: every one run short, stopped anywhere and resumed, and rewards that fail or say nothing."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mmada import assets
from mmada.errors import InputError
from mmada.pipeline import MMaDA
from mmada.recipes import RECIPES, language, run
from mmada.recipes.reinforce import Method, reinforce
from mmada.training import loop
from mmada.training.log import read_log
from mmada.training.policy_learner import PolicyLearner
from mmada.training.rewards import Completion
from mmada.training.rl import Algorithm1, CoupledCounts, Kl, Moments, RandomMasks, Systematic, policy_loss

NANO = Path(assets.__path__[0]) / "nano"
FEW = {
    "plan.steps": "7",
    "plan.save_every": "2",
    "plan.sample_every": "7",
    "plan.optim.warmup": "0",
    "plan.optim.lr": "1e-3",
    "group": "3",
    "method.updates": "3",
    "sampler.length": "8",
    "sampler.image_steps": "2",
    "device": "cpu",
}
HERE = "tests.test_rl_recipes"


def varied(completions: Sequence[Completion]) -> list[float]:
    """Another number for every completion, the same each time."""
    return [zlib.crc32(c.drawn.tobytes() if c.drawn else c.written.encode()) % 97 / 97 for c in completions]


def equal(completions: Sequence[Completion]) -> list[float]:
    return [0.7] * len(completions)


def raising(completions: Sequence[Completion]) -> list[float]:
    raise ValueError("out of order")


def nothing(completions: Sequence[Completion]) -> list[float]:
    return [float("nan")] * len(completions)


def sleeping(completions: Sequence[Completion]) -> list[float]:
    time.sleep(60)
    return varied(completions)


def half_broken(completions: Sequence[Completion]) -> list[float]:
    """No number for every third completion."""
    return [value if i % 3 else float("nan") for i, value in enumerate(varied(completions))]


def rewarded(name: str) -> dict[str, str]:
    """Settings with one reward for all tasks."""
    return {"rewards": str({task: {f"{HERE}:{name}": 1.0} for task in ("math", "vision", "image")})}


def rows(folder: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    clock = ("rate", "seconds", "seconds_rollout", "seconds_reward")
    return [{k: v for k, v in row.items() if k not in clock} for row in read_log(folder / "log.jsonl")]


def weights(folder: Path) -> dict[str, Tensor]:
    return {k: v for k, v in load_file(folder / "checkpoint.safetensors").items() if k.startswith("model.")}


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Sample pictures take a second a run; the short run of every recipe draws them."""
    if "short_run" in request.node.name:
        monkeypatch.setattr(language, "SHOWN", ("a red circle",))
    else:
        monkeypatch.setattr(reinforce_module(), "show", lambda *_: [])


def reinforce_module() -> Any:
    return sys.modules["mmada.recipes.reinforce"]


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("reinforce")])
def test_a_short_run_of_every_recipe(name: str, tmp_path: Path) -> None:
    tasks = list(RECIPES[name]().tasks)  # type: ignore[attr-defined]
    few = FEW | {"plan.steps": "3", "method.updates": "2", "tasks": str(dict.fromkeys(tasks, 1)), "sampler.length": "24"}
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


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all three tasks that was never stopped, of the tiny model."""
    return never_stopped(folder, tmp_path_factory)


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of the bundled model."""
    return never_stopped(NANO, tmp_path_factory)


def never_stopped(start: Path, folders: pytest.TempPathFactory) -> Path:
    out = folders.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reinforce_module(), "show", lambda *_: [])
        run("reinforce", overrides=mixed(), out=out, start_from=start)
    return out


def mixed() -> dict[str, str]:
    return FEW | rewarded("varied") | {"tasks": "{math: 1, vision: 1, image: 1}"}


def same(one: Path, other: Path) -> bool:
    """Whether two runs left the same bytes: weights, averages, optimiser, model, log, groups."""
    files = ("checkpoint.safetensors", "model/model.safetensors", "groups.jsonl")
    return rows(one) == rows(other) and all((one / f).read_bytes() == (other / f).read_bytes() for f in files)


@pytest.mark.parametrize(("stop", "lost"), [(1, False), (2, False), (3, False), (5, False), (6, False), (6, True)])
def test_a_run_stopped_in_the_middle_of_a_batch_goes_on_as_if_it_had_not_been(
    stop: int, lost: bool, folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints are written after 2, 4 and 6 steps, batches begin at 0, 3 and 6; one of which no update is done can be lost."""
    out, real = tmp_path / "cut", loop.one_step

    def stopped(learner: Any, plan: Any, step: int, *others: Any) -> dict[str, float]:
        if step == stop:
            next(learner.losses(step))  # a batch may have been made before the stop
            raise KeyboardInterrupt
        return real(learner, plan, step, *others)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "one_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            run("reinforce", overrides=mixed(), out=out, start_from=folder)
    for file in out.glob("rollouts/*") if lost else ():
        file.unlink()
    run("reinforce", overrides=mixed(), out=out, start_from=folder, resume=True)
    assert same(out, whole)


@pytest.mark.multiprocess
def test_a_killed_run_goes_on_too(nano: Path, tmp_path: Path) -> None:
    out = tmp_path / "cut"
    script = "from mmada.recipes import run; from pathlib import Path; "
    script += f"run('reinforce', overrides={mixed()!r}, out=Path({str(out)!r}), start_from=Path({str(NANO)!r}))"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(read_log(out / "log.jsonl")) < 3:
        time.sleep(0.01)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    run("reinforce", overrides=mixed(), out=out, start_from=NANO, resume=True)
    assert same(out, nano)


def test_the_runs_that_are_compared_learn_something(folder: Path, whole: Path) -> None:
    assert all(row["grad_norm"] > 0 for row in rows(whole))
    assert rows(whole)[0]["ratio"] == pytest.approx(1, abs=1e-6)
    assert rows(whole)[1]["ratio"] != pytest.approx(1, abs=1e-6)
    begun = MMaDA.load(folder, device="cpu").engine.parts.model.state_dict()  # type: ignore[attr-defined]
    assert any(not torch.equal(value, begun[name.removeprefix("model.")].float()) for name, value in weights(whole).items())
    assert len(list((whole / "rollouts").glob("*.safetensors"))) == 1  # what no checkpoint needs is gone


def test_a_run_goes_on_from_its_own_start_and_from_no_other(folder: Path, tmp_path: Path) -> None:
    """What is new in a resumed run, such as the reference, is read from the start again."""
    settings, out = mixed() | {"plan.steps": "2", "tasks": "{math: 1}"}, tmp_path / "run"
    run("reinforce", overrides=settings, out=out, start_from=folder)
    with pytest.raises(InputError, match=f"other weights than the run in .* give --start-from {folder}"):
        run("reinforce", overrides=settings | {"plan.steps": "4"}, out=out, start_from=NANO, resume=True)
    assert "steps: 2" in (out / "recipe.yaml").read_text()
    run("reinforce", overrides=settings | {"plan.steps": "4"}, out=out, resume=True)
    assert len(rows(out)) == 4
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    run("reinforce", overrides=settings | {"plan.steps": "6"}, out=out, start_from=moved, resume=True)
    shutil.rmtree(moved)
    with pytest.raises(InputError, match="is gone; give --start-from"):
        run("reinforce", overrides=settings | {"plan.steps": "8"}, out=out, resume=True)
    shutil.copytree(NANO, moved)
    with pytest.raises(InputError, match="has other weights now than when"):
        run("reinforce", overrides=settings | {"plan.steps": "8"}, out=out, resume=True)
    (out / "begun_from.json").write_text('{"start": null, "weights": {}}')  # as good as none, which older runs have
    with pytest.raises(InputError, match="not found at"):
        run("reinforce", overrides=settings | {"plan.steps": "8"}, out=out, resume=True)


def test_a_run_that_fails_in_the_middle_keeps_what_it_was_begun_with(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(learner: PolicyLearner, step: int) -> Any:
        if step == 3:
            raise InputError("a picture is gone")
        return real(learner, step)

    real, settings, out = PolicyLearner.losses, mixed() | {"tasks": "{math: 1}"}, tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(PolicyLearner, "losses", failing)
        with pytest.raises(InputError, match="a picture is gone"):
            run("reinforce", overrides=settings, out=out, start_from=folder)
    assert (out / "recipe.yaml").exists()
    run("reinforce", overrides=settings, out=out, resume=True)
    assert len(rows(out)) == 7


def test_gradients_that_are_not_finite_change_no_weight(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(parts: Any) -> dict[str, float]:
        found = backward(parts)
        if next(calls) == 1:
            next(p for p in seen[0].parameters() if p.grad is not None).grad[0] = torch.inf  # type: ignore[index]
        return found

    seen: list[torch.nn.Module] = []
    calls, backward, build = itertools.count(), loop.backward, loop.build_optimisers
    monkeypatch.setattr(loop, "build_optimisers", lambda module, optim: (seen.append(module), build(module, optim))[1])
    monkeypatch.setattr(loop, "backward", broken)
    settings = mixed() | {"plan.steps": "3", "tasks": "{math: 1}"}
    run("reinforce", overrides=settings, out=tmp_path / "run", start_from=folder)
    assert [row.get("skipped") for row in rows(tmp_path / "run")] == [None, 1, None]
    assert sum("the step is left out" in record.message for record in caplog.records) == 1
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())


def test_a_run_killed_before_its_last_model_was_written_writes_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, out = mixed() | {"plan.steps": "2", "tasks": "{math: 1}"}, tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(PolicyLearner, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run("reinforce", overrides=settings, out=out, start_from=folder)
    assert not (out / "model").exists()
    run("reinforce", overrides=settings, out=out, resume=True)
    MMaDA.load(out / "model", device="cpu")


def test_a_part_of_a_batch_without_a_finite_loss_is_left_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The other parts go on teaching, and every part is as small as it can be."""
    learning, spans = sys.modules["mmada.training.policy_learner"], []

    def broken(*given: Any, rows: slice, **named: Any) -> Any:
        loss, found = policy_loss(*given, rows=rows, **named)
        spans.append(rows)
        return (loss * torch.nan, {"kl": loss * torch.nan}) if len(spans) == 2 else (loss, found)

    monkeypatch.setattr(learning, "policy_loss", broken)
    settings = mixed() | {"plan.steps": "2", "tasks": "{math: 2}", "held": "1"}
    run("reinforce", overrides=settings, out=tmp_path / "run", start_from=folder)
    first, second = rows(tmp_path / "run")
    assert first["left_out"] == 1
    assert "left_out" not in second
    assert sum("left out" in record.message for record in caplog.records) == 1
    assert len(spans) > 4
    for row in (first, second):
        assert row["grad_norm"] > 0
        assert all(np.isfinite(value) for value in row.values())
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())


def test_a_batch_of_other_settings_is_not_gone_on_with(folder: Path, tmp_path: Path) -> None:
    settings = mixed() | {"plan.steps": "2", "tasks": "{math: 1}"}
    run("reinforce", overrides=settings, out=tmp_path / "a", start_from=folder)
    with pytest.raises(InputError, match="2 updates are done"):
        run(
            "reinforce",
            overrides=settings | {"plan.steps": "4", "group": "2"},
            out=tmp_path / "a",
            start_from=folder,
            resume=True,
        )
    assert [file.name for file in (tmp_path / "a").glob("recipe*")] == ["recipe.yaml"]
    assert "group: 3" in (tmp_path / "a" / "recipe.yaml").read_text()  # as it was begun
    run("reinforce", overrides=settings | {"plan.steps": "4"}, out=tmp_path / "a", start_from=folder, resume=True)
    assert "steps: 2" in (tmp_path / "a" / "recipe_1.yaml").read_text()
    assert "steps: 4" in (tmp_path / "a" / "recipe.yaml").read_text()
    assert [row["step"] for row in rows(tmp_path / "a")] == [0, 1, 2, 3]


@pytest.mark.parametrize("reward", ["equal", "raising", "nothing", "sleeping"])
def test_rewards_that_teach_nothing_change_nothing_and_are_counted(reward: str, folder: Path, tmp_path: Path) -> None:
    settings = FEW | rewarded(reward) | {"plan.steps": "2", "tasks": "{math: 1}", "timeout": "0.2"}
    run("reinforce", overrides=settings, out=tmp_path / "run", start_from=folder)
    first, second = rows(tmp_path / "run")
    assert first["grad_norm"] == second["grad_norm"] == 0
    assert first["equal"] == 1
    begun = MMaDA.load(folder, device="cpu").engine.parts.model.state_dict()  # type: ignore[attr-defined]
    for name, value in weights(tmp_path / "run").items():
        assert torch.equal(value, begun[name.removeprefix("model.")].float())
    kind = {"raising": "raised", "nothing": "not_finite", "sleeping": "timed_out"}.get(reward)
    assert first["failed"] == (0 if kind is None else 3)
    if kind is None:
        assert first["reward"] == pytest.approx(0.7)
    else:
        assert first[f"failed_{HERE}:{reward}_{kind}"] == 3
        assert "reward" not in first


def test_training_goes_on_with_what_was_judged(folder: Path, tmp_path: Path) -> None:
    settings = FEW | rewarded("half_broken") | {"plan.steps": "2", "tasks": "{math: 2}"}
    run("reinforce", overrides=settings, out=tmp_path / "run", start_from=folder)
    first = rows(tmp_path / "run")[0]
    assert first["failed"] == 2
    assert first["grad_norm"] > 0


@pytest.mark.multiprocess
def test_rewards_in_processes_and_passes_in_bfloat16(folder: Path, tmp_path: Path) -> None:
    settings = FEW | rewarded("varied") | {"plan.steps": "2", "tasks": "{math: 1, image: 1}"}
    run("reinforce", overrides=settings | {"judge": "process", "half": "true"}, out=tmp_path / "run", start_from=folder)
    first, second = rows(tmp_path / "run")
    assert first["failed"] == 0
    assert min(first["grad_norm"], second["grad_norm"]) > 0
    assert {value.dtype for value in weights(tmp_path / "run").values()} == {torch.float32}


@pytest.mark.parametrize(("half", "tiles", "expected"), [("auto", True, True), ("auto", False, False), ("true", False, True)])
def test_passes_are_in_bfloat16_where_that_is_faster(
    half: str, tiles: bool, expected: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def learner(*_: Any, **options: Any) -> None:
        seen.append(options["half"])
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": tiles}, raising=False)
    monkeypatch.setattr(sys.modules["mmada.recipes.reinforce"], "PolicyLearner", learner)
    with pytest.raises(KeyboardInterrupt):
        run("reinforce", overrides=FEW | rewarded("varied") | {"half": half}, out=tmp_path / "run", start_from=folder)
    assert seen == [expected]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": "{maths: 1}"}, "tasks"),
        ({"tasks": "{math: 0}"}, "hold no prompt"),
        ({"tasks": "{math: -1}"}, "tasks of math"),
        ({"rewards": "{}"}, "rewards say nothing of math"),
        ({"reward_device": "nope"}, "reward_device 'nope' is not to be had"),
        ({"half": "banana"}, "'half' cannot be 'banana'"),
        ({"rewards": "{math: {corectness: 1}}"}, "did you mean 'correctness'"),
        ({"group": "1"}, "group"),
        ({"sampler.parallel": "treshold=0.9"}, "parallel 'treshold=0.9' names no rule"),
        ({"judge": "gpu"}, "judge"),
        ({"reward_models": "{detector: folder}"}, "reward_models"),
        ({"timeout": "0"}, "timeout"),
        ({"method.name": "ppo"}, r"method\.name"),
        ({"method.noise": "linear"}, r"method\.noise"),
        ({"method.updates": "0"}, r"method\.updates"),
        ({"method.name": "spg", "method.clip": "0.2"}, "policy.clip"),
    ],
)
def test_wrong_settings(settings: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run("reinforce_math", overrides=settings, out=tmp_path / "run", start_from=NANO)


def test_an_image_tokenizer_alone_is_no_start(tmp_path: Path) -> None:
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "image_tokenizer").symlink_to(NANO / "image_tokenizer")
    with pytest.raises(InputError, match="holds no trained model"):
        run("reinforce_math", out=tmp_path / "run", start_from=tmp_path / "start")


@pytest.mark.parametrize("start", ["nanno", "./nowhere", Path("nowhere")])
def test_a_start_that_is_not_there(start: str | Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"did you mean 'nano'|does not exist|not found at nowhere"):
        run("reinforce_math", out=tmp_path / "run", start_from=start)
    assert not list(tmp_path.iterdir())


def test_a_method_is_its_parts() -> None:
    policy = Method(noise="algorithm1", updates=3, kl=0.5, clip=0.1).policy()
    assert policy.noise == RandomMasks(Algorithm1())
    assert (policy.updates, policy.kl) == (3, Kl(0.5))
    assert policy.clip is not None
    assert policy.clip.high == 0.1


@pytest.mark.parametrize(
    ("name", "updates"), [("path_grpo", 1), ("unigrpo", 5), ("diffu_grpo", 12), ("mask_grpo_text", 12), ("espo", 8)]
)
def test_a_method_has_its_own_number_of_updates_unless_it_is_told(name: str, updates: int) -> None:
    assert Method(name=name).policy().updates == updates
    assert Method(name=name, updates=3).policy().updates == 3
    assert isinstance(noise := Method(name="mask_grpo_text").policy().noise, RandomMasks)
    assert noise.order == "fading"


def test_views_an_update_are_a_choice_where_a_plan_draws_some() -> None:
    assert Method().policy().noise == Moments(samples=4)
    assert Method(samples=7).policy().noise == Moments(samples=7)
    assert Method(name="unigrpo", samples=3).policy().noise == RandomMasks(Systematic(), samples=3)
    assert Method(name="espo", samples=3).policy().noise == CoupledCounts(3)
    with pytest.raises(InputError, match=r"method\.samples 2 has no meaning for FullMask"):
        Method(noise="full", samples=2)
    with pytest.raises(InputError, match=r"method\.samples must be"):
        Method(samples=0)
    with pytest.raises(InputError, match=r"method\.samples must be a whole number of 1 to 64"):
        Method(samples=65)


def test_the_recipes_as_they_stand() -> None:
    assert reinforce().follows == "cot"
    assert set(reinforce().tasks) == {"math", "vision", "image"}
    assert reinforce().rewards["math"] == {"correctness": 2.0, "format": 0.5}
