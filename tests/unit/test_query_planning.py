"""With Dask's array query planning, its future default: stores as ever, while graphs are refused in words."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from bits import bits

import dasksim
from dasksim import ArgumentError, ModelComparisonSimulator, RejectionSimulator, Simulator, make_simulator
from dasksim.loaders import batches

N = 20
OPTIONS: dict[str, Any] = {"seed": 1, "sub_batch_size": 4, "chunk_size": 8}
REFUSAL = (
    r"ArgumentError: Dask's option array\.query-planning is on, .*DASK_ARRAY__QUERY_PLANNING=False.*"
    r"dask\.config\.set\(\{'array\.query-planning': False\}\).*, or (write|look).*dasksim\."
)


def simulator() -> Simulator:
    def prior(rng: np.random.Generator) -> dict[str, Any]:
        return {"theta": rng.normal(size=2)}

    def likelihood(theta: Any, rng: np.random.Generator) -> dict[str, Any]:
        return {"x": rng.normal(theta)}

    return make_simulator([prior, likelihood], dims={"x": ["channel"]})


def lazy(dtype: str) -> da.Array:
    rows: da.Array = da.from_array(np.arange(2.0 * N, dtype=dtype).reshape(N, 2) / 8, chunks=(7, 2))
    return rows


def made(folder: Path, processes: str) -> dict[str, xr.Dataset]:
    """Return datasets of stores that are made in all ways that may meet a Dask array, on `processes` too."""
    sim = simulator()

    def generate(name: str, simulator: Simulator = sim, scheduler: str = "threads", **conditions: Any) -> xr.Dataset:
        return dasksim.generate(simulator, folder / name, N, conditions=conditions, scheduler=scheduler, **OPTIONS)

    found = {"free": generate("a"), "lazy": generate("b", theta=lazy("f8")), "cast": generate("c", theta=lazy("f4"))}
    found["again"] = generate("b", theta=lazy("f8"))
    found["processes"] = generate("d", scheduler=processes, theta=lazy("f8"))
    found["from a store"] = generate("e", theta=found["free"].theta)
    found["labelled"] = generate("f", theta=xr.DataArray(lazy("f8"), dims=("batch", "theta_dim_0")).transpose())
    found["filtered"] = generate("g", RejectionSimulator(sim, lambda x: x[:, 0] > 0))
    found["extended"] = dasksim.extend(folder / "a", sim, 2 * N, scheduler="threads")
    found["derived"] = dasksim.derive(folder / "a", lambda x: {"mean": x.mean()}, scheduler="threads")
    found["some"] = found["derived"][["x"]].isel(batch=slice(5, 17, 3))
    return found


def digests(folder: Path, processes: str) -> dict[str, str]:
    datasets = made(folder, processes)
    return {name: hashlib.sha256(repr(bits(dataset)).encode()).hexdigest() for name, dataset in datasets.items()}


GRAPHS: dict[str, Callable[[], Any]] = {
    "sample": lambda: simulator().sample(N, **OPTIONS),
    "conditions": lambda: simulator().sample(N, theta=lazy("f8"), **OPTIONS),
    "rejection_sample": lambda: simulator().rejection_sample(N, predicate=lambda x: x[:, 0] > 0, **OPTIONS),
    "models": lambda: ModelComparisonSimulator([simulator(), simulator()]).sample(N, **OPTIONS),
}


def answered(call: Callable[[], Any]) -> str:
    try:
        return repr(call())
    except ArgumentError as error:
        return f"ArgumentError: {error}"


def report(folder: Path) -> dict[str, Any]:
    """Return what a process in which Dask plans queries has to say."""
    found: dict[str, Any] = {"is_planned": bool(da.array_expr_enabled()), "digests": digests(folder, "processes")}
    found["graphs"] = {name: answered(call) for name, call in GRAPHS.items()}
    found["graphs"]["report"] = answered(lambda: dasksim.report(folder / "a", folder / "a.html"))
    found["graphs"]["plots"] = answered(lambda: dasksim.plots.pairs(folder / "a"))
    found["is_good"] = dasksim.verify(folder / "a", simulator(), resimulate=2).is_good
    found["replayed"] = str(dasksim.replay(folder / "a", simulator(), sample=3)).splitlines()[0]
    found["n_rows"] = sum(len(batch["x"]) for batch in batches(folder / "a", 8))
    return found


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the report of another process, since Dask reads the option once."""
    command = [sys.executable, __file__, str(tmp_path_factory.mktemp("planned"))]
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "DASK_ARRAY__QUERY_PLANNING": "True", "PYTHONPATH": path}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    assert found["is_planned"]
    return found


def test_stores_have_the_same_bits_with_query_planning(planned: dict[str, Any], tmp_path: Path) -> None:
    assert not da.array_expr_enabled()
    assert planned["digests"] == digests(tmp_path, "threads")


def test_stores_are_verified_replayed_and_loaded_with_query_planning(planned: dict[str, Any]) -> None:
    assert planned["is_good"]
    assert planned["replayed"] == "sample 3 of sub-batch 0: the same in the store, bit by bit"
    assert planned["n_rows"] == 2 * N


@pytest.mark.parametrize("graph", [*GRAPHS, "report", "plots"])
def test_graphs_are_refused_with_query_planning(graph: str, planned: dict[str, Any]) -> None:
    assert re.match(REFUSAL, planned["graphs"][graph])


@pytest.mark.parametrize("graph", GRAPHS)
def test_graphs_are_refused_once_query_planning_is_the_default(graph: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(da, "array_expr_enabled", lambda: True)
    assert re.match(REFUSAL, answered(GRAPHS[graph]))


def test_query_planning_that_is_asked_for_too_late_changes_nothing() -> None:
    if da.ARRAY_EXPR_ENABLED is None:
        pytest.skip("this Dask reads the option whenever it is asked")
    before = bits(GRAPHS["sample"]())
    late = pytest.warns(RuntimeWarning, match="query planning is already disabled")  # says Dask
    with dask.config.set({"array.query-planning": True}), late:
        dataset = GRAPHS["sample"]()
    assert bits(dataset) == before


if __name__ == "__main__":
    print(json.dumps(report(Path(sys.argv[1]))))
