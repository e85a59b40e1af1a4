"""The pipeline on a tiny random model in a folder, and on a scripted denoiser that writes a known answer."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers import CELL, GRID, PRESET, SIZE
from torch import Tensor

from mmada.errors import InputError
from mmada.pipeline import Engine, Frame, MMaDA, Preset, TextSampling
from mmada.pipeline.grids import fit, fit_mask, hole_cells, slide
from mmada.pipeline.options import TEXT_DEFAULTS


class Script:
    """Writes ``answer`` from the first masked position of the prompt on, whatever the prompt."""

    def __init__(self, answer: list[int], certainty: float = 9.0) -> None:
        self.answer, self.certainty = answer, certainty
        self.vocab: set[range] = set()
        self.start: int | None = None

    def predict(self, tokens_BL: Tensor, *, query_BL: Tensor, vocab: range, valid_BL: Tensor | None = None) -> Tensor:
        self.vocab.add(vocab)
        if self.start is None:
            self.start = int(query_BL[0].nonzero()[0])
        logits_BLV = torch.zeros(*tokens_BL.shape, len(vocab))
        for position, token in enumerate(self.answer, start=self.start):
            if position < tokens_BL.shape[1]:
                logits_BLV[:, position, token] = self.certainty
        return logits_BLV[query_BL]


def scripted(model: MMaDA, answer: str, *, then: tuple[str, ...] = ()) -> MMaDA:
    parts = model.engine.parts
    ids = [*parts.text.encode(answer), *(getattr(parts.vocabulary, name) for name in then)]
    return MMaDA(Engine(replace(parts, model=Script(ids)), torch.device("cpu")))


# Text


def test_generate_gives_the_answer_alone_up_to_its_end(model: MMaDA) -> None:
    result = scripted(model, "7 red pens", then=("eot", "t2i", "bos")).generate("how many pens?", length=8)
    assert result.text == "7 red pens"
    assert result.thinking == ""
    assert list(result.tokens) == model.engine.parts.text.encode("7 red pens")


def test_generate_splits_the_reasoning_off(model: MMaDA) -> None:
    told = scripted(model, "<think> 3 + 4 = 7 </think> 7", then=("eot",))
    result = told.generate("how many?", thinking=True, length=16)
    assert (result.text, result.thinking) == ("7", "3 + 4 = 7")


def test_frames_lead_from_masks_to_the_answer(model: MMaDA) -> None:
    seen: list[Frame] = []
    result = model.generate("how many pens?", callback=seen.append)
    mask = model.engine.parts.vocabulary.mask
    left = [int((frame.tokens_BL == mask).sum()) for frame in result.frames]
    assert left[0] == 8
    assert left[-1] == 0
    assert left == sorted(left, reverse=True)
    assert len(seen) == len(result.frames)


def test_a_thinking_prompt_holds_the_instruction(model: MMaDA) -> None:
    parts = model.engine.parts
    texts = [parts.text.decode(model.generate("how many?", thinking=t).frames[0].tokens_BL[0].tolist()) for t in (False, True)]
    assert "think first." not in texts[0]
    assert "think first." in texts[1]


@pytest.mark.parametrize("options", [{}, {"temperature": 0.8}, {"guidance": 1.5, "thinking": True}])
def test_a_list_of_prompts_gives_what_each_gives_alone(model: MMaDA, options: dict[str, float]) -> None:
    prompts = ["pens?", "tom has 3 red pens and 4 blue pens. how many pens has tom?", "a"]
    together = model.generate(prompts, seed=4, **options)
    alone = [model.generate(p, seed=4 + i, **options) for i, p in enumerate(prompts)]
    assert [r.tokens for r in together] == [r.tokens for r in alone]
    assert [r.tokens for r in model.generate(prompts, seed=[4, 5, 6], **options)] == [r.tokens for r in alone]


def test_ask_shows_the_codes_of_the_picture(model: MMaDA, scene: Image.Image) -> None:
    frame = model.ask(scene, "how many?").frames[0].canvas
    codes = frame.tokens_BL[frame.modality_BL == 1] - model.engine.parts.vocabulary.image_offset
    assert codes.tolist() == model.engine.encode([scene])[0].flatten().tolist()


def test_ask_pairs_pictures_and_questions(model: MMaDA, scene: Image.Image) -> None:
    other = Image.new("RGB", (SIZE, SIZE), "red")
    both = model.ask([scene, other], "how many?")
    assert [r.tokens for r in both] == [model.ask(i, "how many?").tokens for i in (scene, other)]
    assert len(model.ask(scene, ["how many?", "what?"])) == 2
    with pytest.raises(InputError, match="paired"):
        model.ask([scene, other], ["a", "b", "c"])


def test_infill_fills_the_gaps_alone(model: MMaDA) -> None:
    parts = model.engine.parts
    seven = parts.text.encode(" 7")
    told = MMaDA(Engine(replace(parts, model=Script(seven)), torch.device("cpu")))
    result = told.infill("3 + 4 = [MASK]")
    assert result.text == "3 + 4 = 7"
    assert len(result.frames) == 2
    assert len(model.infill("[MASK] red [MASK] [MASK]").frames) == 4  # a token a step
    assert len(model.infill("[MASK] red [MASK] [MASK]", steps=1).frames) == 2
    assert "red" in model.infill("[MASK] red [MASK] [MASK]").text


# Pictures


def test_draw_is_repeatable_and_a_batch_is_its_rows(model: MMaDA) -> None:
    prompts = ["a red circle", "a red circle", "pens"]
    together = model.draw(prompts, seed=3)
    assert all(picture.size == (SIZE, SIZE) for picture in together)
    assert together[0].tobytes() != together[1].tobytes()
    for index, prompt in enumerate(prompts):
        assert np.abs(_array(model.draw(prompt, seed=3 + index)) - _array(together[index])).max() <= 1


def test_greedy_drawing_does_not_depend_on_the_seed(model: MMaDA) -> None:
    first, second = (model.draw("a red circle", temperature=0, seed=seed) for seed in (1, 2))
    assert first.tobytes() == second.tobytes()


def test_guidance_makes_a_difference_and_zero_switches_it_off(model: MMaDA) -> None:
    tokens = {}
    for guidance in (0.0, 6.0):
        frames: list[Frame] = []
        model.draw("a red circle", guidance=guidance, temperature=0, callback=frames.append)
        tokens[guidance] = frames[-1].tokens_BL
    assert not torch.equal(tokens[0.0], tokens[6.0])


def test_a_thinking_picture_carries_its_thought(model: MMaDA) -> None:
    frames: list[Frame] = []
    picture = model.draw("a red circle", thinking=True, callback=frames.append)
    assert isinstance(picture.info["thinking"], str)
    assert {frame.phase for frame in frames} == {"text", "image"}
    assert "thinking" not in model.draw("a red circle").info


def test_inpaint_keeps_known_codes_and_pixels(model: MMaDA, scene: Image.Image) -> None:
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[9, 17] = True  # one pixel: its whole cell, row 1 and column 2, is the hole
    frames: list[Frame] = []
    picture = _array(model.inpaint(scene, mask, "a red circle", callback=frames.append))
    cell = (slice(CELL, 2 * CELL), slice(2 * CELL, 3 * CELL))
    assert (picture[cell] != _array(scene)[cell]).any()
    picture[cell] = _array(scene)[cell]
    assert (picture == _array(scene)).all()
    codes = torch.from_numpy(model.engine.encode([scene])[0]).flatten() + model.engine.parts.vocabulary.image_offset
    known = torch.arange(GRID**2) != GRID + 2
    for frame in frames:
        assert torch.equal(frame.tokens_BL[frame.canvas.modality_BL == 1][known], codes[known])


@pytest.mark.parametrize(
    ("edges", "size", "at"),
    [
        ({"right": 2}, (48, 32), (0, 0)),
        ({"left": 5, "up": 1}, (72, 40), (40, 8)),
        ({"down": 3, "right": 1}, (40, 56), (0, 0)),
    ],
)
def test_extend_grows_the_picture_around_its_pixels(
    model: MMaDA, scene: Image.Image, edges: dict[str, int], size: tuple[int, int], at: tuple[int, int]
) -> None:
    frames: list[Frame] = []
    picture = model.extend(scene, "a red circle", callback=frames.append, **edges)
    assert picture.size == size
    inner = picture.crop((*at, at[0] + SIZE, at[1] + SIZE))
    assert inner.tobytes() == scene.tobytes()
    new = [int(f.canvas.editable_BL.sum()) for f in frames if f.step == 0]
    assert all(0 < count <= GRID**2 - 4 for count in new)  # each window sees something it continues
    assert sum(new) == (size[0] * size[1] - SIZE**2) // CELL**2  # every new cell is filled once


@pytest.mark.parametrize("side", ["left", "right", "up", "down"])
def test_slide_reaches_every_cell_with_half_of_each_window_known(side: str) -> None:
    grid = np.zeros((6, 4), dtype=np.int64)
    pads = {
        "left": ((0, 0), (5, 0)),
        "right": ((0, 0), (0, 5)),
        "up": ((5, 0), (0, 0)),
        "down": ((0, 5), (0, 0)),
    }
    grid = np.pad(grid, pads[side], constant_values=-1)
    for rows, columns in slide(grid, 4, side):
        window = grid[rows, columns]
        assert window.shape == (4, 4)
        assert (window < 0).sum() <= 8
        window[:] = 1
    assert (grid >= 0).all()


def test_fit_takes_the_middle_square_and_keeps_pixels_of_the_right_size(scene: Image.Image) -> None:
    assert fit(scene, SIZE).tobytes() == scene.tobytes()
    wide = Image.new("RGB", (3 * SIZE, SIZE), "blue")
    wide.paste(scene, (SIZE, 0))
    assert fit(wide, SIZE).tobytes() == scene.tobytes()
    assert fit(wide, 16).size == (16, 16)


def test_a_mask_that_shrinks_loses_no_pixel() -> None:
    mask = np.zeros((320, 480), dtype=bool)
    mask[5, 85] = True
    small = fit_mask(mask, SIZE)
    assert np.argwhere(small).tolist() == [[0, 0]]
    assert np.argwhere(hole_cells(small, CELL)).tolist() == [[0, 0]]


# Looking at it


def test_view_shows_text_and_masks(model: MMaDA) -> None:
    told = scripted(model, "7 pens", then=("eot",))
    frames = told.generate("how many?", length=4, block=4).frames
    start, end = told.view(frames[0]), told.view(frames[-1])
    assert start.pieces == (("[MASK]", True),) * 4
    assert end.pieces == (("7 pens", False),)
    assert (end.step, end.steps, end.image) == (3, 4, None)


def test_view_of_an_infilling_shows_the_whole_text(model: MMaDA) -> None:
    pieces = model.view(model.infill("3 + 4 = [MASK] red").frames[0]).pieces
    assert pieces == (("3 + 4 =", False), ("[MASK]", True), (" red", False))


def test_view_shows_unknown_codes_grey(model: MMaDA, scene: Image.Image) -> None:
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[:CELL, :CELL] = True
    frames: list[Frame] = []
    model.inpaint(scene, mask, callback=frames.append)
    first = model.view(frames[0]).image
    assert first is not None
    assert (_array(first)[:CELL, :CELL] == 128).all()
    assert (_array(first)[CELL:] != 128).any()
    last = model.view(frames[-1]).image
    assert last is not None
    assert (_array(last)[:CELL, :CELL] != 128).any()


# Folders and bad input


def test_info_is_json(model: MMaDA) -> None:
    facts = model.info()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["image_codes"] == GRID**2
    assert facts["max_length"] == 192


def test_a_preset_survives_its_file(tmp_path: Path) -> None:
    PRESET.save(tmp_path)
    assert Preset.load(tmp_path) == PRESET


@pytest.mark.parametrize(
    ("length", "steps", "block", "expected"),
    [
        (None, None, None, TextSampling(length=8, steps=8, block=4)),
        (16, None, None, TextSampling(length=16, steps=16, block=4)),
        (3, None, None, TextSampling(length=3, steps=3, block=3)),
        (None, 2, None, TextSampling(length=8, steps=2, block=4)),
        (None, None, 8, TextSampling(length=8, steps=8, block=8)),
    ],
)
def test_a_plan_keeps_its_pace(length: int | None, steps: int | None, block: int | None, expected: TextSampling) -> None:
    assert TextSampling(length=length, steps=steps, block=block).over(PRESET.answer) == expected.over(TEXT_DEFAULTS)


def test_numpy_numbers_are_numbers(model: MMaDA) -> None:
    plain = model.generate("pens", length=8, steps=8, seed=3)
    assert model.generate("pens", length=np.int64(8), steps=np.int32(8), seed=np.int64(3)).tokens == plain.tokens


def _array(image: Image.Image) -> np.ndarray:
    return np.array(image).astype(int)
