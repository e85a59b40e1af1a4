"""Small fakes for tests, of this project and of projects that build on it; nothing here needs pytest.

    tiny_folder(path)       a complete model folder, random weights: `mmada.load(path)` takes milliseconds
    tiny_model(), sharp_model()      transformers of two narrow layers; the second reacts strongly to its context
    tiny_image_tokenizer()  an image tokenizer for images of 32 x 32 pixels, 32 codes
    Oracle, Mixer, Unigram  denoisers whose predictions can be worked out by hand
    text_row(tokens), masked_row(context, length), image_row(prompt, codes)      canvases of one row
    answered(gold, answer)  a completion to be scored by a reward or task

Everything is deterministic: random weights are drawn from fixed seeds.
"""

from mmada.testing.canvases import answered, generator, image_row, masked_row, text_row
from mmada.testing.denoisers import Mixer, Oracle, Unigram
from mmada.testing.models import (
    CODE_SIZE,
    IMAGE_SIZE,
    TINY_IMAGE_TOKENIZER,
    TINY_PRESET,
    TINY_VOCABULARY,
    sharp_model,
    tiny_folder,
    tiny_image_tokenizer,
    tiny_model,
)

__all__ = [
    "CODE_SIZE",
    "IMAGE_SIZE",
    "TINY_IMAGE_TOKENIZER",
    "TINY_PRESET",
    "TINY_VOCABULARY",
    "Mixer",
    "Oracle",
    "Unigram",
    "answered",
    "generator",
    "image_row",
    "masked_row",
    "sharp_model",
    "text_row",
    "tiny_folder",
    "tiny_image_tokenizer",
    "tiny_model",
]
