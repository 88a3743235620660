"""The models that come with dasksim, against published numbers."""

import inspect
import os
import subprocess
import sys
from typing import Any

import array_api_strict
import numpy as np
import pytest
from model_statistics import LARGEST_Z, REFERENCE, z_scores

from dasksim import ArgumentError, ArgumentTypeError, Simulator, cli
from dasksim.models import MODELS, two_moons

# Samples, where not 50 000.
N_SAMPLES = {"slcp_distractors": 20_000, "bernoulli_glm_raw": 10_000}

#: The models with parameters and observables, by name and variant.
BENCHMARKS = [
    (name, variant)
    for name, model in MODELS.items()
    if "variant" in inspect.signature(model).parameters
    for variant in ("bayesflow", "sbibm")
    if (name, variant) != ("inverse_kinematics", "sbibm")
]


@pytest.mark.parametrize("name", REFERENCE)
def test_a_model_has_the_statistics_of_the_reference(name: str) -> None:
    z = z_scores(name, MODELS[name]().sample(N_SAMPLES.get(name, 50_000), seed=2025).compute())

    kinds = ["mean", "std", "quantiles", *(["rank correlations"] if REFERENCE[name]["spearman"] else [])]
    assert [kind for kind in z if z[kind].size] == kinds
    assert [kind for kind in z if not np.all(np.abs(z[kind]) < LARGEST_Z)] == []


def test_two_moons_is_labelled() -> None:
    dataset = two_moons().sample(4, seed=1)

    assert dataset.observables.dims == ("batch", "observable")
    assert dataset.parameter.values.tolist() == ["theta_1", "theta_2"]
    assert dataset.observable.values.tolist() == ["x_1", "x_2"]


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


@pytest.mark.parametrize("batch_shape", [pytest.param((7,), marks=pytest.mark.slow), (3, 2)])
@pytest.mark.parametrize(("name", "variant"), BENCHMARKS)
def test_a_model_runs_on_any_array_namespace(name: str, variant: str, batch_shape: tuple[int, ...]) -> None:
    stages = MODELS[name](variant=variant).lower().stages
    prior, observe = (stage.functions[0].function for stage in stages)

    def run(xp: Any) -> dict[str, Any]:
        parameters = call(prior, batch_shape=batch_shape, rng=np.random.default_rng(1), xp=xp)
        return parameters | call(observe, **parameters, batch_shape=batch_shape, rng=np.random.default_rng(2), xp=xp)

    strict, plain = run(array_api_strict), run(np)

    for variable, expected in plain.items():
        assert isinstance(strict[variable], type(array_api_strict.asarray(0.0)))
        assert strict[variable].dtype == array_api_strict.float32
        assert strict[variable].shape == expected.shape
        assert expected.shape[: len(batch_shape)] == batch_shape
        np.testing.assert_allclose(np.asarray(strict[variable]), expected, rtol=1e-5, atol=1e-5)


def call(function: Any, **values: Any) -> dict[str, Any]:
    names = inspect.signature(function).parameters
    made: dict[str, Any] = function(**{name: value for name, value in values.items() if name in names})
    return made


@pytest.mark.parametrize(("name", "variant"), BENCHMARKS)
def test_a_model_is_labelled_and_in_single_precision(name: str, variant: str) -> None:
    dataset = MODELS[name](variant=variant).sample(4, seed=1).compute()

    assert set(dataset.data_vars) == {"parameters", "observables"}
    assert dataset.parameters.dims == ("batch", "parameter")
    assert {array.dtype for array in dataset.data_vars.values()} == {np.dtype("float32")}
    assert np.isfinite(dataset.observables.values).all()
    for dim in {*dataset.parameters.dims, *dataset.observables.dims} - {"batch"}:
        assert len(set(dataset[dim].values.tolist())) == dataset.sizes[dim]


@pytest.mark.parametrize(("name", "variant"), BENCHMARKS)
def test_a_model_takes_parameters(name: str, variant: str) -> None:
    simulator = MODELS[name](variant=variant)
    free = simulator.sample(64, seed=1).compute()

    given = simulator.sample(64, seed=1, parameters=free.parameters.astype("float64")).compute()

    assert not np.array_equal(free.parameters[0], free.parameters[1])
    np.testing.assert_array_equal(given.parameters, free.parameters)
    np.testing.assert_array_equal(given.observables, free.observables)


@pytest.mark.parametrize(("name", "variant"), BENCHMARKS)
def test_a_model_has_further_batch_axes(name: str, variant: str) -> None:
    dataset = MODELS[name](variant=variant).sample((5, 3), seed=1).compute()

    assert dataset.parameters.dims == ("batch", "batch_1", "parameter")
    assert len(np.unique(dataset.parameters[..., 0])) == 15


@pytest.mark.parametrize("name", dict(BENCHMARKS))
def test_a_model_refuses_an_unknown_variant(name: str) -> None:
    with pytest.raises(ArgumentError, match=r"variant must be one of 'bayesflow'.*; got 'sbi'"):
        MODELS[name](variant="sbi")


@pytest.mark.parametrize("name", MODELS)
def test_every_model_makes_a_simulator_that_samples(name: str) -> None:
    simulator = MODELS[name]()

    assert isinstance(simulator, Simulator)
    assert simulator.sample(3, seed=1).compute().sizes["batch"] == 3


def test_the_command_line_lists_every_model_on_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["models"])

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(MODELS)
    assert all(len(line) <= 160 and line.endswith(".") for line in lines)


DIGESTS = """
import zlib, dasksim
for name, model in sorted(dasksim.models.MODELS.items()):
    ds = model().sample(16_384, seed=1, sub_batch_size=8192)
    if "observables" in ds:
        print(name, *(zlib.crc32(v.values.tobytes()) for v in ds.compute(scheduler="synchronous").values()))
"""


def test_the_threads_of_blas_change_no_bit() -> None:
    """A matrix product adds up in another order with more of them; workers of a cluster have one."""
    found = [
        subprocess.run(
            [sys.executable, "-c", DIGESTS],
            env={**os.environ, "OPENBLAS_NUM_THREADS": str(n), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        ).stdout
        for n in (1, 2)
    ]
    assert len(found[0].splitlines()) == 11
    assert found[0] == found[1]
