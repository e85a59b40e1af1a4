"""Trails: a model's own right answers, with the step at which each token was decided.

They are what a model is distilled on: every state of a trail is one that fast decoding meets, and what became of its masks is
known. Training split only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import Progress
from safetensors.torch import load_file
from torch import Tensor

from mmada.canvas import Canvas
from mmada.errors import InputError
from mmada.io.atomic import write_tensors
from mmada.nano.world.arithmetic import problem
from mmada.nano.world.captions import drawable, satisfies
from mmada.nano.world.detector import detect
from mmada.nano.world.questions import ask_about
from mmada.nano.world.render import LOOSE, render
from mmada.nano.world.scenes import sample_scene
from mmada.pipeline import ImageSampling, MMaDA, TextSampling
from mmada.pipeline.known_checkpoints import known_checkpoint
from mmada.recipes.init_from import weights_digest
from mmada.sampling import Acceleration, Frame

__all__ = ["SOURCES", "Trail", "collect", "in_blocks", "kept_trails"]

Random = np.random.Generator
ROWS = 64  # answers a batch


@dataclass(frozen=True)
class Trail:
    """A completed canvas of one row and the step that decided each place, from 1, int16 (1, L); context has 0. ``block``: of
    the text that was written, 0 for a picture."""

    canvas: Canvas
    step_BL: Tensor
    block: int

    def state(self, rng: Random, mask: int) -> Canvas:
        """One state on the way, to learn from: decided tokens are context, masks of the block at work are editable and hold
        what they became, later blocks hold masks."""
        steps = torch.unique(self.step_BL[self.step_BL > 0])
        now = int(steps[int(rng.integers(len(steps)))])
        return unfinished(self.canvas, (self.step_BL >= now) & self.canvas.editable_BL, self.block, mask)


def unfinished(canvas: Canvas, hidden_BL: Tensor, block: int, mask: int) -> Canvas:
    """A complete canvas as the state in which the places ``hidden_BL`` are still masked, the first block of them at work."""
    part_BL = (canvas.editable_BL.cumsum(1) - 1) // block if block else torch.zeros_like(canvas.tokens_BL)
    at_work_BL = hidden_BL & (part_BL == part_BL[hidden_BL].min())
    tokens_BL = canvas.tokens_BL.masked_fill(hidden_BL & ~at_work_BL, mask)
    return replace(canvas, tokens_BL=tokens_BL, editable_BL=at_work_BL)


def in_blocks(canvas: Canvas, block: int, rng: Random, mask: int) -> Canvas:
    """A true answer as a state of decoding in blocks: one block half masked at random, what is before it known, the rest not."""
    places = int(canvas.editable_BL.sum())
    rank_BL = canvas.editable_BL.cumsum(1) - 1
    first = int(rng.integers(-(-places // block))) * block
    inside = min(block, places - first)
    hidden = np.zeros(places, bool)
    hidden[first : first + inside][rng.permutation(inside)[: int(rng.integers(1, inside + 1))]] = True
    hidden[first + inside :] = True
    hidden_BL = canvas.editable_BL & torch.from_numpy(hidden)[rank_BL.clamp(min=0)]
    return unfinished(canvas, hidden_BL, block, mask)


def retrace(frames: Sequence[Frame], row: int, block: int) -> Trail:
    """The trail of one row of a batch."""
    last = frames[-1].row(row)
    step_BL = torch.zeros(last.tokens_BL.shape, dtype=torch.int16)
    for number, frame in enumerate(frames[1:], 1):
        step_BL[frame.row(row).changed_BL.cpu()] = number
    return Trail(last.canvas.to("cpu"), step_BL, block)


def math(model: MMaDA, rng: Random) -> Iterator[Trail]:
    """Worded problems, every step of the reasoning right."""
    asked, frames = [problem(rng) for _ in range(ROWS)], list[Frame]()
    answers = model.generate([p.text for p in asked], thinking=True, callback=frames.append)
    for row, (given, answer) in enumerate(zip(asked, answers, strict=True)):
        if given.solved(answer.thinking, answer.text):
            yield retrace(frames, row, model.preset.reasoning.numbers[2])


def questions(model: MMaDA, rng: Random) -> Iterator[Trail]:
    """Questions about pictures, answered right."""
    scenes, frames = [sample_scene(rng) for _ in range(ROWS)], list[Frame]()
    asked = [ask_about(scene, rng) for scene in scenes]
    pictures = [Image.fromarray(render(scene, rng, LOOSE)) for scene in scenes]
    answers = model.ask(list(pictures), [q.text for q in asked], thinking=False, callback=frames.append)
    for row, (question, answer) in enumerate(zip(asked, answers, strict=True)):
        if answer.text.strip().rstrip(".") == question.answer:
            yield retrace(frames, row, model.preset.answer.numbers[2])


def pictures(model: MMaDA, rng: Random) -> Iterator[Trail]:
    """Pictures that show what their caption says."""
    asked, frames = [drawable(rng) for _ in range(ROWS)], list[Frame]()
    drawn = model.draw([item.text for item in asked], callback=frames.append, seed=int(rng.integers(2**31)))
    for row, (item, picture) in enumerate(zip(asked, drawn, strict=True)):
        if satisfies(item.meaning, detect(np.asarray(picture))):
            yield retrace(frames, row, 0)


SOURCES: dict[str, Callable[[MMaDA, Random], Iterator[Trail]]] = {"math": math, "questions": questions, "pictures": pictures}


def collect(model: MMaDA, source: str, count: int, seed: int, advance: Callable[[], None] = lambda: None) -> list[Trail]:
    """``count`` trails of a source. Raises InputError for a model that is hardly ever right."""
    found: list[Trail] = []
    batch = 0
    while len(found) < count:
        for trail in SOURCES[source](model, np.random.default_rng((seed, 5, list(SOURCES).index(source), batch))):
            found.append(trail)
            advance()
        batch += 1
        if batch * ROWS > 20 * (len(found) + ROWS):
            raise InputError(f"model is right in {len(found)} of {batch * ROWS} {source}, too few to distil from")
    return found[:count]


def kept_trails(folder: Path, speed: Acceleration, counts: Mapping[str, int], seed: int, cache: Path) -> dict[str, list[Trail]]:
    """Trails of the model in ``folder``, decoded at ``speed``; kept in ``cache`` and read from there as long as weights and
    settings stay what they were."""
    digest = weights_digest(folder, (speed, seed, known_checkpoint(folder).preset))[:16]
    paths = {s: cache / f"trails_{s}_{n}_{digest}.safetensors" for s, n in counts.items() if n}
    if missing := [source for source, path in paths.items() if not path.is_file()]:
        model = MMaDA.load(folder).with_defaults(text=TextSampling(**vars(speed)), image=ImageSampling(**vars(speed)))
        cache.mkdir(parents=True, exist_ok=True)
        with Progress(transient=True) as progress:
            for source in missing:
                task = progress.add_task(f"decoding {source}", total=counts[source])
                write(collect(model, source, counts[source], seed, lambda task=task: progress.advance(task)), paths[source])  # type: ignore[misc]
    return {source: read(path) for source, path in paths.items()}


def write(trails: Sequence[Trail], path: Path) -> None:
    """Keep trails in a file, end to end."""
    rows = [(t.canvas.tokens_BL, t.canvas.editable_BL, t.canvas.modality_BL, t.step_BL) for t in trails]
    tensors = {name: torch.cat([r[i][0] for r in rows]) for i, name in enumerate(("tokens", "editable", "modality", "step"))}
    tensors["length"] = torch.tensor([t.canvas.length for t in trails])
    tensors["block"] = torch.tensor([t.block for t in trails])
    write_tensors(path, tensors)


def read(path: Path) -> list[Trail]:
    """The trails of a file."""
    kept = load_file(path)
    columns = [torch.split(kept[name], kept["length"].tolist()) for name in ("tokens", "editable", "modality", "step")]
    trails = []
    for tokens_L, editable_L, modality_L, step_L, block in zip(*columns, kept["block"].tolist(), strict=True):
        canvas = Canvas(tokens_L[None], editable_L[None], torch.ones_like(editable_L)[None], modality_L[None])
        trails.append(Trail(canvas, step_L[None], block))
    return trails
