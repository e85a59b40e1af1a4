"""Small things that several tests share."""

from mmada.canvas import Canvas, Piece
from mmada.tokenizers.image import ImageTokenizerConfig

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


def row(tokens: list[int]) -> Canvas:
    """A row of text, all of it editable."""
    return Canvas.join([Piece(tokens, editable=True)])
