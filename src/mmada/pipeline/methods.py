"""Base of the methods of `MMaDA`: the engine, the preset, and checks of arguments."""

from __future__ import annotations

from typing import get_args

import numpy as np

from mmada.errors import check_choice, check_flag
from mmada.pipeline.engine import Engine
from mmada.pipeline.grids import Fit
from mmada.pipeline.preset import Preset

__all__ = ["OTHER_OPTIONS", "Methods", "check_thinking"]

OTHER_OPTIONS = ("sampling", "seed", "callback", "thinking", "fit")
"""Names that a call takes besides the fields of its sampling options, for suggestions."""


class Methods:
    """A loaded model with its default options."""

    def __init__(self, engine: Engine, source: str = "", preset: Preset | None = None) -> None:
        self.engine = engine
        self.source = source
        self.preset = preset or engine.parts.preset

    def _fit(self, how: Fit | None) -> Fit:
        if how is not None:
            check_choice("fit", how, get_args(Fit))
        return how or self.preset.fit


def check_thinking(thinking: object, default: bool) -> bool:
    """Return whether to reason. Raises InputError unless ``thinking`` is a bool or None, which means ``default``."""
    if thinking is None:
        return default
    return check_flag("thinking", bool(thinking) if isinstance(thinking, np.bool_) else thinking)
