"""Training examples: every kind makes canvases that can be learnt from, and says what it should."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from mmada.canvas import IMAGE, TEXT, Canvas
from mmada.data.reasoning import Reasoned
from mmada.errors import InputError
from mmada.nano.examples import KINDS, World, equations, fits_canvas, reasoned, regridded, with_words_masked
from mmada.nano.image_sets import ImageSets, ReasoningSet
from mmada.nano.world.captions import drawable
from mmada.nano.world.flags import FLAGS
from mmada.nano.world.knowledge import COLOR_FACTS, SHAPE_FACTS
from mmada.nano.world.scenes import sample_scene
from mmada.pipeline.loading import find_folder
from mmada.tokenizers.prompt import Prompter
from mmada.tokenizers.text import TextTokenizer
from mmada.tokenizers.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def world() -> World:
    """A world whose pictures are random codes: what they show does not matter here."""
    rng = np.random.default_rng(0)
    text = TextTokenizer.load(find_folder("nano"))
    vocabulary = Vocabulary.of(text.ids(), 16)
    pairs = sorted({(c, s) for c in COLOR_FACTS.values() for s in SHAPE_FACTS.values()})

    def codes(count: int) -> torch.Tensor:
        return torch.from_numpy(rng.integers(0, 16, (count, 64)))

    pools = ImageSets(
        tuple(sample_scene(rng) for _ in range(9)), codes(9), tuple(drawable(rng) for _ in range(9)), codes(9), (3, 7), codes(2),
        codes(8), codes(len(FLAGS)), {pair: i for i, pair in enumerate(pairs)}, codes(len(pairs)),
    )  # fmt: skip
    told = ReasoningSet(
        tuple(
            Reasoned(source="s", task=task, prompt="what is 2 + 2?", thinking="2 + 2 = 4.", answer="4", gold="4")
            for task in ("math", "vision", "image")
        ),
        (None, [3] * 64, [5] * 64),
    )
    return World(pools, Prompter(text, vocabulary, "think first.", 64), told=told)


def words(world: World, canvas: Canvas, *, editable: bool) -> str:
    chosen = (canvas.editable_BL[0] == editable) & (canvas.modality_BL[0] == TEXT)
    return world.prompter.text.decode(canvas.tokens_BL[0][chosen].tolist())


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_can_be_learnt_from(world: World, kind: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        canvas = KINDS[kind](world, rng)
        v = world.prompter.vocabulary
        assert bool(canvas.editable_BL.any())
        assert not bool((canvas.tokens_BL[canvas.editable_BL] == v.mask).any())
        codes = canvas.tokens_BL[(canvas.modality_BL == IMAGE) & (canvas.tokens_BL != v.mask)]
        assert bool(((codes >= v.image_offset) & (codes < v.size)).all())
        again = KINDS[kind](world, np.random.default_rng(8)), KINDS[kind](world, np.random.default_rng(8))
        assert torch.equal(again[0].tokens_BL, again[1].tokens_BL)


def test_reasoning_is_learnt_with_its_prompt_clean(world: World) -> None:
    assert world.told is not None
    for example, codes in zip(world.told.examples[:2], world.told.codes, strict=False):
        canvas = reasoned(world, np.random.default_rng(1), example, codes)
        assert words(world, canvas, editable=True) == "<think> 2 + 2 = 4.</think> 4"
        assert "think first.\nwhat is 2 + 2?" in words(world, canvas, editable=False)
        assert not bool((canvas.editable_BL & (canvas.modality_BL == IMAGE)).any())
    learnt = set()
    for seed in range(6):  # a thought, or the picture after it
        canvas = reasoned(world, np.random.default_rng(seed), world.told.examples[2], world.told.codes[2])
        learnt |= set(canvas.modality_BL[canvas.editable_BL].tolist())
        assert "what is 2 + 2?" in words(world, canvas, editable=False)
    assert learnt == {TEXT, IMAGE}
    example = world.told.examples[0]
    assert fits_canvas(world, example, None, 60)
    assert not fits_canvas(world, example, None, 20)
    long = replace(world.told.examples[2], thinking="2 + 2 = 4. " * 9)
    assert not fits_canvas(world, long, [5] * 64, 1000)  # it would be cut
    with pytest.raises(InputError, match="set reasoning=FOLDER"):
        KINDS["reasoning"](replace(world, told=None), np.random.default_rng(0))


def test_equations_are_true_and_lack_one_number_each(world: World) -> None:
    canvas = equations(world, np.random.default_rng(1))
    stated = re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)\.", world.prompter.text.decode(canvas.tokens_BL[0].tolist()))
    assert len(stated) > 5
    for left, operator, right, result in stated:
        known = {"+": int(left) + int(right), "-": int(left) - int(right), "*": int(left) * int(right)}
        assert known[operator] == int(result)
    starts = canvas.editable_BL[0] & ~canvas.editable_BL[0].roll(1)
    assert int(starts.sum()) == len(stated)


def test_words_are_masked_in_the_caption_alone(world: World) -> None:
    canvas = world.prompter.draw_example("a red circle above a blue star", [3] * 64)
    lacking = with_words_masked(canvas, world, np.random.default_rng(2))
    changed = (lacking.tokens_BL != canvas.tokens_BL)[0]
    assert 0 < int(changed.sum()) < 8
    assert bool((lacking.tokens_BL[0][changed] == world.prompter.vocabulary.mask).all())
    assert not bool((changed & canvas.editable_BL[0]).any())
    assert "circle" in words(world, canvas, editable=False)


@pytest.mark.parametrize("grid", [4, 8, 16, 12])
def test_a_hole_keeps_its_place_on_another_grid(grid: int) -> None:
    hole = np.zeros((8, 8), bool)
    hole[2:5, 6:] = True
    moved = regridded(hole, grid)
    assert moved.shape == (grid, grid)
    rows, columns = (set((index * 8 // grid).tolist()) for index in np.nonzero(moved))
    assert rows <= {2, 3, 4}
    assert columns <= {6, 7}
    assert moved.sum() >= grid * grid * hole.sum() / 64
