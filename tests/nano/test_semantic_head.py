"""The head that reads meaning from codes, and the labels it learns from."""

import numpy as np
import torch

from mmada.nano.picture_stream import CLASSES, labels_of, picture_batch
from mmada.nano.semantic_head import UNKNOWN, Labels, SemanticHead
from mmada.nano.world.scenes import COLORS, SHAPES, SIZES, Scene, Thing


def test_labels_say_what_stands_where() -> None:
    labels = labels_of([Scene((Thing(0, 2, "star", "black", "large"),)), 7, None])
    assert labels.color[0].tolist() == [0, 0, 1 + COLORS.index("black"), 0, 0, 0, 0, 0, 0]
    assert labels.shape[0, 2] == SHAPES.index("star")
    assert labels.size[0, 2] == SIZES.index("large")
    assert (labels.shape[0] != UNKNOWN).sum() == 1
    assert labels.whole.tolist() == [UNKNOWN, 7, UNKNOWN]
    assert (labels.color[1:] == UNKNOWN).all()


def test_a_batch_depends_on_seed_and_step_alone_and_its_labels_belong_to_it() -> None:
    one, again, other = picture_batch(3, 5, 12), picture_batch(3, 5, 12), picture_batch(3, 6, 12)
    assert np.array_equal(one.pixels, again.pixels)
    assert torch.equal(one.labels.color, again.labels.color)
    assert not np.array_equal(one.pixels, other.pixels)
    empty = (one.labels.color[:, 4] == 0).numpy()  # nothing in the centre: that pixel is the background's
    assert empty.any()
    assert (np.abs(one.pixels[empty, 32, 32].astype(int) - one.pixels[empty, 0, 32]).max(-1) < 40).mean() > 0.6


def test_a_cell_is_read_from_the_codes_around_it_alone() -> None:
    torch.manual_seed(0)
    head = SemanticHead(5, 8, CLASSES)
    latent = torch.randn(1, 5, 8, 8)
    far = latent.clone()
    far[:, :, 5:, 5:] += 1.0
    (color, shape, size), whole = head(latent)
    (other, _, _), other_whole = head(far)
    assert color.shape == (1, 9, 9)
    assert (shape.shape[-1], size.shape[-1], whole.shape) == (4, 3, (1, 10))
    assert torch.equal(color[:, 0], other[:, 0])
    assert not torch.equal(color[:, 8], other[:, 8])
    assert not torch.equal(whole, other_whole)


def test_what_is_not_known_costs_nothing() -> None:
    torch.manual_seed(0)
    head = SemanticHead(5, 8, CLASSES)
    latent = torch.randn(2, 5, 8, 8, requires_grad=True)
    unknown = torch.full((2, 9), UNKNOWN)
    nothing = Labels(unknown, unknown, unknown, torch.full((2,), UNKNOWN))
    assert head.loss(latent, nothing).item() == 0
    digit = Labels(unknown, unknown, unknown, torch.tensor([UNKNOWN, 4]))
    head.loss(latent, digit).backward()
    assert latent.grad is not None
    assert latent.grad[0].abs().sum() == 0
    assert latent.grad[1].abs().sum() > 0
