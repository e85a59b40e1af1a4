"""Recipes `rl_math`, `rl_vision`, `rl_image` and `rl`: policy optimisation on rewards (stage 3).

A batch is some prompts of each task, G completions each, their rewards, and mu updates on them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from transformers import PreTrainedConfig

from mmada.errors import InputError, check_choice, check_is_folder, check_number, check_whole
from mmada.io.device import chosen_device, quick_in_bfloat16
from mmada.model.loading import read_config
from mmada.model.lora import Lora, add_lora, check_lora
from mmada.model.mmada import MMaDAModel
from mmada.pipeline import Engine, MMaDA
from mmada.pipeline.known_checkpoints import known_checkpoint
from mmada.pipeline.loading import ModelFolder
from mmada.pipeline.preset import Preset
from mmada.recipes.init_from import Start, read_start
from mmada.recipes.rl_prompts import Ask, Prompts, check_prompts, check_use, fitting_rewards
from mmada.recipes.sft import show, write_adapters, write_model
from mmada.rewards import RewardSum, reward_sum_of
from mmada.rewards.registry import MODELS, check_name
from mmada.rl import (
    AdaptersOff,
    Algorithm1,
    BlockMasks,
    CoupledCounts,
    CoupledMasks,
    FrozenCopy,
    FullMask,
    Iid,
    MaskingPlan,
    Policy,
    RandomMasks,
    RatioClip,
    Reference,
    SampledSteps,
    Systematic,
    Trajectory,
    Truncated,
    coupled_grpo,
    diffu_grpo,
    espo,
    mask_grpo,
    path_grpo,
    spg,
    unigrpo,
)
from mmada.rl.learner import PolicyLearner
from mmada.rl.rollout import ASK, Sampler, roll_out
from mmada.rl.rollout_store import RolloutStore
from mmada.rl.scoring import GroupLog, ScoredRollouts, score_groups
from mmada.training.log import read_log
from mmada.training.loop import Plan, train
from mmada.training.optim import Optim

__all__ = [
    "NOISES",
    "PAPER_REWARDS",
    "Method",
    "RLRecipe",
    "rl",
    "rl_image",
    "rl_math",
    "rl_vision",
]

NOISES: dict[str, MaskingPlan] = {
    "systematic": RandomMasks(Systematic()),
    "algorithm1": RandomMasks(Algorithm1()),
    "iid": RandomMasks(Iid()),
    "truncated": RandomMasks(Truncated()),
    "full": FullMask(),
    "coupled": CoupledMasks(),
    "counts": CoupledCounts(),
    "blocks": BlockMasks(),
    "trajectory": Trajectory(),
    "moments": SampledSteps(),
}
METHODS: dict[str, Callable[..., Policy]] = {
    "path_grpo": path_grpo,
    "unigrpo": partial(unigrpo, Systematic()),
    "diffu_grpo": diffu_grpo,
    "mask_grpo": mask_grpo,
    "mask_grpo_text": partial(mask_grpo, updates=12, fading=True),
    "coupled_grpo": coupled_grpo,
    "spg": spg,
    "espo": espo,
}


@dataclass(frozen=True, kw_only=True)
class Method:
    """A policy optimisation by ``name``, ours (path_grpo) or a published one. ``updates``: mu; None is the
    method's own number, as for ``clip`` and ``kl``. ``noise``: which places are masked
    again, in place of the method's own plan; of UniGRPO's two, "systematic" is taken. ``samples``: views of a completion an
    update, for plans that draw some (espo: pairs of views); None is the plan's own number, mostly one where ``noise`` names it.
    """

    name: str = "path_grpo"
    noise: str | None = None
    updates: int | None = None
    samples: int | None = None
    clip: float | None = None
    kl: float | None = None

    def __post_init__(self) -> None:
        check_choice("method.name", self.name, METHODS)
        if self.noise is not None:
            check_choice("method.noise", self.noise, NOISES)
        if self.updates is not None:
            check_whole("method.updates", self.updates, 1)
        for name in ("clip", "kl"):
            if (value := getattr(self, name)) is not None:
                check_number(f"method.{name}", value)
        self.policy()  # its parts check each other

    def policy(self) -> Policy:
        """The combination of parts."""
        made = METHODS[self.name]() if self.updates is None else METHODS[self.name](updates=self.updates)
        if self.noise is not None:
            made = replace(made, noise=NOISES[self.noise])
        if self.samples is not None:
            made = replace(made, noise=with_samples(made.noise, self.samples))
        if self.clip is not None:
            made = replace(made, clip=RatioClip(self.clip, self.clip))
        return made if self.kl is None else replace(made, kl=replace(made.kl, weight=self.kl))


MOST_VIEWS = 64
"""Most views of a completion an update."""
MOST = 4096
"""Most completions of a prompt, and prompts of a task, in a batch; more is a slip of the pen."""


def with_samples(noise: MaskingPlan, samples: int) -> MaskingPlan:
    """The plan with so many views an update. Raises InputError where it has no such choice."""
    check_whole("method.samples", samples, 1, MOST_VIEWS)
    if isinstance(noise, BlockMasks | CoupledCounts | SampledSteps | RandomMasks):
        return replace(noise, samples=samples)
    raise InputError(f"method.samples {samples} has no meaning for {type(noise).__name__}, whose views are fixed; leave it out")


@dataclass(frozen=True, kw_only=True)
class RLRecipe:
    """A stage of policy optimisation.

    ``tasks``: prompts a batch of each task. ``prompts``: where those of a task come from, in place of the nano world
    (`mmada.recipes.rl_prompts`), and ``pictures`` folders that their pictures are looked for in. ``rewards``: for each task the
    weights of its rewards, by name or as "package.module:function"; "reasoning" is left out where prompts are from a file.
    ``group``: G. ``timeout``: seconds that a reward may take for a batch of completions; ``judge``: whether rewards run in a
    "thread" or a "process" each; ``reward_models``: where "clip" and "image_reward" are read from, in place of the released
    ones, and ``reward_device`` where they run. ``half``: rollouts, their pictures too, and updates compute in bfloat16, weights
    stay float32; "auto" is where the device is faster so. ``held``: most rows whose activations are held at once; fewer take
    less memory.
    """

    name: str
    follows: str
    plan: Plan
    tasks: Mapping[str, int]
    rewards: Mapping[str, Mapping[str, float]]
    prompts: Mapping[str, str] = field(default_factory=dict)
    pictures: tuple[str, ...] = ()
    group: int = 8
    method: Method = field(default_factory=Method)
    sampler: Sampler = field(default_factory=Sampler)
    timeout: float = 60.0
    judge: Literal["thread", "process"] = "thread"
    reward_models: Mapping[str, str] = field(default_factory=dict)
    reward_device: str = "cpu"
    lora: Lora = field(default_factory=Lora)
    half: bool | Literal["auto"] = False
    held: int = 128
    device: str = "auto"

    def __post_init__(self) -> None:
        for task, named in self.rewards.items():
            check_choice("rewards", task, ASK)
            for name in named:
                check_name(name)
        for task, count in self.tasks.items():
            check_choice("tasks", task, ASK)
            check_whole(f"tasks of {task}", count, 0, MOST)
            if count and not any(self.rewards.get(task, {}).values()):
                raise InputError(f"rewards give nothing for {task}, which tasks has {count} prompts of; give one a weight")
        if not any(self.tasks.values()):
            raise InputError(f"tasks of {self.name} hold no prompt; give at least one task some")
        check_prompts(self.prompts)
        check_whole("group", self.group, 2, MOST)
        check_whole("held", self.held, 1)
        check_choice("judge", self.judge, ("thread", "process"))
        if not isinstance(self.half, bool):
            check_choice("half", self.half, ("auto",))
        for name in self.reward_models:
            check_choice("reward_models", name, MODELS)

    def run(self, *, out: Path, resume: bool, start: Path | None) -> Path:
        """Train in ``out`` from the model folder ``start``; returns the folder of the trained model."""
        assert start is not None, "a stage starts from a model"
        self.check()
        self.check_start(start)
        prompts = self.read_prompts()
        for task in (task for task in self.prompts if "reasoning" in self.rewards[task]):
            logging.getLogger(__name__).warning("rewards of %s: reasoning is left out, as its prompts come from a file", task)
        torch.manual_seed(self.plan.seed)
        with ExitStack() as stack:
            judges = {task: stack.enter_context(self.new_judge(task)) for task, count in self.tasks.items() if count}
            for judge in judges.values():
                judge.prepare()
            learner = self.learner(judges, prompts, out=out, resume=resume, start=start)
            model = train(learner, self.plan, name=self.name, out=out, resume=resume)
        if not any("reward" in row for row in read_log(out / "log.jsonl")):
            logging.getLogger(__name__).warning(
                "no completion got a reward, so nothing was learned; see %s", out / "groups.jsonl"
            )
        return model

    def check(self) -> None:
        """Raises InputError for what can be seen to be wrong before a model or prompts are read."""
        check_use(self.prompts, self.tasks, self.rewards)
        for folder in self.pictures:
            check_is_folder("pictures", Path(folder))
        for task, count in self.tasks.items():
            if count:
                self.new_judge(task).close()

    def check_start(self, start: Path) -> None:
        """Raises InputError for what can be seen to be wrong with a start, or with these settings for it, before it is read."""
        if not (start / "config.json").is_file():
            raise InputError(f"start {start} holds no trained model, only an image tokenizer; give the model to reinforce")
        config, preset = read_config(start), known_checkpoint(start).preset
        if self.lora.rank:
            check_lora(config, self.lora)
        if any(count for task, count in self.tasks.items() if task != "image"):
            self.sampler.check_fits(preset, longest(preset, config))

    def read_prompts(self) -> Prompts:
        """Those that come from files. Raises InputError where one is missing or damaged."""
        return Prompts.of(self.prompts, [Path(folder) for folder in self.pictures])

    def learner(
        self, judges: Mapping[str, RewardSum], prompts: Prompts, *, out: Path, resume: bool, start: Path
    ) -> PolicyLearner:
        """What is trained, how, and on which batches."""
        begun = read_start(start)
        device, policy = chosen_device(self.device), self.method.policy()
        half = quick_in_bfloat16(device) if self.half == "auto" else self.half
        model = at_work(begun, device, self.lora)
        asking = {task: prompts.asking(task, model, self.sampler.length) for task, count in self.tasks.items() if count}
        wants_reference = policy.kl.weight > 0 and policy.kl.target == "reference"
        network: MMaDAModel = model.engine.parts.model  # type: ignore[assignment]
        reference: Reference | None = None
        if wants_reference:
            reference = AdaptersOff(network) if self.lora.rank else FrozenCopy(network)
        return PolicyLearner(
            network,
            model.engine.parts.vocabulary,
            policy,
            partial(self.judged, model, asking, judges, GroupLog(out / "groups.jsonl")),
            group=self.group,
            seed=self.plan.seed,
            reference=reference,
            device=device,
            keeper=self.keeper(out, start, resume, half=half),
            first_needed=lambda step: step // self.plan.save_every * self.plan.save_every,
            show=(lambda folder: show(start, folder)) if self.lora.rank else show,
            write=partial(self.write, begun),
            half=half,
            held=self.held,
        )

    def new_judge(self, task: str) -> RewardSum:
        """The judge of a task. Raises InputError where its rewards or their device are not to be had."""
        try:
            device = chosen_device(self.reward_device)
        except InputError as error:
            raise InputError(f"reward_{error}") from error
        return reward_sum_of(
            fitting_rewards(self.rewards, self.prompts)[task],
            timeout=self.timeout,
            where=self.judge,
            models=self.reward_models,
            device=str(device),
        )

    def keeper(self, out: Path, start: Path, resume: bool, *, half: bool) -> RolloutStore:
        """Where batches are kept."""
        settings = (
            self.tasks,
            self.prompts,
            self.pictures,
            self.rewards,
            self.reward_models,
            self.group,
            self.method,
            self.sampler,
            (half, self.held if half else None),
            self.plan.seed,
        )
        course = (self.plan.steps, self.plan.optim, self.lora, str(start.resolve()))
        fresh = not resume and not (out / "checkpoint.safetensors").exists()
        return RolloutStore(out / "rollouts", settings=repr(settings), course=repr(course), fresh=fresh)

    def judged(
        self, model: MMaDA, asking: Mapping[str, Ask], judges: Mapping[str, RewardSum], log: GroupLog, number: int
    ) -> ScoredRollouts:
        """Batch ``number``: prompts from (seed, number), completions by the weights as they are, rewards."""
        rng = np.random.default_rng((self.plan.seed, 6, number))
        tasks = [task for task, count in self.tasks.items() for _ in range(count)]
        asked = [asking[task](rng) for task in tasks]
        began = time.perf_counter()
        rollouts = roll_out(model, asked, group=self.group, seed=int(rng.integers(2**62)), sampler=self.sampler)
        rolled = time.perf_counter()
        found = score_groups(rollouts, tasks, judges, group=self.group)
        log.write(number, found.groups)
        spent = {"seconds_rollout": rolled - began, "seconds_reward": time.perf_counter() - rolled}
        return replace(found, statistics=found.statistics | spent)

    def write(self, begun: Start, trained: MMaDAModel, folder: Path) -> None:
        """The model as it is shipped, with the settings that it began with."""
        if self.lora.rank:
            write_adapters(trained, folder)
            return
        assert begun.text is not None, "checked by run"
        write_model(trained, begun.text, begun, folder, begun.preset)


def at_work(begun: Start, device: torch.device, lora: Lora) -> MMaDA:
    """The model to train, inside the pipeline that rolls it out: both have the same weights."""
    assert begun.model is not None, "checked by run"
    assert begun.text is not None, "checked by run"
    assert begun.preset is not None, "checked by run"
    network = begun.model
    if lora.rank:
        add_lora(network, lora)
    torch.nn.Module.to(network, device)
    if device.type == "cpu":
        network.set_attn_implementation("eager")  # forward and backward take a third less than with the fused one there
    torch.nn.Module.eval(network)  # without LoRA's dropout, so that the ratio begins at 1
    length = longest(begun.preset, network.config)
    parts = ModelFolder(network, begun.text, begun.image, begun.vocabulary(begun.text), begun.preset, length)
    return MMaDA(Engine(parts, device))


def longest(preset: Preset, config: PreTrainedConfig) -> int:
    """Most places of a canvas."""
    return min(preset.max_length, int(config.max_position_embeddings))


GENTLE = Optim(lr=5e-5, weight_decay=0.0, warmup=10, decay=1.0, final=0.1)
PAPER = {"correctness": 2.0, "format": 0.5}
TEXT = {**PAPER, "reasoning": 1.0}  # the answer can stay right while the reasoning gets worse
DRAWN = {"detector": 1.0}
PAPER_REWARDS = {"math": PAPER, "vision": PAPER, "image": DRAWN}
"""The paper's for texts; its two for pictures are models that others trained."""


def rl_math() -> RLRecipe:
    """Policy optimisation of worded arithmetic with reasoning: correctness, format and the reasoning itself."""
    return RLRecipe(
        name="rl_math",
        follows="cot",
        plan=Plan(steps=100, seed=11, optim=GENTLE, average=0.98, save_every=20, sample_every=100),
        tasks={"math": 40},
        sampler=Sampler(temperature=1.3, guidance=0.0, image_steps=4, parallel="threshold=0.9"),
        half="auto",
        rewards={"math": TEXT, "vision": TEXT, "image": DRAWN},
    )


def rl_vision() -> RLRecipe:
    """Policy optimisation of questions about pictures with reasoning: correctness, format and the reasoning itself."""
    return replace(rl_math(), name="rl_vision", tasks={"vision": 12})


def rl_image() -> RLRecipe:
    """Policy optimisation of drawing, on what the detector finds of the caption; the paper has "clip" and "image_reward"."""
    return replace(rl_math(), name="rl_image", tasks={"image": 16})


def rl() -> RLRecipe:
    """Stage 3: policy optimisation of all three tasks at once."""
    base = rl_math()
    plan = replace(base.plan, steps=140, optim=replace(base.plan.optim, lr=8e-5))
    return replace(base, name="rl", plan=plan, tasks={"math": 40, "vision": 10, "image": 4})
