"""Acceleration: the choices that make decoding faster than one forward pass a token, by name, and how they run the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from mmada.errors import InputError, check_whole, quote
from mmada.sampling.fixed_shape import FixedShapeCalls
from mmada.sampling.kv_reuse import CACHES, CachedCalls, CacheRule
from mmada.sampling.model_calls import ModelCalls
from mmada.sampling.parallel import RULES, UnmaskingRule
from mmada.sampling.phase import Phase
from mmada.sampling.speculative import MAX_DRAFT_LENGTH, Lookahead, SpeculativeCalls
from mmada.sampling.state import DecodingState

__all__ = ["Acceleration", "by_name", "model_calls"]

Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Acceleration:
    """The accelerations of a phase; without any, each step computes every position and follows the schedule.

    ``parallel``: how many tokens a step may decide. ``reuse``: which keys and values are kept between steps. ``lookahead``: exact
    speculation, so it goes with neither. Each is None where it is not used.
    """

    parallel: UnmaskingRule | None = None
    reuse: CacheRule | None = None
    lookahead: Lookahead | None = None

    def __post_init__(self) -> None:
        for name, method, example in (
            ("parallel", "accept", "'threshold=0.9'"),
            ("reuse", "recompute", "'block'"),
            ("lookahead", "draft_length", "3"),
        ):
            value = getattr(self, name)
            if isinstance(value, str):
                raise InputError(f"{name} {quote(value)} is a name, not a rule; read it with Acceleration.of({name}=...)")
            if isinstance(value, type):
                raise InputError(f"{name} is the class {value.__name__}; give an instance, such as {value.__name__}()")
            if value is not None and not hasattr(value, method):
                raise InputError(f"{name} cannot be {quote(value)}; give a rule, or its name, such as {example}")
        if self.parallel is not None and not isinstance(self.parallel.verify, (int, float)):
            raise InputError(f"parallel {type(self.parallel).__name__} has no history or verify; derive it from parallel.Rule")
        if self.lookahead is not None and (self.parallel is not None or self.reuse is not None):
            raise InputError("lookahead is exact and works with the fixed schedule only; leave out parallel and reuse")

    @staticmethod
    def of(parallel: UnmaskingRule | str | None = None, reuse: CacheRule | str | None = None, lookahead: int = 0) -> Acceleration:
        """From rules or their names ("threshold=0.9", "block=0,8"), and a draft length (0 is no speculation)."""
        draft_length = check_whole("lookahead", lookahead, 0, MAX_DRAFT_LENGTH)
        return Acceleration(
            by_name("parallel", parallel, RULES) if isinstance(parallel, str) else parallel,
            by_name("reuse", reuse, CACHES) if isinstance(reuse, str) else reuse,
            Lookahead(draft_length) if draft_length else None,
        )

    @staticmethod
    def given(acceleration: Acceleration | None, default: Acceleration) -> Acceleration:
        """The acceleration given, or the default. Raises InputError for anything else."""
        if acceleration is not None and not isinstance(acceleration, Acceleration):
            raise InputError(
                f"acceleration is {quote(acceleration)}; give an Acceleration, such as Acceleration.of('threshold=0.9')"
            )
        return default if acceleration is None else acceleration

    def of_phase(self, phase: Phase) -> Phase:
        """The phase with these accelerations."""
        return replace(phase, parallel=self.parallel, reuse=self.reuse, lookahead=self.lookahead)


def model_calls(phase: Phase, state: DecodingState) -> ModelCalls:
    """The way in which a phase runs the model."""
    model = (state.denoiser, state.canvas, state.unconditional, state.vocabulary.mask, state.nfe_B)
    if phase.reuse is not None:
        return CachedCalls(phase.reuse, *model)
    if phase.lookahead is not None:
        return SpeculativeCalls(phase.lookahead.draft_length, *model)
    if state.fixed_shape is not None and phase.follows_schedule:
        return FixedShapeCalls(state.fixed_shape, state.graphs, *model)
    return ModelCalls(*model)


def by_name(field: str, text: str, known: Mapping[str, type[Choice]]) -> Choice:
    """A rule from its name and its numbers in order: "threshold", "threshold=0.8", "hierarchical=0.6,0.9"."""
    name, equals, rest = text.strip().partition("=")
    if name not in known:
        raise InputError(
            f"{field} {quote(text)} is not a known rule; choose among {', '.join(known)}, with numbers as in name=0.9"
        )
    kind = known[name]
    parameters = {f.name: f.type for f in fields(kind)}  # type: ignore[arg-type]
    numbers = rest.split(",") if rest else []
    try:
        if len(numbers) > len(parameters) or "_" in rest or (equals and not rest):
            raise ValueError
        values = {n: int(v) if parameters[n] == "int" else float(v) for n, v in zip(parameters, numbers, strict=False)}
    except ValueError as error:
        raise InputError(
            f"{field} {quote(text)} cannot be read; write {name}={','.join(n.upper() for n in parameters)}"
        ) from error
    try:
        return kind(**values)
    except InputError as error:
        raise InputError(f"{field} {quote(text)}: {error}") from error
