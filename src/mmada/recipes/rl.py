"""The recipe of policy optimisation on rewards (stage 3).

A batch is some prompts of each task, G completions of each, their rewards, and mu updates on them.
"""

from __future__ import annotations

import difflib
import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from mmada.errors import InputError, check_choice, check_is_folder, check_whole
from mmada.io.device import bf16_is_fast, chosen_device
from mmada.io.isolation import ISOLATION, Isolation
from mmada.io.jsonl import read_log
from mmada.model.loading import read_sizes
from mmada.model.lora import Lora, add_lora, check_lora
from mmada.model.mmada import MMaDAModel
from mmada.pipeline import Engine, MMaDA
from mmada.pipeline.known_checkpoints import known_checkpoint
from mmada.pipeline.loading import ModelFolder
from mmada.pipeline.preset import Preset
from mmada.recipes.init_from import Start, read_start
from mmada.recipes.model_folder import sample_images, write_adapters, write_model
from mmada.recipes.rl_methods import MethodChoice
from mmada.recipes.rl_prompts import DrawPrompt, PromptPool, check_prompts, data_prompts, read_prompts, tasks_of
from mmada.rewards import Reward, RewardSum, WeightedReward, misfit, reward_of, rewards
from mmada.rewards.registry import check_name, is_model
from mmada.rewards.reward import is_optional
from mmada.rl import AdaptersOff, FrozenCopy, Reference
from mmada.rl.learner import PolicyLearner
from mmada.rl.rollout import RolloutSampling, roll_out
from mmada.rl.rollout_store import RolloutStore
from mmada.rl.scoring import GroupLog, ScoredRollouts, score_groups
from mmada.training.loop import Plan, train

__all__ = ["RLRecipe"]

MAX_GROUP = 4096
"""Maximum completions of a prompt, and prompts of a task, in a batch; larger values are almost certainly typos."""


@dataclass(frozen=True, kw_only=True)
class RLRecipe:
    """A stage of policy optimisation.

    ``data_file``: a YAML file of data sets, as ``--data`` gives it: its sets of use prompts are the tasks, by their weights as
    many prompts of a batch as the recipe's own tasks have, with the recipe's rewards of their kind unless ``rewards`` names the
    set. ``tasks``: number of prompts of each task in a batch; task names are free. ``prompts``: the source of the prompts of each
    task (`mmada.recipes.rl_prompts`), and ``image_folders``, which are searched for their pictures. ``rewards``: for each task
    the weights of its rewards, by name or as "package.module:function". ``group_size``: G, completions of a prompt. ``timeout``:
    seconds that a reward may take for a batch of completions; ``isolation``: whether each reward runs in a "thread" or in a
    "process" of its own; ``reward_models``: the source of a reward that is a model, in place of the released one, and
    ``reward_device`` their device. ``bf16``: rollouts and updates compute in bfloat16 while weights stay float32; "auto": if the
    device is faster with it. ``micro_batch``: maximum rows whose activations are in memory at once. ``sample_prompts``: pictures
    drawn whenever samples are due.
    """

    name: str
    follows: str
    plan: Plan
    tasks: Mapping[str, int]
    prompts: Mapping[str, str]
    rewards: Mapping[str, Mapping[str, float]]
    data_file: str = ""
    image_folders: tuple[str, ...] = ()
    group_size: int = 8
    method: MethodChoice = field(default_factory=MethodChoice)
    sampling: RolloutSampling = field(default_factory=RolloutSampling)
    timeout: float = 60.0
    isolation: Isolation = "thread"
    reward_models: Mapping[str, str] = field(default_factory=dict)
    reward_device: str = "cpu"
    lora: Lora = field(default_factory=Lora)
    bf16: bool | Literal["auto"] = False
    micro_batch: int = 128
    sample_prompts: tuple[str, ...] = ()
    device: str = "auto"

    def __post_init__(self) -> None:
        for named in self.rewards.values():
            for name in named:
                check_name(name)
        for name, given in (("rewards", self.rewards), ("prompts", self.prompts)):
            check_spelling(name, given, self.tasks)
        for task, count in self.tasks.items():
            check_whole(f"tasks of {task}", count, 0, MAX_GROUP)
            if count and not any(self.rewards.get(task, {}).values()):
                raise InputError(f"rewards have none for {task!r}, which has {count} prompts a batch; give it one with a weight")
        if not any(self.tasks.values()):
            raise InputError(f"tasks of {self.name} hold no prompt; give at least one task some")
        check_prompts(self.prompts, self.tasks)
        check_whole("group_size", self.group_size, 2, MAX_GROUP)
        check_whole("micro_batch", self.micro_batch, 1)
        check_choice("isolation", self.isolation, ISOLATION)
        if not isinstance(self.bf16, bool):
            check_choice("bf16", self.bf16, ("auto",))
        used = {name for task in self.active for name in self.rewards[task]}
        for name in self.reward_models:
            if not is_model(name):
                raise InputError(f"reward_models has {name!r}, which is not a reward with a model; choose clip or image_reward")
            if name not in used:
                raise InputError(f"reward_models has {name!r}, which no task has as a reward; add the reward or leave it out")

    @property
    def active(self) -> dict[str, int]:
        """The tasks that have prompts in a batch."""
        return {task: count for task, count in self.tasks.items() if count}

    def run(self, *, out: Path, resume: bool, start: Path | None) -> Path:
        """Train in ``out`` from the model folder ``start``; returns the folder of the trained model."""
        assert start is not None, "a stage starts from a model"
        if self.data_file:
            return self.with_data().run(out=out, resume=resume, start=start)
        self.check()
        self.check_start(start)
        pools = self.read_prompts()
        for task in self.active:
            for name in [name for name in self.rewards[task] if name not in self.fitting_rewards(task)]:
                logging.getLogger(__name__).warning("rewards of %s: %s is left out, as it cannot judge these prompts", task, name)
        torch.manual_seed(self.plan.seed)
        with ExitStack() as stack:
            rewards = {task: stack.enter_context(self.reward_of_task(task)) for task in self.active}
            for reward in rewards.values():
                reward.prepare()
            learner = self.learner(rewards, pools, out=out, resume=resume, start=start)
            model = train(learner, self.plan, name=self.name, out=out, resume=resume)
        if not any("reward" in row for row in read_log(out / "log.jsonl")):
            logging.getLogger(__name__).warning(
                "no completion got a reward, so nothing was learned; see %s", out / "groups.jsonl"
            )
        return model

    def with_data(self) -> RLRecipe:
        """The recipe with the sets of ``data_file`` as its tasks. Raises InputError for a set that has no rewards."""
        found = data_prompts(self.data_file, sum(self.tasks.values()))
        rewards: dict[str, Mapping[str, float]] = {}
        for name, one in found.items():
            given = self.rewards.get(name) or next((self.rewards[kind] for kind in one.kinds if kind in self.rewards), None)
            if given is None:
                raise InputError(
                    f"rewards have none for the set {name!r} of {self.data_file}; give some: rewards={{{name}: ...}}"
                )
            rewards[name] = given
        tasks, prompts = {n: one.prompts for n, one in found.items()}, {n: one.source for n, one in found.items()}
        return replace(self, data_file="", tasks=tasks, prompts=prompts, rewards=rewards)

    def check(self) -> None:
        """Raise InputError for settings that are invalid for every start, before a model or prompts are read."""
        chosen_device(self.device)
        for folder in self.image_folders:
            check_is_folder("image_folders", Path(folder))
        for task in self.active:
            self.reward_of_task(task).close()

    def check_start(self, start: Path) -> None:
        """Raise InputError for an invalid start, or settings that do not fit it, before it is read."""
        if not (start / "config.json").is_file():
            raise InputError(f"start {start} holds no trained model, only an image tokenizer; give the model to train further")
        config, preset = read_sizes(start), known_checkpoint(start).preset
        if self.lora.rank:
            check_lora(config, self.lora)
        if any(task.output == "text" for name in self.active for task in tasks_of(name, self.prompts[name])):
            self.sampling.check_fits(preset, max_length(preset, config))

    def read_prompts(self) -> dict[str, PromptPool]:
        """The prompts of the tasks. Raises InputError if a source is missing or damaged."""
        return read_prompts({task: self.prompts[task] for task in self.active}, [Path(folder) for folder in self.image_folders])

    def fitting_rewards(self, task: str) -> dict[str, float]:
        """The rewards of a task with their weights, without optional ones that cannot judge its prompts.

        Raises InputError for a required one that cannot judge them, or if none is left.
        """
        found: dict[str, float] = {}
        reasons: list[str] = []
        for name, weight in self.rewards[task].items():
            reward = self.new_reward(name)
            reason = next((why for kind in tasks_of(task, self.prompts[task]) if (why := misfit(reward, kind))), "")
            if reason and not is_optional(reward):
                raise InputError(
                    f"rewards of {task} have {name!r}, which {reason}; take {self.others(task)} or other prompts than "
                    f"{self.prompts[task]}"
                )
            if reason:
                reasons.append(f"{name!r}, which {reason}")
            else:
                found[name] = weight
        if not any(found.values()):
            raise InputError(f"rewards of {task} have only {', '.join(reasons)}; take {self.others(task)}")
        return found

    def others(self, task: str) -> str:
        """Names of the rewards that fit a task, for a message."""
        tasks = tasks_of(task, self.prompts[task])
        fit = [name for name, made in rewards().items() if not any(misfit(made(), one) for one in tasks)]
        return " or ".join(fit)

    def new_reward(self, name: str) -> Reward:
        """One reward. Raises InputError if it, its model or its device is not available."""
        try:
            device = chosen_device(self.reward_device)
        except InputError as error:
            raise InputError(f"reward_{error}") from error
        return reward_of(name, self.reward_models, str(device))

    def reward_of_task(self, task: str) -> RewardSum:
        """The weighted sum of the rewards of a task. Raises InputError if one is not available or does not fit."""
        weights = self.fitting_rewards(task)
        options: dict[str, Any] = {"timeout": self.timeout, "isolation": self.isolation}
        return RewardSum([WeightedReward(name, self.new_reward(name), weight, **options) for name, weight in weights.items()])

    def learner(
        self, rewards: Mapping[str, RewardSum], pools: Mapping[str, PromptPool], *, out: Path, resume: bool, start: Path
    ) -> PolicyLearner:
        """The learner: the model, the method, and a function that makes batches."""
        begun = read_start(start)
        device, method = chosen_device(self.device), self.method.build()
        bf16 = bf16_is_fast(device) if self.bf16 == "auto" else self.bf16
        model = with_network(begun, device, self.lora)
        drawing = {task: pools[task].drawing(task, model, self.sampling.text.length) for task in self.active}
        needs_reference = method.kl.weight > 0 and method.kl.target == "reference"
        network: MMaDAModel = model.engine.parts.model  # type: ignore[assignment]
        reference: Reference | None = None
        if needs_reference:
            reference = AdaptersOff(network) if self.lora.rank else FrozenCopy(network)
        return PolicyLearner(
            network,
            model.engine.parts.vocabulary,
            method,
            partial(self.scored, model, drawing, rewards, GroupLog(out / "groups.jsonl")),
            group=self.group_size,
            seed=self.plan.seed,
            reference=reference,
            device=device,
            store=self.store(out, start, resume, bf16=bf16),
            first_needed=lambda step: step // self.plan.save_every * self.plan.save_every,
            show=partial(self.samples, start),
            write=partial(self.write, begun, start),
            bf16=bf16,
            micro_batch=self.micro_batch,
        )

    def store(self, out: Path, start: Path, resume: bool, *, bf16: bool) -> RolloutStore:
        """The store of batches."""
        settings = (
            self.tasks,
            self.prompts,
            self.image_folders,
            self.rewards,
            self.reward_models,
            self.group_size,
            self.method,
            self.sampling,
            (bf16, self.micro_batch if bf16 else None),
            self.plan.seed,
        )
        training_config = (self.plan.steps, self.plan.optim, self.lora, str(start.resolve()))
        fresh = not resume and not (out / "checkpoint.safetensors").exists()
        return RolloutStore(out / "rollouts", settings=repr(settings), training_config=repr(training_config), fresh=fresh)

    def scored(
        self,
        model: MMaDA,
        drawing: Mapping[str, DrawPrompt],
        rewards: Mapping[str, RewardSum],
        log: GroupLog,
        number: int,
    ) -> ScoredRollouts:
        """Batch ``number``: prompts drawn from (seed, number), completions by the current weights, rewards."""
        rng = np.random.default_rng((self.plan.seed, 6, number))
        tasks = [task for task, count in self.tasks.items() for _ in range(count)]
        prompts = [drawing[task](rng) for task in tasks]
        began = time.perf_counter()
        seed = int(rng.integers(2**62))
        rollouts = roll_out(model, prompts, group_size=self.group_size, seed=seed, sampling=self.sampling)
        rolled = time.perf_counter()
        found = score_groups(rollouts, tasks, rewards, group=self.group_size)
        log.write(number, found.groups)
        spent = {"seconds_rollout": rolled - began, "seconds_reward": time.perf_counter() - rolled}
        return replace(found, statistics=found.statistics | spent)

    def samples(self, start: Path, folder: Path) -> list[Image.Image]:
        """Sample pictures of the written model."""
        if self.lora.rank:
            return sample_images(start, self.sample_prompts, adapter=folder)
        return sample_images(folder, self.sample_prompts)

    def write(self, begun: Start, start: Path, trained: MMaDAModel, folder: Path) -> None:
        """Write the trained model, with the preset of its start."""
        if self.lora.rank:
            write_adapters(trained, folder, start)
            return
        assert begun.text is not None, "checked by run"
        assert begun.preset is not None, "checked by run"
        write_model(trained, begun.text, begun, folder, begun.preset)


def check_spelling(name: str, given: Mapping[str, object], tasks: Mapping[str, int]) -> None:
    """Raise InputError for the name of a task that looks like a typo; other unused names are defaults of the recipe."""
    for task in given:
        if task not in tasks and (near := difflib.get_close_matches(task, tasks, 1, cutoff=0.8)):
            raise InputError(f"{name} are given for {task!r}, which is not in tasks; did you mean {near[0]!r}?")


def with_network(begun: Start, device: torch.device, lora: Lora) -> MMaDA:
    """The network to train inside the pipeline that samples rollouts: both share the weights."""
    assert begun.model is not None, "checked by run"
    assert begun.text is not None, "checked by run"
    assert begun.preset is not None, "checked by run"
    network = begun.model
    if lora.rank:
        add_lora(network, lora)
    torch.nn.Module.to(network, device)
    if device.type == "cpu":
        network.set_attn_implementation("eager")  # a third faster on CPUs than the fused kernel
    torch.nn.Module.eval(network)  # no LoRA dropout, so that the ratio starts at 1
    length = max_length(begun.preset, network.config)
    parts = ModelFolder(network, begun.text, begun.image, begun.vocabulary(begun.text), begun.preset, length)
    return MMaDA(Engine(parts, device))


def max_length(preset: Preset, config: Any) -> int:
    """Maximum length of a canvas."""
    return min(preset.max_length, int(config.max_position_embeddings))
