"""Studies: every arm and seed is run and judged once, whatever stops it, and the report says what the folders hold."""

import json
import shutil
import sys
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments.study import StudyRecipe
from safetensors.torch import load_file, save_file

from mmada.errors import InputError
from mmada.evaluation.measure import Measured
from mmada.io.jsonl import read_log
from mmada.nano.measures import STUDIED
from mmada.recipes.overrides import override
from mmada.recipes.rl import RLRecipe
from mmada.recipes.run import run
from mmada.registry import RECIPES
from mmada.rl.learner import PolicyLearner
from mmada.tasks.task import Completion

FEW = {
    "base.plan.steps": "2",
    "base.plan.optim.warmup": "0",
    "base.group_size": "2",
    "base.tasks": "{math: 1}",
    "base.sampling.text.length": "8",
    "base.method.updates": "1",
    "base.bf16": "false",
    "base.device": "cpu",
    "seeds": "2",
    "measures": "{toy: 3}",
    "arms": "{one: {}, other: {method.masking: full}}",
}


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The models that were evaluated, by an instantaneous measure."""
    seen: list[Path] = []

    def toy(model: Any, rng: np.random.Generator, count: int, split: str) -> Measured:
        assert split == "validation", "arms are chosen among, which the test split is not for"
        seen.append(Path(str(model.source)))
        return Measured({"toy": [1.0, 0.0, 0.0][:count], "toy: part": [0.5]})

    monkeypatch.setitem(STUDIED, "toy", (toy, 3))
    monkeypatch.setattr("mmada.recipes.rl.RLRecipe.samples", lambda *_: [])  # sample pictures take a second a run
    return seen


def test_a_study_resumes_where_it_stopped(
    judged: list[Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real, runs = tmp_path / "study", RLRecipe.run, []

    def counted(recipe: RLRecipe, *, out: Path, resume: bool, start: Path | None) -> Path:
        runs.append((out.parent.name, out.name, recipe.plan.seed, recipe.method.masking))
        if len(runs) == 3:
            raise KeyboardInterrupt
        return real(recipe, out=out, resume=resume, start=start)

    monkeypatch.setattr(RLRecipe, "run", counted)
    with pytest.raises(KeyboardInterrupt):
        run("study_noising", overrides=FEW, out=out, start_from=folder)
    assert not (out / "results.json").exists()
    with pytest.raises(InputError, match="already holds a study"):
        run("study_noising", overrides=FEW, out=out, start_from=folder)
    run("study_noising", overrides=FEW, out=out, start_from=folder, resume=True)
    first = RECIPES["study_noising"]().base.plan.seed
    expected = [(arm, f"seed{s}", first + s, masking) for s in (0, 1) for arm, masking in (("one", None), ("other", "full"))]
    assert runs == [*expected[:3], expected[2], expected[3]]
    assert len(judged) == 5  # the start and four runs, once each
    results = json.loads((out / "results.json").read_text())
    assert {(row["arm"], row["measure"]) for row in results["rows"]} == {
        (a, m) for a in ("one", "other") for m in ("toy", "toy: part")
    }
    assert all(row["seeds"] == 2 and row["start"] == row["value"] for row in results["rows"])
    assert all(row["each"] == [row["value"]] * 2 and row["examples"] >= 1 for row in results["rows"])
    assert {arm: [len(c) for c in curves] for arm, curves in results["curves"]["reward"].items()} == {
        "one": [2, 2],
        "other": [2, 2],
    }
    assert (out / "study.png").stat().st_size > 5000


def test_a_run_killed_in_the_middle_resumes_with_its_own_settings_only(
    judged: list[Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, out, real = FEW | {"seeds": "1", "arms": "{a: {}}"}, tmp_path / "study", PolicyLearner.losses

    def killed(learner: PolicyLearner, step: int) -> Any:
        if step == 1:
            raise KeyboardInterrupt
        return real(learner, step)

    with pytest.raises(InputError, match="steps"):  # found before any work
        run(
            "study_noising",
            overrides=few | {"base.sampling.text.steps": "1", "base.sampling.text.length": "40"},
            out=out,
            start_from=folder,
        )
    assert not out.exists()
    with monkeypatch.context() as patch:
        patch.setattr(PolicyLearner, "losses", killed)
        with pytest.raises(KeyboardInterrupt):
            run("study_noising", overrides=few, out=out, start_from=folder)
    assert (out / "a" / "seed0" / "log.jsonl").exists()
    with pytest.raises(InputError, match=r"begun\.json are of other settings"):
        run("study_noising", overrides=few | {"base.plan.optim.lr": "1e-4"}, out=out, start_from=folder, resume=True)
    run("study_noising", overrides=few, out=out, start_from=folder, resume=True)
    assert (out / "results.json").exists()


def test_results_of_other_settings_are_not_taken_for_these(judged: list[Path], folder: Path, tmp_path: Path) -> None:
    few, out = FEW | {"seeds": "1", "arms": "{a: {method.masking: full}}"}, tmp_path / "study"
    run("study_noising", overrides=few, out=out, start_from=folder)
    kept = (out / "results.json").read_bytes()
    for changed in (
        {"arms": "{a: {method.masking: iid}}"},
        {"measures": "{toy: 2}"},
        {"parallel": "threshold=0.9"},
        {"split": "test"},
    ):
        with pytest.raises(InputError, match="of other settings"):
            run("study_noising", overrides=few | changed, out=out, start_from=folder, resume=True)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    weights = load_file(other / "model.safetensors")
    save_file({name: value * 2 for name, value in weights.items()}, other / "model.safetensors")
    with pytest.raises(InputError, match="has other weights than the run"):
        run("study_noising", overrides=few, out=out, start_from=other, resume=True)
    assert (out / "results.json").read_bytes() == kept
    run("study_noising", overrides=few | {"arms": "{a: {method.masking: full}, b: {}}"}, out=out, start_from=folder, resume=True)
    assert list(json.loads((out / "results.json").read_text())["curves"]["reward"]) == ["a", "b"]  # arms may be added
    (out / "start.json").write_text("{")
    with pytest.raises(InputError, match=r"start\.json are damaged"):
        run("study_noising", overrides=few, out=out, start_from=folder, resume=True)


def test_a_measure_that_an_arm_lacks_is_left_out_of_it(
    judged: list[Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"

    def toy(model: Any, rng: np.random.Generator, count: int, split: str) -> Measured:
        judged.append(Path(str(model.source)))
        return Measured({"toy": [1.0], **({"toy: answer": [0.5]} if len(judged) < 3 else {"toy: new": [0.5]})})

    monkeypatch.setitem(STUDIED, "toy", (toy, 3))
    run("study_noising", overrides=FEW | {"seeds": "1"}, out=out, start_from=folder)
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert [(row["arm"], row["measure"]) for row in rows] == [("one", "toy"), ("one", "toy: answer"), ("other", "toy")]
    said = capsys.readouterr().out
    assert f"toy: answer is left out of arm other, as it is not in {out / 'other' / 'seed0' / 'results.json'}\n" in said
    assert f"toy: new is left out of arm other, as it is not in {out / 'start.json'}\n" in said
    assert "of arm one" not in said
    assert (out / "study.png").stat().st_size > 5000


def test_arms_in_processes_of_their_own_make_one_report(
    judged: list[Path], folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = FEW | {"seeds": "1"}
    for arm in ("other", "one"):
        run("study_noising", overrides=few | {"only": f"[{arm}]"}, out=tmp_path / "study", start_from=folder, resume=arm == "one")
    assert "other settings" not in caplog.text
    results = json.loads((tmp_path / "study" / "results.json").read_text())
    assert list(results["curves"]["reward"]) == ["one", "other"]


def test_settings_of_an_arm_are_values_or_their_texts(folder: Path) -> None:
    arms = {"a": {"method.updates": 3, "method.masking": None, "tasks": {"math": 2}, "plan.optim.lr": 1e-5}}
    texts = {"a": {"method.updates": "3", "method.masking": "null", "tasks": "{math: 2}", "plan.optim.lr": "0.00001"}}
    study: StudyRecipe = RECIPES["study_noising"]()
    whole = {"a": {"method": {"updates": 3, "masking": None}, "tasks": {"math": 2}, "plan": {"optim": {"lr": 1e-5}}}}
    runs = [replace(study, arms=written).run_of("a", 1) for written in (arms, texts, whole)]
    assert runs[0] == runs[1] == runs[2]
    assert (runs[0].method.updates, dict(runs[0].tasks), runs[0].plan.optim.lr) == (3, {"math": 2}, 1e-5)
    with pytest.raises(InputError, match=r"method\.updates' cannot be"):
        replace(study, arms={"a": {"method.updates": [3]}})


def varied(completions: Sequence[Completion]) -> list[float]:
    """Another number for every completion, the same each time."""
    return [zlib.crc32(c.image.tobytes() if c.image else c.raw_text.encode()) % 97 / 97 for c in completions]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("study_")])
def test_a_short_run_of_every_study(name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All arms with all of their settings but for size; a reward more, as the tiny model is never right."""
    monkeypatch.setattr("mmada.recipes.rl.RLRecipe.samples", lambda *_: [])
    study: StudyRecipe = RECIPES[name]()
    runs = {arm: study.run_of(arm, 0) for arm in study.arms}
    few = {arm: {**study.arms[arm], "tasks": dict.fromkeys(run.tasks, 1), "plan.steps": 1} for arm, run in runs.items()}
    for arm, kept in runs.items():
        few[arm]["rewards"] = {
            task: {**given, "tests.experiments.test_study:varied": 1.0} for task, given in kept.rewards.items()
        }
    settings = {
        "base.plan.optim.warmup": "0",
        "base.group_size": "2",
        "base.sampling.text.length": "8",
        "base.sampling.image.steps": "2",
        "base.bf16": "false",
        "base.device": "cpu",
        "seeds": "1",
        "measures": json.dumps(dict.fromkeys(study.measures, 1)),
        "arms": json.dumps(few),
    }
    model = run(name, overrides=settings, out=tmp_path / "study", start_from=folder)
    assert model == tmp_path / "study" / next(iter(study.arms)) / "seed0" / "model"
    for arm, kept in runs.items():
        log = read_log(tmp_path / "study" / arm / "seed0" / "log.jsonl")
        assert len(log) == 1
        assert all(f"reward_{task}_tests.experiments.test_study:varied" in log[0] for task in kept.tasks)
        assert log[0]["grad_norm"] > 0
    rows = json.loads((tmp_path / "study" / "results.json").read_text())["rows"]
    for arm in study.arms:
        measured = {row["measure"].partition(":")[0] for row in rows if row["arm"] == arm}
        keys = {"thought questions": "with reasoning, questions", "quick geneval": "in four steps, geneval"}
        assert measured == {keys.get(measure, measure) for measure in study.measures}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"only": "[three]"}, "only"),
        ({"measures": "{arithmetics: 3}"}, "measures"),
        ({"arms": "{'a/b': {}}"}, "is also the name of a folder"),
        ({"arms": "{'..': {}}"}, "is also the name of a folder"),
        ({"arms": "{}"}, "arms of study_league is empty"),
        ({"measures": "{}"}, "measures of study_league is empty"),
        ({"base.sampling.text.length": "0"}, r"length"),
        ({"arms": "{a: {method.maskng: full}}"}, "arm a: .* did you mean 'masking'"),
        ({"arms": "{a: 3}"}, r"names with values, .* \(at a\)"),
        ({"arms": "{a: {plan.seed: 3}}"}, "arm a: plan.seed belongs to base"),
        ({"arms": "{a: {plan: {seed: 3}}}"}, "arm a: plan.seed belongs to base"),
        ({"arms": "{a: {plan: '{seed: 3}'}}"}, "arm a: plan.seed belongs to base"),
        ({"arms": "{a: {plan: 3}}"}, "arm a: setting 'plan' cannot be"),
        ({"seeds": "0"}, "seeds"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(
    settings: dict[str, str], message: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        run("study_league", overrides=settings, out=tmp_path / "study", start_from=folder)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("lora", "{rank: 9999}"),
        ("rewards", "{math: {'tests.nowhere:f': 1}}"),
        ("image_folders", "[nowhere]"),
        ("prompts", "{math: 'gsm8k:nowhere.jsonl'}"),
        ("isolation", "process"),
        ("sampling.text.length", "9999"),
        ("sampling.text.steps", "9999"),
    ],
)
def test_what_is_wrong_with_an_arm_is_found_before_any_model_is_judged(
    setting: str, value: str, judged: list[Path], folder: Path, tmp_path: Path
) -> None:
    rewards = {"base.rewards": "{math: {'tests.experiments.test_study:unfindable': 1}}"} if setting == "isolation" else {}
    arms = {"arms": json.dumps({"one": {}, "other": {setting: value}})}
    with pytest.raises(InputError, match=r"arm other: .*(nowhere|process|9999)"):
        run("study_noising", overrides=FEW | rewards | arms, out=tmp_path / "study", start_from=folder)
    assert not judged
    assert not (tmp_path / "study").exists()


def test_a_study_from_an_invalid_start(judged: list[Path], folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "image_tokenizer", tmp_path / "start" / "image_tokenizer")
    with pytest.raises(InputError, match="holds no trained model, only an image tokenizer"):
        run("study_noising", overrides=FEW, out=tmp_path / "study", start_from=tmp_path / "start")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's own use of transformers
def test_arms_with_adapters_are_judged_with_the_start(judged: list[Path], folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", exc_type=ImportError)
    arms = {"arms": "{one: {}, other: {lora: {rank: 2}}}", "seeds": "1"}
    run("study_noising", overrides=FEW | arms, out=tmp_path / "study", start_from=folder)
    assert (tmp_path / "study" / "other" / "seed0" / "model" / "adapter_config.json").is_file()
    assert "other" in {row["arm"] for row in json.loads((tmp_path / "study" / "results.json").read_text())["rows"]}


@pytest.mark.parametrize(
    ("settings", "twin"),
    [
        ({"method.kl": 0.01}, True),  # the method's own
        ({"method": {"masking": "systematic"}}, True),
        (
            {"rewards": {"math": {"format": 0.5, "correctness": 2.0}, "vision": {"format": 1.0}}},
            True,
        ),  # nobody asks about pictures
        ({"method.kl": 0.02}, False),
        ({"rewards": {"math": {"format": 0.5, "correctness": 2.5}}}, False),
    ],
)
def test_arms_that_say_the_same_in_other_words(
    settings: dict[str, Any], twin: bool, judged: list[Path], folder: Path, tmp_path: Path
) -> None:
    same = {"base.method": "{name: unigrpo}", "base.rewards": "{math: {correctness: 2.0, format: 0.5}}"}
    study: Any = RECIPES["study_noising"]()
    study = override(study, FEW | same | {"arms": json.dumps({"one": {}, "other": settings})})
    if twin:
        with pytest.raises(InputError, match="arms one and other are the same run"):
            study.check_runs({"one", "other"}, folder)
    else:
        study.check_runs({"one", "other"}, folder)


def test_an_arm_twice_is_not_trained_twice(judged: list[Path], folder: Path, tmp_path: Path) -> None:
    """Rewards that are left out where prompts are from a file make no other run."""
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"question": "what is 2 + 3?", "answer": "2 + 3 = 5\n#### 5"}))
    few = FEW | {"base.prompts": f"{{math: 'gsm8k:{asked}'}}", "base.rewards": "{math: {format: 1, reasoning: 1}}"}
    arms = {"arms": "{one: {}, other: {rewards: {math: {format: 1}}}}"}
    with pytest.raises(InputError, match="arms one and other are the same run with these settings"):
        run("study_noising", overrides=few | arms, out=tmp_path / "study", start_from=folder)
    assert not judged


def unfindable(completions: Sequence[Completion]) -> list[float]:
    """Its name is taken away below, so that no process can find it."""
    return [0.0] * len(completions)


unfindable.__qualname__ = "lost"


def test_a_finished_study_is_reported_without_what_it_was_trained_with(
    judged: list[Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, few = tmp_path / "study", FEW | {"seeds": "1", "base.rewards": "{math: {'tests.experiments.test_study:varied': 1}}"}
    run("study_noising", overrides=few, out=out, start_from=folder)
    (out / "study.png").unlink()
    monkeypatch.delattr(sys.modules["tests.experiments.test_study"], "varied")
    run("study_noising", overrides=few, out=out, start_from=folder, resume=True)
    assert (out / "study.png").exists()
    with pytest.raises(InputError, match=r"'tests\.experiments\.test_study:varied' cannot be imported"):
        run("study_noising", overrides=few | {"seeds": "2"}, out=out, start_from=folder, resume=True)


def test_the_steps_of_the_base_are_those_of_the_league() -> None:
    league: StudyRecipe = RECIPES["study_league"]()
    short = override(league, {"base.plan.steps": "24"})
    steps = {arm: short.run_of(arm, 0).plan.steps for arm in short.arms}
    assert steps == {arm: 2 * short.run_of(arm, 0).method.build().updates for arm in short.arms}
    for own in ("plan.steps: 7", "plan: {steps: 7}"):
        assert override(league, {"arms": f"{{spg: {{method.name: spg, {own}}}}}"}).run_of("spg", 0).plan.steps == 7
    apart = override(league, {"arms": "{spg: {method: {name: spg, updates: 6}, plan: {save_every: 7}}}"})
    assert apart.run_of("spg", 0).plan.steps == league.run_of("spg", 0).plan.steps
    with pytest.raises(InputError, match="alike must be one of updates, batches"):
        replace(league, alike="steps")


def test_arms_of_other_tasks_have_a_panel_a_task(judged: list[Path], folder: Path, tmp_path: Path) -> None:
    arms = "{both: {tasks: {math: 1, vision: 1}}, one: {tasks: {math: 1}}}"
    few = FEW | {"seeds": "1", "arms": arms}
    run("study_noising", overrides=few | {"only": "[one]"}, out=tmp_path / "study", start_from=folder)
    assert list(json.loads((tmp_path / "study" / "results.json").read_text())["curves"]) == ["reward_math"]
    run("study_noising", overrides=few, out=tmp_path / "study", start_from=folder, resume=True)
    curves = json.loads((tmp_path / "study" / "results.json").read_text())["curves"]
    assert {name: list(runs) for name, runs in curves.items()} == {"reward_math": ["both", "one"], "reward_vision": ["both"]}
