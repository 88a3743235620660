"""The models' own uniform and normal draws have the distributions that they should, tails and neighbours included."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from dasksim.models._draws import normal, uniform

N = 2_000_000

# Every test compares a score with the standard normal distribution: a false alarm in 500 000 of each.
LARGEST_Z = 5.0


def generator(seed: int = 2025) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(seed))


@pytest.fixture(scope="module")
def draws() -> NDArray[Any]:
    found: NDArray[Any] = normal((N,), generator(), np).astype("float64")
    return found


def test_normal_draws_follow_the_normal_distribution(draws: NDArray[Any]) -> None:
    # a distance of 2.6 standard units is passed once in 400 000 times
    assert stats.kstest(draws, "norm").statistic * math.sqrt(N) < 2.6


@pytest.mark.parametrize("moment", [1, 2, 3, 4, 6])
def test_moments_of_normal_draws(moment: int, draws: NDArray[Any]) -> None:
    powers = draws**moment
    expected = stats.norm.moment(moment)
    deviation = math.sqrt(stats.norm.moment(2 * moment) - expected**2)
    assert abs(powers.mean() - expected) * math.sqrt(N) / deviation < LARGEST_Z


@pytest.mark.parametrize("distance", [2, 3, 3.5, 4, 4.5])
@pytest.mark.parametrize("sign", [-1, 1])
def test_tails_of_normal_draws(distance: float, sign: int, draws: NDArray[Any]) -> None:
    expected = N * stats.norm.sf(distance)
    found = np.count_nonzero(sign * draws > distance)
    assert abs(found - expected) / math.sqrt(expected) < LARGEST_Z


@pytest.mark.parametrize("lag", [1, 2, 1 << 14, 1 << 15, 1 << 16, 1 << 17])
@pytest.mark.parametrize("power", [1, 2])
def test_normal_draws_do_not_depend_on_each_other(lag: int, power: int, draws: NDArray[Any]) -> None:
    """A pair of Box and Muller lies half a block apart."""
    values = stats.norm.cdf(draws) ** power  # bounded, so that the score is normal
    values -= values.mean()
    products = values[:-lag] * values[lag:]
    assert abs(products.mean()) * math.sqrt(len(products)) / values.var() < LARGEST_Z


@pytest.mark.parametrize("n", [1, 2, 3, 131_071, 131_072, 131_073, 262_145])
def test_normal_draws_are_those_of_the_formula(n: int) -> None:
    found = normal((n,), generator(), np)
    again, expected = generator(), []
    for first in range(0, n, 1 << 17):
        size = min(1 << 17, n - first)
        pairs = -(-size // 2)
        words = again.bit_generator.random_raw(pairs)
        bits = np.stack([words & 0xFFFFFFFF, words >> np.uint64(32)], axis=1).ravel().astype("uint32")
        radius = np.sqrt(-2 * np.log(((bits[:pairs] + 0.5) / 2**32).astype("float32").astype("float64")))
        angle = bits[pairs:].astype("int32") * (2 * math.pi / 2**32)
        expected.append(np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:size])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.concatenate(expected), atol=2e-6)


def test_uniform_draws_follow_the_uniform_distribution() -> None:
    found = uniform((N // 2, 2), generator(), np, -3.0, 5.0)
    assert found.shape == (N // 2, 2)
    assert found.dtype == np.float32
    assert found.min() >= -3
    assert found.max() <= 5
    flat = found.ravel().astype("float64")
    assert stats.kstest(flat, "uniform", (-3, 8)).statistic * math.sqrt(N) < 2.6
    centred = (flat - 1) / 8
    assert abs((centred[:-1] * centred[1:]).mean()) * math.sqrt(N) * 12 < LARGEST_Z


def test_uniform_draws_use_24_bits() -> None:
    found = uniform((N,), generator(), np)
    assert found.max() < 1
    steps = found.astype("float64") * 2**24
    np.testing.assert_array_equal(steps, np.round(steps))
    assert {0, 1} == set(np.unique(steps % 2))
