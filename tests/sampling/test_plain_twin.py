"""The plain sampler of the benchmarks does what the reference does, and ours gives what it gives."""

from itertools import product
from pathlib import Path

import pytest
import torch
from benchmarks.plain import ImageStep, plain_image, plain_text
from safetensors.torch import load_file
from tests.helpers import SMALL
from tests.parity import checkpoint
from torch import Tensor

from mmada.canvas import Canvas, Segment
from mmada.model.mmada import MMaDAModel
from mmada.model.trainable import read_model
from mmada.sampling import Blocks, Greedy, Guidance, LowConfidence, Phase, UniformSchedule, complete, row_generators
from mmada.tokenizers.vocabulary import RELEASED

STORED = load_file(Path(__file__).parents[1] / "parity" / "mmada_seed0.safetensors")
PLACES, CODES, MASK = slice(34, 98), RELEASED.ranges["image"], RELEASED.mask


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> MMaDAModel:
    path = tmp_path_factory.mktemp("released")
    checkpoint.write_transformer(path, 0)
    return read_model(path, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("name", "steps", "length", "block", "guidance"),
    [
        ("text.block8", 16, 32, 8, 0.0),
        ("text.whole", 12, 24, 24, 0.0),
        ("text.one_by_one", 32, 32, 16, 0.0),
        ("text.cfg", 16, 32, 8, 1.5),
        ("text.batch", 16, 32, 8, 0.0),
        ("mmu.answer", 8, 16, 8, 0.0),
    ],
)
def test_plain_texts_are_those_of_the_reference(
    network: MMaDAModel, name: str, steps: int, length: int, block: int, guidance: float
) -> None:
    prompt_BP = STORED[{"text.batch": "text.batch_prompt", "mmu.answer": "mmu.prompt_ids"}.get(name, "text.prompt_ids")]
    done_BL = plain_text(network, prompt_BP, length=length, steps=steps, block=block, guidance=guidance, mask_id=MASK)
    assert torch.equal(done_BL, torch.cat([prompt_BP, STORED[name]], dim=1))


def drawing(network: MMaDAModel, name: str, steps: int) -> list[ImageStep]:
    """All steps of a plain drawing from stored prompts."""
    masks = (STORED["t2i.cond_mask"].bool(), STORED["t2i.uncond_mask"].bool())
    return list(plain_image(
        network, STORED[name], STORED["t2i.uncond_ids"], masks, positions=PLACES, vocab=CODES, mask_id=MASK, steps=steps,
        guidance=3.5, generator=torch.Generator().manual_seed(0),
    ))  # fmt: skip


def test_plain_guided_logits_are_those_of_the_reference(network: MMaDAModel) -> None:
    logits = drawing(network, "t2i.partial_ids", 1)[0].logits_BNC
    expected = STORED["t2i.guided_logits_0_64"]
    assert ((logits[..., :64] - expected).abs().max() / expected.abs().max()) < 5e-5
    torch.testing.assert_close(logits.logsumexp(-1), STORED["t2i.guided_logsumexp"], atol=0, rtol=5e-5)
    assert torch.equal(logits.argmax(-1), STORED["t2i.guided_argmax"])


def engine_logits(network: MMaDAModel, tokens_BL: Tensor, which: str) -> Tensor:
    """As our engine asks: the pads dropped, and the columns of the codes at the 64 positions before the last one alone."""
    rows = [ids[valid].tolist() for ids, valid in zip(tokens_BL, STORED[f"t2i.{which}_mask"].bool(), strict=True)]
    pieces = [[Segment(ids[:-65]), Segment(ids[-65:-1], editable=True), Segment(ids[-1:])] for ids in rows]
    canvas = Canvas.stack([Canvas.join(row) for row in pieces])
    logits = network.predict(canvas.tokens_BL, query_BL=canvas.editable_BL, vocab=CODES, valid_BL=canvas.valid_BL)
    return logits.view(len(rows), 64, -1)


def test_a_plain_drawing_follows_the_schedule_and_has_our_logits(network: MMaDAModel) -> None:
    known_BN = torch.zeros(2, 64, dtype=torch.bool)
    drawn = drawing(network, "t2i.cond_ids", 15)
    for number, (step, expected) in enumerate(zip(drawn, STORED["t2i.masked_after_step"], strict=True)):
        after_BN = step.tokens_BL[:, PLACES]
        assert torch.equal((after_BN == MASK).sum(1), expected)
        assert torch.equal(after_BN[known_BN], step.before_BL[:, PLACES][known_BN])
        known_BN = after_BN != MASK
        assert torch.equal(after_BN[known_BN], (step.codes_BN + CODES.start)[known_BN])
        if number % 7 == 0:
            blank_BL = torch.cat([STORED["t2i.uncond_ids"][:, : PLACES.start], step.before_BL[:, PLACES.start :]], dim=1)
            one, two = engine_logits(network, step.before_BL, "cond"), engine_logits(network, blank_BL, "uncond")
            error = (Guidance(3.5).combine(one, two) - step.logits_BNC).abs().max() / step.logits_BNC.abs().max()
            assert error < 5e-5


@pytest.mark.parametrize("guidance", [0.0, 2.0])
@pytest.mark.parametrize(("steps", "block"), [(4, 12), (6, 4), (16, 6)])  # the last has steps that commit nothing
def test_our_greedy_texts_are_the_plain_ones(network: MMaDAModel, steps: int, block: int, guidance: float) -> None:
    prompt_BP = torch.randint(RELEASED.size, (2, 13), generator=torch.Generator().manual_seed(steps))
    plain_BL = plain_text(network, prompt_BP, length=12, steps=steps, block=block, guidance=guidance, mask_id=MASK)
    canvas = Canvas.stack([Canvas.join([Segment(p.tolist()), Segment([MASK] * 12, editable=True)]) for p in prompt_BP])
    phase = Phase(
        modality="text", schedule=UniformSchedule(steps * block // 12), remasking=LowConfidence(), token_sampler=Greedy(),
            guidance=Guidance(guidance),
        blocks=Blocks(block), open_vocabulary=True,
    )  # fmt: skip
    blank, generators = canvas.with_tokens(torch.full_like(canvas.tokens_BL, MASK)), row_generators([0, 0])
    ours = complete(network, canvas, [phase], vocabulary=RELEASED, generators=generators, unconditional=blank)
    assert torch.equal(ours.tokens_BL, plain_BL)


def test_plain_noise_is_that_of_the_temperature(network: MMaDAModel) -> None:
    def sampled(temperature: float, seed: int = 0) -> Tensor:
        plan = {"length": 4, "steps": 2, "block": 4, "mask_id": MASK, "generator": torch.Generator().manual_seed(seed)}
        return plain_text(network, STORED["text.prompt_ids"], temperature=temperature, **plan)

    assert torch.equal(sampled(1e-6), sampled(0.0))
    assert torch.equal(sampled(1.0), sampled(1.0))
    assert not torch.equal(sampled(1.0), sampled(1.0, seed=1))


class Mixer:
    """A model whose logits hang on every token and position, with the mask itself as likely as ``boost`` says."""

    lm_head = torch.nn.Identity()

    def __init__(self, boost: float) -> None:
        self.boost = boost

    def hidden(self, tokens_BL: Tensor, *, valid_BL: Tensor | None = None) -> Tensor:
        place_L = torch.arange(tokens_BL.shape[1], dtype=torch.float64)
        state_B = ((tokens_BL + 1) * (place_L + 1).sqrt()).sum(1)
        column_V = torch.arange(SMALL.size, dtype=torch.float64)
        logits_BLV = 3 * torch.sin(state_B[:, None, None] + (place_L[:, None] + 1) * column_V)
        logits_BLV[..., SMALL.mask] += self.boost
        return logits_BLV

    def predict(self, tokens_BL: Tensor, *, query_BL: Tensor, vocab: range, valid_BL: Tensor | None = None) -> Tensor:
        return self.hidden(tokens_BL)[query_BL][:, vocab.start : vocab.stop]


def test_left_over_masks_stay_candidates() -> None:
    """Where the mask itself is drawn, positions of earlier blocks are left over and may still be filled later."""
    left_over = 0
    for boost, seed, (length, steps, block) in product((1.0, 3.0), range(6), ((12, 6, 4), (12, 12, 4), (12, 4, 3))):
        prompt_BP = torch.randint(20, 40, (1, 5), generator=torch.Generator().manual_seed(seed))
        model = Mixer(boost)
        plain_BL = plain_text(model, prompt_BP, length=length, steps=steps, block=block, mask_id=SMALL.mask)
        canvas = Canvas.join([Segment(prompt_BP[0].tolist()), Segment([SMALL.mask] * length, editable=True)])
        phase = Phase(
            modality="text", schedule=UniformSchedule(steps * block // length), remasking=LowConfidence(), token_sampler=Greedy(),
                blocks=Blocks(block),
            open_vocabulary=True,
        )  # fmt: skip
        ours = complete(model, canvas, [phase], vocabulary=SMALL, generators=row_generators([0]))
        assert torch.equal(ours.tokens_BL, plain_BL)
        left_over += int((plain_BL == SMALL.mask).any())
    assert left_over > 5
