"""The model as a person uses it: load, generate, ask, draw, inpaint, extend, infill."""

from mmada.pipeline.api import MMaDA
from mmada.pipeline.engine import Engine, TextResult
from mmada.pipeline.options import ImageSampling, Preset, TextSampling
from mmada.sampling import Frame

__all__ = ["Engine", "Frame", "ImageSampling", "MMaDA", "Preset", "TextResult", "TextSampling"]
