"""Equality with the reference on weights of the released layout, made here from the seed that it computed from."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.parity import checkpoint
from torch import Tensor

from mmada.canvas import Canvas, Piece
from mmada.diffusion.schedule import Cosine
from mmada.model.mmada import MMaDAModel
from mmada.pipeline import MMaDA
from mmada.sampling import (
    Blocks,
    EvenSplit,
    Greedy,
    Guidance,
    LowConfidence,
    PerturbedConfidence,
    Phase,
    ScheduleCount,
    complete,
    row_generators,
)
from mmada.tokenizers.image import ImageTokenizer
from mmada.tokenizers.prompt import Layout, Message, Prompter
from mmada.tokenizers.vocabulary import RELEASED

STORED = Path(__file__).parent / "parity"
TRANSFORMER = load_file(STORED / "mmada_seed0.safetensors")
IMAGE = RELEASED.image_columns
FIRST_CODES = range(IMAGE.start, IMAGE.start + 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("released")
    checkpoint.write_transformer(path, 0)
    return path


@pytest.fixture(scope="module")
def released(folder: Path) -> MMaDA:
    return MMaDA.load(folder, device="cpu")


@pytest.fixture(scope="module")
def network(released: MMaDA) -> MMaDAModel:
    network = released.engine.parts.model
    assert isinstance(network, MMaDAModel)
    return network


def prompter(released: MMaDA, **layout: object) -> Prompter:
    return Prompter(released.engine.parts.text, RELEASED, "think", 64, Layout(**layout))  # type: ignore[arg-type]


def spelt(released: MMaDA, ids: list[int]) -> str:
    """Ids as words that make the same ids again."""
    return " ".join(released.engine.parts.text.decode([token]) for token in ids)


def rows(tokens_BL: Tensor, answer: int) -> Canvas:
    """Prompts of ids with masks behind them."""
    masks = Piece([RELEASED.mask] * answer, editable=True)
    return Canvas.stack([Canvas.join([Piece(row.tolist()), masks]) for row in tokens_BL])


def test_the_layout_is_recognised(released: MMaDA) -> None:
    assert released.engine.parts.vocabulary == RELEASED
    assert released.preset.image_size == 512


def test_logits_are_those_of_the_reference(network: MMaDAModel) -> None:
    with torch.no_grad():
        logits_BLV = network(TRANSFORMER["logits.input_ids"]).logits
    assert logits_BLV.shape[-1] == RELEASED.size
    torch.testing.assert_close(logits_BLV[..., :64], TRANSFORMER["logits.text_0_64"], atol=2e-5, rtol=0)
    torch.testing.assert_close(logits_BLV[..., FIRST_CODES], TRANSFORMER["logits.image_0_64"], atol=2e-5, rtol=0)
    torch.testing.assert_close(logits_BLV.logsumexp(-1), TRANSFORMER["logits.logsumexp"], atol=2e-5, rtol=0)
    assert torch.equal(logits_BLV.argmax(-1), TRANSFORMER["logits.argmax"])


def test_the_chat_prompt_is_that_of_the_reference(released: MMaDA) -> None:
    ids = TRANSFORMER["text.prompt_ids"][0].tolist()
    content = spelt(released, ids[ids.index(RELEASED.end_header) + 2 : ids.index(RELEASED.eot)])
    canvas = prompter(released).chat([Message("user", content)], answer_length=4)
    assert canvas.tokens_BL[0, :-4].tolist() == ids


def phase(steps: int, length: int, block: int, guidance: float = 0.0) -> Phase:
    """The reference's text sampler: nothing stops it and every id competes."""
    return Phase(
        modality="text",
        count=EvenSplit(steps * block // length),
        order=LowConfidence(),
        draw=Greedy(),
        guidance=Guidance(guidance),
        region=Blocks(block),
        open_vocabulary=True,
    )


@pytest.mark.parametrize(
    ("name", "plan"),
    [
        ("text.block8", (16, 32, 8)),
        ("text.whole", (12, 24, 24)),
        ("text.one_by_one", (32, 32, 16)),
        ("text.cfg", (16, 32, 8, 1.5)),
        ("text.batch", (16, 32, 8)),
        ("mmu.answer", (8, 16, 8)),
    ],
)
def test_greedy_texts_are_those_of_the_reference(network: MMaDAModel, name: str, plan: tuple[int, ...]) -> None:
    source = {"text.batch": "text.batch_prompt", "mmu.answer": "mmu.prompt_ids"}.get(name, "text.prompt_ids")
    canvas = rows(TRANSFORMER[source], plan[1])
    blank = canvas.with_tokens(torch.full_like(canvas.tokens_BL, RELEASED.mask))
    generators = row_generators([0] * canvas.rows)
    done = complete(network, canvas, [phase(*plan)], vocabulary=RELEASED, generators=generators, unconditional=blank)
    assert torch.equal(done.tokens_BL[:, -plan[1] :], TRANSFORMER[name])


def test_the_prompt_about_a_picture_is_that_of_the_reference(released: MMaDA) -> None:
    ids = TRANSFORMER["mmu.prompt_ids"][0].tolist()
    content = " ".join(
        released.engine.parts.text.decode([i]) for i in ids[ids.index(RELEASED.end_header) + 2 : ids.index(RELEASED.eot)]
    )
    codes = TRANSFORMER["mmu.image_codes"][0].tolist()
    canvas = prompter(released).chat([Message("user", content)], codes=codes, answer_length=1)
    assert canvas.tokens_BL[0, :-1].tolist() == ids


def captions(released: MMaDA) -> list[str]:
    """What stands between bos and eos of the two stored prompts."""
    rows = TRANSFORMER["t2i.cond_ids"].tolist()
    return [spelt(released, ids[ids.index(RELEASED.bos) + 1 : ids.index(RELEASED.eos)]) for ids in rows]


@pytest.mark.parametrize("pads", ["masked", "visible", "none"])
def test_drawing_prompts_are_those_of_the_reference(released: MMaDA, pads: str) -> None:
    made = prompter(released, caption_length=32, pads=pads)
    for row, text in enumerate(captions(released)):
        for words, name in ((text, "cond"), ("", "uncond")):
            canvas, ids, valid = (
                made.draw(words),
                TRANSFORMER[f"t2i.{name}_ids"][row],
                TRANSFORMER[f"t2i.{name}_mask"][row].bool(),
            )
            assert torch.equal(canvas.tokens_BL[0], ids[valid] if pads == "none" else ids)
            assert torch.equal(
                canvas.valid_BL[0], torch.ones_like(valid[valid]) if pads == "none" else valid | (pads == "visible")
            )


def partial(released: MMaDA, pads: str, words: list[str]) -> Canvas:
    """The stored prompts with the codes that are already known."""
    made = prompter(released, caption_length=32, pads=pads)
    known = TRANSFORMER["t2i.partial_ids"][:, -65:-1]
    codes = [[None if i == RELEASED.mask else i - RELEASED.image_offset for i in row] for row in known.tolist()]
    return Canvas.stack([made.draw(text, codes=row) for text, row in zip(words, codes, strict=True)])


def image_logits(network: MMaDAModel, canvas: Canvas) -> Tensor:
    """At the 64 image places of each row, (B, 64, codes)."""
    at_BL = canvas.modality_BL == 1
    return network.predict(canvas.tokens_BL, at_BL=at_BL, columns=IMAGE, valid_BL=canvas.valid_BL).view(canvas.rows, 64, -1)


@pytest.mark.parametrize("pads", ["masked", "visible"])
def test_both_ways_to_pad_are_those_of_the_reference(released: MMaDA, network: MMaDAModel, pads: str) -> None:
    logits = image_logits(network, partial(released, pads, captions(released)))[..., :64]
    torch.testing.assert_close(logits, TRANSFORMER[f"t2i.{pads}_pad_logits_0_64"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("pads", ["masked", "none"])
def test_guided_logits_are_those_of_the_reference(released: MMaDA, network: MMaDAModel, pads: str) -> None:
    one, two = (image_logits(network, partial(released, pads, words)) for words in (captions(released), ["", ""]))
    guided = Guidance(3.5).combine(one, two)
    expected = TRANSFORMER["t2i.guided_logits_0_64"]
    assert ((guided[..., :64] - expected).abs().max() / expected.abs().max()) < 5e-5
    torch.testing.assert_close(guided.logsumexp(-1), TRANSFORMER["t2i.guided_logsumexp"], atol=0, rtol=5e-5)
    assert torch.equal(guided.argmax(-1), TRANSFORMER["t2i.guided_argmax"])


def test_the_image_schedule_is_that_of_the_reference() -> None:
    # The reference keeps one place nominally masked at the end; ours commits it in the last step.
    count, left = ScheduleCount(Cosine(), 15), torch.tensor([64, 64])
    kept = []
    for step in range(15):
        left = left - count.commits(torch.tensor([64, 64]), left, step)
        kept.append(left.clone())
    expected = TRANSFORMER["t2i.masked_after_step"]
    assert torch.equal(torch.stack(kept)[:-1], expected[:-1])
    assert kept[-1].tolist() == [0, 0]
    order = PerturbedConfidence(1.0, "compounding")
    noise = torch.tensor([order.at(step, 15) for step in range(15)], dtype=torch.float64)
    torch.testing.assert_close(noise, TRANSFORMER["t2i.confidence_temperature"])


@pytest.fixture(scope="module")
def magvit(tmp_path_factory: pytest.TempPathFactory) -> ImageTokenizer:
    path = tmp_path_factory.mktemp("magvitv2")
    checkpoint.write_magvit(path, 0)
    return ImageTokenizer.load(path)


@pytest.mark.parametrize("name", ["square", "wide"])
def test_codes_and_pixels_are_those_of_the_reference(magvit: ImageTokenizer, name: str) -> None:
    stored = load_file(STORED / "magvitv2_seed0.safetensors")
    latent = stored[f"{name}.latent_before_sign"]
    codes = stored[f"{name}.codes"].view(1, *latent.shape[2:])
    sure = (latent.abs() >= 1e-4).all(1)
    made = magvit.encode(stored[f"{name}.pixels"])
    assert torch.equal(made[sure], codes[sure])
    torch.testing.assert_close(magvit.decode(codes), stored[f"{name}.decoded"].float(), atol=2e-3, rtol=0)
