"""Checks of what `MMaDAModel.forward` is given, by the names that `transformers` uses.

Values are looked at, which waits for a GPU once a call; the model's own passes (`predict`, `hidden`) do not come through here.
Under `torch.compile`, and for tensors without storage, only shapes and types are checked.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmada.errors import InputError, kind_of

__all__ = ["IGNORED", "check_inputs", "check_unsupported"]

IGNORED = -100
"""Label of positions without a loss."""
_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_TOKEN_TYPES = "token_type_ids"


def check_inputs(
    vocab_size: int, input_ids: object, attention_mask: object, position_ids: object, labels: object
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return (input_ids, valid positions, position_ids, labels), checked: int64 but for the valid positions, which are bool.

    ``attention_mask`` is (B, L) of 0 and 1 in any type, bool and floats too; ``position_ids`` (B, L) or (1, L). Raises InputError
    that names the field.
    """
    tokens_BL = _whole("input_ids", input_ids)
    if tokens_BL.ndim != 2 or not tokens_BL.numel():
        raise InputError(f"input_ids have shape {list(tokens_BL.shape)}; give (rows, positions), at least one of each")
    _check_range("input_ids", tokens_BL, 0, vocab_size - 1, f"token ids of the model's {vocab_size} rows")
    shape = tokens_BL.shape
    valid_BL = None if attention_mask is None else _valid(attention_mask, shape)
    positions = None if position_ids is None else _whole("position_ids", position_ids)
    if positions is not None:
        if positions.shape not in (shape, (1, shape[1])):
            raise InputError(f"position_ids have shape {list(positions.shape)}; give {list(shape)} or {[1, shape[1]]}")
        _check_range("position_ids", positions, 0, 2**31, "positions from 0 on")
    target_BL = None if labels is None else _whole("labels", labels)
    if target_BL is not None:
        if target_BL.shape != shape:
            raise InputError(f"labels have shape {list(target_BL.shape)}; give that of input_ids, {list(shape)}")
        known = torch.where(target_BL == IGNORED, 0, target_BL)
        _check_range("labels", known, 0, vocab_size - 1, f"token ids of the model's {vocab_size} rows, or {IGNORED} for no loss")
    return tokens_BL, valid_BL, positions, target_BL


def check_unsupported(name: str, value: object) -> None:
    """Raise InputError for an argument that transformers knows and this model does not have, unless it changes nothing."""
    unset = value is None or value is False
    if name == _TOKEN_TYPES and isinstance(value, Tensor):
        unset = not bool(value.any())
    if not unset:
        raise InputError(f"{name} is not supported by MMaDAModel; leave it out")


def _whole(name: str, value: object) -> Tensor:
    """A tensor of whole numbers, as int64."""
    if not isinstance(value, Tensor):
        raise InputError(f"{name} is {kind_of(value)}; give a tensor of whole numbers (torch.long)")
    if value.dtype not in _WHOLE:
        raise InputError(f"{name} is a tensor of {_short(value.dtype)}; give whole numbers (torch.long)")
    return value.long()


def _valid(mask: object, shape: torch.Size) -> Tensor:
    """The attention mask as bool (B, L)."""
    if not isinstance(mask, Tensor):
        raise InputError(f"attention_mask is {kind_of(mask)}; give a tensor of 0 and 1")
    if mask.shape != shape:
        raise InputError(f"attention_mask has shape {list(mask.shape)}; give that of input_ids, {list(shape)}")
    if mask.dtype.is_complex:
        raise InputError(f"attention_mask is a tensor of {_short(mask.dtype)}; give 0 and 1")
    if _readable(mask) and not bool(((mask == 0) | (mask == 1)).all()):
        wrong = mask[(mask != 0) & (mask != 1)].flatten()[0].item()
        raise InputError(f"attention_mask holds {wrong:g}; give 1 for tokens and 0 for padding")
    return mask.bool()


def _check_range(name: str, value: Tensor, minimum: int, maximum: int, wanted: str) -> None:
    """Raise InputError for numbers outside a range."""
    if not _readable(value):
        return
    low, high = (int(x) for x in value.aminmax())
    if low < minimum or high > maximum:
        raise InputError(f"{name} hold {low if low < minimum else high}; give {wanted}")


def _readable(value: Tensor) -> bool:
    """Whether values can be looked at."""
    return not torch.compiler.is_compiling() and value.device.type != "meta" and type(value) is Tensor


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
