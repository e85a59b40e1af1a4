"""What a supervised run says: the data before it, the result after it with the command to try next, and samples on the way."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mmada.data.dataset import Dataset, Example, Subset, UnusableRow
from mmada.data.encoded import EncodedDataset
from mmada.io.images import load_image, save_image
from mmada.io.jsonl import read_log
from mmada.pipeline import MMaDA
from mmada.pipeline.grids import Grid
from mmada.tokenizers.image import ImageTokenizer, to_images
from mmada.tokenizers.vocabulary import Codes
from mmada.training.log import VALIDATION
from mmada.training.loop import Plan
from mmada.training.masked_diffusion import Samples

__all__ = ["best_guidance", "next_commands", "said", "sampled", "save_shown", "shown_examples", "summary"]

SMALL = 512
"""Pixels to which a sample is reduced in the sheet."""


def shown_examples(datasets: Mapping[str, Dataset], count: int) -> list[Example]:
    """The first ``count`` usable examples, of each set in turn."""
    return [example for _, _, example in islice(usable_examples(datasets), count)]


def usable_examples(datasets: Mapping[str, Dataset]) -> Iterator[tuple[Dataset, int, Example]]:
    """Usable examples of each set in turn, with the set and the index."""
    for index in range(max((len(one) for one in datasets.values()), default=0)):
        for dataset in datasets.values():
            try:
                if index < len(dataset):
                    yield dataset, index, dataset[index]
            except UnusableRow:
                continue


def question_of(example: Example) -> str:
    """The last question of a conversation that an answer follows."""
    turns = [one.content for one in example.messages if one.role == "user"]
    return turns[-1] if turns else ""


def sampled(model: MMaDA, examples: Sequence[Example]) -> Samples:
    """What a model makes of examples: pictures drawn from their captions, each after the real one, and answers."""
    engine, preset = model.engine, model.preset
    pictures: list[Image.Image] = []
    texts: list[str] = []
    for example in examples:
        if example.objective == "text_to_image" and example.hole is None and example.text:
            real = grid_of(example.codes[0])
            drawn = engine.fill(np.full_like(real, -1), example.text, preset.image, engine.generators(0, 1), None)
            both = engine.decode(np.stack([real, drawn]))
            pictures += [one.resize((min(one.width, SMALL), min(one.height, SMALL))) for one in both]
            texts.append(f"draw: {example.text}\n  {np.mean(drawn == real):.0%} of the codes are those of the picture")
        elif example.objective == "chat" and example.messages[-1].role == "assistant":
            plan = preset.reasoning if example.reasoning else preset.answer
            canvas = engine.prompter.chat(
                example.messages[:-1], images=example.codes, thinking=example.reasoning, answer_length=plan.numbers[0]
            )
            if canvas.length > engine.parts.max_length:
                continue
            ends = (engine.parts.vocabulary.eot, engine.parts.vocabulary.eos)
            frames = engine.complete([canvas], [plan.phase(ends)], engine.generators(0, 1), None, [canvas])
            answer = engine.text_results(frames)[0].raw_text.strip()
            texts.append(f"ask:  {question_of(example)}\n  answer: {answer}\n  data:   {example.messages[-1].content.strip()}")
    return Samples(pictures, texts)


def best_guidance(model: MMaDA, examples: Sequence[Example]) -> tuple[float, dict[float, float]]:
    """Guidance scale with which a model draws pictures that it was trained on best, and the share of codes drawn back by scale.

    It is the model's own unless a lower one is far better. A model that knows few pictures by heart says little about all other
    codes, and guidance, a difference of two such opinions, then makes noise of pictures that are right without it.
    """
    engine, image = model.engine, model.preset.image
    own = float(image.guidance or 0.0)
    asked = [one for one in examples if one.objective == "text_to_image" and one.text and one.hole is None and not one.thought]
    shares: dict[float, float] = {}
    for scale in dict.fromkeys((own, own / 3, 0.0)) if asked and own else ():
        found = []
        for number, example in enumerate(asked):
            real = grid_of(example.codes[0])
            sampling = replace(image, guidance=scale)
            drawn = engine.fill(np.full_like(real, -1), example.text, sampling, engine.generators(number, 1), None)
            found.append(float(np.mean(drawn == real)))
        shares[round(scale, 2)] = float(np.mean(found))
    if not shares:
        return own, shares
    best = max(shares, key=lambda scale: shares[scale] + 0.001 * scale)
    return (best if shares[best] > 0.5 and shares[best] > shares[own] + 0.03 else own), shares


def grid_of(codes: Codes) -> Grid:
    """Codes of a square picture as a grid."""
    flat = np.asarray(codes, np.int64).ravel()
    side = round(len(flat) ** 0.5)
    return flat.reshape(side, -1)


def next_commands(examples: Sequence[Example], model: Path, shown: Path, device: str) -> list[str]:
    """Commands that ask a model for examples that it was trained on, one of each kind; ``shown``: the picture of one."""
    found: dict[str, str] = {}
    for example in examples:
        if example.objective == "text_to_image" and example.text and example.hole is None:
            found.setdefault("draw", f"mmada draw {argument(example.text)} --model {{}} --out drawn.png")
        elif example.objective == "chat" and (question := question_of(example)):
            thinking = " --thinking" if example.reasoning else ""
            if example.codes and shown.is_file():
                found.setdefault("ask", f"mmada ask {argument(str(shown))} {argument(question)}{thinking} --model {{}}")
            elif not example.codes:
                found.setdefault("chat", f"mmada chat {argument(question)}{thinking} --model {{}}")
        elif example.objective == "text":
            found.setdefault("generate", f"mmada generate {argument(' '.join(example.text.split()[:6]))} --model {{}}")
    where = argument(str(model)) + ("" if device == "auto" else f" --device {device}")
    return [command.format(where) for command in found.values()]


def save_shown(datasets: Mapping[str, Dataset], count: int, tokenizer: ImageTokenizer, folder: Path) -> Path:
    """Write the picture of the first question about one, of ``count`` examples, to ask about; returns the file.

    It is the picture itself: what its codes decode to may have other codes. Shards have only these.
    """
    path = folder / "picture.png"
    for dataset, index, example in islice(usable_examples(datasets), count):
        if example.objective == "chat" and example.codes:
            folder.mkdir(exist_ok=True)
            original = before_encoding(dataset, index)
            save_image(load_image(original.images[0]) if original.images else decoded(example, tokenizer), path)
            break
    return path


def before_encoding(dataset: Dataset, index: int) -> Example:
    """An example with its pictures, where its set encodes them."""
    if isinstance(dataset, Subset):
        return before_encoding(dataset.dataset, dataset.indices[index])
    return dataset.dataset[index] if isinstance(dataset, EncodedDataset) else dataset[index]


def decoded(example: Example, tokenizer: ImageTokenizer) -> Image.Image:
    """The first picture of an example, from its codes."""
    grid = torch.from_numpy(grid_of(example.codes[0]))[None]
    return to_images(tokenizer.decode(grid.to(next(tokenizer.parameters()).device)))[0]


def argument(text: str) -> str:
    """A text as one word of a shell, which no command takes for an option."""
    quoted = shlex.quote(text).replace("{", "{{").replace("}", "}}")
    return quoted if not text.startswith("-") else f"-- {quoted}"


def summary(out: Path, plan: Plan, epoch: int) -> str:
    """What a run did, in a few lines, from its logs."""
    rows = [row for row in read_log(out / "log.jsonl") if "loss" in row]
    if not rows:
        return ""
    few = max(1, min(20, len(rows) // 10))
    first, last = (float(np.mean([row["loss"] for row in part])) for part in (rows[:few], rows[-few:]))
    seen, tokens = (sum(row.get(name, 0.0) for row in rows) for name in ("examples", "tokens"))
    seconds = sum(row["seconds"] for row in rows)
    epochs = f"{seen:,.0f} examples ({seen / max(1, epoch):.1f} epochs of {epoch:,})"
    lines = [
        f"trained {len(rows):,} steps: {epochs}, {tokens:,.0f} tokens, {spelled(seconds)}; learning rate {plan.optim.lr:g}",
        f"loss {first:.3f} -> {last:.3f} (means of the first and last {few} steps)",
    ]
    validations = read_log(out / VALIDATION) if (out / VALIDATION).is_file() else []
    if validations:
        best = min(validations, key=lambda row: row["loss"])
        now = validations[-1]
        lines.append(f"validation loss {now['loss']:.3f}, lowest {best['loss']:.3f} after {best['step']:.0f} steps")
        if best["loss"] < 0.95 * now["loss"] and not plan.patience:
            lines[-1] += "; --set plan.patience=3 would stop there and keep that model"
    return "\n".join(lines)


def said(shares: Mapping[float, float]) -> str:
    """Shares of codes by guidance scale, in words."""
    return ", ".join(f"{share:.0%} with guidance {scale:g}" for scale, share in shares.items())


def spelled(seconds: float) -> str:
    """A time as people say it."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s" if minutes else f"{rest} s"
