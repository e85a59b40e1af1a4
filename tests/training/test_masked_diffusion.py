"""The supervised losses in numbers: what each setting changes, and that micro-batches add up to the batch."""

import math
from dataclasses import replace

import pytest
import torch
from tests.helpers import SMALL, strong_model
from torch import Tensor
from torch.nn import functional as F

from mmada.canvas import Canvas, Segment
from mmada.data.packing import Batch, pack
from mmada.diffusion.forward_process import ForwardProcess
from mmada.errors import InputError
from mmada.model.mmada import MMaDAModel
from mmada.training.image_tokenizer import ImageLosses, entropy_losses
from mmada.training.masked_diffusion import LossSettings, MaskedDiffusionLearner

EVERYTHING = ForwardProcess(min_ratio=1.0, weight="none")
ALL = LossSettings(text=EVERYTHING, image=EVERYTHING, eos_weight=1.0)


def batch(rows: int = 3, length: int = 24) -> Batch:
    """Answers with padding, and pictures, packed."""
    v, examples = SMALL, []
    for n in range(2 * rows):
        answer = Segment([12 + n, 13, 14, v.eot, *[v.eos] * (2 + n % 3)], editable=True)
        picture = Segment([v.image_offset + n, v.image_offset + 3], editable=True, modality="image")
        examples.append(Canvas.join([Segment([v.bos, 20]), answer]))
        examples.append(Canvas.join([Segment([v.bos, 21 + n, v.soi]), picture, Segment([v.eoi])]))
    return pack(iter(examples), rows=rows, length=length)


def learner(model: MMaDAModel, losses: LossSettings, given: Batch, micro_batch: int = 0) -> MaskedDiffusionLearner:
    return MaskedDiffusionLearner(
        model, SMALL, lambda step: given, losses, seed=0, show=lambda folder: [], write=lambda model, folder: None,
        device=torch.device("cpu"), micro_batch=micro_batch,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast would round what is compared here."""
    plain = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda kind, dtype: plain(kind, dtype, enabled=False))


def summed(made: MaskedDiffusionLearner, step: int = 0) -> dict[str, float]:
    total = {"text": 0.0, "image": 0.0}
    for part in made.losses(step):
        for name, value in part.items():
            total[name] += value.item()
    return total


def log_p(model: MMaDAModel, given: Batch, vocab: range) -> Tensor:
    """ln p (B, L, V) over ``vocab`` when every editable position is masked."""
    tokens_BL = given.tokens_BL.masked_fill(given.editable_BL, SMALL.mask)
    hidden_BLD = model.hidden(tokens_BL, segment_BL=given.segment_BL, position_BL=given.position_BL)
    return (hidden_BLD @ model.head(vocab).T).float().log_softmax(-1)


def expected_text(model: MMaDAModel, given: Batch, eos_weight: float, certainty: float = 0.0) -> float:
    """The text loss from its definition: each answer's weighted mean, averaged over answers."""
    with torch.no_grad():
        log_p_BLV = log_p(model, given, SMALL.ranges["text"])
    means = []
    for example in range(1, given.examples + 1):
        at_BL = given.positions("text") & (given.segment_BL == example)
        if not at_BL.any():
            continue
        log_p_MV, target_M = log_p_BLV[at_BL], given.tokens_BL[at_BL]
        loss_M = F.nll_loss(log_p_MV, target_M, reduction="none")
        entropy_M = -(log_p_MV.exp() * log_p_MV).sum(-1)
        loss_M = loss_M + certainty * entropy_M * (log_p_MV.argmax(-1) == target_M)
        weight_M = torch.where(target_M == SMALL.eos, eos_weight, 1.0)
        means.append(float((loss_M * weight_M).sum() / weight_M.sum()))
    return sum(means) / len(means)


@pytest.mark.parametrize("eos_weight", [1.0, 0.1, 0.0])
def test_padding_counts_as_much_as_its_weight_says(eos_weight: float) -> None:
    model, given = strong_model(), batch()
    found = summed(learner(model, replace(ALL, eos_weight=eos_weight), given))
    assert found["text"] == pytest.approx(expected_text(model, given, eos_weight), rel=1e-4)


def test_certainty_is_of_text_that_is_predicted_right_alone() -> None:
    model, given = strong_model(), batch()
    with torch.no_grad():  # some targets are made right, so that there is something to be certain of
        codes = SMALL.ranges["image"]
        drawn_BL = log_p(model, given, codes).argmax(-1) + codes.start
        given = replace(given, tokens_BL=torch.where(given.positions("image"), drawn_BL, given.tokens_BL))
        best_BL = log_p(model, given, SMALL.ranges["text"]).argmax(-1)
    some_BL = given.positions("text") & (torch.arange(given.tokens_BL.shape[1]) % 2 == 0) & (best_BL != SMALL.mask)
    given = replace(given, tokens_BL=torch.where(some_BL, best_BL, given.tokens_BL))
    plain, sure = (summed(learner(model, replace(ALL, certainty=c), given)) for c in (0.0, 0.5))
    assert sure["text"] == pytest.approx(expected_text(model, given, 1.0, 0.5), rel=1e-4)
    assert sure["text"] > plain["text"] * 1.001
    assert sure["image"] == plain["image"]


def test_coefficients_weigh_each_modality() -> None:
    given = batch()
    plain = summed(learner(strong_model(), ALL, given))
    found = summed(learner(strong_model(), replace(ALL, text_coefficient=2.0, image_coefficient=0.25), given))
    assert found == pytest.approx({"text": 2 * plain["text"], "image": plain["image"] / 4})


def test_a_modality_is_predicted_over_its_own_range() -> None:
    model, given = strong_model(), batch()
    at_BL = given.positions("image")
    for whole, vocab in ((False, SMALL.ranges["image"]), (True, range(SMALL.size))):
        with torch.no_grad():
            log_p_MV = log_p(model, given, vocab)[at_BL]
        wanted = float(F.nll_loss(log_p_MV, given.tokens_BL[at_BL] - vocab.start))
        found = summed(learner(model, replace(ALL, whole_vocabulary=whole), given))
        assert found["image"] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("micro_batch", [1, 2])
@pytest.mark.parametrize("normaliser", ["example", "token", "masked"])
@pytest.mark.parametrize("released", [False, True])
def test_micro_batches_add_up(micro_batch: int, normaliser: str, released: bool) -> None:
    settings = LossSettings.released() if released else LossSettings(certainty=0.3)
    settings = replace(settings, text_normaliser=normaliser, image_normaliser=normaliser)
    given, grads, totals = batch(rows=3), [], []
    for size in (0, micro_batch):
        model = strong_model()
        made = learner(model, settings, given, size)
        parts = list(made.losses(4))
        assert len(parts) == (1 if size == 0 else math.ceil(3 / size))
        totals.append(sum(value.item() for part in parts for value in part.values()))
        torch.stack([value for part in parts for value in part.values()]).sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert totals[1] == pytest.approx(totals[0], rel=1e-4)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-5)


def test_wrong_settings_are_named() -> None:
    with pytest.raises(InputError, match=r"losses\.image_normaliser must be one of example, token, masked, got 'row'"):
        LossSettings(image_normaliser="row")
    with pytest.raises(InputError, match=r"losses\.eos_weight must be a number of at least 0"):
        LossSettings(eos_weight=-1)
    with pytest.raises(InputError, match="micro_batch"):
        learner(strong_model(), ALL, batch(), -1)
    with pytest.raises(InputError, match=r"losses\.codebook_usage"):
        ImageLosses(codebook_usage=-0.1)


def test_entropies_of_codes_are_those_of_the_distributions_written_out() -> None:
    torch.manual_seed(0)
    latent_BKhw = torch.randn(2, 3, 2, 2)
    codebook_VK = torch.tensor([[float(2 * (v >> k & 1) - 1) for k in range(3)] for v in range(8)])
    sharpness, each, mean_V = 1.7, [], torch.zeros(8, dtype=torch.float64)
    positions = latent_BKhw.permute(0, 2, 3, 1).reshape(-1, 3).double()
    for z_K in positions:
        p_V = torch.sigmoid(2 * sharpness * codebook_VK.double() * z_K).prod(1)  # p(bit = sign) = sigmoid(2 s z sign)
        assert float(p_V.sum()) == pytest.approx(1)
        each.append(float(-(p_V * p_V.log()).sum()))
        mean_V += p_V / len(positions)
    of_each, of_mean = entropy_losses(latent_BKhw, codebook_VK, sharpness)
    assert float(of_each) == pytest.approx(sum(each) / len(each), rel=1e-5)
    assert float(of_mean) == pytest.approx(float(-(mean_V * mean_V.log()).sum()), rel=1e-5)
