"""The entropy terms of the image tokenizer against their definition over all codes."""

import itertools

import pytest
import torch

from mmada.testing import generator
from mmada.training.image_tokenizer import entropy_losses


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_entropies_are_those_of_independent_bits(bits: int, sharpness: float) -> None:
    """Every bit of a code is +1 with the probability sigmoid(2 x sharpness x latent); a code has the product of its bits'."""
    codebook_VK = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=bits)))
    latent_BKhw = torch.randn(2, bits, 3, 3, generator=generator(bits))
    x_NK = 2 * sharpness * latent_BKhw.permute(0, 2, 3, 1).reshape(-1, bits).double()
    code_NV = torch.stack([torch.sigmoid(x_NK * code_K).prod(1) for code_K in codebook_VK.double()], dim=1)
    each, mean = entropy_losses(latent_BKhw, codebook_VK, sharpness)
    mean_V = code_NV.mean(0)
    assert code_NV.sum(1).allclose(torch.ones(18, dtype=torch.float64))
    assert each.item() == pytest.approx(-(code_NV * code_NV.log()).sum(1).mean().item(), rel=1e-4)
    assert mean.item() == pytest.approx(-(mean_V * mean_V.log()).sum().item(), rel=1e-4)
