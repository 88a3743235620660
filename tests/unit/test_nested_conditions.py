"""Conditions of variables that are made inside a filter or a branch look as they do without."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from dasksim import ArgumentError, ModelComparisonSimulator, Simulator, SimulatorError, make_simulator
from dasksim.models import two_moons


def simulator() -> Simulator:
    def prior(rng: np.random.Generator) -> dict[str, Any]:
        return {"x": rng.normal(), "v": rng.normal(size=2)}

    def likelihood(x: float, v: Any, rng: np.random.Generator) -> dict[str, Any]:
        assert isinstance(x, float)
        assert v.shape == (2,)
        return {"y": rng.normal(x) + v.sum()}

    return make_simulator([prior, likelihood])


def anything(y: Any) -> Any:
    return y > -np.inf


CONDITIONS: dict[str, dict[str, Any]] = {
    "scalars": {"x": 1, "v": 2},
    "one of a stage's two": {"x": 1},
    "integers for floats": {"x": np.arange(40)},
    "rows": {"v": np.arange(80.0).reshape(40, 2)},
    "labelled, in another order": {"v": xr.DataArray(np.arange(80.0).reshape(2, 40), dims=["v_dim_0", "batch"])},
}


@pytest.mark.parametrize("conditions", CONDITIONS.values(), ids=CONDITIONS)
def test_accepting_everything_equals_sampling(conditions: dict[str, Any]) -> None:
    wanted = simulator().sample(40, seed=1, sub_batch_size=16, **conditions).compute(scheduler="synchronous")
    got = simulator().rejection_sample(40, anything, seed=1, sub_batch_size=16, **conditions)
    assert got.compute(scheduler="synchronous").equals(wanted)


@pytest.mark.parametrize("conditions", CONDITIONS.values(), ids=CONDITIONS)
def test_a_model_sees_conditions_as_by_itself(conditions: dict[str, Any]) -> None:
    wanted = simulator().sample(40, seed=1, sub_batch_size=16, **conditions)
    got = ModelComparisonSimulator([simulator(), simulator()]).sample(40, seed=1, sub_batch_size=16, **conditions)
    for name in wanted:
        assert (got[name].dims, got[name].dtype) == (wanted[name].dims, wanted[name].dtype)
    for name in conditions:
        assert got[name].compute(scheduler="synchronous").equals(wanted[name].compute(scheduler="synchronous"))
    got.compute(scheduler="synchronous")


def test_a_batched_function_inside_a_filter_is_given_rows() -> None:
    ds = two_moons().rejection_sample(50, lambda observables: observables[:, 0] < 0, seed=1, parameters=0.5)
    assert ds.parameters.dtype == np.float32
    assert (ds.compute(scheduler="synchronous").parameters == 0.5).all()


def test_a_scalar_condition_proposes_in_large_attempts() -> None:
    sizes: list[int] = []

    def rare(y: Any) -> Any:
        sizes.append(len(y))
        return y > 1.5

    simulator().rejection_sample(200, rare, seed=1, x=0.0).compute(scheduler="synchronous")
    assert max(sizes) > 300


@pytest.mark.parametrize("wrong", [np.zeros((40, 3)), np.zeros((39, 2))])
def test_a_shape_that_does_not_fit_is_refused(wrong: Any) -> None:
    with pytest.raises(ArgumentError, match="condition 'v'"):
        simulator().rejection_sample(40, anything, seed=1, v=wrong)
    with pytest.raises(ArgumentError, match="condition 'v'"):
        ModelComparisonSimulator([simulator(), simulator()]).sample(40, seed=1, v=wrong)


def test_what_a_model_makes_as_well_as_the_shared_simulator_is_refused() -> None:
    comparison = ModelComparisonSimulator(
        [simulator(), simulator()], shared_simulator=lambda batch_shape: {"x": np.zeros(batch_shape)}
    )
    with pytest.raises(SimulatorError, match=r"stages 'shared/<lambda>' and 'model_0/prior' both make .* 'x'"):
        comparison.sample(3)


def test_a_comparison_may_be_a_model() -> None:
    inner = ModelComparisonSimulator([simulator(), simulator()])
    ds = ModelComparisonSimulator([inner, simulator()]).sample(40, seed=1).compute(scheduler="synchronous")
    assert set(ds) == {"model_indices", "x", "v", "y"}
    assert np.isfinite(ds.y).all()
    assert len(np.unique(ds.y)) == 40
