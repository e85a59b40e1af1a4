"""Tiny random models, and a model folder as `mmada.load` reads it."""

from __future__ import annotations

from pathlib import Path

import torch

from mmada.model.mmada import MMaDAConfig, MMaDAModel
from mmada.pipeline import ImageSampling, Preset, TextSampling
from mmada.tokenizers.image import ImageTokenizer
from mmada.tokenizers.magvit import ImageTokenizerConfig
from mmada.tokenizers.text import train_text_tokenizer
from mmada.tokenizers.vocabulary import Vocabulary

__all__ = [
    "CODE_SIZE",
    "CORPUS",
    "IMAGE_SIZE",
    "TINY_IMAGE_TOKENIZER",
    "TINY_PRESET",
    "TINY_VOCABULARY",
    "sharp_model",
    "tiny_folder",
    "tiny_image_tokenizer",
    "tiny_model",
]

TINY_VOCABULARY = Vocabulary(
    bos=0, eos=1, start_header=2, end_header=3, eot=4, mask=5, soi=6, eoi=7, t2i=8, mmu=9, r2i=10, ipad=11,
    text_size=40, image_offset=40, codebook_size=24, size=64,
)  # fmt: skip
"""40 text ids, of which 12 are special, and 24 image codes."""

TINY_IMAGE_TOKENIZER = ImageTokenizerConfig(
    channels=8, encoder_mult=(1, 1, 1, 2), decoder_mult=(1, 1, 1, 2), encoder_blocks=(0, 1, 0, 1), decoder_blocks=(0, 1, 0, 1),
    code_bits=5, groups=4, image_size=64,
)  # fmt: skip
"""Sizes of an image tokenizer that a few training steps move."""

IMAGE_SIZE = 32
"""Height and width of the images of `tiny_folder`, in pixels."""
CODE_SIZE = 8
"""Height and width of the patch of one of its codes, in pixels."""

TINY_PRESET = Preset(
    cot_instruction="think first.",
    answer=TextSampling(length=8, steps=8, block=4),
    reasoning=TextSampling(length=12, steps=6, block=4),
    thought=TextSampling(length=6, steps=3, block=6),
    image=ImageSampling(steps=4, guidance=1.0),
    max_length=192,
)
"""Default sampling settings of `tiny_folder`."""

CORPUS = [
    "user assistant",
    "tom has 3 red pens and 4 blue pens",
    "<think> 3 + 4 = 7 </think> 7",
    "a red circle",
] * 5
"""Lines from which the text tokenizer of `tiny_folder` is trained."""


def tiny_model(vocabulary: int = TINY_VOCABULARY.size) -> MMaDAModel:
    """A transformer of two narrow layers with random weights (from torch's global seed), for up to 64 positions."""
    config = MMaDAConfig(
        vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
        intermediate_size=48, max_position_embeddings=64,
    )  # fmt: skip
    model = MMaDAModel(config)
    torch.nn.Module.train(model, False)
    return model


def sharp_model(seed: int = 0, mask: float = 0.0) -> MMaDAModel:
    """`tiny_model` with weights so large that a token of context changes others; ``mask`` makes the mask token likely."""
    torch.manual_seed(seed)
    model = tiny_model()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
        model.lm_head.weight[TINY_VOCABULARY.mask] *= 1 + mask
    return model


def tiny_image_tokenizer() -> ImageTokenizer:
    """An untrained image tokenizer of 32 codes for images of `IMAGE_SIZE` pixels (random weights, torch's global seed)."""
    sizes = ImageTokenizerConfig(
        channels=8, encoder_mult=(1,) * 4, decoder_mult=(1,) * 4, encoder_blocks=(0,) * 4, decoder_blocks=(0,) * 4,
        code_bits=5, groups=4, image_size=IMAGE_SIZE,
    )  # fmt: skip
    return ImageTokenizer(sizes)


def tiny_folder(path: Path) -> None:
    """Write a complete model folder, tiny and random: text tokenizer, image tokenizer, transformer and `TINY_PRESET`."""
    torch.manual_seed(0)
    text = train_text_tokenizer(CORPUS, vocab_size=400, min_frequency=2)
    text.save(path)
    tiny_image_tokenizer().save(path / "image_tokenizer")
    config = MMaDAConfig(
        vocab_size=Vocabulary.of(text.ids(), 32).size, hidden_size=32, intermediate_size=48,
        num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=256,
    )  # fmt: skip
    MMaDAModel(config).save_pretrained(path)
    TINY_PRESET.save(path)
