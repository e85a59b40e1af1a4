"""Studies: runs of one recipe that differ in named settings, over several seeds, measured before and after.

Arms are compared on the validation split, as comparing them is model selection; ``--set split=test`` is for final figures.

A study of several hours can be resumed after an interruption, and its arms can run in separate processes (`only`): every run has
a folder, and the report is made from the folders.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from experiments.report import curve, plot_study, spread_of
from mmada.errors import InputError, check_choice, check_whole
from mmada.evaluation.results import machine, write_results
from mmada.io.fingerprint import weights_fingerprint
from mmada.io.jsonl import read_log
from mmada.nano.measures import STUDIED
from mmada.nano.rl_recipes import PAPER_REWARDS, rl, rl_math
from mmada.pipeline import MMaDA, TextSampling
from mmada.pipeline.known_checkpoints import known_checkpoint
from mmada.recipes.overrides import override, plain, text_of
from mmada.recipes.rl import RLRecipe
from mmada.recipes.rl_methods import MethodChoice
from mmada.sampling import Acceleration

__all__ = ["StudyRecipe", "study_league", "study_noising", "study_stage", "study_tasks"]


@dataclass(frozen=True, kw_only=True)
class StudyRecipe:
    """A comparison.

    ``base``: the common recipe. ``arms``: overrides of it by name of the arm, each a value or its text after --set; the first arm
    is the baseline. ``seeds``: runs per arm, with seeds plan.seed, plan.seed + 1, ...: other prompts, completions and masks; the
    prompts of a seed are the same in all arms of the same tasks. ``measures``: number of examples by measure of the trained
    models; ``parallel``: their unmasking rule (None: exact decoding). ``only``: arms to run now; empty: all. ``split``: of the
    measures, "validation" for selection and "test" for final figures. ``alike``: arms with another number of updates per batch
    have the same number of "updates" (base.plan.steps) or of "batches" as ``base``.
    """

    name: str
    follows: str
    base: RLRecipe
    arms: Mapping[str, Mapping[str, Any]]
    seeds: int = 3
    measures: Mapping[str, int] = field(default_factory=dict)
    parallel: str | None = "threshold=0.95"
    only: tuple[str, ...] = ()
    split: Literal["validation", "test"] = "validation"
    alike: Literal["updates", "batches"] = "updates"

    def __post_init__(self) -> None:
        check_whole("seeds", self.seeds, 1)
        check_choice("alike", self.alike, ("updates", "batches"))
        check_choice("split", self.split, ("validation", "test"))
        _ = self.speed
        for arm in self.only:
            check_choice("only", arm, self.arms)
        for measure, examples in self.measures.items():
            check_choice("measures", measure, STUDIED)
            check_whole(f"measures of {measure}", examples, 1)
        for name in ("arms", "measures"):
            if not getattr(self, name):
                raise InputError(f"{name} of {self.name} is empty; name one at least")
        for arm in self.arms:
            if re.fullmatch(r"[A-Za-z0-9_-]+", arm) is None:
                raise InputError(
                    f"arms has the name {arm!r}, which is also the name of a folder; use only letters, digits, _ and -"
                )
            try:
                self.run_of(arm, 0)
            except InputError as error:
                raise InputError(f"arm {arm}: {error}") from error

    @property
    def speed(self) -> Acceleration:
        """Acceleration of decoding when models are measured."""
        return Acceleration.of(self.parallel)

    def run_of(self, arm: str, seed: int) -> RLRecipe:
        """One run. Raises InputError where the settings of the arm do not fit."""
        settings = self.arms[arm]
        try:
            texts = {name: value if isinstance(value, str) else text_of(value) for name, value in settings.items()}
        except yaml.YAMLError as error:
            raise InputError(
                f"arms has settings of {arm!r} that are not plain values ({error}); give numbers, texts, lists"
            ) from error
        made = override(self.base, texts)
        own = {*settings, *(f"plan.{name}" for name in yaml.safe_load(texts.get("plan", "{}")))}
        if "plan.seed" in own:
            raise InputError("plan.seed belongs to base, as all arms have the same seeds; leave it out or set base.plan.seed")
        plan = replace(made.plan, seed=self.base.plan.seed + seed)
        if self.alike == "batches" and "plan.steps" not in own:
            batches = math.ceil(self.base.plan.steps / self.base.method.build().updates)
            plan = replace(plan, steps=batches * made.method.build().updates)
        return replace(made, plan=plan)

    def run(self, *, out: Path, resume: bool, start: Path | None) -> Path:
        """Train and evaluate the missing runs, then report; returns the model of the first seed of the first arm.

        Seeds are the outer loop, so that an interrupted study has compared all arms.
        """
        assert start is not None, "a study starts from a model"
        if (out / "start.json").exists() and not (resume or self.only):
            raise InputError(f"out folder {out} already holds a study; add --resume to continue it or choose another --out")
        self.check_runs({arm for arm, _, folder in self.runs(out) if not (folder / "results.json").exists()}, start)
        weights = weights_fingerprint(start, repr(known_checkpoint(start).preset))
        for arm, seed, folder in self.runs(out):
            begun = ["begun.json"] if read_log(folder / "log.jsonl") else []  # a rejected run has no log
            for name in ("results.json", *begun):
                self.same_as_before(folder / name, self.settings(weights, arm, seed))
        if not self.same_as_before(out / "start.json", self.settings(weights)):
            out.mkdir(parents=True, exist_ok=True)
            write_results(out / "start.json", {"found": self.judged(start, start), **self.settings(weights)})
        for arm, seed, folder in self.runs(out):
            if (folder / "results.json").exists() or arm not in (self.only or self.arms):
                continue
            folder.mkdir(parents=True, exist_ok=True)
            write_results(folder / "begun.json", self.settings(weights, arm, seed))
            model = self.run_of(arm, seed).run(out=folder, resume=(folder / "log.jsonl").exists(), start=start)
            write_results(folder / "results.json", {"found": self.judged(model, start), **self.settings(weights, arm, seed)})
        report(self, out)
        return out / next(iter(self.only or self.arms)) / "seed0" / "model"

    def check_runs(self, arms: Set[str], start: Path) -> None:
        """Raise InputError now for errors that would stop an arm hours later, and for two equal arms."""
        read: list[tuple[object, object]] = []
        seen: dict[str, str] = {}
        for arm in (arm for arm in self.only or self.arms if arm in arms):
            recipe = self.run_of(arm, 0)
            try:
                recipe.check()
                recipe.check_start(start)
                if (sources := (recipe.prompts, recipe.image_folders)) not in read:
                    recipe.read_prompts()
                    read.append(sources)
            except InputError as error:
                raise InputError(f"arm {arm}: {error}") from error
            if (twin := seen.setdefault(repr(what_counts(recipe)), arm)) != arm:
                raise InputError(f"arms {twin} and {arm} are the same run with these settings; list in only the arms to run")

    def runs(self, out: Path) -> Iterator[tuple[str, int, Path]]:
        """Arm, seed and folder of every run, in order."""
        for seed in range(self.seeds):
            for arm in self.arms:
                yield arm, seed, out / arm / f"seed{seed}"

    def settings(self, weights: str, arm: str | None = None, seed: int = 0) -> dict[str, Any]:
        """Settings that the results of a run, or of the start itself (no arm), depend on; ``weights`` are those of the start."""
        trained = None if arm is None else plain(self.run_of(arm, seed))
        judged = {"measures": plain(self.measures), "parallel": self.parallel, "split": self.split}
        return {"settings": {"start": weights, **judged, "run": trained}}

    def same_as_before(self, file: Path, now: Mapping[str, Any]) -> bool:
        """Whether results exist already. Raises InputError if they are of other settings, or damaged."""
        if not file.exists():
            return False
        try:
            before = json.loads(file.read_text())["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"results {file} are damaged; remove the file to make them again") from error
        if before != json.loads(json.dumps(now["settings"], default=str)):
            raise InputError(f"results {file} are of other settings; continue with those, or choose another --out")
        return True

    def judged(self, folder: Path, start: Path) -> dict[str, object]:
        """Means of the measures of a model, or of adapters of ``start``, on the split of the study.

        The examples of a measure are the same for all models, whichever other measures there are.
        """
        whole, adapter = (start, folder) if (folder / "adapter_config.json").is_file() else (folder, None)
        model = MMaDA.load(whole, adapter=adapter, device=self.base.device).with_defaults(text=TextSampling(**vars(self.speed)))
        found: dict[str, object] = {}
        order = [*MEASURED, *STUDIED]
        for name, examples in self.measures.items():
            measured = STUDIED[name][0](model, np.random.default_rng((order.index(name), 2**20)), examples, self.split)
            found |= {key: {"value": float(np.mean(values)), "n": len(values)} for key, values in measured.hits.items()}
        return found


def what_counts(recipe: RLRecipe) -> dict[str, Any]:
    """Settings that determine a run: two recipes with the same ones are the same run."""
    rewards = {task: dict(sorted(recipe.fitting_rewards(task).items())) for task in recipe.active}
    return {**plain(replace(recipe, rewards=rewards)), "method": recipe.method.build()}


def report(study: StudyRecipe, out: Path) -> None:
    """Write ``results.json`` and ``study.png``, and print a table of the finished runs.

    A measure that the start or a run of an arm lacks is left out for that arm, with a note under the table.
    """
    start = read_found(out / "start.json")
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    curves: dict[str, dict[str, list[list[float]]]] = {name: {} for name in rewarded(study)}
    for arm in study.arms:
        folders = [f for f in (out / arm / f"seed{s}" for s in range(study.seeds)) if (f / "results.json").exists()]
        if not folders:
            continue
        found = {file: read_found(file) for file in (folder / "results.json" for folder in folders)}
        logs = [read_log(folder / "log.jsonl") for folder in folders]
        for name, runs in curves.items():
            if name == "reward" or any(name in row for log in logs for row in log):
                runs[arm] = [curve(log, name) for log in logs]
        everyone = {out / "start.json": start, **found}
        for key in dict.fromkeys(key for one in everyone.values() for key in one):
            if lacking := [str(file) for file, one in everyone.items() if key not in one]:
                left_out.append(f"{key} is left out of arm {arm}, as it is not in {', '.join(lacking)}")
                continue
            spread = spread_of([one[key]["value"] for one in found.values()])
            rows.append({"arm": arm, "measure": key, "examples": start[key]["n"], "start": start[key]["value"], **spread})
    curves = {name: runs for name, runs in curves.items() if runs}
    settings = {"study": plain(study), "machine": machine()}
    write_results(out / "results.json", {"rows": rows, "curves": curves, **settings})
    plot_study(rows, curves, plotted_measures(rows), out / "study.png")
    Console().print(table(study.name, rows))
    for line in left_out:
        print(line)


def read_found(file: Path) -> dict[str, Any]:
    """The measures in a results file: name -> value and number of examples."""
    found: dict[str, Any] = json.loads(file.read_text())["found"]
    return found


def rewarded(study: StudyRecipe) -> list[str]:
    """Names of the reward curves: one for each task, as their scales differ, or one in all if there is a single task."""
    tasks = [task for arm in study.arms for task, count in study.run_of(arm, 0).tasks.items() if count]
    names = list(dict.fromkeys(tasks))
    return [f"reward_{task}" for task in names] if len(names) > 1 else ["reward"]


def plotted_measures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The measures for the plot: those that are not part of another, and that all arms have."""
    arms = {row["arm"] for row in rows}
    whole = [row["measure"] for row in rows if ":" not in row["measure"] or row["measure"].endswith(": answer")]
    return [name for name in dict.fromkeys(whole) if whole.count(name) == len(arms)]


def table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """A line for each measure of each arm: before, after, the lowest and highest seed."""
    made = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("arm", "measure", "before", "after", "low", "high", "seeds"):
        made.add_column(column)
    for row in rows:
        numbers = [f"{row[key]:.1%}" for key in ("start", "value", "low", "high")]
        made.add_row(row["arm"], row["measure"], *numbers, str(row["seeds"]))
    return made


MEASURED = {"arithmetic": 384, "thought questions": 576, "geneval": 48, "quick geneval": 48}
"""The nano versions of the three tasks in table 5 of the paper."""


def inner_updates(updates: int) -> RLRecipe:
    """Word problems only: 40 batches of 24 prompts, several updates per batch with one view each, rewards of the paper."""
    base = rl_math()
    plan = replace(base.plan, steps=40 * updates, optim=replace(base.plan.optim, lr=3e-5))
    sampling = replace(base.sampling, text=replace(base.sampling.text, temperature=1.0))
    method = MethodChoice(name="unigrpo", updates=updates)
    return replace(base, plan=plan, tasks={"math": 24}, rewards=PAPER_REWARDS, sampling=sampling, method=method)


def study_noising() -> StudyRecipe:
    """Masking plans for likelihood estimates (figures 3 and 4).

    UniGRPO's two schedules, d1's full mask, independent and high ratios, and the sampler's own states.
    """
    return StudyRecipe(
        name="study_noising",
        follows="cot",
        base=inner_updates(4),
        arms={
            "systematic": {"method.masking": "systematic"},
            "moments": {"method.masking": "sampled_steps"},
            "path_grpo": {"method.name": "path_grpo", "method.samples": "1"},
            "algorithm1": {"method.masking": "algorithm1"},
            "independent": {"method.masking": "iid"},
            "high_ratios": {"method.masking": "truncated"},
            "d1_full_mask": {"method.masking": "full"},
        },
        measures={"arithmetic": 384},
    )


def study_stage() -> StudyRecipe:
    """The effect of stage 3 (table 5): `rl` and UniGRPO, each with the rewards of `rl` and with the paper's.

    All have equal views and updates. Two arms set their own rewards, so ``base.rewards`` applies to the others only.
    """
    unigrpo = {"method.name": "unigrpo", "method.samples": "4", "method.updates": "1"}
    return StudyRecipe(
        name="study_stage",
        follows="cot",
        base=rl(),
        arms={
            "path_grpo_reasoning": {},
            "unigrpo_reasoning": unigrpo,
            "path_grpo": {"rewards": PAPER_REWARDS},
            "unigrpo": {"rewards": PAPER_REWARDS, **unigrpo},
        },
        measures=MEASURED,
    )


def published(method: str, updates: int) -> dict[str, str]:
    """A method with its default number of views, and its updates per batch."""
    return {"method.name": method, "method.updates": str(updates)}


def study_league() -> StudyRecipe:
    """Published methods and `path_grpo` on word problems at equal compute: equal rollouts, equal total number of views."""
    return StudyRecipe(
        name="study_league",
        follows="cot",
        base=inner_updates(12),
        arms={
            "unigrpo": published("unigrpo", 12),
            "path_grpo": published("path_grpo", 3),
            "diffu_grpo": published("diffu_grpo", 12),
            "mask_grpo": published("mask_grpo_text", 12),
            "coupled_grpo": published("coupled_grpo", 4),
            "spg": published("spg", 6),
            "espo": published("espo", 3),
        },
        measures={"arithmetic": 384},
        alike="batches",
    )


def study_tasks() -> StudyRecipe:
    """Effect of joint training: all tasks together, or one at a time (figure 6)."""
    return StudyRecipe(
        name="study_tasks",
        follows="cot",
        base=rl(),
        arms={
            "all": {"tasks": "{math: 12, vision: 12, image: 12}"},
            "math": {"tasks": "{math: 12}"},
            "vision": {"tasks": "{vision: 12}"},
            "image": {"tasks": "{image: 12}"},
        },
        measures=MEASURED,
    )
