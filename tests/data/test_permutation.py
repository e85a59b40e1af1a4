"""The keyed permutation: a bijection of any size, random enough, and the same one number at a time or many."""

import numpy as np
import pytest

from mmada.data.permutation import Permutation, hashed
from mmada.errors import InputError


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 17, 63, 64, 65, 1000, 4097, 200_003])
def test_it_is_a_bijection(n: int) -> None:
    found = Permutation(7, n)[np.arange(n)]
    assert np.array_equal(np.sort(found), np.arange(n))


@pytest.mark.parametrize("n", [1, 7, 1001, 3_000_000_019])
def test_one_number_at_a_time_is_the_same(n: int) -> None:
    order = Permutation(11, n)
    positions = np.unique(np.linspace(0, n - 1, 40).astype(np.int64))
    assert [order[int(i)] for i in positions] == order[positions].tolist()
    assert order[positions.reshape(1, -1)].shape == (1, len(positions))


def test_seeds_differ_and_the_order_looks_random() -> None:
    n = 5000
    one, other = Permutation(1, n)[np.arange(n)], Permutation(2, n)[np.arange(n)]
    assert np.mean(one == other) < 0.01
    assert abs(np.corrcoef(np.arange(n), one)[0, 1]) < 0.05
    assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 0.05
    # Where an item lands is uniform over many seeds: chi-square with 9 degrees of freedom.
    landed = np.bincount([Permutation(seed, 10)[3] for seed in range(4000)], minlength=10)
    assert float(((landed - 400) ** 2 / 400).sum()) < 27.9  # p = 0.001


def test_it_stays_what_it_is() -> None:
    """A run that resumes with a newer version must go on in the same order."""
    assert Permutation(0, 10)[np.arange(10)].tolist() == STORED
    assert hashed(0, "a", 1) == HASHED
    assert hashed("a", "b") != hashed("ab") != hashed("b", "a")


def test_what_is_outside_is_refused() -> None:
    for outside in (-1, 10, np.array([0, 10]), np.array([-1])):
        with pytest.raises(IndexError, match="of a permutation of 10"):
            Permutation(0, 10)[outside]
    with pytest.raises(InputError, match="n must be a whole number of 1"):
        Permutation(0, 0)
    assert Permutation(0, 10)[np.array([], np.int64)].shape == (0,)


STORED = [9, 4, 7, 3, 2, 6, 5, 1, 0, 8]
HASHED = 15931560925959589417
