"""PSNR, SSIM against scikit-image's value, and ranks in retrieval."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmada.evaluation.picture_scores import psnr, rank_of_right, ssim


def slope(noise: int) -> Image.Image:
    y, x = np.mgrid[:32, :40]
    plain = np.stack([x * 6, y * 8, (x + y) * 3], -1).astype(np.uint8)
    rng = np.random.default_rng(0)
    rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)  # the draws of the script that made the value below
    added = rng.integers(-40, 41, plain.shape) if noise else 0
    return Image.fromarray(np.clip(plain.astype(int) + added, 0, 255).astype(np.uint8))


def test_ssim_is_that_of_scikit_image() -> None:
    """structural_similarity(..., gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255) of 0.26."""
    assert ssim(slope(0), slope(40)) == pytest.approx(0.2971535626808397, abs=1e-9)
    assert ssim(slope(0), slope(0)) == pytest.approx(1.0)


def test_ssim_of_a_picture_smaller_than_the_window() -> None:
    small = slope(0).crop((0, 0, 8, 8))
    assert ssim(small, small) == pytest.approx(1.0)
    assert ssim(small, Image.new("RGB", (8, 8))) < 0.5


def test_psnr() -> None:
    black, grey = Image.new("RGB", (4, 4)), Image.new("RGB", (4, 4), (10, 10, 10))
    assert psnr(black, grey) == pytest.approx(10 * np.log10(255**2 / 100))
    assert psnr(black, black) > 60


def test_rank_counts_the_wrong_ones_that_are_as_near() -> None:
    candidates_CD = torch.tensor([[0.0], [1.0], [2.0], [5.0]])
    queries_QD = torch.tensor([[1.9], [0.1], [1.5]])
    right_QC = torch.tensor([[False, False, True, False], [False, False, False, True], [False, True, False, False]])
    everything = torch.ones_like(right_QC)
    assert rank_of_right(queries_QD, candidates_CD, right_QC, everything) == [0, 3, 1]  # a tie counts against the model
    last_two = torch.tensor([[False, False, True, True]] * 3)
    assert rank_of_right(queries_QD[:2], candidates_CD, right_QC[:2], last_two[:2]) == [0, 1]
    with pytest.raises(ValueError, match="no right candidate"):
        rank_of_right(queries_QD, candidates_CD, right_QC, last_two)
