"""Facts of a model: sizes, ids, memory. The shapes of its weights are enough, so they need not be read."""

from __future__ import annotations

from pathlib import Path

import torch

from mmada.io.cpu import advice, cpu_features, fitting, memory_bytes
from mmada.model.predictor import Predictor
from mmada.model.quantize import memory
from mmada.pipeline.engine import Engine
from mmada.pipeline.loading import find_folder, read_folder
from mmada.tokenizers.image import ImageTokenizer

__all__ = ["describe", "facts", "machine", "summary"]


def describe(source: str | Path, *, image_tokenizer: str | Path | None = None, preset: str | None = None) -> dict[str, object]:
    """Facts of a model that is not loaded. Raises InputError as loading it would, but for damage inside its tensors."""
    cpu = torch.device("cpu")
    parts = read_folder(find_folder(source), cpu, image_tokenizer=image_tokenizer, preset=preset, weights=False)
    engine = Engine(parts, cpu)
    if image_tokenizer is not None:
        engine.image  # noqa: B018 - read, so that a wrong one is named
    found = facts(engine, str(source))
    return found | machine(found.get("memory"))


def machine(memory: object = None) -> dict[str, object]:
    """Facts of this machine's CPU: what it offers, and which types of a model to take there.

    ``memory``: of the model's weights by type, in GiB; fp8 is left out, as no CPU computes in it.
    """
    cpu, total = cpu_features(), memory_bytes()
    found: dict[str, object] = {
        "cpu": cpu.names(),
        "cpu_cores": cpu.physical_cores,
        "cpu_threads": cpu.threads,
        "cpu_dtype": advice(cpu),
    }
    if total is None:
        return found
    found["cpu_memory"] = round(total / 2**30, 3)
    if isinstance(memory, dict):
        found["cpu_fits"] = fitting({name: size for name, size in memory.items() if name != "fp8"}, total / 2**30)
    return found


def facts(engine: Engine, source: str) -> dict[str, object]:
    """Facts of a model as plain values. ``memory``: of its weights in each type, in GiB."""
    parts, v = engine.parts, engine.parts.vocabulary
    found: dict[str, object] = {"source": source, "layout": "released" if v.is_released else "packed"}
    if isinstance(parts.model, Predictor):
        config = parts.model.config
        found |= {
            "parameters": sum(p.numel() for p in parts.model.parameters()),
            "tensors": len(parts.model.state_dict()),
            "width": config.hidden_size,
            "layers": config.num_hidden_layers,
            "heads": config.num_attention_heads,
            "memory": {name: round(size / 2**30, 3) for name, size in memory(parts.model).items()},
        }
    found |= {
        "vocabulary": v.size,
        "text_tokens": v.text_size,
        "mask_id": v.mask,
        "image_offset": v.image_offset,
        "codebook_size": v.codebook_size,
        "max_length": parts.max_length,
    }
    if not isinstance(parts.image, ImageTokenizer):
        return found | {"image_tokenizer": None if parts.image is None else str(parts.image)}
    return found | {
        "image_tokenizer_parameters": sum(p.numel() for p in engine.image.parameters()),
        "image_size": engine.size,
        "image_codes": engine.grid**2,
    }


def summary(engine: Engine, source: str) -> str:
    """One line on a loaded model: source, parameters, device, type, sizes. Reads nothing from disk."""
    parts = engine.parts
    found = [repr(source) if source else "unnamed"]
    if isinstance(parts.model, torch.nn.Module):
        weights = list(parts.model.parameters())
        found += [f"{sum(p.numel() for p in weights):,} parameters"]
        found += [str(weights[0].dtype).removeprefix("torch.")] if weights else []
    found.append(str(engine.device))
    if isinstance(parts.image, ImageTokenizer):
        found.append(f"images of {engine.size}x{engine.size} pixels in {engine.grid**2} codes")
    elif parts.image is not None:
        found.append(f"image tokenizer {str(parts.image)!r}")
    return ", ".join([*found, f"up to {parts.max_length} tokens"])
