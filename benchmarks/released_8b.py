"""The 8B shape with random weights: load time, memory, and one text, one question and one picture at the paper's settings.

    python benchmarks/released_8b.py --folder /tmp/8b [--device cuda] [--dtype bfloat16|int8|int4] [--out results.json]

Writes a checkpoint of the released layout into --folder first (16 GB at full size; kept for the next run), then loads it as
anybody would. --layers, --width, --heads, --mlp and --scale make it small enough to try the script itself on a laptop; the
figures of a scaled run say nothing about the 8B model. Run it from the checkout (PYTHONPATH=.): it shares code with the tests.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tests.parity.checkpoint import ROWS, write_tokenizer

from mmada.model.mmada import MMaDAConfig
from mmada.model.released_names import released_fields, to_released
from mmada.model.trainable import empty_model
from mmada.pipeline import MMaDA
from mmada.tokenizers.image import ImageTokenizer
from mmada.tokenizers.magvit import RELEASED_IMAGE


def write_weights(folder: Path, config: MMaDAConfig, gain: float | None = None) -> None:
    """config.json and random bfloat16 weights, a shard a layer.

    ``gain``: matrices are drawn at gain / sqrt(inputs) and embeddings at 1, so that logits differ clearly between positions;
    None: all at 0.02.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {to_released(name): tuple(value.shape) for name, value in empty_model(config).state_dict().items()}
    shards: dict[str, list[str]] = {}
    for name in shapes:
        part = name.split("blocks.")[1].split(".")[0] if "blocks." in name else name.split(".")[2]
        shards.setdefault(part, []).append(name)
    index: dict[str, str] = {}
    for number, names in enumerate(shards.values(), 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        generator = torch.Generator().manual_seed(number)
        tensors = {}
        for name in names:
            scale = 0.02 if gain is None else 1.0 if "wte" in name else gain / shapes[name][-1] ** 0.5
            value = torch.empty(shapes[name], dtype=torch.bfloat16)
            tensors[name] = value.fill_(1) if value.ndim == 1 else value.normal_(0, scale, generator=generator)
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    fields = released_fields(config) | {"model_type": "mmada", "num_vq_tokens": 1024}
    (folder / "config.json").write_text(json.dumps(fields))


def write_checkpoint(folder: Path, config: MMaDAConfig) -> None:
    """Random bfloat16 weights, a tokenizer, and a random MAGVIT-v2 beside them."""
    write_weights(folder, config)
    write_tokenizer(folder)
    torch.manual_seed(0)
    ImageTokenizer(RELEASED_IMAGE).save(folder / "image_tokenizer")


def measured(device: torch.device, call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What ``call`` returns, its seconds, and the most memory it took on a GPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    figures = {"seconds": round(time.perf_counter() - start, 3)}
    if device.type == "cuda":
        figures["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return result, figures


def main() -> None:
    """Write, load, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32", "int8", "int4"))
    parser.add_argument("--out", type=Path)
    for name, size in (("width", 4096), ("layers", 32), ("heads", 32), ("mlp", 12288), ("scale", 1)):
        parser.add_argument(f"--{name}", type=int, default=size)
    a = parser.parse_args()
    released: dict[str, Any] = {
        "d_model": a.width, "n_heads": a.heads, "n_kv_heads": a.heads, "n_layers": a.layers, "mlp_hidden_size": a.mlp,
        "vocab_size": ROWS, "max_sequence_length": 4096, "rope_theta": 500000.0, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    config = MMaDAConfig(**released)
    if not (a.folder / "config.json").is_file():
        write_checkpoint(a.folder, config)
    device = torch.device(a.device)
    quantised = a.dtype if a.dtype.startswith("int") else None
    dtype = None if quantised else getattr(torch, a.dtype)
    model, load = measured(
        device, lambda: MMaDA.load(a.folder, device=device, dtype=dtype, quantisation=quantised, preset="mixcot")
    )
    question = "what is this ?"
    side = 512 // a.scale
    figures = {"load": load}
    picture, figures["picture"] = measured(
        device, lambda: model.draw("a red circle", steps=max(1, 50 // a.scale), guidance=3.5, size=(side, side))
    )
    text = {"length": 1024 // a.scale, "steps": 512 // a.scale, "block": 64 // min(a.scale, 8)}
    _, figures["text"] = measured(device, lambda: model.generate(question, **text))
    answer = {"length": 512 // a.scale, "steps": 256 // a.scale, "block": 128 // min(a.scale, 8)}
    _, figures["question"] = measured(device, lambda: model.ask(picture, question, **answer))
    machine = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    record = {"machine": machine, "torch": torch.__version__, "settings": {k: str(v) for k, v in vars(a).items()}, **figures}
    print(json.dumps(record, indent=2))
    if a.out:
        a.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
