"""The one denoising loop: a generator of frames for text, pictures, infilling and thinking before drawing.

    while places are masked:  predict them -> draw a token for each -> commit the best few

A committed token is never changed. Rows of a batch do not influence each other: each has its own generator,
its own counts and its own end, so a batch gives what its rows give alone.

Shapes: B rows, R of them at work, L positions, N masked places at work (row-major), V vocabulary columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mmada.canvas import IMAGE, TEXT, Canvas, Denoiser, Modality
from mmada.errors import InputError
from mmada.sampling.policy import Count, Draw, Guidance, Noise, Order, Region, StopAtEos, Whole
from mmada.tokenizers.vocabulary import Vocabulary

__all__ = ["Frame", "Phase", "complete", "denoise", "row_generators"]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """How the masked places of one modality are filled; thinking before drawing is two of them.

    ``open_vocabulary``: a text place may take any id there is, codes and the mask too, as in the released sampler.
    """

    modality: Modality
    count: Count
    order: Order
    draw: Draw
    guidance: Guidance = field(default_factory=Guidance)
    region: Region = field(default_factory=Whole)
    stop: StopAtEos | None = None
    open_vocabulary: bool = False

    def __post_init__(self) -> None:
        if self.modality not in ("text", "image"):
            raise InputError(f"modality of a phase must be 'text' or 'image', got {self.modality!r}")


@dataclass(frozen=True)
class Frame:
    """The canvas after one step.

    ``canvas``: its own tokens, safe to keep. ``changed_BL``: bool, what this step wrote. ``phase``: the
    modality at work. ``step``: 0 (the start, nothing changed) to at most ``steps``; rows that end early leave
    the last ones out.
    """

    canvas: Canvas
    changed_BL: Tensor
    phase: Modality
    step: int
    steps: int

    @property
    def tokens_BL(self) -> Tensor:
        """Tokens after the step."""
        return self.canvas.tokens_BL

    def row(self, index: int) -> Frame:
        """One row's view of the frame, its padding cut off."""
        canvas = self.canvas.row(index)
        changed_BL = self.changed_BL[index : index + 1, : canvas.length]
        return replace(self, canvas=canvas, changed_BL=changed_BL)


def row_generators(seeds: Sequence[int], device: torch.device | str = "cpu") -> list[torch.Generator]:
    """One generator a row, so that a row's noise depends on its seed alone."""
    return [torch.Generator(device).manual_seed(seed) for seed in seeds]


def complete(
    denoiser: Denoiser,
    canvas: Canvas,
    phases: Sequence[Phase],
    *,
    vocabulary: Vocabulary,
    generators: Sequence[torch.Generator],
    unconditional: Canvas | None = None,
) -> Canvas:
    """The canvas of the last frame of `denoise`."""
    *_, last = denoise(denoiser, canvas, phases, vocabulary=vocabulary, generators=generators, unconditional=unconditional)
    return last.canvas


def denoise(
    denoiser: Denoiser,
    canvas: Canvas,
    phases: Sequence[Phase],
    *,
    vocabulary: Vocabulary,
    generators: Sequence[torch.Generator],
    unconditional: Canvas | None = None,
) -> Iterator[Frame]:
    """Fill the editable masked places of ``canvas``, phase after phase; a `Frame` at the start and each step.

    All other places stay as they are, and the caller's tensors are not written to. A text place may take any
    text token but the mask, image and task tokens (a sampling constraint, see `Phase.open_vocabulary`); an
    image place takes codes alone.

    ``generators``: one a row. ``unconditional``: the canvas without its prompt, needed where a phase has
    guidance; row by row it has as many editable places of that modality as ``canvas``, in the same order, at
    whatever positions. Both run as one batch. Steps that commit nothing run no forward and yield no frame;
    ended rows leave the batch.

    Raises ValueError where generators or the unconditional canvas do not fit.
    """
    _check(canvas, phases, generators, unconditional)
    state = _State(denoiser, canvas, vocabulary, generators, unconditional)
    planned = [_parts(phase, state.masked(phase.modality)) * phase.count.steps for phase in phases]
    nothing_BL = torch.zeros_like(canvas.editable_BL)
    yield Frame(state.snapshot(), nothing_BL, phases[0].modality, 0, sum(planned))
    for i, phase in enumerate(phases):
        before = sum(planned[:i])
        for step, changed_BL in _run(state, phase):
            yield Frame(state.snapshot(), changed_BL, phase.modality, before + step, sum(planned))


class _State:
    """The canvas being filled, and what a step needs to fill it."""

    def __init__(
        self,
        denoiser: Denoiser,
        canvas: Canvas,
        vocabulary: Vocabulary,
        generators: Sequence[torch.Generator],
        unconditional: Canvas | None,
    ) -> None:
        self.denoiser = denoiser
        self.canvas = canvas
        self.tokens_BL = canvas.tokens_BL.clone()
        self.vocabulary = vocabulary
        self.generators = generators
        self.unconditional = unconditional
        v = vocabulary
        self.barred = canvas.tokens_BL.new_tensor([v.mask, v.soi, v.eoi, v.t2i, v.mmu, v.r2i, v.ipad])

    def snapshot(self) -> Canvas:
        """The canvas as it is now."""
        return self.canvas.with_tokens(self.tokens_BL.clone())

    def masked(self, modality: Modality) -> Tensor:
        """Places of ``modality`` that are still to be filled, bool (B, L)."""
        return _places(self.canvas, modality) & (self.tokens_BL == self.vocabulary.mask)

    def step(self, phase: Phase, left_BL: Tensor, commits_B: Tensor, step: int) -> Tensor:
        """Commit ``commits_B`` of the places ``left_BL`` in each row; returns those places, bool (B, L)."""
        rows = commits_B.nonzero()[:, 0]
        at_RL = left_BL[rows]
        logits_NV = self.logits(phase, rows, at_RL)
        noise = self.noise(rows, at_RL)
        chosen_N = phase.draw.choose(logits_NV, noise)
        score_N = phase.order.score(logits_NV, chosen_N, noise, step, phase.count.steps).double()
        score_RL = score_N.new_full(at_RL.shape, float("-inf"))
        # Finite, so that even an impossible candidate comes before the places that are none.
        score_RL[at_RL] = score_N.clamp(min=torch.finfo(torch.float64).min)
        rank_RL = score_RL.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        commit_RL = at_RL & (rank_RL < commits_B[rows, None])
        tokens_RL = self.tokens_BL[rows]
        drawn_RL = tokens_RL.masked_scatter(at_RL, chosen_N + self.columns(phase).start)
        self.tokens_BL[rows] = torch.where(commit_RL, drawn_RL, tokens_RL)
        changed_BL = torch.zeros_like(left_BL)
        changed_BL[rows] = commit_RL
        return changed_BL

    def end(self, phase: Phase, inside_BL: Tensor, complete_B: Tensor) -> Tensor:
        """Fill the rest of rows whose complete block ``inside_BL`` has an end token; returns those places."""
        if phase.stop is None:
            return torch.zeros_like(inside_BL)
        ended_B = complete_B & phase.stop.ended(self.tokens_BL, inside_BL)
        rest_BL = self.masked(phase.modality) & ended_B[:, None]
        self.tokens_BL[rest_BL] = self.vocabulary.eos
        return rest_BL

    def columns(self, phase: Phase) -> range:
        """Token ids that a place may take."""
        v = self.vocabulary
        return v.image_columns if phase.modality == "image" else range(v.size) if phase.open_vocabulary else v.text_columns

    def logits(self, phase: Phase, rows: Tensor, at_RL: Tensor) -> Tensor:
        """Guided logits (N, V) at the places ``at_RL`` of ``rows``."""
        columns = self.columns(phase)
        asked = _take(self.canvas.with_tokens(self.tokens_BL), rows, at_RL)
        if phase.guidance.scale > 0 and self.unconditional is not None:
            asked = Canvas.stack([asked, self.counterpart(asked, rows, phase.modality)])
        logits_NV = self.denoiser.predict(asked.tokens_BL, at_BL=asked.editable_BL, columns=columns, valid_BL=asked.valid_BL)
        if asked.rows > len(rows):
            logits_NV = phase.guidance.combine(*logits_NV.chunk(2))
        if phase.modality == "text" and not phase.open_vocabulary:
            logits_NV = logits_NV.index_fill(1, self.barred, float("-inf"))
        return logits_NV

    def counterpart(self, asked: Canvas, rows: Tensor, modality: Modality) -> Canvas:
        """The unconditional rows with what has been filled in so far, asking for the same places."""
        assert self.unconditional is not None
        here_RL = _places(self.canvas, modality)[rows]
        there_RM = _places(self.unconditional, modality)[rows]
        tokens_RM = self.unconditional.tokens_BL[rows].masked_scatter(there_RM, asked.tokens_BL[here_RL])
        at_RM = torch.zeros_like(there_RM).masked_scatter(there_RM, asked.editable_BL[here_RL])
        return replace(_take(self.unconditional, rows, at_RM), tokens_BL=tokens_RM)

    def noise(self, rows: Tensor, at_RL: Tensor) -> Noise:
        """Gumbel noise for the places ``at_RL``, each row's from its own generator."""
        generators, counts = [self.generators[row] for row in rows.tolist()], at_RL.sum(1).tolist()

        def gumbel(width: int) -> Tensor:
            draws = [
                torch.empty(n, width, dtype=torch.float64, device=g.device).exponential_(generator=g)
                for g, n in zip(generators, counts, strict=True)
            ]
            return -torch.cat(draws).log().to(at_RL.device)

        return gumbel


def _run(state: _State, phase: Phase) -> Iterator[tuple[int, Tensor]]:
    """One phase: yields (step within the phase from 1, places written)."""
    masked_BL = state.masked(phase.modality)
    part_BL = phase.region.part(masked_BL.cumsum(1) - 1)
    steps = phase.count.steps
    for part in range(_parts(phase, masked_BL)):
        inside_BL = state.masked(phase.modality) & (part_BL == part)
        unknown_B = inside_BL.sum(1)
        for step in range(steps):
            left_BL = inside_BL & state.masked(phase.modality)
            left_B = left_BL.sum(1)
            commits_B = torch.minimum(phase.count.commits(unknown_B, left_B, step), left_B)
            if not bool(commits_B.any()):
                continue
            changed_BL = state.step(phase, left_BL, commits_B, step)
            changed_BL |= state.end(phase, inside_BL, commits_B == left_B)
            yield part * steps + step + 1, changed_BL


def _places(canvas: Canvas, modality: Modality) -> Tensor:
    """Editable places of ``modality``, bool (B, L)."""
    kind = IMAGE if modality == "image" else TEXT
    return canvas.editable_BL & canvas.valid_BL & (canvas.modality_BL == kind)


def _parts(phase: Phase, masked_BL: Tensor) -> int:
    """Number of parts that the region of ``phase`` makes of the masked places."""
    longest = masked_BL.sum(1).max()
    return int(phase.region.part(longest - 1)) + 1 if int(longest) else 0


def _take(canvas: Canvas, rows: Tensor, at_RL: Tensor) -> Canvas:
    """Some rows of a canvas, ``editable`` marking the places asked for."""
    return Canvas(canvas.tokens_BL[rows], at_RL, canvas.valid_BL[rows], canvas.modality_BL[rows])


def _check(
    canvas: Canvas,
    phases: Sequence[Phase],
    generators: Sequence[torch.Generator],
    unconditional: Canvas | None,
) -> None:
    if not phases:
        raise ValueError("phases must name at least one phase, got none")
    if len(generators) != canvas.rows:
        raise ValueError(f"generators must be one a row, {canvas.rows}, got {len(generators)}")
    for phase in phases:
        if phase.guidance.scale == 0:
            continue
        if unconditional is None:
            raise ValueError(f"guidance {phase.guidance.scale} needs an unconditional canvas, got none")
        here, there = (_places(c, phase.modality).sum(1).tolist() for c in (canvas, unconditional))
        if here != there:
            raise ValueError(f"unconditional canvas needs {here} editable {phase.modality} places, got {there}")
