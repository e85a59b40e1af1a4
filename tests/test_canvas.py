"""The canvas: stacking, cutting rows, joining pieces."""

import pytest
import torch

from mmada.canvas import IMAGE, TEXT, Canvas, Segment


def row(*tokens: int) -> Canvas:
    return Canvas.join([Segment(list(tokens[:1])), Segment(list(tokens[1:]), editable=True, modality="image")])


def test_join_marks_what_may_be_edited_and_its_modality() -> None:
    canvas = row(5, 6, 7)
    assert canvas.tokens_BL.tolist() == [[5, 6, 7]]
    assert canvas.editable_BL.tolist() == [[False, True, True]]
    assert canvas.modality_BL.tolist() == [[TEXT, IMAGE, IMAGE]]


def test_stack_pads_at_the_right_and_row_undoes_it() -> None:
    short, long = row(1, 2), row(3, 4, 5, 6)
    both = Canvas.stack([short, long])
    assert (both.rows, both.length) == (2, 4)
    assert both.valid_BL.tolist() == [[True, True, False, False], [True] * 4]
    for index, single in enumerate((short, long)):
        for name in ("tokens_BL", "editable_BL", "valid_BL", "modality_BL"):
            assert torch.equal(getattr(both.row(index), name), getattr(single, name))


def test_shapes_that_do_not_agree_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one \(B, L\) shape"):
        Canvas(torch.zeros(1, 2), torch.zeros(1, 3), torch.zeros(1, 2), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="at least one row"):
        Canvas.stack([])
