"""Promise 2, once, and promise 4's graph: what runs, how often, and what building a graph costs."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from bits import bits
from calls import Calls, counted_simulator
from dask.base import compute, optimize
from dask.highlevelgraph import HighLevelGraph
from distributed import Client

from dasksim import generate, make_simulator
from dasksim._execution.graph import StageLayer

# 5 sub-batches of 4 samples, the last of which is short: 18 samples. Chunks of 2 sub-batches.
N, SIZE, CHUNK = 18, 4, 8
OPTIONS: dict[str, Any] = {"seed": 1, "sub_batch_size": SIZE, "chunk_size": CHUNK}
ONCE = {"prior": 5, "likelihood": 5, "noise": N}


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    return Calls(tmp_path)


def _outer(ds: xr.Dataset) -> Any:
    return da.outer(ds["loc"].data[:, 0], ds.scale.data[:, 0])


# What is computed, and which stages it needs. `isel` with 8 to 11 is one sub-batch of the second chunk, which has two.
USES: dict[str, tuple[Callable[[xr.Dataset], Any], dict[str, int]]] = {
    "all": (lambda ds: ds, ONCE),
    "one variable": (lambda ds: ds[["loc"]], {"prior": 5}),
    "both variables of a stage": (lambda ds: ds[["loc", "scale"]], {"prior": 5}),
    "product with a matrix": (lambda ds: ds.x.data @ np.ones((3, 2)), {"prior": 5, "likelihood": 5}),
    "product with itself": (lambda ds: ds.x.data @ ds.x.data.T, {"prior": 5, "likelihood": 5}),
    "outer product": (_outer, {"prior": 5}),
    "dot of two variables": (lambda ds: xr.dot(ds.x, ds["loc"], dim="batch"), {"prior": 5, "likelihood": 5}),
    "some samples": (lambda ds: ds.isel(batch=slice(8, 12)), {"prior": 2, "likelihood": 2, "noise": 8}),
    "mean": (lambda ds: ds.mean(), ONCE),
    "standard deviation": (lambda ds: ds.x.std("batch"), {"prior": 5, "likelihood": 5}),
    "other chunks": (lambda ds: ds.chunk(batch=3), ONCE),
    "sum of all": (lambda ds: ds["loc"] + ds.scale.values.mean() * 0 + ds.x, {"prior": 10, "likelihood": 5}),
}
SCHEDULERS = ("synchronous", "threads")


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("use", USES)
def test_stage_runs_once_for_each_sub_batch(use: str, scheduler: str, calls: Calls) -> None:
    select, wanted = USES[use]
    dataset = counted_simulator(calls).sample(N, **OPTIONS)
    calls.take()
    with dask.config.set(scheduler=scheduler):
        compute(select(dataset))
    assert calls.take() == wanted


def test_persist_runs_once_and_for_all(calls: Calls) -> None:
    dataset = counted_simulator(calls).sample(N, **OPTIONS)
    calls.take()
    kept = dataset.persist(scheduler="threads")
    assert calls.take() == ONCE
    bits(kept)
    kept.mean().compute()
    assert calls.take() == {}


@pytest.mark.parametrize("use", ["all", "product with itself", "outer product", "some samples"])
def test_stage_runs_once_on_a_cluster(use: str, calls: Calls, two_workers: Client) -> None:
    select, wanted = USES[use]
    dataset = counted_simulator(calls).sample(N, **OPTIONS)
    calls.take()
    compute(select(dataset), scheduler=two_workers)
    assert calls.take() == wanted


def test_stage_runs_once_in_processes(calls: Calls) -> None:
    dataset = counted_simulator(calls).sample(N, **OPTIONS)
    calls.take()
    compute(dataset, scheduler="processes", num_workers=2)
    assert calls.take() == ONCE


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes", "cluster"])
def test_generate_runs_each_stage_once(scheduler: str, calls: Calls, tmp_path: Path, request: Any) -> None:
    simulator = counted_simulator(calls)
    simulator.sample(N, **OPTIONS)  # probes
    calls.take()
    where = request.getfixturevalue("two_workers") if scheduler == "cluster" else scheduler
    generate(simulator, tmp_path / "s.zarr", N, scheduler=where, audit=False, **OPTIONS)
    assert calls.take() == ONCE


def test_rows_before_a_batched_stage_are_simulated_whole(calls: Calls) -> None:
    def row(rng: np.random.Generator) -> dict[str, Any]:
        calls.add("row")
        return {"theta": rng.normal()}

    def batch(batch_shape: tuple[int, ...], theta: Any) -> dict[str, Any]:
        calls.add(f"batch of {len(theta)}")
        return {"x": 2 * theta}

    simulator = make_simulator([row, batch], obj_kwargs=[None, {"is_batched": True}])
    dataset = simulator.sample(N, **OPTIONS)
    calls.take()
    dataset.compute(scheduler="synchronous")
    assert calls.take() == {"row": 20, "batch of 4": 5}


@pytest.mark.parametrize("is_generated", [False, True])
def test_fully_conditioned_stage_does_not_run(is_generated: bool, calls: Calls, tmp_path: Path) -> None:
    simulator = counted_simulator(calls)
    conditions: dict[str, Any] = {"loc": 1.0, "scale": np.arange(1.0, N + 1)}
    dataset = simulator.sample(N, **OPTIONS, **conditions)
    probes = calls.take()
    assert set(probes) == {"prior", "likelihood", "noise"}
    if is_generated:
        generate(simulator, tmp_path / "s.zarr", N, conditions=conditions, scheduler="threads", audit=False, **OPTIONS)
    else:
        dataset.compute(scheduler="threads")
    assert calls.take() == {"likelihood": 5, "noise": N}


def test_partly_conditioned_stage_runs(calls: Calls) -> None:
    simulator = counted_simulator(calls)
    free = simulator.sample(N, **OPTIONS)
    partly = simulator.sample(N, loc=1.0, **OPTIONS)
    calls.take()
    found = partly.compute(scheduler="threads")
    assert calls.take() == ONCE
    assert (found["loc"] == 1.0).all()
    assert bits(found[["scale", "y"]]) == bits(free[["scale", "y"]])


def test_conditioned_variable_is_read_without_running_its_stage(calls: Calls) -> None:
    dataset = counted_simulator(calls).sample(N, loc=1.0, **OPTIONS)
    calls.take()
    dataset[["loc", "x"]].compute(scheduler="threads")
    assert calls.take() == {"likelihood": 5}


def test_condition_on_an_argument_that_no_stage_makes() -> None:
    def likelihood(rng: np.random.Generator, mu: float, sigma: float = 1.0) -> dict[str, Any]:
        return {"x": mu + sigma * rng.normal()}

    simulator = make_simulator(likelihood)
    found = simulator.sample(6, mu=100.0, sigma=np.zeros(6), seed=1).compute()
    assert (found.x == 100.0).all()


def test_building_runs_only_the_probe(calls: Calls) -> None:
    simulator = counted_simulator(calls)
    dataset = simulator.sample(N, **OPTIONS)
    assert calls.take() == {"prior": 2, "likelihood": 2, "noise": 4}  # twice, on two rows
    simulator.sample(10 * N, seed=2, chunk_size=None, sub_batch_size=SIZE)
    dataset.isel(batch=slice(3, 9)).mean()
    dataset.map(lambda array: array**2)
    repr(dataset)
    dataset._repr_html_()
    assert calls.take() == {}


def test_declared_schema_needs_no_probe(calls: Calls) -> None:
    def prior(rng: np.random.Generator) -> dict[str, Any]:
        calls.add("prior")
        return {"theta": rng.normal(size=2)}

    dataset = make_simulator(prior, schema={"theta": ((2,), "float64")}).sample(N, **OPTIONS)
    assert calls.take() == {}
    assert dataset.theta.shape == (N, 2)
    assert np.isfinite(dataset.theta.values).all()


def _graph(dataset: xr.Dataset) -> HighLevelGraph:
    graph = dataset.__dask_graph__()  # type: ignore[no-untyped-call]
    assert isinstance(graph, HighLevelGraph)
    return graph


def test_graph_of_a_billion_samples_is_small_and_lazy() -> None:
    def prior(batch_shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, Any]:
        return {"theta": rng.normal(size=(*batch_shape, 2)), "tau": rng.normal(size=batch_shape)}

    def likelihood(batch_shape: tuple[int, ...], theta: Any, rng: np.random.Generator) -> dict[str, Any]:
        return {"x": theta + rng.normal(size=(*batch_shape, 2))}

    simulator = make_simulator([prior, likelihood], is_batched=True)
    dataset = simulator.sample(10**9, seed=1, sub_batch_size=1000, chunk_size=10_000)
    assert dataset.sizes["batch"] == 10**9
    graph = _graph(dataset)
    layers = [layer for layer in graph.layers.values() if isinstance(layer, StageLayer)]
    assert len(layers) == 2
    assert [len(layer) for layer in layers] == [100_000, 100_000]
    assert not any(layer.is_materialized() for layer in graph.layers.values())
    # 100 000 chunks of three variables; the sizes of chunks are the most of it
    assert len(cloudpickle.dumps(graph)) < 2_000_000
    last = dataset.isel(batch=slice(-3, None)).compute(scheduler="synchronous")
    assert np.isfinite(last.x.values).all()


@pytest.mark.parametrize("n_variables", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_large_captured_array_is_in_the_graph_once(n_variables: int) -> None:
    table = np.random.default_rng(0).normal(size=50_000)

    def prior(rng: np.random.Generator) -> dict[str, Any]:
        return {f"v{i}": table[rng.integers(table.size)] for i in range(n_variables)}

    def likelihood(v0: float) -> dict[str, Any]:
        return {"x": v0 + table[0]}

    dataset = make_simulator([prior, likelihood]).sample(100, seed=1, sub_batch_size=5, chunk_size=10)
    graph = _graph(dataset)
    pickled = cloudpickle.dumps(graph)
    assert pickled.count(table[1:100].tobytes()) == 1
    assert table.nbytes < len(pickled) < 1.1 * table.nbytes + 50_000
    layers = [_stage_layer(dataset, stage) for stage in ("prior", "likelihood")]
    tasks = [layer[layer.name, chunk] for layer in layers for chunk in range(10)]  # a scheduler pickles each by itself
    assert max(len(cloudpickle.dumps(task)) for task in tasks) < 10_000
    assert bits(dataset, scheduler="threads") == bits(dataset, scheduler="processes", num_workers=1)


def test_large_captured_array_travels_to_a_cluster(two_workers: Client) -> None:
    table = np.random.default_rng(0).normal(size=50_000)

    def prior(rng: np.random.Generator) -> dict[str, Any]:
        return {"x": table[rng.integers(table.size)]}

    dataset = make_simulator(prior).sample(100, seed=1, sub_batch_size=5, chunk_size=10)
    assert bits(dataset, scheduler=two_workers) == bits(dataset, scheduler="synchronous")


def _stage_layer(dataset: xr.Dataset, stage: str) -> StageLayer:
    graph = _graph(dataset)
    return next(a for a in graph.layers.values() if isinstance(a, StageLayer) and a.name.startswith(f"{stage}-"))


def test_cull_returns_dependencies_of_own_keys_only(calls: Calls) -> None:
    dataset = counted_simulator(calls).sample(N, **OPTIONS)
    layer = _stage_layer(dataset, "likelihood")
    prior = _stage_layer(dataset, "prior").name
    others = {("someone-else", 0), ("x-abc", 1, 0), "program-abc", (prior, 0)}
    culled, dependencies = layer.cull({(layer.name, 1), *others}, set())
    assert set(culled) == {(layer.name, 1)}
    assert dependencies == {(layer.name, 1): {(prior, 1)}}


def test_cull_keeps_tasks_of_other_layers(calls: Calls) -> None:
    dataset = counted_simulator(calls).sample(N, **OPTIONS)
    other = xr.DataArray(da.arange(N, chunks=CHUNK), dims="batch")
    part = (dataset.x * other + dataset.scale[:, 0]).isel(batch=slice(8, 10))
    calls.take()
    found = part.compute(scheduler="threads")
    assert calls.take() == {"prior": 2, "likelihood": 2}
    whole = dataset.compute(scheduler="synchronous")
    np.testing.assert_array_equal(found, (whole.x * np.arange(N)[:, None] + whole.scale[:, :1].values)[8:10])


def test_layer_is_a_mapping_of_its_tasks(calls: Calls) -> None:
    layer = _stage_layer(counted_simulator(calls).sample(N, **OPTIONS), "prior")
    assert len(layer) == 3
    assert set(layer) == layer.get_output_keys() == {(layer.name, i) for i in range(3)}
    assert (layer.name, 2) in layer
    assert (layer.name, 3) not in layer
    with pytest.raises(KeyError, match="prior"):
        layer[layer.name, 3]
    again = pickle.loads(pickle.dumps(layer))
    assert set(again) == set(layer)


def test_optimised_dataset_has_the_same_bits(calls: Calls) -> None:
    dataset = counted_simulator(calls).sample(N, **OPTIONS)
    (optimised,) = optimize(dataset)
    (unoptimised,) = compute(dataset, optimize_graph=False, scheduler="synchronous")
    assert bits(optimised) == bits(dataset) == bits(unoptimised)


def test_pickled_dataset_has_the_same_bits(calls: Calls) -> None:
    dataset = counted_simulator(calls).sample(N, **OPTIONS)
    assert bits(cloudpickle.loads(cloudpickle.dumps(dataset))) == bits(dataset)


def test_xarray_writes_and_reads_the_same_bits(calls: Calls, tmp_path: Path) -> None:
    dataset = counted_simulator(calls).sample(N, **OPTIONS)
    calls.take()
    dataset.to_zarr(tmp_path / "x.zarr", consolidated=False, zarr_format=3)
    assert calls.take() == ONCE
    assert bits(xr.open_zarr(tmp_path / "x.zarr", consolidated=False)) == bits(dataset)


def test_other_chunks_and_concatenation_keep_the_bits(calls: Calls) -> None:
    simulator = counted_simulator(calls)
    dataset = simulator.sample(N, **OPTIONS)
    assert bits(dataset.chunk(batch=5)) == bits(dataset)
    parts = [dataset.isel(batch=slice(0, 7)), dataset.isel(batch=slice(7, None))]
    assert bits(xr.concat(parts, "batch")) == bits(dataset)
    other = simulator.sample(N, **{**OPTIONS, "seed": 2})
    both = xr.concat([dataset, other], "batch", combine_attrs="drop")
    assert bits(both.isel(batch=slice(0, N))) == bits(dataset)
    assert bits(both.isel(batch=slice(N, None))) == bits(other)


def test_two_datasets_share_no_keys(calls: Calls) -> None:
    simulator = counted_simulator(calls)
    one, two = simulator.sample(N, **OPTIONS), simulator.sample(N, **{**OPTIONS, "seed": 2})
    difference = (one.x - two.x).compute()
    assert (difference != 0).all()
