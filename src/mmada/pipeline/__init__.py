"""The model as a person uses it: load, generate, ask, draw, inpaint, extend, infill."""

from mmada.pipeline.engine import Engine, TextResult
from mmada.pipeline.mmada import MMaDA
from mmada.pipeline.preset import ImagePlan, Preset, TextPlan
from mmada.sampling import Frame

__all__ = ["Engine", "Frame", "ImagePlan", "MMaDA", "Preset", "TextPlan", "TextResult"]
