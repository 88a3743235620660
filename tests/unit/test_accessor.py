"""``dataset.dasksim``: a dataset as a dict, and what is known of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import dasksim
from dasksim import StoreError, generate, make_simulator, open_dataset

calls: list[str] = []


def prior(batch_shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, Any]:
    calls.append("prior")
    return {"theta": rng.normal(size=(*batch_shape, 2)), "s": rng.uniform(size=batch_shape)}


def observe(theta: Any, rng: np.random.Generator) -> dict[str, Any]:
    calls.append("observe")
    return {"x": theta + rng.normal(size=theta.shape)}


def test_a_lazy_dataset_becomes_a_dict_by_running_each_function_once() -> None:
    simulator = make_simulator([prior, observe], is_batched=True)
    lazy = simulator.sample(100, seed=1)
    calls.clear()
    found = lazy.dasksim.to_dict()
    assert sorted(calls) == ["observe", "prior"]
    assert {name: (type(v), v.shape, v.dtype) for name, v in found.items()} == {
        "theta": (np.ndarray, (100, 2), np.dtype("f8")),
        "s": (np.ndarray, (100, 1), np.dtype("f8")),
        "x": (np.ndarray, (100, 2), np.dtype("f8")),
    }
    assert np.array_equal(found["x"], simulator.sample(100, seed=1).x.values)


def test_it_tells_what_a_store_knows(tmp_path: Path) -> None:
    def sometimes(rng: np.random.Generator) -> dict[str, float]:
        x = float(rng.normal())
        return {"x": x if abs(x) < 1 else np.nan}

    failing = make_simulator(sometimes)
    generate(failing, tmp_path / "a.zarr", 200, seed=7, on_nonfinite="mask", progress=False)
    ds = open_dataset(tmp_path / "a.zarr")
    assert 0 < int(ds.dasksim.valid.sum()) < 200
    assert ds.isel(batch=ds.dasksim.valid).sizes["batch"] == int(ds.valid.sum())
    assert ds.dasksim.acceptance is None
    assert ds.dasksim.provenance["seed"] == 7
    half = dasksim.RejectionSimulator(make_simulator(lambda rng: {"x": rng.normal()}), lambda x: x > 0)
    generate(half, tmp_path / "b.zarr", 500, seed=1, progress=False)
    accepted = open_dataset(tmp_path / "b.zarr").dasksim
    assert accepted.acceptance == pytest.approx(0.5, abs=0.1)
    assert accepted.valid.dims == ("batch",)
    assert bool(accepted.valid.all())


def test_other_datasets_have_it_too_but_no_provenance() -> None:
    other = xr.Dataset({"x": ("batch", np.arange(3))})
    assert other.dasksim.to_dict()["x"].tolist() == [0, 1, 2]
    assert other.dasksim.valid.values.tolist() == [True] * 3
    with pytest.raises(StoreError, match="does not say how it was made"):
        other.dasksim.provenance  # noqa: B018
