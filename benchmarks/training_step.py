"""A training step three ways: packed and compiled (what the recipes run), packed and plain, padded and plain.

    python benchmarks/training_step.py [--steps 5] [--rows 40] [--threads 2]

All three learn from the same examples of recipe `cot`, with the bundled tokenizers and a new transformer of the nano size.
Prints seconds a step, examples a second, and the ratio to the slowest, from one run; the losses of the three are equal
(tests/training/test_training.py, tests/model/test_model.py).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mmada.canvas import Canvas
from mmada.data.dataset import Formatter, Sampler
from mmada.data.packing import Batch, pack
from mmada.nano.datasets import NanoData, nano_datasets
from mmada.nano.image_sets import ImageSets, ImageSetSizes
from mmada.nano.recipes import cot
from mmada.pipeline.loading import find_folder
from mmada.recipes.sft import COT_INSTRUCTION
from mmada.tokenizers.image import ImageTokenizer
from mmada.tokenizers.prompt import Prompter
from mmada.tokenizers.text import TextTokenizer
from mmada.tokenizers.vocabulary import Vocabulary
from mmada.training.loop import backward
from mmada.training.masked_diffusion import MaskedDiffusionLearner

SIZES = ImageSetSizes(augmented=400, canonical=400, digits=40, digit_variants=1)


def same(batch: Batch, step: int) -> Batch:
    """The same batch at every step."""
    return batch


def packed(examples: Sequence[Canvas], length: int) -> Batch:
    """As few rows of ``length`` as hold all the examples."""
    for rows in range(sum(c.length for c in examples) // length, len(examples) + 1):
        batch = pack(iter(examples), rows=rows, length=length, patience=len(examples))
        if batch.examples == len(examples):
            return batch
    raise AssertionError("an example a row always fits")


def padded(examples: Sequence[Canvas]) -> Batch:
    """An example a row, filled up to the longest."""
    length = max(c.length for c in examples)
    rows = [pack(iter([c]), rows=1, length=length) for c in examples]
    segment_BL = torch.cat([row.segment_BL * (i + 1) for i, row in enumerate(rows)])
    tokens, editable, modality, position = (
        torch.cat([getattr(row, name) for row in rows]) for name in ("tokens_BL", "editable_BL", "modality_BL", "position_BL")
    )
    return Batch(tokens, editable, modality, segment_BL, position, len(rows))


def seconds(step: Callable[[], object], steps: int) -> float:
    """Median seconds of ``steps`` calls after two to warm up."""
    times = []
    for _ in range(steps + 2):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return float(np.median(times[2:]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5, help="steps to time (default 5)")
    parser.add_argument("--rows", type=int, default=40, help="rows of 192 tokens to fill (default 40)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)

    folder, recipe = find_folder("nano"), cot()
    image, text = ImageTokenizer.load(folder / "image_tokenizer"), TextTokenizer.load(folder)
    vocabulary = Vocabulary.of(text.ids(), image.config.codebook_size)
    prompter = Prompter(text, vocabulary, COT_INSTRUCTION, 64)
    with tempfile.TemporaryDirectory() as cache:
        data = NanoData(ImageSets.build(image, SIZES, cache=Path(cache)), text)
    sampler = Sampler(nano_datasets(data), Formatter(prompter, recipe.answer_lengths, recipe.thought_length), recipe.row_length)
    stream = sampler.canvases(recipe.mixture(0), np.random.default_rng(0))
    count = pack(stream, rows=given.rows, length=recipe.row_length).examples
    stream = sampler.canvases(recipe.mixture(0), np.random.default_rng(0))
    examples = [next(stream) for _ in range(count)]

    batches = {"packed": packed(examples, recipe.row_length), "padded": padded(examples)}
    ways = (("padded", False), ("packed", False), ("packed", True))
    slowest = 0.0
    for kind, compile_model in ways:
        torch.manual_seed(0)
        batch = batches[kind]
        learner = MaskedDiffusionLearner(
            replace(recipe, compile=compile_model).new_model(vocabulary), vocabulary, partial(same, batch), recipe.losses,
            seed=0, show=lambda _: [], write=lambda *_: None, device=torch.device("cpu"), compile_model=compile_model,
        )  # fmt: skip

        def step(learner: MaskedDiffusionLearner = learner) -> None:
            learner.module.zero_grad(set_to_none=True)
            backward(learner.losses(0))

        took = seconds(step, given.steps)
        slowest = slowest or took
        shape = "x".join(str(n) for n in batch.tokens_BL.shape)
        name = f"{kind}, {'compiled' if compile_model else 'plain'}"
        print(f"{name:17} {shape:>8}  {took:6.3f} s/step  {count / took:6.1f} examples/s  {slowest / took:4.2f} x")


if __name__ == "__main__":
    main()
