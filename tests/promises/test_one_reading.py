"""What two things have in common is read, found and kept once."""

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from bits import bits

import dasksim._engine.provenance as told
from dasksim import ArgumentError, generate, make_simulator, verify

Rng = np.random.Generator


def test_lazy_conditions_of_one_source_are_read_once_for_each_chunk(tmp_path: Path) -> None:
    n_read: list[int] = []

    def read(block: Any) -> Any:
        n_read.append(1)
        return block

    source = da.from_array(np.arange(40.0).reshape(20, 2), chunks=(5, 2)).map_blocks(
        read, dtype=float, meta=np.empty((0, 0))
    )
    conditions = {"a": source[:, 0], "b": source[:, 1]}
    simulator = make_simulator(lambda a, b, rng: {"x": a + b + rng.normal()})
    options: dict[str, Any] = {"seed": 1, "sub_batch_size": 5, "chunk_size": 5}
    path = tmp_path / "s.zarr"
    stored = generate(simulator, path, 20, conditions=conditions, scheduler="synchronous", audit=False, **options)
    assert len(n_read) == 4 + 2  # the probe reads the first chunk for each of them
    assert bits(simulator.sample(20, **options, **conditions)) == bits(stored)
    assert verify(path, simulator, resimulate=4, conditions=conditions, progress=False).is_good


MOST = 16


@pytest.fixture
def few_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dasksim._engine.probes._MOST_PROBES", MOST)


@pytest.mark.usefixtures("few_probes")
def test_probes_of_a_simulator_that_is_trained_on_are_bounded() -> None:
    simulator = make_simulator([lambda loc, rng: {"x": rng.normal(loc)}, lambda x, rng: {"y": x + rng.normal()}])
    adapter = simulator.to_bayesflow(seed=1)
    for loc in range(2 * MOST):
        adapter.sample(2, loc=float(loc))
    assert len(simulator._probes) == MOST
    assert simulator.sample(10, seed=1, loc=0.0).identical(simulator.sample(10, seed=1, loc=0.0))


@pytest.mark.usefixtures("few_probes")
def test_probe_that_is_used_stays() -> None:
    calls: list[float] = []

    def simulate(loc: float, rng: Rng) -> dict[str, Any]:
        calls.append(loc)
        return {"x": rng.normal(loc)}

    simulator = make_simulator(simulate)
    for loc in range(2 * MOST):
        simulator.sample(2, loc=float(loc))
        simulator.sample(2, loc=-1.0)
    assert calls.count(-1.0) == 2  # a probe runs twice


def test_sources_and_versions_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    simulator = make_simulator([lambda rng: {"x": rng.normal()}, lambda x, rng: {"y": x + rng.normal()}])
    first = simulator.sample(10, seed=1).attrs["dasksim"]

    def refuse(*_: Any) -> Any:
        raise AssertionError("looked up again")

    monkeypatch.setattr("importlib.metadata.version", refuse)
    monkeypatch.setattr("inspect.getsource", refuse)
    monkeypatch.setattr("inspect.findsource", refuse)
    assert simulator.sample(10, seed=1).attrs["dasksim"] == first


def test_digest_of_a_decorated_function_is_that_of_its_own_source() -> None:
    import functools

    def decorated(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper() -> Any:
            return function()

        return wrapper

    @decorated
    def one() -> Any:
        return {"x": 1.0}

    @decorated
    def two() -> Any:
        return {"x": 2.0}

    assert told.source_digest(one) != told.source_digest(two)


def prior(rng: Rng) -> dict[str, Any]:
    return {"theta": rng.normal(size=2)}


def likelihood(theta: Any, rng: Rng) -> dict[str, Any]:
    return {"x": theta + rng.normal(size=2)}


def batched(batch_shape: Any, rng: Rng) -> dict[str, Any]:
    return {"theta": rng.normal(size=(*batch_shape, 2))}


def test_arguments_of_a_sequence_by_name_of_function() -> None:
    named = make_simulator([prior, likelihood], obj_kwargs={"prior": {"dims": {"theta": ["p"]}}, "likelihood": None})
    assert named.sample(2, seed=1).theta.dims == ("batch", "p")
    each = make_simulator([batched, likelihood], obj_kwargs={"batched": {"is_batched": True}}).sample(2, seed=1)
    assert isinstance(each, xr.Dataset)


def test_names_of_arguments_go_before_those_of_functions() -> None:
    def dims(rng: Rng) -> dict[str, Any]:
        return {"theta": rng.normal(size=2)}

    simulator = make_simulator([dims], obj_kwargs={"dims": {"theta": ["p"]}})
    assert simulator.sample(2, seed=1).theta.dims == ("batch", "p")


def test_names_of_no_function_or_of_two_are_refused() -> None:
    with pytest.raises(ArgumentError, match="key 'pri0r', which no function of obj has; did you mean 'prior'"):
        make_simulator([prior, likelihood], obj_kwargs={"pri0r": {"is_batched": True}})
    with pytest.raises(ArgumentError, match="names 'prior', but 2 functions have that name; give a sequence"):
        make_simulator([prior, prior], obj_kwargs={"prior": {"is_batched": True}})
    with pytest.raises(ArgumentError, match="obj_kwargs holds 'is_batchd'; did you mean 'is_batched'"):
        make_simulator([prior, likelihood], obj_kwargs={"is_batchd": True})
