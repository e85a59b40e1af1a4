"""How much faster than one token a pass: the choices that change the speed of a phase, and their names on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from mmada.errors import InputError, check_whole
from mmada.sampling.denoise import Phase
from mmada.sampling.kv_reuse import CACHES, Reuse
from mmada.sampling.model_calls import Lookahead
from mmada.sampling.parallel import RULES, UnmaskingRule

__all__ = ["Acceleration", "by_name"]

Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Acceleration:
    """What is asked of a phase beside its plan; without any of it every step computes everything, at the plan's pace.

    ``parallel``: how many tokens a step may decide. ``reuse``: what keeps its keys and values between steps. ``lookahead``:
    exact, so neither goes with it. Each is None where it is not used.
    """

    parallel: UnmaskingRule | None = None
    reuse: Reuse | None = None
    lookahead: Lookahead | None = None

    def __post_init__(self) -> None:
        for name, method in (("parallel", "accept"), ("reuse", "fresh"), ("lookahead", "guesses")):
            value = getattr(self, name)
            if value is not None and not hasattr(value, method):
                raise InputError(
                    f"{name} of an Acceleration cannot be {value!r}; to give it by name, use Acceleration.of('threshold=0.9')"
                )
        if self.lookahead is not None and (self.parallel is not None or self.reuse is not None):
            raise InputError("lookahead is exact and goes with the fixed pace alone; leave out parallel and reuse")

    @staticmethod
    def of(parallel: UnmaskingRule | str | None = None, reuse: Reuse | str | None = None, lookahead: int = 0) -> Acceleration:
        """From choices or their names ("threshold=0.9", "block=0,8"), and a number of guesses (0 is none)."""
        guesses = check_whole("lookahead", lookahead, 0)
        return Acceleration(
            by_name("parallel", parallel, RULES) if isinstance(parallel, str) else parallel,
            by_name("reuse", reuse, CACHES) if isinstance(reuse, str) else reuse,
            Lookahead(guesses) if guesses else None,
        )

    @staticmethod
    def given(speed: Acceleration | None, default: Acceleration) -> Acceleration:
        """The speed asked for, or the default. Raises InputError for what is no `Acceleration`."""
        if speed is not None and not isinstance(speed, Acceleration):
            raise InputError(f"speed is {speed!r}; give a Acceleration, such as Acceleration.of('threshold=0.9')")
        return default if speed is None else speed

    def of_phase(self, phase: Phase) -> Phase:
        """The phase at this speed."""
        return replace(phase, parallel=self.parallel, reuse=self.reuse, lookahead=self.lookahead)


def by_name(field: str, text: str, known: Mapping[str, type[Choice]]) -> Choice:
    """A choice from its name and its numbers in order: "threshold", "threshold=0.8", "hierarchical=0.6,0.9"."""
    name, equals, rest = text.strip().partition("=")
    if name not in known:
        raise InputError(f"{field} {text!r} names no rule; choose among {', '.join(known)}, with numbers as in name=0.9")
    kind = known[name]
    parameters = {f.name: f.type for f in fields(kind)}  # type: ignore[arg-type]
    numbers = rest.split(",") if rest else []
    try:
        if len(numbers) > len(parameters) or "_" in rest or (equals and not rest):
            raise ValueError
        values = {n: int(v) if parameters[n] == "int" else float(v) for n, v in zip(parameters, numbers, strict=False)}
    except ValueError as error:
        raise InputError(f"{field} {text!r} cannot be read; write {name}={','.join(n.upper() for n in parameters)}") from error
    try:
        return kind(**values)
    except InputError as error:
        raise InputError(f"{field} {text!r}: {error}") from error
