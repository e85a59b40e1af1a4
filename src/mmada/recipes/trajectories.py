"""Decoding trajectories of a model's own correct answers, for self-distillation.

A trajectory has the step at which each token was decided. Every state of it is one that fast decoding meets, with known final
tokens. Sources of answers use the training split only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from safetensors.torch import load_file
from torch import Tensor

from mmada.canvas import Canvas, Trajectory
from mmada.errors import InputError
from mmada.io.atomic import write_tensors
from mmada.io.fingerprint import weights_fingerprint
from mmada.pipeline import ImageSampling, MMaDA, TextSampling
from mmada.pipeline.known_checkpoints import known_checkpoint
from mmada.sampling import Acceleration, Frame

__all__ = ["ROWS", "AnswerSource", "DecodedAnswer", "collect", "decoded", "in_blocks", "stored_answers"]

Random = np.random.Generator
ROWS = 64
"""Answers decoded at a time."""


@dataclass(frozen=True)
class DecodedAnswer:
    """A completed canvas of one row with the step that decided each position. ``block``: length of the blocks that a text was
    decoded in, 0 for a picture."""

    trajectory: Trajectory
    block: int

    def state(self, rng: Random, mask: int) -> Canvas:
        """A random decoding state as a training example.

        Decided tokens are context, masked positions of the current block are editable and hold their final tokens, and later
        blocks hold masks.
        """
        decided_BL, canvas = self.trajectory.decided_BL, self.trajectory.canvas
        steps = torch.unique(decided_BL[decided_BL > 0])
        now = int(steps[int(rng.integers(len(steps)))])
        return unfinished(canvas, (decided_BL >= now) & canvas.editable_BL, self.block, mask)


AnswerSource = Callable[[MMaDA, Random, int], Iterator[DecodedAnswer]]
"""Maps (model, generator, number of prompts) to the correct answers."""


def unfinished(canvas: Canvas, hidden_BL: Tensor, block: int, mask: int) -> Canvas:
    """The decoding state of a complete canvas in which ``hidden_BL`` is still masked; its first block is the current one."""
    part_BL = (canvas.editable_BL.cumsum(1) - 1) // block if block else torch.zeros_like(canvas.tokens_BL)
    current_BL = hidden_BL & (part_BL == part_BL[hidden_BL].min())
    tokens_BL = canvas.tokens_BL.masked_fill(hidden_BL & ~current_BL, mask)
    return replace(canvas, tokens_BL=tokens_BL, editable_BL=current_BL)


def in_blocks(canvas: Canvas, block: int, rng: Random, mask: int) -> Canvas:
    """A reference answer as a state of blockwise decoding: a random block partly masked, all later ones masked."""
    count = int(canvas.editable_BL.sum())
    rank_BL = canvas.editable_BL.cumsum(1) - 1
    first = int(rng.integers(-(-count // block))) * block
    inside = min(block, count - first)
    hidden = np.zeros(count, bool)
    hidden[first : first + inside][rng.permutation(inside)[: int(rng.integers(1, inside + 1))]] = True
    hidden[first + inside :] = True
    hidden_BL = canvas.editable_BL & torch.from_numpy(hidden)[rank_BL.clamp(min=0)]
    return unfinished(canvas, hidden_BL, block, mask)


def decoded(frames: Sequence[Frame], row: int, block: int) -> DecodedAnswer:
    """One row of a finished batch."""
    last = frames[-1].row(row).trajectory
    return DecodedAnswer(Trajectory(last.canvas.to("cpu"), last.decided_BL.to("cpu")), block)


def collect(
    model: MMaDA,
    sources: Mapping[str, AnswerSource],
    name: str,
    count: int,
    seed: int,
    advance: Callable[[], None] = lambda: None,
) -> list[DecodedAnswer]:
    """Collect ``count`` correct answers of a source. Raises InputError if the model is correct too rarely."""
    found: list[DecodedAnswer] = []
    batch = 0
    while len(found) < count:
        for answer in sources[name](model, np.random.default_rng((seed, 5, list(sources).index(name), batch)), ROWS):
            found.append(answer)
            advance()
        batch += 1
        if batch * ROWS > 20 * (len(found) + ROWS):
            raise InputError(f"model is right in {len(found)} of {batch * ROWS} {name}, too few to distil from")
    return found[:count]


def stored_answers(
    folder: Path,
    speed: Acceleration,
    sources: Mapping[str, AnswerSource],
    counts: Mapping[str, int],
    seed: int,
    cache: Path,
) -> dict[str, list[DecodedAnswer]]:
    """Correct answers of the model in ``folder``, decoded with the acceleration ``speed``.

    They are stored in ``cache`` and read from there while weights and settings are unchanged.
    """
    made_by = weights_fingerprint(folder, repr((speed, seed, known_checkpoint(folder).preset)))[:16]
    paths = {s: cache / f"answers_{s}_{n}_{made_by}.safetensors" for s, n in counts.items() if n}
    if missing := [source for source, path in paths.items() if not path.is_file()]:
        model = MMaDA.load(folder).with_defaults(text=TextSampling(**vars(speed)), image=ImageSampling(**vars(speed)))
        cache.mkdir(parents=True, exist_ok=True)
        with Progress(transient=True) as progress:
            for source in missing:
                task = progress.add_task(f"decoding {source}", total=counts[source])

                def advance(task: int = task) -> None:
                    progress.advance(task)  # type: ignore[arg-type]

                write(collect(model, sources, source, counts[source], seed, advance), paths[source])
    return {source: read(path) for source, path in paths.items()}


def write(answers: Sequence[DecodedAnswer], path: Path) -> None:
    """Store answers in a file, concatenated."""
    rows = [(a.trajectory.canvas, a.trajectory.decided_BL) for a in answers]
    tensors = {
        "tokens": torch.cat([canvas.tokens_BL[0] for canvas, _ in rows]),
        "editable": torch.cat([canvas.editable_BL[0] for canvas, _ in rows]),
        "modality": torch.cat([canvas.modality_BL[0] for canvas, _ in rows]),
        "decided": torch.cat([decided_BL[0] for _, decided_BL in rows]),
        "length": torch.tensor([canvas.length for canvas, _ in rows]),
        "block": torch.tensor([answer.block for answer in answers]),
    }
    write_tensors(path, tensors)


def read(path: Path) -> list[DecodedAnswer]:
    """The answers of a file."""
    stored = load_file(path)
    columns = [torch.split(stored[name], stored["length"].tolist()) for name in ("tokens", "editable", "modality", "decided")]
    answers = []
    for tokens_L, editable_L, modality_L, decided_L, block in zip(*columns, stored["block"].tolist(), strict=True):
        canvas = Canvas(tokens_L[None], editable_L[None], torch.ones_like(editable_L)[None], modality_L[None])
        answers.append(DecodedAnswer(Trajectory(canvas, decided_L[None]), block))
    return answers
