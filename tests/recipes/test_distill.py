"""Distillation for parallel decoding: the states that it learns on, the loss, and a run from the bundled model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.training.test_training import SMALL
from torch import Tensor

from mmada import nano
from mmada.canvas import IMAGE, TEXT, Canvas, Segment, Trajectory
from mmada.diffusion.loss import chunked_cross_entropy, plain_cross_entropy
from mmada.errors import InputError
from mmada.nano.distill import SOURCES, distill
from mmada.pipeline import ImageSampling, MMaDA, TextSampling
from mmada.recipes import trajectories
from mmada.recipes.run import run
from mmada.recipes.trajectories import DecodedAnswer, collect, in_blocks, stored_answers
from mmada.sampling import Acceleration

MASK = 99
NANO = Path(nano.__path__[0]) / "assets"


def answer(positions: int) -> Canvas:
    """Two tokens of a question and an answer 10, 11, ..."""
    return Canvas.join([Segment([1, 2]), Segment(list(range(10, 10 + positions)), editable=True), Segment([3])])


def learnt(canvas: Canvas) -> list[int]:
    """Targets: what stands at editable positions."""
    tokens: list[int] = canvas.tokens_BL[canvas.editable_BL].tolist()
    return tokens


def test_a_state_hides_what_was_decided_later_and_masks_the_current_block() -> None:
    steps = torch.tensor([[0, 0, 1, 2, 2, 3, 3, 4, 0]])
    given = DecodedAnswer(Trajectory(answer(6), steps), block=4)
    seen: dict[tuple[int, ...], list[int]] = {}
    rng = np.random.default_rng(0)
    for _ in range(60):
        state = given.state(rng, MASK)
        seen[tuple(learnt(state))] = state.tokens_BL[0].tolist()
    assert seen == {
        (10, 11, 12, 13): [1, 2, 10, 11, 12, 13, MASK, MASK, 3],
        (11, 12, 13): [1, 2, 10, 11, 12, 13, MASK, MASK, 3],
        (13,): [1, 2, 10, 11, 12, 13, MASK, MASK, 3],
        (15,): [1, 2, 10, 11, 12, 13, 14, 15, 3],
    }


def test_a_picture_is_one_block() -> None:
    given = DecodedAnswer(Trajectory(answer(6), torch.tensor([[0, 0, 1, 2, 3, 1, 2, 3, 0]])), block=0)
    states = {tuple(learnt(given.state(np.random.default_rng(i), MASK))) for i in range(30)}
    assert states == {(10, 11, 12, 13, 14, 15), (11, 12, 14, 15), (12, 15)}


@pytest.mark.parametrize(("positions", "block"), [(6, 4), (8, 4), (3, 16)])
def test_true_answers_in_blocks(positions: int, block: int) -> None:
    rng, counts = np.random.default_rng(0), set()
    for _ in range(200):
        state = in_blocks(answer(positions), block, rng, MASK)
        written = state.tokens_BL[0, 2:-1].tolist()
        targets = learnt(state)
        first = (targets[0] - 10) // block
        assert {(t - 10) // block for t in targets} == {first}
        known = min(positions, (first + 1) * block)
        assert written == [*range(10, 10 + known), *[MASK] * (positions - known)]
        counts.add((first, len(targets)))
    whole = {(part, n + 1) for part in range(-(-positions // block)) for n in range(min(block, positions - part * block))}
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


@pytest.mark.slow
def test_answers_are_right_and_stored_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trajectories, "ROWS", 6)
    speed, counts = Acceleration.of("threshold=0.9"), {"math": 3, "questions": 2, "pictures": 2}
    stored = stored_answers(NANO, speed, SOURCES, counts, 0, tmp_path)
    assert {source: len(found) for source, found in stored.items()} == counts
    model = MMaDA.load(NANO, device="cpu").with_defaults(text=TextSampling(**vars(speed)), image=ImageSampling(**vars(speed)))
    mask = model.engine.parts.vocabulary.mask
    for source, found in stored.items():
        for one in found:
            assert not (one.trajectory.canvas.tokens_BL == mask).any()
            assert torch.equal(one.trajectory.decided_BL > 0, one.trajectory.canvas.editable_BL)
            assert one.block == {"math": 16, "questions": 8, "pictures": 0}[source]
    again = collect(model, SOURCES, "math", 3, 0)
    for a, b in zip(again, stored["math"], strict=True):
        assert torch.equal(a.trajectory.canvas.tokens_BL, b.trajectory.canvas.tokens_BL)
        assert torch.equal(a.trajectory.decided_BL, b.trajectory.decided_BL)
    monkeypatch.setattr(trajectories, "collect", None)  # stored answers are read
    assert len(stored_answers(NANO, speed, SOURCES, counts, 0, tmp_path)["math"]) == 3


def test_a_model_that_is_never_right_is_refused() -> None:
    with pytest.raises(InputError, match="right in 0 of"):
        collect(None, {"math": lambda model, rng, count: iter(())}, "math", 1, 0)


def test_replayed_examples_are_masked_by_the_noise_of_their_modality() -> None:
    """Text keeps the share of its noise, pictures the exact count of theirs: the released cosine schedule."""
    text, image = [Segment(list(range(n, n + 40)), editable=True, modality=m) for n, m in ((100, "text"), (200, "image"))]
    canvas, rng, recipe = Canvas.join([text, image]), np.random.default_rng(0), distill()
    counts: dict[int, list[int]] = {TEXT: [], IMAGE: []}
    for _ in range(400):
        masked = recipe.noised(canvas, rng, MASK)
        assert torch.equal(masked.tokens_BL, canvas.tokens_BL)
        for modality, found in counts.items():
            found.append(int((masked.editable_BL & (masked.modality_BL == modality)).sum()))
    shares = {modality: np.mean(found) / 40 for modality, found in counts.items()}
    assert shares[TEXT] == pytest.approx(0.55, abs=0.04)  # uniform in 0.1 .. 1
    assert shares[IMAGE] == pytest.approx(2 / np.pi, abs=0.04)  # the mean of the cosine schedule
    assert min(counts[TEXT]) < 8
    # At one time t the picture's count is exact, the text's is not: equal times give equal counts only for pictures.
    one = [recipe.noised(canvas, np.random.default_rng(5), MASK).editable_BL for _ in range(2)]
    assert torch.equal(*one)


@pytest.mark.slow
def test_a_short_run_from_the_bundled_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trajectories, "ROWS", 6)
    few = SMALL | {"trajectories": "{math: 2, questions: 2, pictures: 2}", "plan.steps": "2", "rows": "3", "row_length": "192"}
    few = {key: value for key, value in few.items() if not key.startswith("sizes.")}
    model = run("distill", overrides=few, out=tmp_path / "run", start_from=NANO)
    assert MMaDA.load(model, device="cpu").generate("2 + 3 =").tokens


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trajectories": "{maths: 1}"}, "trajectories must be one of"),
        ({"trajectory_weights": "{math: 1.0}", "trajectories": "{}"}, "there are no trajectories of it"),
        ({"trajectory_weights": "{}", "block_weights": "{}", "replay_weight": "0"}, "are all 0"),
        ({"losses.certainty": "-1"}, "losses.certainty must be a number of at least 0"),
        ({"parallel": "boldly"}, "parallel 'boldly'"),
        ({"trajectories": "[1]"}, "trajectories"),
        ({"block_weights": "{foo: 1}"}, "block_weights must be one of"),
        ({"trajectory_weights": "{foo: 1}"}, "trajectory_weights must be one of"),
        ({"replay_weight": ".inf"}, "replay_weight must be a finite number"),
        ({"trajectory_weights": "{math: .nan}"}, "trajectory_weights of math must be a number"),
        ({"losses.certainty": ".nan"}, "losses.certainty must be a number"),
        ({"curriculum": "[{until: 1, mixture: {dancing: 1}}]"}, "mixture names 'dancing'"),
    ],
)
def test_wrong_settings(settings: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run("distill", overrides=settings, out=tmp_path / "run", start_from=NANO)


def test_an_image_tokenizer_alone_is_not_a_start(tmp_path: Path) -> None:
    (tmp_path / "image_tokenizer").symlink_to(NANO / "image_tokenizer")
    with pytest.raises(InputError, match="holds no trained model"):
        run("distill", out=tmp_path / "run", start_from=tmp_path)


def test_the_recipe_as_it_stands() -> None:
    assert distill().follows == "cot"
    assert abs(sum(distill().weights_by_origin().values()) - 1) < 1e-9
