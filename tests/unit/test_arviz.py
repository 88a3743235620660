"""Conversion to ArviZ's tree, and that ArviZ takes it."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import dasksim
from dasksim import ArgumentError, ArgumentTypeError, generate, make_simulator, to_arviz


def prior(rng: np.random.Generator) -> dict[str, Any]:
    return {"theta": rng.normal(size=2)}


def solve(theta: Any) -> dict[str, Any]:
    if theta[0] > 1:
        raise ArithmeticError
    return {"path": theta.cumsum()}


def observe(path: Any, rng: np.random.Generator) -> dict[str, Any]:
    return {"x": path + rng.normal(size=2)}


DIMS: dict[str, Any] = {"dims": {"x": ["time"]}, "coords": {"time": [0.0, 0.5]}}


def test_stages_without_simulated_inputs_are_the_prior() -> None:
    dataset = make_simulator([prior, lambda theta: {"path": theta}, observe], **DIMS).sample(50, seed=1)

    tree = to_arviz(dataset)

    assert set(tree["prior"].data_vars) == {"theta"}
    assert set(tree["prior_predictive"].data_vars) == {"path", "x"}
    x = tree["prior_predictive"].dataset["x"]
    assert x.dims == ("chain", "draw", "time")
    assert x.chunks is not None
    assert (x.chain.values, list(x.draw.values), list(x.time.values)) == ([0], list(range(50)), [0.0, 0.5])
    np.testing.assert_array_equal(x.values[0], dataset.x.values)
    assert tree.attrs["dasksim"] == dataset.attrs["dasksim"]
    assert tree["prior"].attrs["inference_library"] == "dasksim"


def test_contexts_and_conditions_count_as_given() -> None:
    def meta(rng: np.random.Generator) -> dict[str, Any]:
        return {"n": int(rng.integers(2, 5))}

    def scaled(n: int, sd: float, rng: np.random.Generator) -> dict[str, Any]:
        return {"theta": n * rng.normal(0, sd)}

    simulator = make_simulator([scaled, lambda theta, rng: {"x": rng.normal(theta)}], meta_fn=meta)

    tree = to_arviz(simulator.sample(20, seed=1, sd=2.0))
    assert set(tree["prior"].data_vars) == {"n", "sd", "theta"}
    assert set(tree["prior_predictive"].data_vars) == {"x"}
    with pytest.raises(ArgumentError, match="does not say which variables are parameters"):
        to_arviz(simulator.sample(20, seed=1, sd=1.0, theta=1.0))


def test_parameters_can_be_named(tmp_path: Path) -> None:
    simulator = dasksim.RejectionSimulator(dasksim.models.two_moons(), lambda observables: observables[:, 0] > 0)
    generate(simulator, tmp_path / "s.zarr", 100, seed=1, scheduler="synchronous")

    tree = to_arviz(tmp_path / "s.zarr", ["parameters"])

    assert set(tree["prior"].data_vars) == {"parameters"}
    assert set(tree["prior_predictive"].data_vars) == {"observables"}
    with pytest.raises(ArgumentError, match=r"does not say which .*parameters=\['parameters'\].*'observables'"):
        to_arviz(tmp_path / "s.zarr")


@pytest.mark.parametrize(
    ("simulator", "why"),
    [
        (make_simulator(lambda rng: {"theta": rng.normal(), "x": rng.normal()}), "one function makes all"),
        (dasksim.ModelComparisonSimulator([lambda rng: {"x": rng.normal()}] * 2), "model comparison"),
    ],
)
def test_what_cannot_be_told_is_asked_for(simulator: dasksim.Simulator, why: str) -> None:
    with pytest.raises(ArgumentError, match="the dataset does not say which variables are parameters; name them"):
        to_arviz(simulator.sample(10, seed=1))


def test_masked_samples_are_left_out(tmp_path: Path) -> None:
    options: dict[str, Any] = {"seed": 1, "on_error": "mask", "scheduler": "synchronous"}
    dataset = generate(make_simulator([prior, solve]), tmp_path / "s.zarr", 200, **options).compute()
    n_valid = int(dataset.valid.sum())
    assert n_valid < 200

    tree = to_arviz(tmp_path / "s.zarr")

    assert tree["prior"].sizes["draw"] == n_valid
    assert "valid" not in tree["prior_predictive"]
    np.testing.assert_array_equal(tree["prior"].dataset.theta[0], dataset.theta[dataset.valid.values])


def test_bad_arguments_are_explained() -> None:
    dataset = dasksim.models.two_moons().sample(10, seed=1)

    with pytest.raises(ArgumentError, match=r"there is no variable 'parameter'; did you mean 'parameters'\?"):
        to_arviz(dataset, ["parameter"])
    with pytest.raises(ArgumentTypeError, match=r"parameters must be a sequence of names; give \['parameters'\]"):
        to_arviz(dataset, "parameters")
    with pytest.raises(ArgumentError, match="must have the dim 'batch'; it has 'draw'"):
        to_arviz(dataset.rename(batch="draw"))
    with pytest.raises(ArgumentError, match="does not say which variables are parameters"):
        to_arviz(xr.Dataset({"x": ("batch", [1.0])}))


def test_arviz_takes_it() -> None:
    stats = pytest.importorskip("arviz_stats")
    dataset = dasksim.models.two_moons().sample(2000, seed=1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = stats.summary(to_arviz(dataset).compute(), group="prior_predictive", kind="stats", round_to="none")

    expected = dataset.observables.mean("batch").values
    np.testing.assert_allclose(table["mean"].astype(float), expected, rtol=1e-3, atol=1e-5)
    assert list(table.index) == ["observables[x_1]", "observables[x_2]"]


def test_derived_variables_are_no_parameters(tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    dasksim.generate(dasksim.models.two_moons(), store, 100, seed=1, scheduler="threads", progress=False)
    dasksim.derive(
        store, lambda observables: {"angle": observables[0] - observables[1]}, scheduler="threads", progress=False
    )
    tree = dasksim.to_arviz(store)
    assert list(tree["prior"].data_vars) == ["parameters"]
    assert list(tree["prior_predictive"].data_vars) == ["observables", "angle"]
