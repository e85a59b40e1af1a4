"""Results: the text of each row of a batch, why it ended, and its history of denoising.

Shapes: B rows, L positions, N changes of one row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Literal

import torch
from torch import Tensor

from mmada.canvas import TEXT, Canvas, Modality
from mmada.sampling import Frame, StopAtEos
from mmada.tokenizers.prompt import split_thinking
from mmada.tokenizers.text import TextTokenizer
from mmada.tokenizers.vocabulary import Vocabulary

__all__ = ["FinishReason", "LikelihoodBound", "RowHistory", "StopAtText", "TextResult", "histories", "read_texts"]

FinishReason = Literal["stop", "length", "unfinished thought"]


@dataclass(frozen=True)
class TextResult:
    """A completed text.

    ``text``: the answer without its reasoning. ``thinking``: the reasoning before it, or "". ``finish_reason``: "stop" at an end
    token or a stop string, "length" where the answer is as long as it may be, "unfinished thought" where the reasoning has no
    end, so that there is no answer yet. ``tokens``: ids of what was written, up to its end. ``raw_text``: their text, tags of
    reasoning included. ``note``: a remark on the input, such as that an image was cropped. ``nfe``: forward passes of the model
    that this row took part in. ``seconds``: wall time of the batch that it was in, which comparisons leave out.
    """

    text: str
    thinking: str
    tokens: tuple[int, ...] = field(repr=False)
    finish_reason: FinishReason = "stop"
    note: str = ""
    raw_text: str = field(default="", repr=False)
    nfe: int = 0
    seconds: float = field(default=0.0, compare=False)
    history: RowHistory | None = field(default=None, repr=False, compare=False)

    @property
    def frames(self) -> tuple[Frame, ...]:
        """The frames of this row, from the start, still masked, to the end."""
        return () if self.history is None else self.history.frames()

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        """In a notebook: the answer, the reasoning folded above it, and a line on how it was made."""
        thought = f"<details><summary>reasoning</summary><pre>{escape(self.thinking)}</pre></details>" if self.thinking else ""
        facts = [f"finished by {self.finish_reason}", f"{self.nfe} forward passes", f"{self.seconds:.1f} s", escape(self.note)]
        small = f"<small>{' &middot; '.join(fact for fact in facts if fact)}</small>"
        return f"{thought}<pre style='white-space: pre-wrap'>{escape(self.text)}</pre>{small}"


@dataclass(frozen=True)
class LikelihoodBound:
    """A lower bound on the log-likelihood of a completion, its end token included.

    ``nats``: the bound on ln p(completion | prompt), an average over ``samples`` draws. ``tokens``: tokens of the completion.
    """

    nats: float
    tokens: int
    samples: int

    @property
    def per_token(self) -> float:
        """Nats a token."""
        return self.nats / self.tokens


class RowHistory:
    """The changes of one row in each frame of a batch. It holds no other row, and makes the frames on request."""

    def __init__(self, start: Canvas, stages: Sequence[tuple[Modality, int, int, int]], changes_N3: Tensor) -> None:
        self.start = start
        self.stages = tuple(stages)
        """(phase, step, steps, forward passes so far) of each frame."""
        self.changes_N3 = changes_N3
        """(frame, position, token) of each change, in the order of the frames."""

    def frames(self) -> tuple[Frame, ...]:
        """The frames of this row, as the loop showed them."""
        tokens_1L, decided_1L = self.start.tokens_BL, torch.zeros_like(self.start.tokens_BL)
        sizes = torch.bincount(self.changes_N3[:, 0], minlength=len(self.stages)).tolist()
        found = []
        for number, ((phase, step, steps, nfe), change) in enumerate(
            zip(self.stages, torch.split(self.changes_N3, sizes), strict=True)
        ):
            tokens_1L, changed_1L = tokens_1L.clone(), torch.zeros_like(tokens_1L, dtype=torch.bool)
            tokens_1L[0, change[:, 1]] = change[:, 2]
            changed_1L[0, change[:, 1]] = True
            decided_1L = torch.where(changed_1L, number, decided_1L)
            found.append(Frame(self.start.with_tokens(tokens_1L), changed_1L, decided_1L, phase, step, steps, (nfe,)))
        return tuple(found)


def histories(frames: Sequence[Frame]) -> list[RowHistory]:
    """The history of each row of a batch."""
    start = frames[0].canvas.to("cpu")
    index_N3 = torch.cat([f.changed_BL.nonzero() for f in frames]).cpu()
    number_N = torch.arange(len(frames)).repeat_interleave(torch.tensor([int(f.changed_BL.sum()) for f in frames]))
    token_N = torch.cat([f.tokens_BL[f.changed_BL] for f in frames]).cpu()
    found = []
    for row in range(start.rows):
        own_N = index_N3[:, 0] == row
        own = start.row(row)
        stages = [(f.phase, f.step, f.steps, f.nfe[row]) for f in frames]
        changes_N3 = torch.stack([number_N[own_N], index_N3[own_N, 1], token_N[own_N]], 1)
        # A change is of a valid position, so none lies in the padding that `Canvas.row` cuts off.
        found.append(RowHistory(Canvas(*(t.clone() for t in own.tensors)), stages, changes_N3))
    return found


def read_texts(
    frames: Sequence[Frame],
    text: TextTokenizer,
    vocabulary: Vocabulary,
    *,
    stop: tuple[str, ...] = (),
    notes: Sequence[str] = (),
    seconds: float = 0.0,
) -> list[TextResult]:
    """The text of each row: its editable text positions up to the first end token or stop string."""
    last = frames[-1].canvas
    results = []
    for row, history in enumerate(histories(frames)):
        written_L = last.editable_BL[row] & (last.modality_BL[row] == TEXT)
        tokens: list[int] = last.tokens_BL[row][written_L].tolist()
        end = next((i for i, token in enumerate(tokens) if token in (vocabulary.eot, vocabulary.eos)), None)
        tokens = tokens[:end]
        raw = text.decode(tokens)
        cut = stop_at(raw, stop)
        if cut is not None:
            length = next(n for n in range(len(tokens), -1, -1) if stop_at(text.decode(tokens[:n]), stop) is None)
            tokens, raw = tokens[:length], raw[:cut]
        answer, thinking = split_thinking(raw)
        reason: FinishReason = "length" if end is None and cut is None else "stop"
        if answer_start(raw) is None:
            reason = "unfinished thought"
        note, nfe = notes[row] if notes else "", frames[-1].nfe[row]
        results.append(TextResult(answer, thinking, tuple(tokens), reason, note, raw, nfe, seconds, history))
    return results


def answer_start(raw: str) -> int | None:
    """Index at which the answer of a text begins, behind its reasoning; None while the reasoning has no end."""
    closed = raw.find("</think>")
    if closed >= 0:
        return closed + len("</think>")
    return None if "<think>" in raw else 0


def stop_at(raw: str, strings: Sequence[str]) -> int | None:
    """Index of the first stop string in the answer; None if there is none."""
    start = answer_start(raw)
    if start is None:
        return None
    found = [at for string in strings if (at := raw.find(string, start)) >= 0]
    return min(found, default=None)


@dataclass(frozen=True, eq=False)
class StopAtText(StopAtEos):
    """Rows end at an end token (none of them where ``ids`` is empty), or when their answer holds one of ``strings``.

    The text is read up to its first masked position, and rows do not depend on each other. ``editable_BL``: the positions of the
    answers; a prompt may hold the strings.
    """

    strings: tuple[str, ...]
    decode: Callable[[Sequence[int]], str]
    editable_BL: Tensor

    def __post_init__(self) -> None:
        """No check: without ids, only the strings end a row."""

    def ended(self, tokens_BL: Tensor, inside_BL: Tensor, masked_BL: Tensor) -> Tensor:
        """As `StopAtEos.ended`; reads the tokens on the host."""
        ended_B = super().ended(tokens_BL, inside_BL, masked_BL) if self.ids else torch.zeros_like(masked_BL[:, 0])
        readable_BL = self.editable_BL & (masked_BL.cumsum(1) == 0)
        for row in (masked_BL.any(1) & ~ended_B).nonzero()[:, 0].tolist():
            ended_B[row] = stop_at(self.decode(tokens_BL[row][readable_BL[row]].tolist()), self.strings) is not None
        return ended_B
