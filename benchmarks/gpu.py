"""The released shape on a GPU: milliseconds a pass for each way to run the steps, the plain sampler beside them, and the share of
the card's own limit that is.

    python -m benchmarks.gpu [--dtype bfloat16] [--rows 1 16] [--steps 64] [--image-steps 50 15] [--rounds 3] [--out gpu.json]

Random weights of the 8B shape, made on the device. Texts: 512 tokens after a prompt of 512, in blocks of 32; a pass costs the
same whatever it decides, so --steps (of all blocks, a multiple of 16) may be far fewer than the 512 of a whole text. Pictures:
1,024 codes, guidance 3.5. The limit is the roofline of the operations and bytes that an ordinary run asks for, at the peaks of a
matrix product and a copy measured in the same run. --device cpu with small --width, --layers, --heads, --mlp and --scale tries
the script itself; it says nothing about a card.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from benchmarks.decoding import prompt, random_model, timed
from benchmarks.plain import plain_image, plain_text
from torch import Tensor

from mmada.canvas import Canvas, Denoiser, Segment
from mmada.diffusion.schedule import Cosine
from mmada.evaluation.flops import Meter, Peaks, measured_peaks
from mmada.evaluation.results import machine
from mmada.model.mmada import MMaDAModel
from mmada.sampling import (
    BlockCache,
    Blocks,
    FixedShape,
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

SCALE, BLOCK = 3.5, 32
WAYS: dict[str, FixedShape | None] = {"ordinary": None, "fixed positions": FixedShape(), "recorded": FixedShape(graphs=True)}
Job = Callable[[], tuple[Tensor, int]]
Work = tuple[dict[str, Job], Callable[[Meter], object]]


def ours(
    model: Denoiser, canvas: Canvas, phase: Phase, static: FixedShape | None, blank: Canvas | None = None
) -> tuple[Tensor, int]:
    """Tokens and passes of our loop."""
    generators = row_generators(range(canvas.rows))
    steps = denoise(model, canvas, [phase], vocabulary=V, generators=generators, unconditional=blank, fixed_shape=static)
    *_, last = steps
    return last.tokens_BL, max(last.nfe)


def texts(model: MMaDAModel, rows: int, length: int, steps: int) -> Work:
    """Ways to write, and what is counted for the limit."""
    prompts = [prompt(length, seed) for seed in range(rows)]
    canvas = Canvas.stack([Canvas.join([Segment(p), Segment([V.mask] * length, editable=True)]) for p in prompts]).to(
        model.device
    )
    phase = Phase(
        modality="text", schedule=UniformSchedule(steps * BLOCK // length), remasking=LowConfidence(), token_sampler=Greedy(),
            blocks=Blocks(BLOCK),
        open_vocabulary=True,
    )  # fmt: skip
    prompt_BP = torch.tensor(prompts, device=model.device)

    def plain() -> tuple[Tensor, int]:
        return plain_text(model, prompt_BP, length=length, steps=steps, block=BLOCK, mask_id=V.mask), steps

    jobs: dict[str, Job] = {"plain": plain}
    jobs |= {name: lambda static=static: ours(model, canvas, phase, static) for name, static in WAYS.items()}  # type: ignore[misc]
    jobs["block cache"] = lambda: ours(model, canvas, replace(phase, reuse=BlockCache()), None)
    return jobs, lambda meter: ours(meter, canvas, phase, None)


def pictures(model: MMaDAModel, rows: int, codes: int, steps: int) -> Work:
    """Ways to draw, and what is counted for the limit. The plain sampler keeps the pads of the released layout."""
    field = codes // 2
    halves = []
    for words in ([*prompt(40, 0)][: field - 3], []):
        text = [V.t2i, V.bos, *words, V.eos]
        pads = Segment([V.eos] * (field + 1 - len(text)), valid=False)
        row = Canvas.join([pads, Segment([*text, V.soi]), Segment([V.mask] * codes, True, "image"), Segment([V.eoi])])
        halves.append(Canvas.stack([row] * rows).to(model.device))
    canvas, blank = halves
    phase = Phase(
        modality="image", schedule=MaskSchedule(Cosine(), steps), remasking=GumbelConfidence(1.0, "compounding"),
        token_sampler=Temperature(1.0), guidance=Guidance(SCALE),
    )  # fmt: skip

    def plain() -> tuple[Tensor, int]:
        positions = slice(field + 2, field + 2 + codes)
        *_, last = plain_image(
            model, canvas.tokens_BL, blank.tokens_BL, (canvas.valid_BL, blank.valid_BL), positions=positions,
            vocab=V.ranges["image"], mask_id=V.mask, steps=steps, guidance=SCALE,
            generator=torch.Generator(model.device).manual_seed(0),
        )  # fmt: skip
        return last.codes_BN, steps

    jobs: dict[str, Job] = {"plain": plain}
    jobs |= {name: lambda static=static: ours(model, canvas, phase, static, blank) for name, static in WAYS.items()}  # type: ignore[misc]
    return jobs, lambda meter: ours(meter, canvas, phase, None, blank)


def measure(name: str, work: Work, model: MMaDAModel, peaks: Peaks, rounds: int) -> list[dict[str, object]]:
    """Rows of one work, its jobs in turn, round after round; the first round warms up."""
    (jobs, count), meter = work, Meter(model)
    count(meter)
    seconds: dict[str, list[float]] = {job: [] for job in jobs}
    passes: dict[str, int] = {}
    for number in range(rounds + 1):
        for job, run in jobs.items():
            taken, (_, passes[job]) = timed(run)
            if number:
                seconds[job].append(taken)
    limit = peaks.min_seconds(meter.flops, meter.bytes)
    rows: list[dict[str, object]] = []
    for job, values in seconds.items():
        middle = statistics.median(values)
        exact = job in WAYS or job == "plain"  # a cache asks for less: the limit is not its own
        row = {"work": name, "way": job, "seconds": values, "passes": passes[job], "ms_a_pass": 1000 * middle / passes[job],
               "share_of_limit": limit / middle if exact else None}  # fmt: skip
        share = f"{limit / middle:.0%} of the limit" if exact else ""
        print(f"{name:28} {job:13} {1000 * middle / passes[job]:9.2f} ms a pass  {share}", flush=True)
        rows.append(row)
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"rounds": 3, "steps": 64, "width": 4096, "layers": 32, "heads": 32, "mlp": 12288, "scale": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    for name, values in {"rows": [1, 16], "image-steps": [50, 15]}.items():
        parser.add_argument(f"--{name}", type=int, nargs="+", default=values)
    for name, text in {"device": "cuda", "dtype": "bfloat16", "out": ""}.items():
        parser.add_argument(f"--{name}", default=text)
    a = parser.parse_args()
    model = random_model(a)
    peaks = measured_peaks(model.device, model.dtype, side=8192 // a.scale)
    found: list[dict[str, object]] = []
    for rows in a.rows:
        length = 512 // a.scale
        found += measure(f"text, {2 * length} long, {rows} rows", texts(model, rows, length, a.steps), model, peaks, a.rounds)
        for steps in a.image_steps:
            codes = 1024 // a.scale
            found += measure(f"picture, {steps} steps, {rows} rows", pictures(model, rows, codes, steps), model, peaks, a.rounds)
    if a.out:
        kept = {"rows": found, "settings": vars(a), "peaks": {"flops": peaks.flops, "bytes": peaks.bytes}, "machine": machine()}
        Path(a.out).write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
