"""The models that come with dasksim, against published numbers."""

import json
from pathlib import Path
from typing import Any

import array_api_strict
import numpy as np
import pytest
from numpy.typing import NDArray

from dasksim import ArgumentTypeError, Simulator
from dasksim.models import MODELS, two_moons

REFERENCE = json.loads((Path(__file__).parent / "reference_two_moons.json").read_text())
N = 100_000
N_RANKED = 40_000

# Deviations in units of their standard error; a normal one is larger in 6.8e-6 of all cases. Two moons has 50
# statistics, so that a right model with another seed fails in less than 4e-4 of all cases.
LARGEST_Z = 4.5


@pytest.fixture(scope="module")
def moons() -> dict[str, NDArray[Any]]:
    dataset = two_moons().sample(N, seed=2025).compute()
    return {str(name): array.values.astype("float64") for name, array in dataset.data_vars.items()}


def standard_error_of_std(x: NDArray[Any]) -> NDArray[Any]:
    centred = x - x.mean(0)
    variance = centred.var(0)
    return np.asarray(np.sqrt(((centred**4).mean(0) - variance**2) / (4 * variance)))


@pytest.mark.parametrize("name", ["parameters", "observables"])
def test_two_moons_has_the_reference_s_means_and_standard_deviations(name: str, moons: dict[str, NDArray[Any]]) -> None:
    x, reference = moons[name], REFERENCE[name]
    per_draw = np.sqrt(1 / N + 1 / REFERENCE["n"])

    z_mean = (x.mean(0) - reference["mean"]) / (x.std(0) * per_draw)
    z_std = (x.std(0) - reference["std"]) / (standard_error_of_std(x) * per_draw)

    assert np.abs(z_mean).max() < LARGEST_Z
    assert np.abs(z_std).max() < LARGEST_Z


@pytest.mark.parametrize("name", ["parameters", "observables"])
@pytest.mark.parametrize("level", REFERENCE["parameters"]["quantiles"])
def test_two_moons_has_the_reference_s_quantiles(name: str, level: str, moons: dict[str, NDArray[Any]]) -> None:
    p = float(level)

    below = (moons[name] < REFERENCE[name]["quantiles"][level]).mean(0)

    z = (below - p) / np.sqrt(p * (1 - p) * (1 / N + 1 / REFERENCE["n"]))
    assert np.abs(z).max() < LARGEST_Z


def rank_correlations(x: NDArray[Any]) -> NDArray[Any]:
    ranks = np.argsort(np.argsort(x, axis=0), axis=0)
    return np.asarray(np.corrcoef(ranks, rowvar=False))[np.triu_indices(x.shape[1], 1)]


def test_two_moons_has_the_reference_s_rank_correlations(moons: dict[str, NDArray[Any]]) -> None:
    x = np.concatenate([moons["parameters"], moons["observables"]], axis=1)
    n_blocks = 50
    spread = np.std([rank_correlations(block) for block in np.split(x, n_blocks)], axis=0) / np.sqrt(n_blocks)

    expected = np.asarray(REFERENCE["spearman"])[np.triu_indices(4, 1)]
    z = (rank_correlations(x) - expected) / (spread * np.sqrt(1 + N / N_RANKED))

    assert np.abs(z).max() < LARGEST_Z


def test_two_moons_is_labelled_and_in_single_precision() -> None:
    dataset = two_moons().sample(4, seed=1)

    assert dataset.parameters.dims == ("batch", "parameter")
    assert dataset.observables.dims == ("batch", "observable")
    assert dataset.parameter.values.tolist() == ["theta_1", "theta_2"]
    assert dataset.observable.values.tolist() == ["x_1", "x_2"]
    assert {array.dtype for array in dataset.data_vars.values()} == {np.dtype("float32")}


def test_two_moons_keeps_to_its_bounds() -> None:
    parameters = two_moons(lower=2, upper=5).sample(10_000, seed=1).parameters.values

    assert 2 <= parameters.min() < 2.01
    assert 4.99 < parameters.max() <= 5


def test_two_moons_takes_parameters() -> None:
    """B30: the benchmarks ignored their keyword arguments and returned random parameters."""
    dataset = two_moons().sample(10_000, seed=1, parameters=0).compute()
    x, y = dataset.observables.values.T

    assert (dataset.parameters == 0).all()
    np.testing.assert_allclose(np.hypot(x - 0.25, y), 0.1, atol=0.06)  # six standard deviations of the radius
    assert (x > 0.25 - 1e-6).all()  # the right half of the circle
    assert abs(y.mean()) < LARGEST_Z * y.std() / 100
    with pytest.raises(ArgumentTypeError, match=r"no variable or argument 'parameter' to give a value; did you mean"):
        two_moons().sample(2, parameter=0)


@pytest.mark.parametrize("batch_shape", [(7,), (3, 2)])
def test_two_moons_runs_on_any_array_namespace(batch_shape: tuple[int, ...]) -> None:
    prior, observe = (stage.functions[0].function for stage in two_moons().lower().stages)

    def run(xp: Any) -> dict[str, Any]:
        parameters: dict[str, Any] = prior(batch_shape=batch_shape, rng=np.random.default_rng(1), xp=xp)
        return {**parameters, **observe(**parameters, batch_shape=batch_shape, rng=np.random.default_rng(2), xp=xp)}

    strict, plain = run(array_api_strict), run(np)

    for name in ("parameters", "observables"):
        assert isinstance(strict[name], type(array_api_strict.asarray(0.0)))
        assert strict[name].dtype == array_api_strict.float32
        assert strict[name].shape == (*batch_shape, 2)
        np.testing.assert_allclose(np.asarray(strict[name]), plain[name], rtol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_makes_a_simulator_that_samples(name: str) -> None:
    simulator = MODELS[name]()

    assert isinstance(simulator, Simulator)
    assert simulator.sample(3, seed=1).compute().sizes["batch"] == 3
