"""Registry of policy-optimisation methods, and the settings that a recipe can override."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from mmada.errors import InputError, check_choice, check_number, check_whole
from mmada.rl import (
    Algorithm1,
    AllSteps,
    BlockMasks,
    CoupledCounts,
    CoupledMasks,
    FullMask,
    Iid,
    MaskingPlan,
    Method,
    RandomMasks,
    RatioClip,
    SampledSteps,
    Systematic,
    Truncated,
    coupled_grpo,
    diffu_grpo,
    espo,
    mask_grpo,
    path_grpo,
    spg,
    unigrpo,
)

__all__ = ["MASKINGS", "METHODS", "MethodChoice"]

MASKINGS: dict[str, MaskingPlan] = {
    "systematic": RandomMasks(Systematic()),
    "algorithm1": RandomMasks(Algorithm1()),
    "iid": RandomMasks(Iid()),
    "truncated": RandomMasks(Truncated()),
    "full": FullMask(),
    "coupled": CoupledMasks(),
    "counts": CoupledCounts(),
    "blocks": BlockMasks(),
    "all_steps": AllSteps(),
    "sampled_steps": SampledSteps(),
}
METHODS: dict[str, Callable[..., Method]] = {
    "path_grpo": path_grpo,
    "unigrpo": partial(unigrpo, Systematic()),
    "diffu_grpo": diffu_grpo,
    "mask_grpo": mask_grpo,
    "mask_grpo_text": partial(mask_grpo, updates=12, fading=True),
    "coupled_grpo": coupled_grpo,
    "spg": spg,
    "espo": espo,
}


@dataclass(frozen=True, kw_only=True)
class MethodChoice:
    """A method of policy optimisation by ``name`` (`mmada.rl.methods`), with overrides of its settings.

    ``updates``: mu; None: the default of the method, and so for ``epsilon`` (the clip range) and ``kl`` (its weight).
    ``masking``: the plan that masks positions to estimate likelihoods, in place of the method's own; "systematic" is the default
    of the two of UniGRPO. ``samples``: masked copies of a completion an update, for plans with such a choice (espo: pairs of
    copies); None: the default of the plan, mostly 1 if ``masking`` names it.
    """

    name: str = "path_grpo"
    masking: str | None = None
    updates: int | None = None
    samples: int | None = None
    epsilon: float | None = None
    kl: float | None = None

    def __post_init__(self) -> None:
        check_choice("method.name", self.name, METHODS)
        if self.masking is not None:
            check_choice("method.masking", self.masking, MASKINGS)
        if self.updates is not None:
            check_whole("method.updates", self.updates, 1)
        for name in ("epsilon", "kl"):
            if (value := getattr(self, name)) is not None:
                check_number(f"method.{name}", value)
        self.build()  # checks that the parts fit each other

    def build(self) -> Method:
        """The combination of parts."""
        made = METHODS[self.name]() if self.updates is None else METHODS[self.name](updates=self.updates)
        if self.masking is not None:
            made = replace(made, masking=MASKINGS[self.masking])
        if self.samples is not None:
            made = replace(made, masking=with_samples(made.masking, self.samples))
        if self.epsilon is not None:
            made = replace(made, clip=RatioClip(self.epsilon, self.epsilon))
        return made if self.kl is None else replace(made, kl=replace(made.kl, weight=self.kl))


MAX_SAMPLES = 64
"""Maximum masked copies of a completion an update."""


def with_samples(masking: MaskingPlan, samples: int) -> MaskingPlan:
    """The plan with another number of masked copies per update. Raises InputError if the number is fixed."""
    check_whole("method.samples", samples, 1, MAX_SAMPLES)
    if isinstance(masking, BlockMasks | CoupledCounts | SampledSteps | RandomMasks):
        return replace(masking, samples=samples)
    raise InputError(
        f"method.samples {samples} has no meaning for {type(masking).__name__}, whose number of copies is fixed; leave it out"
    )
