"""Exact checkpoints: weights, averaged weights, optimiser state and step, in one safetensors file, renamed into place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from mmada.errors import InputError
from mmada.io.atomic import write_tensors

__all__ = ["load_checkpoint", "save_checkpoint"]


def optimiser_tensors(optimisers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Flat names for the optimiser state; the order of the parameters is that of the module."""
    tensors: dict[str, Tensor] = {}
    for i, optimiser in enumerate(optimisers):
        for index, state in optimiser.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"optim.{i}.{index}.{key}"] = torch.as_tensor(value)
    return tensors


def save_checkpoint(
    path: Path, step: int, module: nn.Module, average: dict[str, Tensor], optimisers: Sequence[torch.optim.Optimizer]
) -> None:
    """Write everything a resumed run needs to go on with the same losses. ``step`` is the number of finished steps.

    Frozen weights are left out: they are those of the run's start.
    """
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    tensors = {f"model.{k}": v.contiguous() for k, v in module.state_dict().items() if k not in frozen}
    tensors |= {f"average.{k}": v.contiguous() for k, v in average.items()}
    tensors |= optimiser_tensors(optimisers)
    write_tensors(path, {k: v.contiguous().clone() for k, v in tensors.items()}, {"state": json.dumps({"step": step})})


def load_checkpoint(
    path: Path, module: nn.Module, average: dict[str, Tensor], optimisers: Sequence[torch.optim.Optimizer]
) -> int:
    """Restore in place; returns the number of finished steps."""
    try:
        with safe_open(path, "pt") as file:
            step = int(json.loads(file.metadata()["state"])["step"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # a damaged file raises safetensors' own class
        raise InputError(f"checkpoint {path} cannot be read ({error}); delete it to start the run again") from error
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    stored = {k[len("model.") :]: v for k, v in tensors.items() if k.startswith("model.")}
    try:
        missing, unexpected = module.load_state_dict(stored, strict=False)
    except RuntimeError as error:  # another shape
        missing, unexpected = [str(error)], []
    if unexpected or set(missing) - frozen:
        raise InputError(f"checkpoint {path} is of a run with other sizes; resume with the settings it was started with")
    for name in average:
        stored_average = tensors.get(f"average.{name}")
        if stored_average is None or stored_average.shape != average[name].shape:
            raise InputError(f"checkpoint {path} lacks the average of {name}; it is damaged, delete it to start the run again")
        average[name].copy_(stored_average)
    for i, optimiser in enumerate(optimisers):
        state: dict[int, dict[str, Tensor]] = {}
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        for name, value in tensors.items():
            if name.startswith(f"optim.{i}."):
                _, _, index, key = name.split(".", 3)
                parameter = parameters[int(index)]
                if value.shape == parameter.shape:  # keep the parameter's memory layout: fused kernels count on it
                    value = torch.empty_like(parameter).copy_(value)
                state.setdefault(int(index), {})[key] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return step
