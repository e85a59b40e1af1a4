"""Sampling options: `TextSampling` and `ImageSampling` declare each option once.

Every method of `MMaDA`, the command line, recipes and servers take these objects, or their fields by name. An option that is
None is not given: the model's preset decides (`mmada.pipeline.preset`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self, TypeVar, cast

from mmada.diffusion.schedule import SCHEDULES
from mmada.errors import (
    MAX_STEPS,
    InputError,
    check_choice,
    check_number,
    check_text,
    check_whole,
    kind_of,
    quote,
    unknown_name,
    with_article,
)
from mmada.sampling import (
    Acceleration,
    Blocks,
    CacheRule,
    Greedy,
    Guidance,
    GumbelConfidence,
    Lookahead,
    LowConfidence,
    MaskSchedule,
    Phase,
    StopAtEos,
    Temperature,
    TokenSampler,
    UniformSchedule,
    UnmaskingRule,
)
from mmada.sampling.speculative import MAX_DRAFT_LENGTH

__all__ = [
    "IMAGE_DEFAULTS",
    "TEXT_DEFAULTS",
    "ImageSampling",
    "Sampling",
    "TextSampling",
    "chosen",
    "takes_options",
    "token_sampler",
]

NONE = "none"
"""The name that switches a rule of the preset off."""


def token_sampler(temperature: float) -> TokenSampler:
    """The token sampler of a temperature; 0 takes the most probable token."""
    temperature = check_number("temperature", temperature)
    return Greedy() if temperature == 0 else Temperature(temperature)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Options that text and images share.

    ``steps``: denoising steps. ``temperature``: 0 takes the most probable token. ``guidance``: scale of classifier-free guidance
    against the canvas without its prompt; 0 is without. ``parallel``: a rule that unmasks several tokens a step, or its name
    with its numbers ("threshold=0.9"). ``reuse``: which keys and values are kept between steps ("block"). ``lookahead``: draft
    length of exact speculation, 0 for none; it goes with neither of the two. "none" switches a rule of the model off.
    """

    steps: int | None = None
    temperature: float | None = None
    guidance: float | None = None
    parallel: UnmaskingRule | str | None = None
    reuse: CacheRule | str | None = None
    lookahead: int | None = None

    def __post_init__(self) -> None:
        self._check_whole("steps", MAX_STEPS)
        self._check_numbers("temperature", "guidance")
        if isinstance(self.lookahead, Lookahead):
            self._set("lookahead", self.lookahead.draft_length)
        if self.lookahead is not None:
            self._set("lookahead", check_whole("lookahead", self.lookahead, 0, MAX_DRAFT_LENGTH))
        _ = self.acceleration

    @property
    def acceleration(self) -> Acceleration:
        """The accelerations as one object."""
        parallel, reuse = (None if isinstance(rule, str) and rule == NONE else rule for rule in (self.parallel, self.reuse))
        return Acceleration.of(parallel, reuse, self.lookahead or 0)  # type: ignore[arg-type]

    @property
    def given(self) -> dict[str, Any]:
        """The options that are given, by name."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    def over(self, base: Self) -> Self:
        """These options, and those of ``base`` where one is not given."""
        return replace(base, **self.changes(base))

    def changes(self, base: Self) -> dict[str, Any]:
        """Options in which the result differs from ``base``: those given, and rules that exclude them."""
        if self.lookahead:
            return {"parallel": None, "reuse": None} | self.given
        rules = any(rule is not None and not (isinstance(rule, str) and rule == NONE) for rule in (self.parallel, self.reuse))
        return ({"lookahead": None} if rules else {}) | self.given

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _check_whole(self, name: str, maximum: int | None = None) -> None:
        if (value := getattr(self, name)) is not None:
            self._set(name, check_whole(name, value, 1, maximum))

    def _check_numbers(self, *names: str) -> None:
        for name in names:
            if (value := getattr(self, name)) is not None:
                self._set(name, check_number(name, value))


@dataclass(frozen=True, kw_only=True)
class TextSampling(Sampling):
    """Options of a text, which is written in blocks from left to right.

    ``length``: tokens at most. ``block``: tokens of one block. ``steps``: in all, shared evenly by the blocks; by default the
    model's number of tokens a step. ``stop``: strings that end the answer and are left out of it; the reasoning may hold them.
    ``stop_at_eos``: end with the block that holds an end token. ``open_vocabulary``: image codes and control tokens compete
    too. The released sampler does not stop at end tokens and is open. More: `Sampling`.
    """

    length: int | None = None
    block: int | None = None
    stop: tuple[str, ...] | str | None = None
    stop_at_eos: bool | None = None
    open_vocabulary: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_whole("length")
        self._check_whole("block")
        if self.stop is not None:
            self._set("stop", _stop_strings(self.stop))
        for name in ("stop_at_eos", "open_vocabulary"):
            if not (getattr(self, name) is None or isinstance(getattr(self, name), bool)):
                raise InputError(f"{name} must be True or False, got {quote(getattr(self, name))}")
        if self.length is not None and self.block is not None:
            if self.block > self.length:
                raise InputError(f"block {self.block} is longer than the answer; give 1 to its length, {self.length}")
            blocks = math.ceil(self.length / self.block)
            if self.steps is not None and self.steps % blocks:
                raise InputError(
                    f"steps {self.steps} cannot be shared evenly by {blocks} blocks "
                    f"(length {self.length}, block {self.block}); give a multiple of {blocks}"
                )

    @property
    def numbers(self) -> tuple[int, int, int]:
        """(length, steps, block) of options that give all three, as a preset's do."""
        if self.length is None or self.steps is None or self.block is None:
            raise InputError(f"length, steps and block must all be given, got {self.length}, {self.steps} and {self.block}")
        return self.length, self.steps, self.block

    def changes(self, base: Self) -> dict[str, Any]:
        """As `Sampling.changes`; steps that are not given keep the number of tokens a step of ``base``."""
        length, steps, block = base.numbers
        pace = steps / length
        length = length if self.length is None else self.length
        block = min(block, length) if self.block is None else self.block
        replace(self, length=length, block=block, steps=None)  # names a block that is too long before steps are computed
        steps = max(1, round(pace * block)) * math.ceil(length / block) if self.steps is None else self.steps
        return super().changes(base) | {"length": length, "steps": steps, "block": block}

    def phase(self, ends: tuple[int, ...], stop: StopAtEos | None = None) -> Phase:
        """The sampling phase; ``ends`` are the tokens that end an answer, ``stop`` replaces stopping at them only."""
        length, steps, block = self.numbers
        at_eos = StopAtEos(ends) if self.stop_at_eos is None or self.stop_at_eos else None
        phase = Phase(
            modality="text",
            schedule=UniformSchedule(steps // math.ceil(length / block)),
            remasking=LowConfidence(),
            token_sampler=token_sampler(self.temperature or 0.0),
            guidance=Guidance(self.guidance or 0.0),
            blocks=Blocks(block),
            stop=stop or at_eos,
            open_vocabulary=bool(self.open_vocabulary),
        )
        return self.acceleration.of_phase(phase)


@dataclass(frozen=True, kw_only=True)
class ImageSampling(Sampling):
    """Options of an image, whose codes are decoded in parallel, the most confident first.

    ``schedule``: how many codes each step decides, by name (`mmada.diffusion.schedule`). Codes that are left to the end are those
    that the caption leaves open; decided together, they need not agree. ``order_noise``: noise on the order in which codes are
    decided, times the temperature; annealed as `GumbelConfidence` says. ``size``: (width, height) in pixels, by default the
    square that the model was trained on; other sizes were not tested. More: `Sampling`.
    """

    order_noise: float | None = None
    annealing: Literal["linear", "compounding"] | None = None
    schedule: str | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_numbers("order_noise")
        if self.schedule is not None:
            check_choice("schedule", self.schedule, SCHEDULES)
        if self.annealing is not None:
            check_choice("annealing", self.annealing, ("linear", "compounding"))
        if self.size is not None:
            self._set("size", _size(self.size))

    def phase(self) -> Phase:
        """The sampling phase; options that are not given are those of `IMAGE_DEFAULTS`."""
        full = self.over(IMAGE_DEFAULTS)
        steps, temperature, order_noise = full.steps or 1, full.temperature or 0.0, full.order_noise or 0.0
        phase = Phase(
            modality="image",
            schedule=MaskSchedule(SCHEDULES[full.schedule or "cosine"], steps),
            remasking=GumbelConfidence(order_noise * temperature, full.annealing or "linear"),
            token_sampler=token_sampler(temperature),
            guidance=Guidance(full.guidance or 0.0),
        )
        return full.acceleration.of_phase(phase)


Kind = TypeVar("Kind", bound=Sampling)
Method = TypeVar("Method", bound=Callable[..., Any])


def chosen(kind: type[Kind], sampling: object, options: Mapping[str, Any], others: Iterable[str] = ()) -> Kind:
    """The options of a call: an object of ``kind`` or None, and fields by name, which take precedence.

    ``others``: further names that the method takes, for suggestions. Raises InputError for an unknown name, with the nearest.
    """
    names = [f.name for f in fields(kind)]
    for name in options:
        if name not in names:
            raise unknown_name("option", name, [*names, *others])
    if sampling is not None and not isinstance(sampling, kind):
        raise InputError(f"sampling is {kind_of(sampling)}; give {with_article(kind.__name__)}, or its fields by name")
    given = {name: value for name, value in options.items() if value is not None}
    return kind(**given) if sampling is None else replace(sampling, **given)


def takes_options(kind: type[Sampling], *without: str) -> Callable[[Method], Method]:
    """Decorate a method that takes fields of ``kind`` as ``**options``: its signature shows them, for help and completion."""

    def decorate(method: Method) -> Method:
        signature = inspect.signature(method)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        new = [
            inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=f.type)
            for f in fields(kind)
            if f.name not in without
        ]
        method.__signature__ = signature.replace(parameters=[*own, *new])  # type: ignore[attr-defined]
        return method

    return decorate


def _stop_strings(stop: object) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else stop
    if not isinstance(strings, (list, tuple)):
        raise InputError(f"stop is {kind_of(stop)}; give a string or a list of strings")
    for text in strings:
        check_text("stop", text, empty=True)
        if not text:
            raise InputError("stop holds an empty string, which would end every answer at once; leave it out")
    return tuple(strings)


def _size(size: object) -> tuple[int, int]:
    try:
        width, height = cast(Iterable[int], size)
    except (TypeError, ValueError) as error:
        raise InputError(f"size {quote(size)} is not a pair; give (width, height) in pixels") from error
    return check_whole("width", width, 1), check_whole("height", height, 1)


TEXT_DEFAULTS = TextSampling(
    length=16, steps=16, block=16, temperature=0.0, guidance=0.0, stop=(), stop_at_eos=True, open_vocabulary=False
)
"""Options of a text that neither a call nor a preset gives."""
IMAGE_DEFAULTS = ImageSampling(steps=16, temperature=1.0, guidance=2.0, order_noise=1.0, annealing="linear", schedule="cosine")
"""Options of an image that neither a call nor a preset gives."""
