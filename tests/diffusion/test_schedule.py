"""Noise schedules: their ends, values and derivatives."""

import math
from typing import Any

import pytest
import torch

from mmada.diffusion.schedule import Cosine, Linear, Power, Schedule, Sigmoid
from mmada.errors import InputError

SCHEDULES = [Cosine(), Linear(), Power(), Power(0.5), Sigmoid(), Sigmoid(-2, 4, 0.5)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_fall_from_one_to_zero(schedule: Schedule) -> None:
    ratio = schedule.ratio(torch.linspace(0, 1, 33))
    assert ratio[0] == pytest.approx(1, abs=1e-6)
    assert ratio[-1] == pytest.approx(0, abs=1e-6)
    assert (ratio.diff() < 1e-6).all()


def test_schedule_values_by_hand() -> None:
    third = torch.tensor([1 / 3])
    assert Cosine().ratio(third).item() == pytest.approx(math.sqrt(3) / 2)
    assert Power(2).ratio(third).item() == pytest.approx(8 / 9)


@pytest.mark.parametrize("make", [lambda: Power(0), lambda: Sigmoid(1, 1), lambda: Sigmoid(tau=0)])
def test_impossible_choices_are_refused(make: Any) -> None:
    with pytest.raises(InputError):
        make()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_rate_is_the_derivative(schedule: Schedule) -> None:
    times = torch.linspace(0.01, 0.99, 37, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(schedule.ratio(times).sum(), times)
    assert torch.allclose(schedule.rate(times.detach()), -slope)
