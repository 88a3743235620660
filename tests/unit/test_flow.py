"""The equation of Lotka-Volterra and SIR, against scipy at tight tolerances and closed forms."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from flow_rows import LV_TIMES, SIR_TIMES, clipped, exact, lv_rates, lv_rows, normals, sir_rates, sir_rows, solved

from dasksim.models import _flow, lotka_volterra, sir

# A thousandth of the noise: 0.1 in the logarithm of a population of Lotka-Volterra and, of a thousand tests, at least
# sqrt(1e-6 / 1000) in the infected part of SIR.
LARGEST_LOG_ERROR = 1e-4
LARGEST_FRACTION_ERROR = 1e-6


@pytest.mark.parametrize(
    "z", [normals(60, 4), list(itertools.product((-5, 0, 5), repeat=4))], ids=["draws", "extremes"]
)
def test_lotka_volterra_is_solved_to_a_thousandth_of_the_noise(z: Any) -> None:
    rows = lv_rows(lv_rates(z))

    error = clipped(solved(*rows, LV_TIMES)) - clipped(exact(*rows, LV_TIMES))

    assert np.abs(error).max() < LARGEST_LOG_ERROR


@pytest.mark.parametrize(
    "z", [normals(60, 2), list(itertools.product((-5, 0, 5), repeat=2))], ids=["draws", "extremes"]
)
def test_sir_is_solved_to_a_thousandth_of_the_noise(z: Any) -> None:
    rows = sir_rows(sir_rates(z))

    error = np.exp(solved(*rows, SIR_TIMES)[1]) - np.exp(exact(*rows, SIR_TIMES)[1])

    assert np.abs(error).max() < LARGEST_FRACTION_ERROR


@pytest.mark.parametrize("n", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_whole_priors_are_solved_as_by_a_finer_solver(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All draws of a data set, the stiffest included, where scipy is too slow."""
    lv, epidemics = lv_rows(lv_rates(normals(n, 4))), sir_rows(sir_rates(normals(n, 2)))
    populations, infected = solved(*lv, LV_TIMES), solved(*epidemics, SIR_TIMES)[1]

    monkeypatch.setattr(_flow, "_ORDER", 18)
    finer, finer_infected = solved(*lv, LV_TIMES, 1e-11), solved(*epidemics, SIR_TIMES, 1e-11)[1]

    assert np.abs(clipped(populations) - clipped(finer)).max() < LARGEST_LOG_ERROR
    assert np.abs(np.exp(infected) - np.exp(finer_infected)).max() < LARGEST_FRACTION_ERROR


def test_rows_without_contact_or_recovery_follow_closed_forms() -> None:
    rates = np.array([[0.0, 0.7, 0.0], [0.3, 0.0, 0.0]])
    t = np.array(SIR_TIMES)

    _, alone, epidemic, still = np.exp(solved(*sir_rows(np.c_[[0.1, 0.1], rates], 1e-3), SIR_TIMES)[1]).T

    np.testing.assert_allclose(alone, 1e-3 * np.exp(-0.3 * t), atol=1e-9)
    np.testing.assert_allclose(epidemic, 1 / (1 + 999 * np.exp(-0.7 * t)), atol=1e-6)
    np.testing.assert_allclose(still, 1e-3, atol=1e-12)


def test_populations_keep_their_invariant() -> None:
    alpha, beta, gamma, delta = rates = lv_rates(normals(1000, 4))
    logs = solved(*lv_rows(rates), LV_TIMES)

    x, y = np.exp(logs)
    invariant = delta * x - gamma * logs[0] + beta * y - alpha * logs[1]

    np.testing.assert_allclose(invariant / invariant[0], 1, atol=1e-4)


def test_a_population_of_none_stays_none() -> None:
    logs, growth, pull = lv_rows(lv_rates([[0, 0, 0, 0]]))
    logs[1] = -math.inf

    prey, predators = solved(logs, growth, pull, LV_TIMES)[..., 0]

    np.testing.assert_allclose(prey, math.log(30) + growth[0, 0] * np.array(LV_TIMES), rtol=1e-12)
    assert (predators == -math.inf).all()


def test_a_stiff_row_costs_its_own_steps_only(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def counted(numbers: Any, *arguments: Any) -> Any:
        sizes.append(numbers.shape[1])
        return step(numbers, *arguments)

    step = _flow._step
    monkeypatch.setattr(_flow, "_step", counted)
    rates = lv_rates(normals(500, 4))
    solved(*lv_rows(rates), LV_TIMES)
    alone = sum(sizes)
    sizes.clear()

    rates[:, 250] = [40, 1e-3, 40, 1e-3]
    solved(*lv_rows(rates), LV_TIMES)

    assert len(sizes) > 600
    assert sum(sizes) < 1.1 * alone + len(sizes)


def test_other_rows_make_no_difference() -> None:
    rows = lv_rows(lv_rates(normals(300, 4)))
    whole = solved(*rows, LV_TIMES)

    logs, growth, pull = (part[:, 100:107] for part in rows)
    some = solved(logs, growth, pull, LV_TIMES)

    np.testing.assert_allclose(some, whole[..., 100:107], rtol=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rows_that_cannot_be_solved_are_nan_and_others_are_not(bad: float) -> None:
    rates = lv_rates(normals(5, 4))
    expected = solved(*lv_rows(rates), LV_TIMES)
    for i in range(4):
        rates[i, i] = bad

    found = solved(*lv_rows(rates), LV_TIMES)

    assert np.isnan(found[:, 1:, :4]).any(axis=(0, 1)).all()
    np.testing.assert_allclose(found[..., 4], expected[..., 4], rtol=1e-12)


def test_a_row_that_needs_too_many_steps_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_flow, "_MAX_STEPS", 40)
    rates = lv_rates(normals(3, 4))
    rates[:, 1] = [100, 1e-3, 100, 1e-3]

    found = solved(*lv_rows(rates), LV_TIMES[:4])

    assert np.isfinite(found[:, 0, 1]).all()
    assert np.isnan(found[:, 1:, 1]).all()
    assert np.isfinite(found[..., [0, 2]]).all()


def test_samples_that_cannot_be_solved_are_nan() -> None:
    for model, values in ((sir(), [math.nan, 0.1]), (lotka_volterra(), [math.inf, 0.05, 1, 0.05])):
        good = model.sample(2, seed=1).parameters.values
        good[1] = values

        observed = model.sample(2, seed=1, parameters=good).observables.values

        assert np.isfinite(observed[0]).all()
        assert np.isnan(observed[1]).any()
