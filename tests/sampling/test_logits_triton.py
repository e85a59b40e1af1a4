"""The Triton kernel against its twin in torch: on a GPU where there is one, else in Triton's interpreter."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from mmada.sampling.logits_ops import gumbel_argmax_twin, log_odds_twin, mixed


def cases(device: str) -> list[tuple[Tensor, Tensor]]:
    """Logits and keys: ordinary, very sure, barred columns, one column, no rows, a view with a stride."""
    generator = torch.Generator().manual_seed(0)
    plain = 3 * torch.randn(5, 4100, generator=generator)
    sure = plain.clone()
    sure[:, 7] += 60
    barred = plain.clone()
    barred[:, ::2] = float("-inf")
    logits = [plain, sure, barred, plain[:, :1], plain[:0], plain.T.contiguous().T, plain[:, 50:90]]
    return [(x.to(device), mixed(torch.tensor(3), torch.arange(len(x))).to(device)) for x in logits]


def check(device: str) -> None:
    """Both uses of the kernel."""
    from mmada.sampling import logits_triton

    for logits_NV, key_N in cases(device):
        for temperature in (0.0, 0.7, 1.0):
            ours = logits_triton.draw(logits_NV, key_N, temperature)
            assert torch.equal(ours, gumbel_argmax_twin(logits_NV, key_N, temperature))
            torch.testing.assert_close(logits_triton.odds(logits_NV, ours), log_odds_twin(logits_NV, ours), atol=2e-5, rtol=1e-5)


@pytest.mark.gpu
def test_kernel_on_the_gpu() -> None:
    pytest.importorskip("triton")
    check("cuda")


def test_kernel_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    script = "from tests.sampling.test_logits_triton import check; check('cpu')"
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
