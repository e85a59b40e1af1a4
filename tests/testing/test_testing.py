"""The fakes that users get: they load, run, and need no pytest."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mmada
from mmada.canvas import Denoiser
from mmada.sampling import Greedy, LowConfidence, Phase, UniformSchedule, complete, row_generators
from mmada.testing import (
    IMAGE_SIZE,
    TINY_VOCABULARY,
    Mixer,
    Oracle,
    Unigram,
    answered,
    image_row,
    masked_row,
    sharp_model,
    tiny_folder,
    tiny_image_tokenizer,
)

PHASE = Phase(modality="text", schedule=UniformSchedule(2), remasking=LowConfidence(), token_sampler=Greedy())


def test_no_test_framework_is_needed() -> None:
    program = "import mmada.testing, sys; assert not {'pytest', '_pytest'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_tiny_folder_is_a_model_of_every_task(tmp_path: Path) -> None:
    tiny_folder(tmp_path / "model")
    model = mmada.load(tmp_path / "model", device="cpu")
    image = model.draw("a red circle", seed=1)
    assert image.size == (IMAGE_SIZE, IMAGE_SIZE)
    assert isinstance(model.ask(image, "what is it?").text, str)
    assert isinstance(model.generate("tom has 3 red pens").text, str)
    weights = [path.read_bytes() for path in sorted((tmp_path / "model").rglob("*.safetensors"))]
    tiny_folder(tmp_path / "again")
    assert weights == [path.read_bytes() for path in sorted((tmp_path / "again").rglob("*.safetensors"))]


def test_a_tiny_image_tokenizer_goes_there_and_back() -> None:
    tokenizer = tiny_image_tokenizer()
    codes = tokenizer.encode(torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE))
    assert codes.shape[0] == 2
    assert int(codes.max()) < 32
    assert tokenizer.decode(codes).shape == (2, 3, IMAGE_SIZE, IMAGE_SIZE)


@pytest.mark.parametrize(
    "denoiser",
    [Oracle({20: [20, 21, 22, 23]}, [0, 1, 2, 3]), Mixer(), Unigram(torch.full((64,), 1 / 64)), sharp_model()],
    ids=lambda denoiser: type(denoiser).__name__,
)
def test_denoisers_complete_a_row(denoiser: Denoiser) -> None:
    row = masked_row([20], 3)
    done = complete(denoiser, row, [PHASE], vocabulary=TINY_VOCABULARY, generators=row_generators([0]))
    tokens = done.tokens_BL[0].tolist()
    assert TINY_VOCABULARY.mask not in tokens
    assert not isinstance(denoiser, Oracle) or tokens == [20, 21, 22, 23]


def test_rows_and_completions() -> None:
    v, row = TINY_VOCABULARY, image_row([20], [3, None])
    assert row.tokens_BL[0].tolist() == [v.t2i, 20, v.soi, v.image_offset + 3, v.mask, v.eoi]
    assert row.editable_BL[0].tolist() == [False, False, False, False, True, False]
    assert [done.prompt.task.score(done).correct for done in (answered("10", "10 eggs"), answered("10", "12"))] == [1, 0]
