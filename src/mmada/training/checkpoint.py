"""Checkpoints: weights, averaged weights, optimiser state and step in one safetensors file, written atomically.

A checkpoint is validated completely before it is used: a resumed run never continues from damaged values, and never overwrites a
good model with them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mmada.errors import InputError, quote, system_reason
from mmada.io.atomic import write_tensors
from mmada.io.documents import check_not_pointer
from mmada.training.muon import Muon

__all__ = ["check_finite", "load_checkpoint", "read_step", "save_checkpoint"]

Optimisers = Sequence[torch.optim.Optimizer]

STATE = {torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"}, Muon: {"momentum_buffer"}}
"""Names of the state per updated parameter, by optimiser."""
RESTART = "delete it to start the run again"


def save_checkpoint(path: Path, step: int, module: nn.Module, average: Mapping[str, Tensor], optimisers: Optimisers) -> None:
    """Write everything that a resumed run needs to continue with the same losses. ``step``: number of finished steps.

    Frozen weights are left out: they are equal to those of the start.
    """
    frozen = frozen_names(module)
    tensors = {f"model.{k}": v for k, v in module.state_dict().items() if k not in frozen}
    tensors |= {f"average.{k}": v for k, v in average.items()}
    tensors |= optimiser_tensors(optimisers)
    write_tensors(path, {k: v.contiguous().clone() for k, v in tensors.items()}, {"state": json.dumps({"step": step})})


def load_checkpoint(path: Path, module: nn.Module, average: Mapping[str, Tensor], optimisers: Optimisers, steps: int) -> int:
    """Restore a run of ``steps`` steps in place; returns the number of finished steps.

    Raises InputError, before anything is changed, for a file that is damaged in any way, holds numbers that are not finite, or
    is of a run with other settings.
    """
    step, tensors = read_checkpoint(path)
    if step > steps:
        raise InputError(f"checkpoint {quote(path)} is at step {step}, beyond plan.steps {steps}; give at least {step} steps")
    for name, value in tensors.items():
        if not value.is_floating_point():
            if name.startswith("model."):  # an integer buffer, such as a counter
                continue
            raise InputError(f"checkpoint {quote(path)} is damaged ({name} is {value.dtype}); {RESTART}")
        if not bool(torch.isfinite(value).all()):
            raise InputError(f"checkpoint {quote(path)} holds numbers that are not finite, in {name}; {RESTART}")
    weights = model_weights(path, tensors, module)
    averages = averaged_weights(path, tensors, average)
    states = [optimiser_state(path, tensors, i, optimiser) for i, optimiser in enumerate(optimisers)]
    known = (*(f"optim.{i}." for i in range(len(optimisers))), "model.", "average.")
    if unknown := [name for name in tensors if not name.startswith(known)]:
        raise InputError(f"checkpoint {quote(path)} has {min(unknown)}, which this run lacks; resume with its own settings")
    module.load_state_dict(weights, strict=False)
    for name, value in averages.items():
        average[name].copy_(value)
    for optimiser, state in zip(optimisers, states, strict=True):
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return step


def read_step(path: Path) -> int:
    """Read the number of finished steps from a checkpoint's header. Raises InputError for a damaged one."""
    check_not_pointer(path, "checkpoint")
    if path.is_dir():
        raise InputError(f"checkpoint {quote(path)} is a folder; {RESTART}")
    try:
        with safe_open(path, "pt") as file:
            state = json.loads((file.metadata() or {}).get("state", "null"))
    except OSError as error:
        raise InputError(f"checkpoint {quote(path)} cannot be read ({system_reason(error)}); {RESTART}") from error
    except (SafetensorError, ValueError, RecursionError) as error:
        raise InputError(f"checkpoint {quote(path)} cannot be read ({error}); {RESTART}") from error
    step = state.get("step") if isinstance(state, dict) else None
    if type(step) is not int or step < 0:
        raise InputError(f"checkpoint {quote(path)} does not say its step (step {quote(step)}); {RESTART}")
    return step


def check_finite(module: nn.Module, average: Mapping[str, Tensor], step: int) -> None:
    """Raise InputError if weights are not finite, so that they are not saved."""
    for name, value in [*module.named_parameters(), *average.items()]:
        if not bool(torch.isfinite(value).all()):
            raise InputError(
                f"weights are not finite after step {step}, in {name}; the last checkpoint is unchanged: resume from it with "
                f"a lower plan.optim.lr"
            )


def read_checkpoint(path: Path) -> tuple[int, dict[str, Tensor]]:
    """(finished steps, tensors by name)."""
    step = read_step(path)
    try:
        with safe_open(path, "pt") as file:
            return step, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise InputError(f"checkpoint {quote(path)} cannot be read ({error}); {RESTART}") from error


def frozen_names(module: nn.Module) -> set[str]:
    """Names of the weights that a run does not change."""
    return {name for name, parameter in module.named_parameters() if not parameter.requires_grad}


def model_weights(path: Path, tensors: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The stored weights, checked against the module."""
    stored = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    shapes = {name: value.shape for name, value in module.state_dict().items()}
    missing = set(shapes) - frozen_names(module) - set(stored)
    if missing or any(shapes.get(name) != value.shape for name, value in stored.items()):
        raise InputError(f"checkpoint {quote(path)} is of a run with other sizes; resume with the settings it was started with")
    return stored


def averaged_weights(path: Path, tensors: Mapping[str, Tensor], average: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The stored averages, checked against those of the run."""
    for name, value in average.items():
        stored = tensors.get(f"average.{name}")
        if stored is None or stored.shape != value.shape:
            raise InputError(f"checkpoint {quote(path)} lacks the average of {name}; it is damaged, {RESTART}")
    return {name: tensors[f"average.{name}"] for name in average}


def optimiser_tensors(optimisers: Optimisers) -> dict[str, Tensor]:
    """Flat names for the optimiser state; the order of the parameters is that of the module."""
    tensors: dict[str, Tensor] = {}
    for i, optimiser in enumerate(optimisers):
        for index, state in optimiser.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"optim.{i}.{index}.{key}"] = torch.as_tensor(value)
    return tensors


def optimiser_state(
    path: Path, tensors: Mapping[str, Tensor], i: int, optimiser: torch.optim.Optimizer
) -> dict[int, dict[str, Tensor]]:
    """The stored state of one optimiser, checked: known parameters, each with its complete state, in its shape."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    expected = STATE[type(optimiser)]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if not name.startswith(f"optim.{i}."):
            continue
        index, _, key = name.removeprefix(f"optim.{i}.").partition(".")
        number = int(index) if index.isdecimal() and index.isascii() else len(parameters)
        if number >= len(parameters) or key not in expected or (value.ndim and value.shape != parameters[number].shape):
            raise InputError(f"checkpoint {quote(path)} is damaged (optimiser state {name} fits no weight); {RESTART}")
        if key in ("step", "exp_avg_sq") and value.numel() and float(value.min()) < 0:
            raise InputError(f"checkpoint {quote(path)} is damaged ({name} is negative); {RESTART}")
        if value.shape == parameters[number].shape:  # keep the memory layout of the parameter, which fused kernels require
            value = torch.empty_like(parameters[number]).copy_(value)
        state.setdefault(number, {})[key] = value
    for number, values in state.items():
        if values.keys() != expected:
            lacking = min(expected - values.keys())
            raise InputError(f"checkpoint {quote(path)} is damaged (it lacks optim.{i}.{number}.{lacking}); {RESTART}")
    return state
