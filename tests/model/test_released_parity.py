"""Equality with the reference on weights of the released layout, made here from the seed that it computed from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.parity import checkpoint
from torch import Tensor

from mmada.canvas import Canvas, Segment
from mmada.data.packing import Batch
from mmada.diffusion.schedule import Cosine
from mmada.errors import InputError
from mmada.model.mmada import MMaDAModel
from mmada.model.network import Network
from mmada.model.trainable import read_model
from mmada.pipeline import Engine, MMaDA, TextSampling
from mmada.sampling import (
    Blocks,
    Greedy,
    Guidance,
    GumbelConfidence,
    LowConfidence,
    MaskSchedule,
    Phase,
    UniformSchedule,
    complete,
    row_generators,
)
from mmada.tokenizers.image import ImageTokenizer
from mmada.tokenizers.prompt import Message, Prompter, PromptFormat
from mmada.tokenizers.vocabulary import RELEASED
from mmada.training.masked_diffusion import LossSettings, MaskedDiffusionLearner

STORED = Path(__file__).parents[1] / "parity"
TRANSFORMER = load_file(STORED / "mmada_seed0.safetensors")
IMAGE = RELEASED.ranges["image"]
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
def network(released: MMaDA) -> Network:
    network = released.engine.parts.model
    assert isinstance(network, Network)
    return network


@pytest.fixture(scope="module")
def trained(folder: Path) -> MMaDAModel:
    return read_model(folder, device=torch.device("cpu"))


def prompter(released: MMaDA, **layout: object) -> Prompter:
    return Prompter(released.engine.parts.text, RELEASED, "think", 64, PromptFormat(**layout))


def spelt(released: MMaDA, ids: list[int]) -> str:
    """Ids as words that make the same ids again."""
    return " ".join(released.engine.parts.text.decode([token]) for token in ids)


def rows(tokens_BL: Tensor, answer: int) -> Canvas:
    """Prompts of ids with masks behind them."""
    masks = Segment([RELEASED.mask] * answer, editable=True)
    return Canvas.stack([Canvas.join([Segment(row.tolist()), masks]) for row in tokens_BL])


def test_the_layout_is_recognised(released: MMaDA) -> None:
    assert released.engine.parts.vocabulary == RELEASED
    assert released.preset.image_size == 512


def test_logits_are_those_of_the_reference(trained: MMaDAModel) -> None:
    with torch.no_grad():
        logits_BLV = trained(TRANSFORMER["logits.input_ids"]).logits
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
        schedule=UniformSchedule(steps * block // length),
        remasking=LowConfidence(),
        token_sampler=Greedy(),
        guidance=Guidance(guidance),
        blocks=Blocks(block),
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
    canvas = prompter(released).chat([Message("user", content)], images=[] if codes is None else [codes], answer_length=1)
    assert canvas.tokens_BL[0, :-1].tolist() == ids


def captions(released: MMaDA) -> list[str]:
    """The tokens between bos and eos of the two stored prompts."""
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
    codes = RELEASED.codes_of(known)
    return Canvas.stack([made.draw(text, codes=row) for text, row in zip(words, codes, strict=True)])


def image_logits(network: Network, canvas: Canvas) -> Tensor:
    """Logits at the 64 image positions of each row, (B, 64, codes)."""
    query_BL = canvas.modality_BL == 1
    return network.predict(canvas.tokens_BL, query_BL=query_BL, vocab=IMAGE, valid_BL=canvas.valid_BL).view(canvas.rows, 64, -1)


@pytest.mark.parametrize("pads", ["masked", "visible"])
def test_both_ways_to_pad_are_those_of_the_reference(released: MMaDA, network: Network, pads: str) -> None:
    logits = image_logits(network, partial(released, pads, captions(released)))[..., :64]
    torch.testing.assert_close(logits, TRANSFORMER[f"t2i.{pads}_pad_logits_0_64"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("pads", ["masked", "none"])
def test_guided_logits_are_those_of_the_reference(released: MMaDA, network: Network, pads: str) -> None:
    one, two = (image_logits(network, partial(released, pads, words)) for words in (captions(released), ["", ""]))
    guided = Guidance(3.5).combine(one, two)
    expected = TRANSFORMER["t2i.guided_logits_0_64"]
    assert ((guided[..., :64] - expected).abs().max() / expected.abs().max()) < 5e-5
    torch.testing.assert_close(guided.logsumexp(-1), TRANSFORMER["t2i.guided_logsumexp"], atol=0, rtol=5e-5)
    assert torch.equal(guided.argmax(-1), TRANSFORMER["t2i.guided_argmax"])


def test_the_image_schedule_is_that_of_the_reference() -> None:
    # The reference keeps one position nominally masked at the end; ours commits it in the last step.
    count, left = MaskSchedule(Cosine(), 15), torch.tensor([64, 64])
    kept = []
    for step in range(15):
        left = left - count.num_unmasked(torch.tensor([64, 64]), left, step)
        kept.append(left.clone())
    expected = TRANSFORMER["t2i.masked_after_step"]
    assert torch.equal(torch.stack(kept)[:-1], expected[:-1])
    assert kept[-1].tolist() == [0, 0]
    order = GumbelConfidence(1.0, "compounding")
    noise = torch.tensor([order.at(step, 15) for step in range(15)], dtype=torch.float64)
    torch.testing.assert_close(noise, TRANSFORMER["t2i.confidence_temperature"])


def stored_batch(rows: slice, targets_BL: Tensor) -> Batch:
    """Rows of the stored batch as training sees them: the true tokens, each row one example."""
    tokens_BL = torch.where(targets_BL, TRANSFORMER["loss.labels"][rows], TRANSFORMER["loss.input_ids"][rows])
    image_BL = (tokens_BL >= IMAGE.start) & (tokens_BL < IMAGE.stop)
    segment_BL = torch.arange(1, len(tokens_BL) + 1)[:, None].expand_as(tokens_BL).contiguous()
    position_BL = torch.arange(tokens_BL.shape[1]).expand_as(tokens_BL)
    return Batch(tokens_BL, targets_BL, image_BL.to(torch.int8), segment_BL, position_BL, len(tokens_BL))


@pytest.mark.parametrize("task", ["t2i", "lm", "mmu"])
def test_losses_are_those_of_the_reference(trained: MMaDAModel, task: str) -> None:
    number = ("t2i", "lm", "mmu").index(task)
    rows = slice(2 * number, 2 * number + 2)
    ids_BL, labels_BL = TRANSFORMER["loss.input_ids"][rows], TRANSFORMER["loss.labels"][rows]
    masked_BL = ids_BL == RELEASED.mask
    # Editable is what may be masked: the codes, all of a text, or the answer.
    asked_BL = masked_BL if task == "t2i" else labels_BL >= 0
    if task == "mmu":
        length_B = TRANSFORMER["loss.answer_lengths_mmu"][:, 0]
        asked_BL = torch.arange(ids_BL.shape[1]) >= ids_BL.shape[1] - length_B[:, None]
    weight_BL = torch.ones(ids_BL.shape) if task == "t2i" else 1 / TRANSFORMER[f"loss.p_mask_{task}"]
    batch = stored_batch(rows, asked_BL)
    learner = MaskedDiffusionLearner(
        trained, RELEASED, lambda step: batch, LossSettings.released(), seed=0, show=lambda folder: [],
        write=lambda model, folder: None, device=torch.device("cpu"),
    )  # fmt: skip
    with torch.no_grad():
        hidden_BLD = trained.hidden(ids_BL)
        targets = learner.targets(batch, "image" if task == "t2i" else "text", masked_BL, weight_BL)
        loss = learner.modality_loss(hidden_BLD, batch.tokens_BL, "image" if task == "t2i" else "text", targets, slice(None))
    assert float(loss) == pytest.approx(float(TRANSFORMER["loss.t2i_lm_mmu"][number]), abs=1e-4)


@pytest.fixture(scope="module")
def magvit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("magvitv2")
    checkpoint.write_magvit(path, 0)
    return path


@pytest.fixture(scope="module")
def magvit(magvit_folder: Path) -> ImageTokenizer:
    return ImageTokenizer.load(magvit_folder)


@pytest.mark.parametrize("name", ["square", "wide"])
def test_codes_and_pixels_are_those_of_the_reference(magvit: ImageTokenizer, name: str) -> None:
    stored = load_file(STORED / "magvitv2_seed0.safetensors")
    latent = stored[f"{name}.latent_before_sign"]
    codes = stored[f"{name}.codes"].view(1, *latent.shape[2:])
    sure = (latent.abs() >= 1e-4).all(1)
    made = magvit.encode(stored[f"{name}.pixels"])
    assert torch.equal(made[sure], codes[sure])
    torch.testing.assert_close(magvit.decode(codes), stored[f"{name}.decoded"].float(), atol=2e-3, rtol=0)


def test_every_task_runs_on_the_released_layout(folder: Path, magvit_folder: Path) -> None:
    model = MMaDA.load(folder, device="cpu", image_tokenizer=magvit_folder)
    small = replace(model.preset, image_size=64, thought=TextSampling(length=4, steps=2, block=4))
    model = MMaDA(Engine(replace(model.engine.parts, preset=small), torch.device("cpu")))
    quick = {"length": 8, "steps": 4, "block": 4}
    assert len(model.generate("a red circle", thinking=True, **quick).frames) > 1
    picture = model.draw("a red circle", steps=3, size=(96, 64))
    assert picture.size == (96, 64)
    questions = ["what is this ?", "a circle ?"]
    together = [answer.tokens for answer in model.ask(picture, questions, **quick)]
    assert together == [model.ask(picture, question, **quick).tokens for question in questions]
    assert len(set(together)) == 2
    assert "thinking" in model.draw("a red circle", steps=2, thinking=True, size=(32, 32)).info
    mask = np.zeros((64, 96), dtype=bool)
    mask[20:30, 40:50] = True
    assert model.inpaint(picture, mask, "a circle", steps=2).size == (64, 64)
    assert model.extend(picture, right=1, down=1, steps=2).size == (80, 80)
    assert "circle" in model.infill("a [MASK] circle").text
    with pytest.raises(InputError, match="width 40 is not a multiple of 16"):
        model.draw("x", size=(40, 32))
