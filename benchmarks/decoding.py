"""The decoding engine against the plain sampler (`plain.py`), in one run, interleaved: the ratios that users ask about.

    python benchmarks/decoding.py [--rounds 3] [--threads 2] [--out decoding.json]
                                  [--width 768 --layers 12 --heads 12 --mlp 2304] [--device cpu] [--dtype float32] [--only text]
                                  [--steps 128 --batch-steps 128]

The model has random weights (seed 0) and the released vocabulary of 134,656 rows. Every exact row first checks that its tokens
(texts) or its logits at every step (pictures) are those of the plain sampler. Prints and keeps median seconds, the ratio to plain
with its lowest and highest round, and passes. Memory: peak above the weights while decoding, each in a process of its own.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.plain import plain_image, plain_text
from torch import Tensor

from mmada.canvas import Canvas, Segment
from mmada.diffusion.schedule import Cosine
from mmada.evaluation.results import machine
from mmada.model.mmada import MMaDAConfig, MMaDAModel
from mmada.model.network import Network
from mmada.model.sizes import ModelSizes
from mmada.sampling import (
    BlockCache,
    Blocks,
    Greedy,
    Guidance,
    GumbelConfidence,
    LowConfidence,
    MaskSchedule,
    Phase,
    Temperature,
    UniformSchedule,
    denoise,
    row_generators,
)
from mmada.tokenizers.vocabulary import RELEASED as V

PROMPT, LENGTH, BLOCK = 64, 128, 32
CAPTION, FIELD, CODES, IMAGE_STEPS, SCALE = 8, 128, 256, 16, 3.5
TEXT = Phase(
    modality="text",
    schedule=UniformSchedule(BLOCK),
    remasking=LowConfidence(),
    token_sampler=Greedy(),
    blocks=Blocks(BLOCK),
    open_vocabulary=True,
)
IMAGE = Phase(
    modality="image", schedule=MaskSchedule(Cosine(), IMAGE_STEPS), remasking=GumbelConfidence(1.0, "compounding"),
    token_sampler=Temperature(1.0), guidance=Guidance(SCALE),
)  # fmt: skip


@dataclass
class Work:
    """A plain job and the jobs that are compared with it; every job returns (tokens, passes)."""

    name: str
    plain: Callable[[], tuple[Tensor, int]]
    ours: dict[str, Callable[[], tuple[Tensor, int]]]
    exact: tuple[str, ...] = ()


def random_model(sizes: argparse.Namespace) -> MMaDAModel:
    """A model of the released vocabulary with weights from seed 0."""
    torch.manual_seed(0)
    config = MMaDAConfig(
        vocab_size=V.size, hidden_size=sizes.width, num_hidden_layers=sizes.layers, num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.heads, intermediate_size=sizes.mlp, max_position_embeddings=4096,
    )  # fmt: skip
    with torch.device(sizes.device):
        torch.set_default_dtype(getattr(torch, sizes.dtype))
        model = MMaDAModel(config).eval()
        torch.set_default_dtype(torch.float32)
    return model


def prompt(length: int, seed: int) -> list[int]:
    """Random text ids."""
    return torch.randint(0, 126_000, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def inference_network(model: MMaDAModel) -> Network:
    """The network that `mmada.load` makes, with the weights of a model."""
    with torch.device("meta"):
        network = Network(ModelSizes.of(model.config.to_dict()))
    network.load_state_dict(model.state_dict(), assign=True)
    return network.eval()


def answer(model: Network, prompts: list[list[int]], phase: Phase) -> tuple[Tensor, int]:
    """Our texts, right-aligned columns of the answers (B, LENGTH), and passes."""
    rows = [Canvas.join([Segment(p), Segment([V.mask] * LENGTH, editable=True)]) for p in prompts]
    canvas = Canvas.stack(rows).to(model.device)
    *_, last = denoise(model, canvas, [phase], vocabulary=V, generators=row_generators([0] * len(rows)))
    return last.tokens_BL[last.canvas.editable_BL].view(len(rows), LENGTH), max(last.nfe)


def plain_answer(model: MMaDAModel, prompts: list[list[int]], steps: int) -> tuple[Tensor, int]:
    """The plain texts, one prompt after another."""
    texts = [
        plain_text(model, torch.tensor([p], device=model.device), length=LENGTH, steps=steps, block=BLOCK, mask_id=V.mask)
        for p in prompts
    ]
    return torch.cat([t[:, -LENGTH:] for t in texts]), steps * len(prompts)


def picture_rows(caption: list[int]) -> tuple[Canvas, Canvas]:
    """The released layout of a drawing prompt, left pads that nothing attends to, with and without its caption."""
    rows = []
    for text in (caption, []):
        words = [V.t2i, V.bos, *text, V.eos]
        pads = Segment([V.eos] * (FIELD + 1 - len(words)), valid=False)
        rows.append(Canvas.join([pads, Segment([*words, V.soi]), Segment([V.mask] * CODES, True, "image"), Segment([V.eoi])]))
    return rows[0], rows[1]


def draw(model: Network, rows: tuple[Canvas, Canvas]) -> tuple[Tensor, int]:
    """Our picture."""
    canvas, blank = (row.to(model.device) for row in rows)
    *_, last = denoise(model, canvas, [IMAGE], vocabulary=V, generators=row_generators([0]), unconditional=blank)
    return last.tokens_BL, max(last.nfe)


def plain_steps(model: MMaDAModel, rows: tuple[Canvas, Canvas]) -> Any:
    """The plain picture, step by step."""
    canvas, blank = (row.to(model.device) for row in rows)
    first = int(canvas.editable_BL[0].nonzero()[0])
    return plain_image(
        model, canvas.tokens_BL, blank.tokens_BL, (canvas.valid_BL, blank.valid_BL), positions=slice(first, first + CODES),
        vocab=V.ranges["image"], mask_id=V.mask, steps=IMAGE_STEPS, guidance=SCALE, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip


def plain_draw(model: MMaDAModel, rows: tuple[Canvas, Canvas]) -> tuple[Tensor, int]:
    """The plain picture."""
    *_, last = plain_steps(model, rows)
    return last.codes_BN, IMAGE_STEPS


def furthest_logits(model: MMaDAModel, network: Network, rows: tuple[Canvas, Canvas]) -> float:
    """Largest difference between our guided logits and the plain ones on the same canvas, over all steps."""
    canvas, blank = (row.to(model.device) for row in rows)
    furthest = 0.0
    for step in plain_steps(model, rows):
        before = canvas.with_tokens(step.before_BL)
        query_BL = before.editable_BL & (before.tokens_BL == V.mask)
        unconditional = blank.tokens_BL.masked_scatter(blank.editable_BL, before.tokens_BL[before.editable_BL])
        both = Canvas.stack(
            [replace(before, editable_BL=query_BL), replace(blank, tokens_BL=unconditional, editable_BL=query_BL)]
        )
        logits = network.predict(both.tokens_BL, query_BL=both.editable_BL, vocab=V.ranges["image"], valid_BL=both.valid_BL)
        ours = Guidance(SCALE).combine(*logits.chunk(2))
        furthest = max(furthest, float((ours - step.logits_BNC[0][query_BL[before.editable_BL]]).abs().max()))
    return furthest


def paced(steps: int) -> Phase:
    """The text phase in so many steps."""
    return replace(TEXT, schedule=UniformSchedule(steps * BLOCK // LENGTH))


def works(model: MMaDAModel, network: Network, steps: int, batch_steps: int) -> list[Work]:
    """What is measured."""
    single, ragged = [prompt(PROMPT, 1)], [prompt(8 * (i + 1), i) for i in range(8)]
    rows = picture_rows(prompt(CAPTION, 3))
    text, cached = paced(steps), replace(paced(steps), reuse=BlockCache())
    return [
        Work(
            "text",
            lambda: plain_answer(model, single, steps),
            {"exact": lambda: answer(network, single, text), "block cache": lambda: answer(network, single, cached)},
            ("exact",),
        ),
        Work(
            "batch",
            lambda: plain_answer(model, ragged, batch_steps),
            {"exact": lambda: answer(network, ragged, paced(batch_steps))},
            ("exact",),
        ),
        Work("image", lambda: plain_draw(model, rows), {"exact": lambda: draw(network, rows)}),
    ]


def timed(job: Callable[[], tuple[Tensor, int]]) -> tuple[float, tuple[Tensor, int]]:
    """Seconds of a job, with its result."""
    began = time.perf_counter()
    result = job()
    if result[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began, result


def measure(work: Work, rounds: int) -> list[dict[str, object]]:
    """Rows of one work: plain and ours in turn, round after round."""
    seconds: dict[str, list[float]] = {name: [] for name in ("plain", *work.ours)}
    passes: dict[str, int] = {}
    for _ in range(rounds):
        taken, (tokens, passes["plain"]) = timed(work.plain)
        seconds["plain"].append(taken)
        for name, job in work.ours.items():
            taken, (ours, passes[name]) = timed(job)
            seconds[name].append(taken)
            if name in work.exact and not torch.equal(ours.cpu(), tokens.cpu()):
                raise SystemExit(f"{work.name}, {name}: tokens differ from the plain sampler's")
    rows = []
    for name in work.ours:
        ratios = [p / s for p, s in zip(seconds["plain"], seconds[name], strict=True)]
        row = {
            "work": work.name,
            "mode": name,
            "plain_s": round(statistics.median(seconds["plain"]), 3),
            "ours_s": round(statistics.median(seconds[name]), 3),
            "ratio": round(statistics.median(ratios), 2),
            "low": round(min(ratios), 2),
            "high": round(max(ratios), 2),
            "passes": [passes["plain"], passes[name]],
        }
        print(f"{work.name:12} {name:12} {row['plain_s']:8} s {row['ours_s']:8} s   {row['ratio']:5} x "
              f"({row['low']} to {row['high']})", flush=True)  # fmt: skip
        rows.append(row)
    return rows


def peak_memory(sizes: argparse.Namespace, job: str) -> int:
    """Bytes above the weights that one text takes at its peak, in this process (Linux)."""
    model = random_model(sizes)
    network = inference_network(model)
    single = [prompt(PROMPT, 1)]
    jobs = {"plain": lambda: plain_answer(model, single, 8), "exact": lambda: answer(network, single, paced(8))}
    answer(network, [prompt(4, 0)], paced(4))  # code paths and thread pools are there before
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what the warm-up left behind would hide the job's own
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    jobs[job]()
    return status("VmHWM") - before


def status(field: str) -> int:
    """A figure of this process in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def memory_rows(arguments: list[str]) -> list[dict[str, object]]:
    """Peak memory of the plain and the exact text, each in its own process."""
    peaks = {}
    for job in ("plain", "exact"):
        command = [sys.executable, "-m", "benchmarks.decoding", *arguments, "--memory", job]
        peaks[job] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"memory above the weights: plain {peaks['plain'] / 2**20:.0f} MiB, exact {peaks['exact'] / 2**20:.0f} MiB, "
          f"1/{peaks['plain'] / peaks['exact']:.1f}")  # fmt: skip
    return [{"work": "memory", "mode": "exact", "plain_bytes": peaks["plain"], "ours_bytes": peaks["exact"]}]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"rounds": 3, "threads": 2, "width": 768, "layers": 12, "heads": 12, "mlp": 2304, "steps": 128,
                        "batch-steps": 128}.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    for name, text in {"device": "cpu", "dtype": "float32", "out": "", "memory": ""}.items():
        parser.add_argument(f"--{name}", default=text)
    parser.add_argument("--only", default="", choices=("", "text", "batch", "image", "memory"))
    sizes = parser.parse_args()
    torch.set_num_threads(sizes.threads)
    if sizes.memory:
        print(peak_memory(sizes, sizes.memory))
        return
    model = random_model(sizes)
    network = inference_network(model)
    rows: list[dict[str, object]] = []
    for work in works(model, network, sizes.steps, sizes.batch_steps):
        if sizes.only in ("", work.name):
            rows += measure(work, sizes.rounds)
    if sizes.only in ("", "image"):
        furthest = furthest_logits(model, network, picture_rows(prompt(CAPTION, 3)))
        print(f"image: guided logits within {furthest:.1e} of the plain ones at every step")
        rows.append({"work": "image", "mode": "exact", "furthest_logit": furthest})
    del model, network
    if sizes.only in ("", "memory") and sizes.device == "cpu":
        rows += memory_rows([f"--{n}={getattr(sizes, n)}" for n in ("threads", "width", "layers", "heads", "mlp", "dtype")])
    if sizes.out:
        asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        kept = {"rows": rows, "settings": vars(sizes), "machine": machine() | {"commit": asked.stdout.strip()}}
        Path(sizes.out).write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
