"""The denoising loop of masked diffusion: text, images, infilling and thinking before drawing are all this.

    while positions are masked:
        predict all masked positions of the block        one forward pass of the bidirectional transformer
        draw a token for each
        unmask the most confident ones                    as many as the schedule says; the rest stays masked

This is the sampler of the paper (appendix A) and of LLaDA and MaskGIT, whole and exact. What makes it faster replaces one part
of a step and lives in files of its own: `guidance` (two halves of one pass), `parallel` (more tokens a step), `kv_reuse`,
`speculative`, `fixed_shape` (other ways to run the model).

A decided token never changes. Rows of a batch do not influence each other: each has its own noise, its own counts and its own
end, so a batch gives what its rows give alone.

Shapes: B rows, L positions, N masked positions at work (row-major), V vocabulary slice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from mmada.canvas import Canvas, Denoiser
from mmada.sampling.acceleration import model_calls
from mmada.sampling.fixed_shape import FixedShape, synchronised
from mmada.sampling.gumbel import KeyedGumbel
from mmada.sampling.model_calls import ModelCalls
from mmada.sampling.parallel import ParallelSelection
from mmada.sampling.phase import Frame, Phase, check_fits
from mmada.sampling.state import DecodingState, Done, Step
from mmada.tokenizers.vocabulary import Vocabulary

__all__ = ["complete", "denoise"]


def denoise(
    denoiser: Denoiser,
    canvas: Canvas,
    phases: Sequence[Phase],
    *,
    vocabulary: Vocabulary,
    generators: Sequence[torch.Generator],
    unconditional: Canvas | None = None,
    fixed_shape: FixedShape | None = None,
) -> Iterator[Frame]:
    """Fill the editable masked positions of ``canvas``, phase after phase; a `Frame` at the start and after each step.

    All other positions stay as they are, and the caller's tensors are not written to. A text position may take any text token but
    the mask, image and task tokens (see `Phase.open_vocabulary`); an image position takes codes only.

    ``generators``: one a row (`row_generators`). ``unconditional``: the canvas without its prompt, needed where a phase has
    guidance; row by row it has as many editable positions of that modality as ``canvas``, in the same order, at any indices.
    Steps that unmask nothing run no forward pass and yield no frame; rows that have ended leave the batch. ``fixed_shape``:
    phases
    without accelerations run fixed-shape steps where the denoiser can prepare them: the same frames, for a GPU.

    Raises ValueError where generators or the unconditional canvas do not fit.
    """
    check_fits(canvas, phases, generators, unconditional)
    state = DecodingState(denoiser, canvas, vocabulary, generators, unconditional, fixed_shape)
    planned = [phase.planned_steps(state.masked(phase.modality)) for phase in phases]
    decided_BL, nfe = torch.zeros_like(canvas.tokens_BL), (0,) * canvas.rows
    yield Frame(state.snapshot(), torch.zeros_like(canvas.editable_BL), decided_BL, phases[0].modality, 0, sum(planned), nfe)
    frames = 0
    for number, phase in enumerate(phases):
        for (step, after), changed_BL, nfe_B in fill(state, phase, number):
            frames += 1
            decided_BL = torch.where(changed_BL, frames, decided_BL)
            done = sum(planned[:number]) + step
            yield Frame(after, changed_BL, decided_BL, phase.modality, done, sum(planned), tuple(nfe_B.tolist()))


def fill(state: DecodingState, phase: Phase, number: int) -> Iterator[Done]:
    """Fill the masked positions of one modality, block after block: the steps that wrote something."""
    masked_BL = state.masked(phase.modality)
    block_BL = phase.blocks.block(masked_BL.cumsum(1) - 1)
    calls = model_calls(phase, state)
    before = 0
    for block in range(phase.num_blocks(masked_BL)):
        inside_BL = state.masked(phase.modality) & (block_BL == block)
        # Positions of earlier blocks too: where the mask token itself may be drawn, some are left over.
        upto_BL = block_BL <= block
        if bool(inside_BL.any()):
            steps = block_steps(state, phase, calls, (number, block), before, inside_BL, upto_BL)
            unfinished = partial(state.unfinished, phase.modality, upto_BL)
            yield from synchronised(steps, calls.sync_every, unfinished)
        before += phase.max_steps(inside_BL)


def block_steps(
    state: DecodingState, phase: Phase, calls: ModelCalls, where: tuple[int, int], before: int, inside_BL: Tensor, upto_BL: Tensor
) -> Iterator[Done]:
    """The steps of one block, the positions ``inside_BL``; ``before``: steps of the phase before it."""
    unknown_B = inside_BL.sum(1)
    rule = None if phase.parallel is None else ParallelSelection(phase.parallel, state.vocabulary.mask, inside_BL)
    for number in range(phase.max_steps(inside_BL)):
        left_BL = state.masked(phase.modality) & upto_BL
        count_B = phase.num_unmasked(number, unknown_B, left_BL.sum(1))
        step = Step(phase, number, (*where, number), unknown_B, left_BL, count_B)
        if number == 0:
            calls.enter(inside_BL, left_BL, partial(state.query, step))
        if calls.sync_every == 1 and not bool(count_B.any()):
            continue
        changed_BL = unmask(state, step, calls, rule)
        calls.wrote(changed_BL)
        changed_BL = changed_BL | end_rows(state, phase, inside_BL)
        yield (before + number + 1, state.snapshot()), changed_BL, state.nfe_B.clone()


def unmask(state: DecodingState, step: Step, calls: ModelCalls, rule: ParallelSelection | None) -> Tensor:
    """One denoising step; returns the positions that it wrote, bool (B, L)."""
    phase, left_BL = step.phase, step.left_BL
    at = calls.positions(left_BL, step.count_B > 0)
    query = state.query(step, at)
    logits_NV = calls.logits(query, state.tokens_BL) if rule is None else rule.logits(calls, query, state.tokens_BL)
    noise = KeyedGumbel.of(state.key_B, step.moment, at.row_N, at.position_N)
    token_N = phase.token_sampler.sample(logits_NV, noise)
    score_N = phase.remasking.score(logits_NV, token_N, noise, step.number, phase.schedule.steps).double()

    # Rank the candidates of each row. Finite scores, so that even an impossible candidate ranks before positions that are none.
    score_N = score_N.clamp(min=torch.finfo(torch.float64).min)
    score_BL = at.put(score_N, score_N.new_full(left_BL.shape, float("-inf")))
    score_BL = score_BL.masked_fill(~left_BL, float("-inf"))  # a position of fixed-shape steps may be decided already
    rank_BL = score_BL.argsort(dim=1, descending=True, stable=True).argsort(dim=1)

    unmask_BL = left_BL & (rank_BL < step.count_B[:, None])
    if rule is not None:
        unmask_BL |= at.put(rule.accepted(logits_NV, token_N, at), torch.zeros_like(left_BL))
    drawn_BL = at.put(token_N + query.vocab.start, state.tokens_BL)
    tokens_BL = torch.where(unmask_BL, drawn_BL, state.tokens_BL)
    if rule is not None:
        back_BL = rule.remasked(state.tokens_BL, query.vocab.start, at.rows_R, unmask_BL)
        tokens_BL, unmask_BL = tokens_BL.masked_fill(back_BL, state.vocabulary.mask), unmask_BL | back_BL
    state.tokens_BL = tokens_BL
    return unmask_BL


def end_rows(state: DecodingState, phase: Phase, inside_BL: Tensor) -> Tensor:
    """Fill the rest of rows whose text has ended with end-of-text tokens; returns those positions."""
    if phase.stop is None:
        return torch.zeros_like(inside_BL)
    masked_BL = state.masked(phase.modality)
    ended_B = phase.stop.ended(state.tokens_BL, inside_BL, masked_BL)
    if phase.parallel is not None and phase.parallel.verify > 0:
        ended_B &= ~(masked_BL & inside_BL).any(1)  # until the block is done, its end token may be remasked
    rest_BL = masked_BL & ended_B[:, None]
    state.tokens_BL = state.tokens_BL.masked_fill(rest_BL, state.vocabulary.eos)
    return rest_BL


def complete(
    denoiser: Denoiser,
    canvas: Canvas,
    phases: Sequence[Phase],
    *,
    vocabulary: Vocabulary,
    generators: Sequence[torch.Generator],
    unconditional: Canvas | None = None,
    fixed_shape: FixedShape | None = None,
) -> Canvas:
    """The canvas of the last frame of `denoise`."""
    *_, last = denoise(denoiser, canvas, phases, vocabulary=vocabulary, generators=generators, unconditional=unconditional,
                       fixed_shape=fixed_shape)  # fmt: skip
    return last.canvas
