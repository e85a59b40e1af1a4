"""The training loop, which runs the learner of a recipe by a plan.

Batches and masks are functions of (seed, step), so a run that is killed at any moment and resumed from its last checkpoint has
the same losses as an uninterrupted one.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor, nn

from mmada.errors import InputError, check_instance, check_number, check_whole, make_folder, quote
from mmada.io.atomic import atomic_folder, remove_leftovers
from mmada.io.documents import read_yaml
from mmada.io.lock import folder_lock
from mmada.training.checkpoint import check_finite, load_checkpoint, save_checkpoint
from mmada.training.log import VALIDATION, RunLog, read_log
from mmada.training.optim import MAX_UPDATES, Optim, build_optimisers, learning_rate_scale
from mmada.training.trackers import Trackers, check_trackers

__all__ = ["CHECKPOINT", "Course", "Learner", "Plan", "Validated", "check_new", "train"]

CHECKPOINT = "checkpoint.safetensors"
"""Name of the checkpoint in a run folder."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Length of a run, its optimisers, and how often it saves.

    ``average``: decay of the exponential moving average of the weights, which are saved as the model; 0: none is kept, the
    weights themselves are saved. ``save_every``: steps between checkpoints; ``sample_every``: steps between saved models with
    sample images. ``validate_every``: steps between validations, where the learner has a validation split; 0: none, or as the
    recipe chooses. ``patience``: stop after so many validations in turn that are not better than the best, whose model is kept;
    0: never. ``trackers``: "tensorboard", "wandb", "trackio" or "mlflow", beside the JSONL log. ``threads``: CPU threads; 0: the
    default of torch.
    """

    fewest: ClassVar[int] = 1
    steps: int
    seed: int = 0
    optim: Optim = field(default_factory=Optim)
    average: float = 0.995
    save_every: int = 250
    sample_every: int = 1000
    validate_every: int = 0
    patience: int = 0
    trackers: tuple[str, ...] = ()
    threads: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "save_every", "sample_every"):
            check_whole(f"plan.{name}", getattr(self, name), self.fewest, MAX_UPDATES)
        for name in ("validate_every", "patience"):
            check_whole(f"plan.{name}", getattr(self, name), 0, MAX_UPDATES)
        check_trackers(self.trackers)
        check_whole("plan.threads", self.threads, 0, 2**16)
        check_whole("plan.seed", self.seed, 0, 2**40)
        check_instance("plan.optim", self.optim, Optim, "settings of the optimisers, such as {lr: 0.001}")
        check_number("plan.average", self.average, 0, 0.999999)


class Learner(Protocol):
    """The interface of a trained model: a module, the losses of each step, and saving."""

    module: nn.Module

    def losses(self, step: int) -> Iterator[dict[str, Tensor]]:
        """Yield the losses of the batch of ``step``, at once or in parts that add up to them; their sum is minimised.

        The backward pass of a part runs before the next part is computed, so only one part's activations are in memory. Must
        depend on (seed, step) and the weights alone.
        """
        ...

    @property
    def examples(self) -> int:
        """Number of examples in the last batch."""
        ...

    @property
    def statistics(self) -> Mapping[str, float]:
        """Further statistics of the last batch, for the log."""
        ...

    def samples(self, folder: Path) -> Sequence[Image.Image]:
        """Make a few sample images with the model saved in ``folder``."""
        ...

    def save(self, folder: Path) -> None:
        """Write the final model into an empty folder."""
        ...


@runtime_checkable
class Validated(Protocol):
    """A learner with a validation split."""

    def validate(self) -> Mapping[str, float]:
        """The losses of the split; ``loss`` is that of all of it. Nothing in them is random. Empty if there is none."""
        ...


def averaged_decay(step: int, decay: float) -> float:
    """Decay of the moving average: smaller at the start, so that the initial weights are forgotten quickly."""
    return min(decay, (1 + step) / (10 + step))


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def update_average(average: dict[str, Tensor], module: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * weights."""
    if not average:
        return
    names = list(average)
    state = trained(module)
    torch._foreach_lerp_([average[n] for n in names], [state[n].detach() for n in names], 1 - decay)


class Averaged:
    """Context manager that swaps the averaged weights, if any, into the module, and restores its own on exit."""

    def __init__(self, module: nn.Module, average: dict[str, Tensor]) -> None:
        self.module, self.average = module, average
        self.own: dict[str, Tensor] = {}

    def swap(self, source: dict[str, Tensor]) -> None:
        """Copy weights in."""
        with torch.no_grad():
            parameters = trained(self.module)
            for name, value in source.items():
                parameters[name].copy_(value)

    def __enter__(self) -> None:
        self.own = {n: p.detach().clone() for n, p in trained(self.module).items() if n in self.average}
        self.swap(self.average)

    def __exit__(self, *_: object) -> None:
        self.swap(self.own)


def train(learner: Learner, plan: Plan, *, name: str, out: Path, resume: bool = False) -> Path:
    """Run the plan in folder ``out``; returns the folder of the final model, ``out/model``.

    The folder is locked while the run lasts. Raises InputError if it is in use; if it holds a run and ``resume`` is not set, or
    holds none and it is set; for a damaged checkpoint or log; and if the weights to save are not finite.
    """
    if resume and not (out / "log.jsonl").exists():
        raise InputError(f"out folder {quote(out)} holds no run to resume; leave --resume out to start one")
    make_folder("out", out)
    with folder_lock(out):
        check_new(out, resume=resume)
        remove_leftovers(out)
        if plan.threads:
            torch.set_num_threads(plan.threads)
        return run_steps(learner, plan, name, out)


def check_new(out: Path, *, resume: bool) -> None:
    """Raise InputError where ``out`` already holds a run, unless it is resumed."""
    if os.path.lexists(out / CHECKPOINT) and not resume:
        raise InputError(f"out folder {quote(out)} already holds a run; add --resume to continue it or choose another --out")


def run_steps(learner: Learner, plan: Plan, name: str, out: Path) -> Path:
    """Run the steps after the last checkpoint."""
    module, checkpoint = learner.module, out / CHECKPOINT
    optimisers = build_optimisers(module, plan.optim)
    average = {n: p.detach().clone() for n, p in trained(module).items()} if plan.average else {}
    start = load_checkpoint(checkpoint, module, average, optimisers, plan.steps) if os.path.lexists(checkpoint) else 0
    course = Course(out, start, plan.patience)
    with RunLog(out, name, plan.steps, start) as log, Trackers(plan.trackers, out, out.name, settings_of(out)) as trackers:
        for step in range(start, plan.steps if not course.over else start):
            row = one_step(learner, plan, step, optimisers, average)
            log.step(row)
            trackers.log({key: value for key, value in row.items() if key != "step"}, step)
            last = step + 1 == plan.steps
            if plan.validate_every and (last or (step + 1) % plan.validate_every == 0):
                with Averaged(module, average):
                    found = dict(learner.validate()) if isinstance(learner, Validated) else {}
                    if found:
                        log.validation(step + 1, found)
                        trackers.log({f"validation/{key}": value for key, value in found.items()}, step)
                        if course.add(step + 1, found["loss"]) and plan.patience:
                            check_finite(module, average, step)
                            save(learner, out)
                last = last or course.over
            sample_due = last or (step + 1) % plan.sample_every == 0
            save_due = last or (step + 1) % plan.save_every == 0
            if sample_due or save_due:
                check_finite(module, average, step)
            if sample_due and not (plan.patience and course.best):
                # before the checkpoint: a run that is killed in between writes its last model when resumed
                with Averaged(module, average):
                    save(learner, out)
            if save_due:
                log.sync()
                save_checkpoint(checkpoint, step + 1, module, average, optimisers)
            if sample_due:
                with Averaged(module, average):
                    show(learner, log, trackers, out, step)
            if course.over:
                print(f"stopped at step {step + 1}: the validation loss was lowest ({course.least:.4f}) at step {course.best}")
                break
    return out / "model"


def save(learner: Learner, out: Path) -> None:
    """Write the model, in place of the one before."""
    with atomic_folder(out / "model", replace=True) as folder:
        learner.save(folder)


def show(learner: Learner, log: RunLog, trackers: Trackers, out: Path, step: int) -> None:
    """Samples of the saved model, and the curves."""
    sheet = log.pictures(step + 1, learner.samples(out / "model"))
    if sheet is not None:
        trackers.picture("samples", sheet, step)
    if texts := "\n".join(getattr(learner, "texts", ())):
        log.texts(step + 1, texts)
        trackers.text("samples", texts, step)
    log.plot()


def settings_of(out: Path) -> dict[str, Any]:
    """The settings of the run in a folder, for the trackers."""
    path = out / "recipe.yaml"
    found = read_yaml(path, "settings") if path.is_file() else {}
    return found if isinstance(found, dict) else {}


class Course:
    """The validations of a run so far: the best one, and whether the run is over because none since is better."""

    def __init__(self, out: Path, start: int, patience: int) -> None:
        self.patience, self.best, self.least, self.misses = patience, 0, math.inf, 0
        path = out / VALIDATION
        for row in read_log(path) if path.is_file() else []:
            if row["step"] <= start:
                self.add(int(row["step"]), row["loss"])

    def add(self, step: int, loss: float) -> bool:
        """Add the loss of a validation after ``step`` steps; returns whether it is the best."""
        better = loss < self.least
        self.misses = 0 if better else self.misses + 1
        if better:
            self.best, self.least = step, loss
        return better

    @property
    def over(self) -> bool:
        """Whether to stop."""
        return bool(self.patience) and self.misses >= self.patience


def backward(parts: Iterable[Mapping[str, Tensor]]) -> dict[str, float]:
    """Accumulate the gradients of all parts of a batch; returns the sums of their losses."""
    sums: dict[str, float] = {}
    for losses in parts:
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value.item()
    return sums


def one_step(
    learner: Learner, plan: Plan, step: int, optimisers: Sequence[torch.optim.Optimizer], average: dict[str, Tensor]
) -> dict[str, float]:
    """One update; returns its row of the log."""
    began = time.perf_counter()
    scale = learning_rate_scale(step, plan.steps, plan.optim)
    for optimiser in optimisers:
        optimiser.zero_grad(set_to_none=True)
        for group in optimiser.param_groups:
            group["lr"] = group["peak_lr"] * scale
    losses = backward(learner.losses(step))
    norm = torch.nn.utils.clip_grad_norm_(learner.module.parameters(), plan.optim.clip)
    row = {"step": step, "loss": sum(losses.values()), "grad_norm": norm.item(), "lr_scale": scale}
    row |= {f"loss_{name}": value for name, value in losses.items()}
    if math.isfinite(row["grad_norm"]):
        for optimiser in optimisers:
            optimiser.step()
    else:  # a non-finite gradient would corrupt all weights
        logging.getLogger(__name__).warning("gradient of step %d is %s; the step is skipped", step, row["grad_norm"])
        row["skipped"] = 1.0
    update_average(average, learner.module, averaged_decay(step, plan.average))
    spent = time.perf_counter() - began
    return {**row, **learner.statistics, "seconds": spent, "rate": learner.examples / spent}
