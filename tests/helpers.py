"""Small things that several tests share."""

from mmada.canvas import Canvas, Piece
from mmada.model.mmada import MMaDAConfig, MMaDAModel
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


def tiny_model(vocabulary: int) -> MMaDAModel:
    """A transformer of two narrow layers with random weights."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    return MMaDAModel(MMaDAConfig(vocab_size=vocabulary, num_key_value_heads=4, max_position_embeddings=64, **sizes)).eval()
