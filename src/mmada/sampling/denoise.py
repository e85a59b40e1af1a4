"""The one denoising loop: a generator of frames for text, pictures, infilling and thinking before drawing.

    while places are masked:  predict them -> draw a token for each -> commit the best few

A committed token is never changed. Rows of a batch do not influence each other: each has its own noise,
its own counts and its own end, so a batch gives what its rows give alone.

Shapes: B rows, R of them at work, L positions, N masked places at work (row-major), V vocabulary vocab.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress, islice

import torch
from torch import Tensor

from mmada.canvas import Canvas, Denoiser, Modality
from mmada.errors import InputError
from mmada.sampling.fixed_shape import FixedShape, FixedShapeCall, Positions
from mmada.sampling.gumbel import KeyedGumbel
from mmada.sampling.kv_reuse import Reuse
from mmada.sampling.logits_ops import mixed, wrapped
from mmada.sampling.model_calls import Lookahead, ModelCalls, ModelQuery, places
from mmada.sampling.parallel import Candidates, UnmaskingRule, recent, taken_back
from mmada.sampling.policy import (
    BlockSchedule,
    Guidance,
    RemaskingStrategy,
    SingleBlock,
    StopAtEos,
    TokenSampler,
    UnmaskingSchedule,
)
from mmada.tokenizers.vocabulary import Vocabulary

__all__ = ["Frame", "Phase", "complete", "denoise", "row_generators"]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """How the masked places of one modality are filled; thinking before drawing is two of them.

    ``open_vocabulary``: a text place may take any id there is, codes and the mask too, as in the released sampler.
    ``parallel``: a rule for parallel unmasking in place of the fixed pace of ``schedule``; at least each row's best place is
    committed
    a step. ``reuse``: keep keys and values between steps. ``lookahead``: compute likely next steps in the same pass; exact, at
    the fixed pace.
    """

    modality: Modality
    schedule: UnmaskingSchedule
    remasking: RemaskingStrategy
    token_sampler: TokenSampler
    guidance: Guidance = field(default_factory=Guidance)
    blocks: BlockSchedule = field(default_factory=SingleBlock)
    stop: StopAtEos | None = None
    open_vocabulary: bool = False
    parallel: UnmaskingRule | None = None
    reuse: Reuse | None = None
    lookahead: Lookahead | None = None

    def __post_init__(self) -> None:
        if self.lookahead is not None and (self.parallel is not None or self.reuse is not None):
            raise InputError("lookahead is exact and goes with the fixed pace alone; leave out parallel and reuse")
        if self.modality not in ("text", "image"):
            raise InputError(f"modality of a phase must be 'text' or 'image', got {self.modality!r}")


@dataclass(frozen=True)
class Frame:
    """The canvas after one step.

    ``canvas``: its own tokens, safe to keep. ``changed_BL``: bool, what this step wrote. ``phase``: the
    modality at work. ``step``: 0 (the start, nothing changed) to at most ``steps``; rows that end early leave
    the last ones out. ``passes``: of the model so far, one number a row; guidance and guesses
    ahead are part of one.
    """

    canvas: Canvas
    changed_BL: Tensor
    phase: Modality
    step: int
    steps: int
    passes: tuple[int, ...] = ()

    @property
    def tokens_BL(self) -> Tensor:
        """Tokens after the step."""
        return self.canvas.tokens_BL

    def row(self, index: int) -> Frame:
        """One row's view of the frame, its padding cut off."""
        canvas = self.canvas.row(index)
        changed_BL = self.changed_BL[index : index + 1, : canvas.length]
        return replace(self, canvas=canvas, changed_BL=changed_BL, passes=self.passes[index : index + 1])


def row_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator a row, so that a row's noise depends on its seed alone; `denoise` takes one number from each. On the CPU, so
    that a seed means the same on every device."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def key_of(generator: torch.Generator) -> int:
    """The next number of a generator, whose own stream knows 32 bits of its seed, with all 64 of them."""
    drawn = torch.randint(2**62, (1,), generator=generator, device=generator.device)
    return int(mixed(drawn.cpu(), torch.tensor(wrapped(generator.initial_seed()))))


def complete(
    denoiser: Denoiser,
    canvas: Canvas,
    phases: Sequence[Phase],
    *,
    vocabulary: Vocabulary,
    generators: Sequence[torch.Generator],
    unconditional: Canvas | None = None,
    static: FixedShape | None = None,
) -> Canvas:
    """The canvas of the last frame of `denoise`."""
    steps = denoise(
        denoiser, canvas, phases, vocabulary=vocabulary, generators=generators, unconditional=unconditional, static=static
    )
    *_, last = steps
    return last.canvas


def denoise(
    denoiser: Denoiser,
    canvas: Canvas,
    phases: Sequence[Phase],
    *,
    vocabulary: Vocabulary,
    generators: Sequence[torch.Generator],
    unconditional: Canvas | None = None,
    static: FixedShape | None = None,
) -> Iterator[Frame]:
    """Fill the editable masked places of ``canvas``, phase after phase; a `Frame` at the start and each step.

    All other places stay as they are, and the caller's tensors are not written to. A text place may take any
    text token but the mask, image and task tokens (a sampling constraint, see `Phase.open_vocabulary`); an
    image place takes codes alone.

    ``generators``: one a row. ``unconditional``: the canvas without its prompt, needed where a phase has
    guidance; row by row it has as many editable places of that modality as ``canvas``, in the same order, at
    whatever positions. Both run as one batch. Steps that commit nothing run no forward and yield no frame;
    ended rows leave the batch.

    ``static``: phases at the fixed pace that keep nothing between steps run over fixed places, where the denoiser can prepare for
    them (`Preparing`): the same frames, for a GPU. Without it, and in all others, a step runs over what is masked then.

    Raises ValueError where generators or the unconditional canvas do not fit.
    """
    _check(canvas, phases, generators, unconditional)
    state = _State(denoiser, canvas, vocabulary, generators, unconditional, static)
    planned = [_planned(phase, state.masked(phase.modality)) for phase in phases]
    nothing_BL = torch.zeros_like(canvas.editable_BL)
    yield Frame(state.snapshot(), nothing_BL, phases[0].modality, 0, sum(planned), (0,) * canvas.rows)
    for i, phase in enumerate(phases):
        before = sum(planned[:i])
        for step, done, passes in _run(state, phase, i):
            yield Frame(done.canvas, done.changed_BL, phase.modality, before + step, sum(planned), passes)


class _State:
    """The canvas being filled, and what a step needs to fill it."""

    def __init__(
        self,
        denoiser: Denoiser,
        canvas: Canvas,
        vocabulary: Vocabulary,
        generators: Sequence[torch.Generator],
        unconditional: Canvas | None,
        static: FixedShape | None,
    ) -> None:
        self.canvas = canvas
        self.tokens_BL = canvas.tokens_BL.clone()
        self.vocabulary = vocabulary
        self.key_B = torch.tensor([key_of(g) for g in generators]).to(canvas.tokens_BL.device)
        self.moment: tuple[int, ...] = ()
        """(phase, part, step of it): alone or in a batch, a row's step has the same."""
        self.passes = ModelCalls(denoiser, canvas, unconditional, vocabulary.mask)
        self.before: Candidates | None = None
        self.static = static if hasattr(denoiser, "prepared") else None
        self.graphs = None if self.static is None else self.static.recorder(canvas.tokens_BL.device)
        self.question: FixedShapeCall | None = None
        """What all steps of the part ask, where its places are fixed."""
        v = vocabulary
        self.barred = canvas.tokens_BL.new_tensor([v.mask, v.soi, v.eoi, v.t2i, v.mmu, v.r2i, v.ipad])

    def snapshot(self) -> Canvas:
        """The canvas as it is now."""
        return self.canvas.with_tokens(self.tokens_BL.clone())

    def masked(self, modality: Modality) -> Tensor:
        """Positions of ``modality`` that are still to be filled, bool (B, L)."""
        return places(self.canvas, modality) & (self.tokens_BL == self.vocabulary.mask)

    def enter(self, phase: Phase, inside_BL: Tensor, left_BL: Tensor, now: _Pace) -> None:
        """A part ``inside_BL`` begins; its steps and what is left over before it have the places ``left_BL``."""
        self.passes.enter(inside_BL)
        self.before = self.question = None
        if self.look(phase):
            places = Positions.of(left_BL, inside_BL.any(1))
            self.question = FixedShapeCall(self.passes, self.ask(phase, places, None, now), places, self.graphs)

    def step(self, phase: Phase, left_BL: Tensor, now: _Pace) -> Tensor:
        """Commit some of the places ``left_BL`` in each row at work; returns those places, bool (B, L).

        Over fixed places nothing in here waits for the device.
        """
        asked = Positions.of(left_BL, now.commits_B > 0) if self.question is None else self.question.places
        verify_RL = self.doubted(phase, asked.rows_R)
        logits_NV = self.logits(self.ask(phase, asked, verify_RL, now))
        logits_NV, again_MV = logits_NV[: len(asked.row_N)], logits_NV[len(asked.row_N) :]
        noise = KeyedGumbel.of(self.key_B, self.moment, asked.row_N, asked.place_N)
        chosen_N = phase.token_sampler.choose(logits_NV, noise)
        score_N = phase.remasking.score(logits_NV, chosen_N, noise, now.step, phase.schedule.steps).double()
        # Finite, so that even an impossible candidate comes before the places that are none.
        score_BL = asked.put(score_N.clamp(min=torch.finfo(torch.float64).min), score_N.new_full(left_BL.shape, float("-inf")))
        score_BL = score_BL.masked_fill(~left_BL, float("-inf"))  # a fixed place may have been decided
        rank_BL = score_BL.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        commit_BL = left_BL & (rank_BL < now.commits_B[:, None])
        if phase.parallel is not None:
            commit_BL |= asked.put(self.accepted(phase.parallel, logits_NV, chosen_N, asked), torch.zeros_like(left_BL))
        drawn_BL = asked.put(chosen_N + self.vocab(phase).start, self.tokens_BL)
        drawn_BL = torch.where(commit_BL, drawn_BL, self.tokens_BL)
        if verify_RL is not None and phase.parallel is not None:
            token_M = self.tokens_BL[asked.rows_R][verify_RL] - self.vocab(phase).start
            commits_R = commit_BL[asked.rows_R].sum(1)
            back_RL = taken_back(again_MV, token_M, verify_RL, commits_R, phase.parallel.verify)
            back_BL = torch.zeros_like(left_BL).index_copy(0, asked.rows_R, back_RL)
            drawn_BL, commit_BL = drawn_BL.masked_fill(back_BL, self.vocabulary.mask), commit_BL | back_BL
        self.tokens_BL = drawn_BL
        self.passes.new_BL = commit_BL
        return commit_BL

    def look(self, phase: Phase) -> int:
        """Steps of a phase between two looks at what they wrote; 0 where every step has to be waited for."""
        plain = phase.parallel is None and phase.reuse is None and phase.lookahead is None
        return self.static.look if plain and self.static is not None else 0

    def logits(self, ask: ModelQuery) -> Tensor:
        """What the model says, of fixed places if there are any."""
        if self.question is None:
            return self.passes.logits(ask, self.tokens_BL)
        return self.question.logits(self.tokens_BL, ask.working_B)

    def doubted(self, phase: Phase, rows: Tensor) -> Tensor | None:
        """Decided places of the part, where the rule may take tokens back."""
        if phase.parallel is None or phase.parallel.verify == 0:
            return None
        return self.passes.part_BL[rows] & (self.tokens_BL[rows] != self.vocabulary.mask)

    def accepted(self, rule: UnmaskingRule, logits_NV: Tensor, chosen_N: Tensor, asked: Positions) -> Tensor:
        """The candidates that a rule takes, bool (N,)."""
        seen = Candidates(logits_NV, chosen_N, asked.row_N, asked.place_N, self.before)
        taken_N = rule.accept(seen)
        self.before = recent(seen, rule.history)
        return taken_N

    def ask(self, phase: Phase, asked: Positions, verify_RL: Tensor | None, now: _Pace) -> ModelQuery:
        """The question of a step."""
        closed = phase.modality == "text" and not phase.open_vocabulary
        return ModelQuery(
            rows=asked.rows_R,
            query_RL=asked.query_RL,
            working_B=now.commits_B > 0,
            vocab=self.vocab(phase),
            barred=self.barred if closed else None,
            modality=phase.modality,
            guidance=phase.guidance,
            pace=lambda ahead: now.later(phase.schedule, ahead),
            verify_RL=verify_RL,
        )

    def end(self, phase: Phase, inside_BL: Tensor) -> Tensor:
        """Fill the rest of rows that have ended in the block ``inside_BL``; returns those places."""
        masked_BL = self.masked(phase.modality)
        if phase.stop is None:
            return torch.zeros_like(inside_BL)
        ended_B = phase.stop.ended(self.tokens_BL, inside_BL, masked_BL)
        if phase.parallel is not None and phase.parallel.verify > 0:
            ended_B &= ~(masked_BL & inside_BL).any(1)  # until then an end may be taken back
        rest_BL = masked_BL & ended_B[:, None]
        self.tokens_BL = self.tokens_BL.masked_fill(rest_BL, self.vocabulary.eos)
        return rest_BL

    def vocab(self, phase: Phase) -> range:
        """Token ids that a place may take."""
        v = self.vocabulary
        return v.ranges["image"] if phase.modality == "image" else range(v.size) if phase.open_vocabulary else v.ranges["text"]


@dataclass(frozen=True)
class _Pace:
    """The fixed pace at ``step`` of a part that had ``unknown_B`` masked places and has ``left_B``."""

    step: int
    unknown_B: Tensor
    left_B: Tensor
    commits_B: Tensor

    @staticmethod
    def of(phase: Phase, step: int, unknown_B: Tensor, left_B: Tensor) -> _Pace:
        """The pace of a phase; a rule in its place may commit more."""
        # A row takes the steps and parts that it would take alone, whatever longer ones stand beside it.
        alive_B = step < unknown_B if phase.parallel else unknown_B > 0
        commits_B = (left_B > 0).long() if phase.parallel else phase.schedule.commits(unknown_B, left_B, step)
        return _Pace(step, unknown_B, left_B, torch.minimum(commits_B, left_B) * alive_B)

    def later(self, count: UnmaskingSchedule, ahead: int) -> Tensor:
        """Positions to commit so many steps ahead, (B,), for one step ahead at a time."""
        step, left_B, commits_B = self.step, self.left_B, self.commits_B
        for _ in range(ahead):
            step, left_B = step + 1, left_B - commits_B
            commits_B = torch.minimum(count.commits(self.unknown_B, left_B, step), left_B)
        return commits_B


@dataclass(frozen=True)
class _Done:
    """A step that was taken, ``step`` from 1 within its part: what it left, where it wrote, and passes (B,) so far."""

    step: int
    canvas: Canvas
    changed_BL: Tensor
    passes_B: Tensor


def _run(state: _State, phase: Phase, number: int) -> Iterator[tuple[int, _Done, tuple[int, ...]]]:
    """Phase ``number``: yields (step within the phase from 1, what it did, passes so far)."""
    state.passes.begin(phase.reuse, phase.lookahead)
    masked_BL = state.masked(phase.modality)
    part_BL = phase.blocks.part(masked_BL.cumsum(1) - 1)
    before = 0
    for part in range(_parts(phase, masked_BL)):
        inside_BL = state.masked(phase.modality) & (part_BL == part)
        # Positions of earlier parts too: where the mask itself may be drawn, some are left over.
        upto_BL = part_BL <= part
        steps = _part(state, phase, (number, part), inside_BL, upto_BL) if bool(inside_BL.any()) else iter(())
        while kept := list(islice(steps, state.look(phase) or 1)):
            # The one place where a step over fixed places is waited for.
            left_BL = state.masked(phase.modality) & upto_BL
            *wrote, going = torch.stack([*(done.changed_BL.any() for done in kept), left_BL.any()]).tolist()
            passes = torch.stack([done.passes_B for done in kept]).tolist()
            for done, passes_B in compress(zip(kept, passes, strict=True), wrote):
                yield before + done.step, done, tuple(passes_B)
            if not going:
                break
        before += _steps(phase, inside_BL)


def _part(state: _State, phase: Phase, where: tuple[int, int], inside_BL: Tensor, upto_BL: Tensor) -> Iterator[_Done]:
    """The steps of one part of a phase (``where``), the places ``inside_BL``; over fixed places those too that commit nothing."""
    unknown_B = inside_BL.sum(1)
    for step in range(_steps(phase, inside_BL)):
        left_BL = state.masked(phase.modality) & upto_BL
        now = _Pace.of(phase, step, unknown_B, left_BL.sum(1))
        if step == 0:
            state.enter(phase, inside_BL, left_BL, now)
        if state.question is None and not bool(now.commits_B.any()):
            continue
        state.moment = (*where, step)
        changed_BL = state.step(phase, left_BL, now)
        changed_BL |= state.end(phase, inside_BL)
        yield _Done(step + 1, state.snapshot(), changed_BL.clone(), state.passes.count_B.clone())


def _steps(phase: Phase, inside_BL: Tensor) -> int:
    """Most steps that a part can take: a rule takes at least one place each."""
    return int(inside_BL.sum(1).max()) if phase.parallel else phase.schedule.steps


def _planned(phase: Phase, masked_BL: Tensor) -> int:
    """Most steps that a phase can take."""
    return int(masked_BL.sum(1).max()) if phase.parallel else _parts(phase, masked_BL) * phase.schedule.steps


def _parts(phase: Phase, masked_BL: Tensor) -> int:
    """Number of parts that the region of ``phase`` makes of the masked places."""
    longest = masked_BL.sum(1).max()
    return int(phase.blocks.part(longest - 1)) + 1 if int(longest) else 0


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
        here, there = (places(c, phase.modality).sum(1).tolist() for c in (canvas, unconditional))
        if here != there:
            raise ValueError(f"unconditional canvas needs {here} editable {phase.modality} places, got {there}")
