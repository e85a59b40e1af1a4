"""Pipeline: a loaded model with methods that take and give text and images."""

from mmada.pipeline.api import MMaDA
from mmada.pipeline.engine import Engine
from mmada.pipeline.options import ImageSampling, TextSampling
from mmada.pipeline.preset import Preset
from mmada.pipeline.results import LikelihoodBound, TextResult
from mmada.sampling import Frame

__all__ = ["Engine", "Frame", "ImageSampling", "LikelihoodBound", "MMaDA", "Preset", "TextResult", "TextSampling"]
