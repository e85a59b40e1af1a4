"""Distillation for parallel decoding: the states that it learns on, the loss, and a run from the bundled model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.training.test_training import SMALL
from torch import Tensor

from mmada import nano
from mmada.canvas import Canvas, Segment
from mmada.diffusion.loss import chunked_cross_entropy, plain_cross_entropy
from mmada.errors import InputError
from mmada.pipeline import ImageSampling, MMaDA, TextSampling
from mmada.recipes import trajectories as trails
from mmada.recipes.distill import distill
from mmada.recipes.run import run
from mmada.recipes.trajectories import Trail, collect, in_blocks, kept_trails
from mmada.sampling import Acceleration

MASK = 99
NANO = Path(nano.__path__[0]) / "assets"


def answer(places: int) -> Canvas:
    """Two tokens of a question and an answer 10, 11, ..."""
    return Canvas.join([Segment([1, 2]), Segment(list(range(10, 10 + places)), editable=True), Segment([3])])


def learnt(canvas: Canvas) -> list[int]:
    """Targets: what stands at editable places."""
    tokens: list[int] = canvas.tokens_BL[canvas.editable_BL].tolist()
    return tokens


def test_a_state_of_a_trail_hides_what_was_decided_later_and_asks_for_the_block_at_work() -> None:
    steps = torch.tensor([[0, 0, 1, 2, 2, 3, 3, 4, 0]], dtype=torch.int16)
    trail = Trail(answer(6), steps, block=4)
    seen: dict[tuple[int, ...], list[int]] = {}
    rng = np.random.default_rng(0)
    for _ in range(60):
        state = trail.state(rng, MASK)
        seen[tuple(learnt(state))] = state.tokens_BL[0].tolist()
    assert seen == {
        (10, 11, 12, 13): [1, 2, 10, 11, 12, 13, MASK, MASK, 3],
        (11, 12, 13): [1, 2, 10, 11, 12, 13, MASK, MASK, 3],
        (13,): [1, 2, 10, 11, 12, 13, MASK, MASK, 3],
        (15,): [1, 2, 10, 11, 12, 13, 14, 15, 3],
    }


def test_a_picture_is_one_block() -> None:
    trail = Trail(answer(6), torch.tensor([[0, 0, 1, 2, 3, 1, 2, 3, 0]], dtype=torch.int16), block=0)
    states = {tuple(learnt(trail.state(np.random.default_rng(i), MASK))) for i in range(30)}
    assert states == {(10, 11, 12, 13, 14, 15), (11, 12, 14, 15), (12, 15)}


@pytest.mark.parametrize(("places", "block"), [(6, 4), (8, 4), (3, 16)])
def test_true_answers_in_blocks(places: int, block: int) -> None:
    rng, counts = np.random.default_rng(0), set()
    for _ in range(200):
        state = in_blocks(answer(places), block, rng, MASK)
        written = state.tokens_BL[0, 2:-1].tolist()
        targets = learnt(state)
        first = (targets[0] - 10) // block
        assert {(t - 10) // block for t in targets} == {first}
        known = min(places, (first + 1) * block)
        assert written == [*range(10, 10 + known), *[MASK] * (places - known)]
        counts.add((first, len(targets)))
    whole = {(part, n + 1) for part in range(-(-places // block)) for n in range(min(block, places - part * block))}
    assert counts == whole


def test_certainty_adds_the_entropy_of_what_is_right_alone() -> None:
    def parts(hidden_MD: Tensor) -> tuple[Tensor, Tensor]:
        p_MV = (hidden_MD @ head_VD.T).softmax(-1)
        return -(p_MV * p_MV.log()).sum(-1), p_MV.argmax(-1)

    generator = torch.Generator().manual_seed(0)
    hidden_MD, head_VD = (torch.randn(n, 5, generator=generator) for n in (40, 7))
    entropy_M, best_M = parts(hidden_MD)
    target_M = torch.where(torch.arange(40) % 2 == 0, best_M, (best_M + 1) % 7)
    plain_M = plain_cross_entropy(hidden_MD, head_VD, target_M)
    more_M = plain_cross_entropy(hidden_MD, head_VD, target_M, 0.5) - plain_M
    torch.testing.assert_close(more_M[::2], 0.5 * entropy_M[::2])
    assert not more_M[1::2].any()
    chunked_M = chunked_cross_entropy(hidden_MD, head_VD, target_M, chunk=16, certainty=0.5)
    torch.testing.assert_close(chunked_M, plain_M + more_M)


def test_trails_are_right_answers_kept_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trails, "ROWS", 6)
    speed, counts = Acceleration.of("threshold=0.9"), {"math": 3, "questions": 2, "pictures": 2}
    kept = kept_trails(NANO, speed, counts, 0, tmp_path)
    assert {source: len(found) for source, found in kept.items()} == counts
    model = MMaDA.load(NANO, device="cpu").with_defaults(text=TextSampling(**vars(speed)), image=ImageSampling(**vars(speed)))
    mask = model.engine.parts.vocabulary.mask
    for source, found in kept.items():
        for one in found:
            assert not (one.canvas.tokens_BL == mask).any()
            assert torch.equal(one.step_BL > 0, one.canvas.editable_BL)
            assert one.block == {"math": 16, "questions": 8, "pictures": 0}[source]
    again = collect(model, "math", 3, 0)
    assert all(torch.equal(a.canvas.tokens_BL, b.canvas.tokens_BL) for a, b in zip(again, kept["math"], strict=True))
    monkeypatch.setattr(trails, "collect", None)  # what is kept is read
    assert len(kept_trails(NANO, speed, counts, 0, tmp_path)["math"]) == 3


def test_a_model_that_is_never_right_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trails.SOURCES, "math", lambda model, rng: iter(()))
    with pytest.raises(InputError, match="right in 0 of"):
        collect(None, "math", 1, 0)  # type: ignore[arg-type]


def test_a_short_run_from_the_bundled_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trails, "ROWS", 6)
    few = SMALL | {"trails": "{math: 2, questions: 2, pictures: 2}", "plan.steps": "2", "rows": "3", "row_length": "192"}
    few = {key: value for key, value in few.items() if not key.startswith("sizes.")}
    model = run("distill", overrides=few, out=tmp_path / "run", start_from=NANO)
    assert MMaDA.load(model, device="cpu").generate("2 + 3 =").tokens


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trails": "{maths: 1}"}, "trails"),
        ({"own": "{math: 1.0}", "trails": "{}"}, "has no trails of it"),
        ({"own": "{}", "blocks": "{}", "replay": "0"}, "are all 0"),
        ({"losses.certainty": "-1"}, "losses.certainty must be a number of at least 0"),
        ({"parallel": "boldly"}, "parallel 'boldly' names no rule"),
        ({"trails": "[1]"}, "trails"),
        ({"blocks": "{foo: 1}"}, "blocks must be one of"),
        ({"own": "{foo: 1}"}, "own must be one of"),
        ({"replay": ".inf"}, "replay must be a finite number"),
        ({"own": "{math: .nan}"}, "own math must be a number"),
        ({"losses.certainty": ".nan"}, "losses.certainty must be a number"),
        ({"curriculum": "[{until: 1, mixture: {dancing: 1}}]"}, "mixture names 'dancing'"),
    ],
)
def test_wrong_settings(settings: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run("distill", overrides=settings, out=tmp_path / "run", start_from=NANO)


def test_an_image_tokenizer_alone_is_no_start(tmp_path: Path) -> None:
    (tmp_path / "image_tokenizer").symlink_to(NANO / "image_tokenizer")
    with pytest.raises(InputError, match="holds no trained model"):
        run("distill", out=tmp_path / "run", start_from=tmp_path)


def test_the_recipe_as_it_stands() -> None:
    assert distill().follows == "cot"
    assert abs(sum(distill().weights().values()) - 1) < 1e-9
