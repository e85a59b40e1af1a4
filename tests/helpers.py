"""Short names of `mmada.testing` for the tests, and settings of a short run."""

from mmada.testing import (
    CODE_SIZE,
    IMAGE_SIZE,
    TINY_IMAGE_TOKENIZER,
    TINY_PRESET,
    TINY_VOCABULARY,
    generator,
    sharp_model,
    text_row,
    tiny_folder,
    tiny_model,
)
from mmada.testing.models import CORPUS

__all__ = [
    "CELL", "CORPUS", "GRID", "PRESET", "SHORT_RUN", "SIZE", "SMALL", "TINY_IMAGE", "generator", "row", "strong_model",
    "tiny_folder", "tiny_model",
]  # fmt: skip

SMALL, TINY_IMAGE, PRESET = TINY_VOCABULARY, TINY_IMAGE_TOKENIZER, TINY_PRESET
SIZE, CELL, GRID = IMAGE_SIZE, CODE_SIZE, IMAGE_SIZE // CODE_SIZE
row, strong_model = text_row, sharp_model
# Settings of a run of policy optimisation that is over soon.
SHORT_RUN = {
    "plan.steps": "2",
    "plan.sample_every": "9",
    "plan.optim.warmup": "0",
    "group_size": "2",
    "sampling.text.length": "8",
    "sampling.image.steps": "2",
    "device": "cpu",
}
