"""Nano data sets: every kind makes examples that can be learned from, and says what it should."""

import re

import numpy as np
import pytest
import torch

from mmada.canvas import IMAGE, TEXT, Canvas
from mmada.data.dataset import Example, Formatter, ProceduralDataset, Sampler, step_generator
from mmada.nano.datasets import KINDS, NanoData, equations, masked_words, nano_datasets, regridded, text_to_image
from mmada.nano.image_sets import ImageSets
from mmada.nano.world.captions import drawable
from mmada.nano.world.flags import FLAGS
from mmada.nano.world.knowledge import COLOR_FACTS, SHAPE_FACTS
from mmada.nano.world.scenes import sample_scene
from mmada.pipeline.loading import find_folder
from mmada.tokenizers.prompt import Prompter
from mmada.tokenizers.text import TextTokenizer
from mmada.tokenizers.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def data() -> NanoData:
    """Pictures are random codes: what they show does not matter here."""
    rng = np.random.default_rng(0)
    text = TextTokenizer.load(find_folder("nano"))
    pairs = sorted({(c, s) for c in COLOR_FACTS.values() for s in SHAPE_FACTS.values()})

    def codes(count: int) -> torch.Tensor:
        return torch.from_numpy(rng.integers(0, 16, (count, 64), dtype=np.int32))

    images = ImageSets(
        tuple(sample_scene(rng) for _ in range(9)), codes(9), tuple(drawable(rng) for _ in range(9)), codes(9), (3, 7), codes(2),
        codes(8), codes(len(FLAGS)), {pair: i for i, pair in enumerate(pairs)}, codes(len(pairs)),
    )  # fmt: skip
    return NanoData(images, text)


@pytest.fixture(scope="module")
def formatter(data: NanoData) -> Formatter:
    return Formatter(Prompter(data.text, Vocabulary.of(data.text.ids(), 16), "think first.", 64))


def words(data: NanoData, canvas: Canvas, *, editable: bool) -> str:
    chosen = (canvas.editable_BL[0] == editable) & (canvas.modality_BL[0] == TEXT)
    return data.text.decode(canvas.tokens_BL[0][chosen].tolist())


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_can_be_learned_from(data: NanoData, formatter: Formatter, kind: str) -> None:
    dataset, rng = nano_datasets(data)[kind], np.random.default_rng(3)
    assert isinstance(dataset, ProceduralDataset)
    for _ in range(20):
        canvas = formatter.canvas(dataset.draw(rng))
        v = formatter.prompter.vocabulary
        assert bool(canvas.editable_BL.any())
        assert not bool((canvas.tokens_BL[canvas.editable_BL] == v.mask).any())
        codes = canvas.tokens_BL[(canvas.modality_BL == IMAGE) & (canvas.tokens_BL != v.mask)]
        assert bool(((codes >= v.image_offset) & (codes < v.size)).all())
        again = [formatter.canvas(dataset.draw(np.random.default_rng(8))) for _ in range(2)]
        assert torch.equal(again[0].tokens_BL, again[1].tokens_BL)


def test_equations_are_true_and_lack_one_number_each(data: NanoData, formatter: Formatter) -> None:
    canvas = formatter.canvas(equations(data, np.random.default_rng(1)))
    stated = re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)\.", data.text.decode(canvas.tokens_BL[0].tolist()))
    assert len(stated) > 5
    for left, operator, right, result in stated:
        known = {"+": int(left) + int(right), "-": int(left) - int(right), "*": int(left) * int(right)}
        assert known[operator] == int(result)
    starts = canvas.editable_BL[0] & ~canvas.editable_BL[0].roll(1)
    assert int(starts.sum()) == len(stated)


def test_words_are_masked_in_the_caption_alone(data: NanoData, formatter: Formatter) -> None:
    caption = "a red circle above a blue star"
    chosen = masked_words(data, caption, np.random.default_rng(2))
    plain, lacking = (
        formatter.canvas(Example(objective="text_to_image", text=caption, codes=([3] * 64,), masked_words=words))
        for words in ((), chosen)
    )
    changed = (lacking.tokens_BL != plain.tokens_BL)[0]
    assert 0 < int(changed.sum()) == len(chosen) < 8
    assert bool((lacking.tokens_BL[0][changed] == formatter.prompter.vocabulary.mask).all())
    assert not bool((changed & plain.editable_BL[0]).any())
    assert "circle" in words(data, plain, editable=False)


@pytest.mark.parametrize("kind", ["text_to_image", "digit_to_image", "inpainting"])
def test_a_tenth_of_the_captions_is_empty_for_guidance(data: NanoData, kind: str) -> None:
    """Classifier-free guidance needs a model that knows the empty caption."""
    dataset, rng = nano_datasets(data)[kind], np.random.default_rng(0)
    empty = [not dataset.draw(rng).text for _ in range(1500)]
    assert np.mean(empty) == pytest.approx(0.1, abs=0.025)


def test_four_tenths_of_the_captions_lose_a_third_of_their_words(data: NanoData) -> None:
    rng = np.random.default_rng(0)
    drawn = [one for one in (text_to_image(data, rng) for _ in range(1000)) if one.text]
    masked = [len(one.masked_words) / len(data.text.encode(one.text)) for one in drawn]
    assert np.mean([share > 0 for share in masked]) == pytest.approx(0.4, abs=0.06)
    assert np.mean([share for share in masked if share]) == pytest.approx(0.36, abs=0.05)


@pytest.mark.parametrize("grid", [4, 8, 16, 12])
def test_a_hole_keeps_its_place_on_another_grid(grid: int) -> None:
    hole = np.zeros((8, 8), bool)
    hole[2:5, 6:] = True
    moved = regridded(hole, grid)
    assert moved.shape == (grid, grid)
    rows, columns = (set((index * 8 // grid).tolist()) for index in np.nonzero(moved))
    assert rows <= {2, 3, 4}
    assert columns <= {6, 7}
    assert moved.sum() >= hole.sum() * (grid / 8) ** 2


def test_examples_of_a_step_depend_on_seed_and_step_alone(data: NanoData, formatter: Formatter) -> None:
    sampler = Sampler(nano_datasets(data), formatter, 192)
    weights = {"vqa": 0.5, "text_to_image": 0.3, "language": 0.2}

    def tokens(seed: int, step: int) -> list[list[int]]:
        stream = sampler.canvases(weights, step_generator(seed, step))
        return [next(stream).tokens_BL[0].tolist() for _ in range(5)]

    tokens(0, 3)
    assert tokens(0, 4) == tokens(0, 4) != tokens(0, 5)
    assert tokens(0, 4) != tokens(1, 4)
