"""Small things that several tests share."""

from pathlib import Path

import torch

from mmada.canvas import Canvas, Segment
from mmada.model.mmada import MMaDAConfig, MMaDAModel
from mmada.pipeline import ImageSampling, Preset, TextSampling
from mmada.tokenizers.image import ImageTokenizer
from mmada.tokenizers.magvit import ImageTokenizerConfig
from mmada.tokenizers.text import train_text_tokenizer
from mmada.tokenizers.vocabulary import Vocabulary

SMALL = Vocabulary(
    bos=0, eos=1, start_header=2, end_header=3, eot=4, mask=5, soi=6, eoi=7, t2i=8, mmu=9, r2i=10, ipad=11,
    text_size=40, image_offset=40, codebook_size=24, size=64,
)  # fmt: skip

TINY_IMAGE = ImageTokenizerConfig(
    channels=8,
    encoder_mult=(1, 1, 1, 2),
    decoder_mult=(1, 1, 1, 2),
    encoder_blocks=(0, 1, 0, 1),
    decoder_blocks=(0, 1, 0, 1),
    code_bits=5,
    groups=4,
    image_size=64,
)

CORPUS = [
    "user assistant",
    "tom has 3 red pens and 4 blue pens",
    "<think> 3 + 4 = 7 </think> 7",
    "a red circle",
] * 5
SIZE, CELL, GRID = 32, 8, 4
PRESET = Preset(
    cot_instruction="think first.",
    answer=TextSampling(length=8, steps=8, block=4),
    reasoning=TextSampling(length=12, steps=6, block=4),
    thought=TextSampling(length=6, steps=3, block=6),
    image=ImageSampling(steps=4, guidance=1.0),
    max_length=192,
)
# Settings of a run of policy optimisation that is over soon.
SHORT_RUN = {
    "plan.steps": "2",
    "plan.sample_every": "9",
    "plan.optim.warmup": "0",
    "group_size": "2",
    "sampling.length": "8",
    "sampling.image_steps": "2",
    "device": "cpu",
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def row(tokens: list[int]) -> Canvas:
    """A row of text, all of it editable."""
    return Canvas.join([Segment(tokens, editable=True)])


def tiny_model(vocabulary: int) -> MMaDAModel:
    """A transformer of two narrow layers with random weights."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    return MMaDAModel(MMaDAConfig(vocab_size=vocabulary, num_key_value_heads=4, max_position_embeddings=64, **sizes)).eval()


def strong_model(seed: int = 0, mask: float = 0.0) -> MMaDAModel:
    """`tiny_model` of `SMALL` with weights so large that a token of context changes others; ``mask`` makes the mask likely."""
    torch.manual_seed(seed)
    model = tiny_model(SMALL.size)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
        model.lm_head.weight[SMALL.mask] *= 1 + mask
    return model


def tiny_folder(path: Path) -> None:
    """Write a complete model folder, tiny and random, as `mmada.load` reads it: `PRESET`, pictures of `SIZE` pixels."""
    torch.manual_seed(0)
    text = train_text_tokenizer(CORPUS, vocab_size=400, min_frequency=2)
    text.save(path)
    sizes = ImageTokenizerConfig(
        channels=8, encoder_mult=(1,) * 4, decoder_mult=(1,) * 4, encoder_blocks=(0,) * 4,
        decoder_blocks=(0,) * 4, code_bits=5, groups=4, image_size=SIZE,
    )  # fmt: skip
    ImageTokenizer(sizes).save(path / "image_tokenizer")
    config = MMaDAConfig(
        vocab_size=Vocabulary.of(text.ids(), 32).size, hidden_size=32, intermediate_size=48,
        num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=256,
    )  # fmt: skip
    MMaDAModel(config).save_pretrained(path)
    PRESET.save(path)
