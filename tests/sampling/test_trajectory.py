"""The loop records when each position was decided: the same from frames, on fixed shapes, in a batch, and after remasking."""

from dataclasses import replace

import pytest
import torch
from tests.helpers import SMALL as V
from tests.helpers import strong_model

from mmada.canvas import Canvas, Segment
from mmada.diffusion.schedule import Cosine
from mmada.model.mmada import MMaDAModel
from mmada.sampling import (
    Blocks,
    DraftVerify,
    FixedShape,
    Frame,
    Greedy,
    GumbelConfidence,
    LowConfidence,
    MaskSchedule,
    Phase,
    StopAtEos,
    Temperature,
    Threshold,
    UniformSchedule,
    denoise,
    row_generators,
)

TEXT = Phase(
    modality="text", schedule=UniformSchedule(3), remasking=LowConfidence(), token_sampler=Temperature(1.0), blocks=Blocks(4)
)
IMAGE = Phase(modality="image", schedule=MaskSchedule(Cosine(), 4), remasking=GumbelConfidence(), token_sampler=Temperature(1.0))
PHASES = {
    "schedule": [TEXT],
    "early ends": [replace(TEXT, stop=StopAtEos(tuple(range(20, 50))))],
    "threshold": [replace(TEXT, parallel=Threshold(0.3), token_sampler=Greedy())],
    "remasking": [replace(TEXT, parallel=DraftVerify(0.0, 0.99), blocks=Blocks(8), token_sampler=Greedy())],
    "a thought, then an image": [TEXT, IMAGE],
}


@pytest.fixture(scope="module")
def model() -> MMaDAModel:
    return strong_model()


def row(length: int, codes: int = 6) -> Canvas:
    """A prompt, a text to write, an image to draw."""
    text = Segment([V.mask] * length, editable=True)
    image = Segment([V.mask] * codes, editable=True, modality="image")
    return Canvas.join([Segment([21, 22]), text, Segment([V.soi]), image])


def frames(model: MMaDAModel, canvas: Canvas, phases: list[Phase], fixed_shape: FixedShape | None = None) -> list[Frame]:
    return list(
        denoise(model, canvas, phases, vocabulary=V, generators=row_generators(range(canvas.rows)), fixed_shape=fixed_shape)
    )


@pytest.mark.parametrize("case", PHASES)
def test_a_position_was_decided_by_the_last_frame_that_wrote_it(model: MMaDAModel, case: str) -> None:
    canvas = Canvas.stack([row(8), row(5), row(8)])
    made = frames(model, canvas, PHASES[case])
    assert len(made) > 2
    expected_BL = torch.zeros_like(canvas.tokens_BL)
    for number, frame in enumerate(made):
        expected_BL[frame.changed_BL] = number
        assert torch.equal(frame.decided_BL, expected_BL)
    trajectory = made[-1].trajectory
    filled_BL = canvas.editable_BL & (trajectory.canvas.tokens_BL != canvas.tokens_BL)
    assert (trajectory.decided_BL[filled_BL] > 0).all()
    assert (trajectory.decided_BL[~canvas.editable_BL] == 0).all()


def test_remasked_positions_are_decided_later(model: MMaDAModel) -> None:
    made = frames(model, row(8), PHASES["remasking"])
    back = [(f.changed_BL & (f.tokens_BL == V.mask)).any() for f in made[1:]]
    assert any(back), "the rule remasks something here, or this test shows nothing"


@pytest.mark.parametrize("case", ["schedule", "early ends", "a thought, then an image"])
def test_fixed_shapes_record_the_same(model: MMaDAModel, case: str) -> None:
    canvas = Canvas.stack([row(8), row(3)])
    plain, fixed = frames(model, canvas, PHASES[case]), frames(model, canvas, PHASES[case], FixedShape(3))
    assert torch.equal(plain[-1].decided_BL, fixed[-1].decided_BL)


def test_a_row_of_a_frame_keeps_its_record(model: MMaDAModel) -> None:
    canvas = Canvas.stack([row(8), row(3)])
    last = frames(model, canvas, [TEXT])[-1]
    assert last.row(1).decided_BL.shape == last.row(1).canvas.tokens_BL.shape == (1, row(3).length)
    assert torch.equal(last.row(1).trajectory.decided_BL[0], last.decided_BL[1, : row(3).length])


def test_repeated_rows_are_next_to_each_other() -> None:
    canvas = Canvas.stack([row(3), row(5)]).repeat(3)
    assert canvas.rows == 6
    for index in range(6):
        assert torch.equal(canvas.row(index).tokens_BL, row(3 if index < 3 else 5).tokens_BL)
