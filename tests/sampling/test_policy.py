"""Each choice of a sampler against numbers worked out by hand or given by the released sampler."""

import pytest
import torch
from torch import Tensor

from mmada.diffusion.schedule import Cosine, Linear
from mmada.errors import InputError
from mmada.pipeline import ImageSampling
from mmada.sampling import (
    Blocks,
    Greedy,
    Guidance,
    GumbelConfidence,
    LowConfidence,
    MarginConfidence,
    MaskSchedule,
    RandomRemasking,
    SingleBlock,
    StopAtEos,
    Temperature,
    UniformSchedule,
    UnmaskingSchedule,
)


def left_after_each_step(count: UnmaskingSchedule, unknown: int) -> list[int]:
    """Masked positions after each step, from ``unknown``."""
    masked, left = torch.tensor([unknown]), []
    for step in range(count.steps):
        masked = masked - torch.minimum(count.num_unmasked(torch.tensor([unknown]), masked, step), masked)
        left.append(int(masked))
    return left


def no_noise(width: int) -> Tensor:
    raise AssertionError("this choice must not draw noise")


def test_schedule_count_follows_the_released_sampler() -> None:
    left = left_after_each_step(MaskSchedule(Cosine(), 15), 1024)
    assert left == [1018, 1001, 973, 935, 886, 828, 760, 685, 601, 511, 416, 316, 212, 107, 0]


@pytest.mark.parametrize(
    ("name", "expected"), [("cosine", [59, 45, 24, 0]), ("linear", [48, 32, 16, 0]), ("root", [32, 18, 8, 0])]
)
def test_a_picture_is_decided_by_the_schedule_of_its_plan(name: str, expected: list[int]) -> None:
    assert left_after_each_step(ImageSampling(steps=4, schedule=name).phase().schedule, 64) == expected


def test_schedule_count_scales_with_the_unknown_positions() -> None:
    assert left_after_each_step(MaskSchedule(Linear(), 4), 8) == [6, 4, 2, 0]
    assert left_after_each_step(MaskSchedule(Linear(), 4), 40) == [30, 20, 10, 0]


def test_schedule_count_commits_at_least_one_position_and_ends_early_when_there_are_few() -> None:
    assert left_after_each_step(MaskSchedule(Cosine(), 8), 3) == [2, 1, 0, 0, 0, 0, 0, 0]
    assert left_after_each_step(MaskSchedule(Cosine(), 1), 64) == [0]
    assert left_after_each_step(MaskSchedule(Cosine(), 4), 0) == [0, 0, 0, 0]


@pytest.mark.parametrize(("unknown", "steps", "expected"), [(10, 4, [7, 4, 2, 0]), (4, 4, [3, 2, 1, 0]), (2, 4, [1, 0, 0, 0])])
def test_even_split_puts_the_remainder_first(unknown: int, steps: int, expected: list[int]) -> None:
    assert left_after_each_step(UniformSchedule(steps), unknown) == expected


def test_counts_differ_by_row() -> None:
    commits = UniformSchedule(4).num_unmasked(torch.tensor([10, 4, 0]), torch.tensor([10, 4, 0]), 0)
    assert commits.tolist() == [3, 1, 0]


def test_low_confidence_orders_by_probability_even_where_float32_saturates() -> None:
    logits = torch.tensor([[40.0, 0.0, 0.0], [60.0, 0.0, 0.0], [1.0, 0.0, 0.0], [50.0, 0.0, 0.0]])
    assert logits.softmax(-1)[[0, 1, 3], 0].eq(1).all()  # p cannot tell these apart
    score = LowConfidence().score(logits, torch.zeros(4, dtype=torch.long), no_noise, 0, 1)
    assert score.argsort(descending=True).tolist() == [1, 3, 0, 2]
    p = logits[2].softmax(-1)[0]
    assert score[2] == pytest.approx(float(torch.log(p / (1 - p))), rel=1e-5)


def test_low_confidence_is_that_of_the_chosen_token() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
    score = LowConfidence().score(logits, torch.tensor([2, 1]), no_noise, 0, 1)
    assert score[1] > score[0]


def test_margin_is_the_gap_between_the_two_most_probable() -> None:
    probabilities = torch.tensor([[0.5, 0.4, 0.1], [0.4, 0.3, 0.3], [0.45, 0.2, 0.35]])
    score = MarginConfidence().score(probabilities.log(), torch.zeros(3, dtype=torch.long), no_noise, 0, 1)
    assert score.tolist() == pytest.approx([0.1, 0.1, 0.1], abs=1e-6)


def test_random_order_ignores_the_logits() -> None:
    noise = torch.tensor([[0.3], [2.0], [-1.0]])
    score = RandomRemasking().score(torch.randn(3, 5), torch.zeros(3, dtype=torch.long), lambda _: noise, 0, 1)
    assert score.tolist() == noise[:, 0].tolist()


def test_compounding_annealing_follows_the_released_sampler() -> None:
    order = GumbelConfidence(1.0, "compounding")
    seen = [round(order.at(k, 15), 3) for k in range(7)]
    assert seen == [0.933, 0.809, 0.647, 0.475, 0.316, 0.190, 0.101]


def test_linear_annealing_ends_without_noise() -> None:
    order = GumbelConfidence(2.0, "linear")
    assert [order.at(k, 4) for k in range(4)] == [1.5, 1.0, 0.5, 0.0]
    logits = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    score = order.score(logits, torch.tensor([0, 0]), no_noise, 3, 4)
    assert torch.allclose(score, logits.double().log_softmax(-1)[:, 0])


def test_perturbed_confidence_adds_annealed_noise_to_the_log_probability() -> None:
    logits, noise = torch.randn(4, 6), torch.randn(4, 1, dtype=torch.float64)
    chosen = torch.tensor([0, 1, 2, 3])
    score = GumbelConfidence(2.0, "linear").score(logits, chosen, lambda _: noise, 0, 4)
    expected = logits.double().log_softmax(-1)[range(4), chosen] + 1.5 * noise[:, 0]
    assert torch.allclose(score, expected, atol=1e-5)


def test_temperature_draws_from_the_tempered_softmax() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([1.0, 0.0, -1.0]).expand(20_000, 3)
    draws = torch.empty(20_000, 3, dtype=torch.float64).exponential_(generator=generator)
    chosen = Temperature(0.5).sample(logits, lambda _: -draws.log())
    seen = torch.bincount(chosen, minlength=3) / 20_000
    assert torch.allclose(seen, (logits[0] / 0.5).softmax(-1), atol=0.01)


def test_greedy_takes_the_most_probable_without_noise() -> None:
    assert Greedy().sample(torch.tensor([[0.0, 2.0, 1.0]]), no_noise).tolist() == [1]


def test_guidance_equals_both_published_forms() -> None:
    conditional, unconditional, s = torch.randn(5, 7), torch.randn(5, 7), 3.5
    guided = Guidance(s).combine(conditional, unconditional)
    assert torch.allclose(guided, (1 + s) * conditional - s * unconditional, atol=1e-5)
    assert torch.allclose(guided, unconditional + (s + 1) * (conditional - unconditional), atol=1e-5)


def test_regions_partition_by_rank() -> None:
    rank = torch.arange(7)
    assert Blocks(3).block(rank).tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert SingleBlock().block(rank).tolist() == [0] * 7


def test_stop_looks_only_inside() -> None:
    tokens = torch.tensor([[5, 9, 5], [9, 5, 5]])
    inside = torch.tensor([[False, True, True], [False, True, True]])
    nothing = torch.zeros_like(inside)
    assert StopAtEos((9,)).ended(tokens, inside, nothing).tolist() == [True, False]


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: UniformSchedule(0), "steps"),
        (lambda: MaskSchedule(Cosine(), -3), "steps"),
        (lambda: Blocks(0), "block"),
        (lambda: Guidance(-1.0), "guidance"),
        (lambda: Temperature(-0.5), "temperature"),
        (lambda: Temperature(0.0), "Greedy"),
        (lambda: Temperature(float("nan")), "temperature"),
        (lambda: GumbelConfidence(1.0, "cubic"), "cubic"),
        (lambda: StopAtEos(()), "ids"),
    ],
)
def test_a_wrong_choice_names_its_field(build: object, named: str) -> None:
    assert callable(build)
    with pytest.raises(InputError, match=named):
        build()
