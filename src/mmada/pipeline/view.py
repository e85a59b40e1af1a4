"""View of a frame for display: the text in pieces, the image so far."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from torch import Tensor

from mmada.canvas import IMAGE, TEXT
from mmada.pipeline.grids import Grid, keep_cells
from mmada.sampling import Frame
from mmada.tokenizers.text import TextTokenizer
from mmada.tokenizers.vocabulary import Vocabulary

if TYPE_CHECKING:
    from mmada.io.live_view import View

__all__ = ["of_frame"]

Decode = Callable[[Grid], list[Image.Image]]


def of_frame(
    frame: Frame, text: TextTokenizer, vocabulary: Vocabulary, shape: Callable[[], tuple[int, int]], decode: Decode
) -> View:
    """The view of a frame of one row; ``shape`` returns (height, width) of its image in codes, if it has one."""
    from mmada.io.live_view import View

    canvas = frame.canvas
    tokens, editable, modality = canvas.tokens_BL[0], canvas.editable_BL[0], canvas.modality_BL[0]
    writes = bool((editable & (modality == TEXT)).any())
    draws = bool((editable & (modality == IMAGE)).any())
    return View(
        step=frame.step,
        steps=frame.steps,
        pieces=_pieces(_shown(tokens, editable & (modality == TEXT), vocabulary), text, vocabulary) if writes else None,
        image=_picture(tokens[modality == IMAGE], vocabulary, shape(), decode) if draws else None,
    )


def _shown(tokens: Tensor, written: Tensor, vocabulary: Vocabulary) -> list[int]:
    """The tokens to show: the editable ones, or all of a plain text with gaps (no chat headers, no image)."""
    marks = tokens.new_tensor([vocabulary.start_header, vocabulary.soi])
    plain = not bool((tokens[:, None] == marks).any())
    shown: list[int] = tokens.tolist() if plain else tokens[written].tolist()
    return shown


def _pieces(tokens: list[int], text: TextTokenizer, vocabulary: Vocabulary) -> tuple[tuple[str, bool], ...]:
    """(text, masked) in reading order: decided tokens in runs, masked ones one by one."""
    pieces: list[tuple[str, bool]] = []
    for masked, run in groupby(tokens, key=lambda token: token == vocabulary.mask):
        run_tokens = list(run)
        if masked:
            pieces += [("[MASK]", True)] * len(run_tokens)
        elif shown := text.decode(run_tokens):
            pieces.append((shown, False))
    return tuple(pieces)


def _picture(tokens: Tensor, vocabulary: Vocabulary, shape: tuple[int, int], decode: Decode) -> Image.Image:
    """The image decoded from the codes so far, grey where they are unknown."""
    codes = vocabulary.codes_of(tokens).reshape(*shape).cpu().numpy()
    unknown = codes < 0
    picture = decode(np.where(unknown, 0, codes)[None])[0]
    grey = Image.new("RGB", picture.size, (128, 128, 128))
    return keep_cells(grey, picture, unknown, picture.width // shape[1])
