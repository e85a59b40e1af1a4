"""Vocabulary: the token ids of text, of special tokens and of image codes.

Released layout: 126,349 text entries, image code k at id 126,349 + k, 134,656 rows (LLaDA's 126,464 + 8,192). A packed layout,
as of a model trained here, wastes nothing: text entries first, then one id a code.

Image codes are numbers from 0; -1 stands for a code that is not known yet and becomes the mask token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmada.canvas import Modality
from mmada.errors import InputError

__all__ = ["RELEASED", "RESERVED", "SPECIAL_TOKENS", "Codes", "Vocabulary"]

Codes = Sequence[int] | np.ndarray[Any, Any] | Tensor
"""Image codes in reading order; -1 where a code is unknown. Grids (h, w) are flattened."""

# Strings of the special tokens in a tokenizer of ours, by the name of the field that holds their id.
SPECIAL_TOKENS: dict[str, str] = {
    "bos": "<|startoftext|>",
    "eos": "<|endoftext|>",
    "start_header": "<|start_header_id|>",
    "end_header": "<|end_header_id|>",
    "eot": "<|eot_id|>",
    "mask": "<|mdm_mask|>",
    "soi": "<|soi|>",
    "eoi": "<|eoi|>",
    "t2i": "<|t2i|>",
    "mmu": "<|mmu|>",
    "r2i": "<|r2i|>",
    "ipad": "[iPAD]",
}
# Ids of the same tokens in the released checkpoints. Of the task tokens their tokenizer knows no strings, only these ids.
RESERVED = {"bos": 126080, "eos": 126081, "start_header": 126346, "end_header": 126347, "eot": 126348, "mask": 126336,
            "soi": 126084, "eoi": 126085, "t2i": 126088, "mmu": 126089, "r2i": 126094, "ipad": 126093}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Token ids of a model. ``size`` is the number of embedding rows; codes take ``image_offset + code``."""

    bos: int
    eos: int
    start_header: int
    end_header: int
    eot: int
    mask: int
    soi: int
    eoi: int
    t2i: int
    mmu: int
    r2i: int
    ipad: int
    text_size: int
    image_offset: int
    codebook_size: int
    size: int

    def __post_init__(self) -> None:
        if self.image_offset < self.text_size:
            raise InputError(f"image_offset {self.image_offset} must not lie inside the text range of {self.text_size} ids")
        if self.image_offset + self.codebook_size > self.size:
            raise InputError(f"size {self.size} has no room for {self.codebook_size} codes from id {self.image_offset} on")

    @staticmethod
    def of(token_ids: Mapping[str, int], codebook_size: int, rows: int | None = None) -> Vocabulary:
        """The vocabulary of a tokenizer: ``token_ids`` maps every token string to its id.

        Codes follow the text entries, here and in the released layout, where the task tokens take ids that LLaDA's tokenizer
        reserves. ``rows``: rows of the embedding, where there are more than ids (released) or fewer (LLaDA, without codes).
        """
        ids = {field: token_ids[name] for field, name in SPECIAL_TOKENS.items() if name in token_ids}
        if ids.get("mask") == RESERVED["mask"]:
            ids = {field: ids.get(field, reserved) for field, reserved in RESERVED.items()}
        missing = [name for field, name in SPECIAL_TOKENS.items() if field not in ids]
        if missing:
            raise InputError(f"tokenizer lacks the special tokens {', '.join(missing)}; train one with `mmada tokenizer`")
        text = max(token_ids.values()) + 1
        codebook_size = min(codebook_size, max(0, rows - text)) if rows is not None else codebook_size
        size = text + codebook_size if rows is None else rows
        return Vocabulary(**ids, text_size=text, image_offset=text, codebook_size=codebook_size, size=size)

    @property
    def is_released(self) -> bool:
        """Whether the ids are those of the released checkpoints."""
        return self.mask == RESERVED["mask"]

    @cached_property
    def ranges(self) -> Mapping[Modality, range]:
        """Token ids that a position of each modality may take; nothing else maps ids to modalities."""
        codes = range(self.image_offset, self.image_offset + self.codebook_size)
        return {"text": range(self.text_size), "image": codes}

    def tokens_of(self, codes: Codes) -> Tensor:
        """Token ids (N,) int64 of image codes; the mask token where a code is unknown (-1).

        Raises InputError for a code outside the codebook, which would be read as a token of text.
        """
        codes_N = torch.as_tensor(codes).flatten().long()
        if len(codes_N) and (int(codes_N.min()) < -1 or int(codes_N.max()) >= self.codebook_size):
            raise InputError(
                f"codes {int(codes_N.min())} to {int(codes_N.max())} are not all in the codebook, 0 to {self.codebook_size - 1}; "
                f"encode the picture with the image tokenizer of this model"
            )
        return torch.where(codes_N < 0, self.mask, codes_N + self.image_offset)

    def codes_of(self, tokens: Tensor) -> Tensor:
        """Image codes of token ids, any shape; -1 where the token is the mask."""
        return torch.where(tokens == self.mask, -1, tokens - self.image_offset)


RELEASED = Vocabulary(**RESERVED, text_size=126349, image_offset=126349, codebook_size=8192, size=134656)
