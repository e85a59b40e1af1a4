"""One job of `peers.py` in a process of its own: load a model, warm up, decode once, and print what that took as JSON.

    python -m benchmarks.peers_worker '{"peer": "mmada", "dtype": "int8", "mode": "exact", ...}'

Each peer is a function that loads its model and gives back a `Decode`. What a peer needs is imported in its function: the one of
Fast-dLLM runs in another Python, whose transformers our package does not support. Peak memory is read from Linux; elsewhere it
is left out.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Decode = Callable[[list[int], int, int, int], tuple[list[int], int]]
"""(prompt, length, steps, block) to (the new tokens, forward passes)."""
PROCESS = Path("/proc/self")


@dataclass(frozen=True)
class Request:
    """What a worker is asked for.

    ``weights``: a model folder, or a GGUF file for llama.cpp. ``path``: where the code of the peer is, if it is not ours.
    """

    peer: str
    dtype: str
    mode: str
    weights: str
    path: str
    prompt: list[int]
    length: int
    steps: int
    block: int
    threads: int
    mask_id: int


def load_plain(asked: Request) -> Decode:
    """LLaDA's way: every logit of every position at every step (`plain.py`)."""
    from benchmarks.plain import plain_text

    from mmada.model.trainable import read_model

    model = read_model(Path(asked.weights), device=torch.device("cpu"), dtype=getattr(torch, asked.dtype))

    def decode(prompt: list[int], length: int, steps: int, block: int) -> tuple[list[int], int]:
        tokens = plain_text(model, torch.tensor([prompt]), length=length, steps=steps, block=block, mask_id=asked.mask_id)
        return tokens[0, len(prompt) :].tolist(), steps

    return decode


def load_ours(asked: Request) -> Decode:
    """Our engine; quantised types are read from the same shards."""
    from dataclasses import replace

    from benchmarks.decoding import TEXT

    from mmada.canvas import Canvas, Segment
    from mmada.model.loading import read_network
    from mmada.sampling import BlockCache, Blocks, UniformSchedule, denoise, row_generators
    from mmada.tokenizers.vocabulary import RELEASED

    quantisation = asked.dtype if asked.dtype.startswith("int") else None
    dtype = torch.bfloat16 if quantisation else getattr(torch, asked.dtype)
    model = read_network(Path(asked.weights), device=torch.device("cpu"), dtype=dtype, quantisation=quantisation)

    def decode(prompt: list[int], length: int, steps: int, block: int) -> tuple[list[int], int]:
        canvas = Canvas.stack([Canvas.join([Segment(prompt), Segment([asked.mask_id] * length, editable=True)])])
        schedule = UniformSchedule(steps * block // length)
        phase = replace(TEXT, schedule=schedule, blocks=Blocks(block), reuse=BlockCache() if asked.mode == "block" else None)
        *_, last = denoise(model, canvas, [phase], vocabulary=RELEASED, generators=row_generators([0]))
        return last.tokens_BL[0, len(prompt) :].tolist(), max(last.nfe)

    return decode


def load_llama(asked: Request) -> Decode:
    """llama.cpp by its Python package."""
    from benchmarks.peers_llama import LlamaModel

    width = len(asked.prompt) + asked.length
    return LlamaModel(asked.path, asked.weights, width, asked.threads, asked.mask_id).decode


def load_fast_dllm(asked: Request) -> Decode:
    """Fast-dLLM's network and its three ways of decoding, imported from a checkout."""
    sys.path.insert(0, asked.path)
    theirs = importlib.import_module("llada.generate")
    names = {"exact": "generate", "prefix": "generate_with_prefix_cache", "block": "generate_with_dual_cache"}
    generate = getattr(theirs, names[asked.mode])
    model = theirs.LLaDAModelLM.from_pretrained(asked.weights, torch_dtype=getattr(torch, asked.dtype)).eval()

    def decode(prompt: list[int], length: int, steps: int, block: int) -> tuple[list[int], int]:
        tokens, passes = generate(
            model, torch.tensor([prompt]), steps=steps, gen_length=length, block_length=block, temperature=0.0,
            remasking="low_confidence", mask_id=asked.mask_id,
        )  # fmt: skip
        return tokens[0, len(prompt) :].tolist(), passes

    return decode


LOADERS: dict[str, Callable[[Request], Decode]] = {
    "LLaDA": load_plain,
    "mmada": load_ours,
    "llama.cpp": load_llama,
    "Fast-dLLM": load_fast_dllm,
}


def peak_memory() -> int | None:
    """The most memory that was resident since the last `forget_peak`, in bytes."""
    try:
        lines = (PROCESS / "status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)


def forget_peak() -> None:
    """Begin to measure the peak of memory anew."""
    if (PROCESS / "clear_refs").exists():
        (PROCESS / "clear_refs").write_text("5")


def measure(asked: Request) -> dict[str, Any]:
    """Seconds to load and to decode, passes, tokens, and the peaks of memory of both."""
    torch.set_num_threads(asked.threads)
    began = time.perf_counter()
    decode = LOADERS[asked.peer](asked)
    loaded = time.perf_counter() - began
    peak_loading = peak_memory()
    decode(asked.prompt, asked.block, 2, asked.block)  # thread pools, code paths and pages are there before
    forget_peak()
    began, cpu = time.perf_counter(), time.process_time()
    tokens, passes = decode(asked.prompt, asked.length, asked.steps, asked.block)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {"load_s": loaded, "seconds": seconds, "cpu_s": cpu, "passes": passes, "tokens": tokens,
            "peak_bytes": peak_memory(), "peak_loading_bytes": peak_loading}  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(measure(Request(**json.loads(sys.argv[1])))))
