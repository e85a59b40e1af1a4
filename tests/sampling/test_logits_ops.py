"""Operations on rows of logits."""

import pytest
import torch

from mmada.sampling.logits_ops import argmax


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [7, 1023, 1024, 1025, 3000])
def test_argmax_is_the_first_of_the_largest(dtype: torch.dtype, width: int) -> None:
    logits_NV = torch.randn(40, width, generator=torch.Generator().manual_seed(width)).to(dtype)  # bfloat16 has many ties
    logits_NV[3], logits_NV[4, -1], logits_NV[5, width // 2] = float("-inf"), 50.0, float("nan")
    expected_N = torch.tensor(
        [int((row == row.max()).nonzero()[0, 0]) if not row.isnan().any() else width // 2 for row in logits_NV]
    )
    assert torch.equal(argmax(logits_NV), expected_N)
    assert argmax(logits_NV[:0]).shape == (0,)
    assert torch.equal(argmax(logits_NV[:, 1:]), logits_NV[:, 1:].float().argmax(1))
