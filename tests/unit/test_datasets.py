"""Stores as datasets among others: while they are written, several together, rechunked, joined and written again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from bits import receipt_files
from zarr.storage import MemoryStore

import dasksim
from dasksim import ArgumentTypeError, IncompleteStoreError, generate, make_simulator, open_dataset
from dasksim.store import Store

N, CHUNK = 100, 16

HOW: dict[str, Any] = {"sub_batch_size": 4, "chunk_size": CHUNK, "scheduler": "synchronous"}


def prior(rng: np.random.Generator) -> dict[str, Any]:
    return {"theta": rng.normal(), "kind": int(rng.integers(3))}


def likelihood(theta: float, rng: np.random.Generator) -> dict[str, Any]:
    return {"x": theta + rng.normal(size=3), "flag": bool(theta > 0)}


SIMULATOR = make_simulator(
    [prior, likelihood], dims={"x": ["time"]}, coords={"time": np.array([0.0, 0.5, 1.0])}, expand_outputs=False
)


def made(path: Any, seed: int = 1, n: int = N) -> Any:
    generate(SIMULATOR, path, n, seed=seed, **HOW)
    return path


def with_gaps(path: Path, missing: list[int]) -> Path:
    store = Store.at(made(path))
    store.forget(store.record(), missing)
    return path


@pytest.mark.parametrize("missing", [[], [0], [2, 3, 5], [6]])
def test_a_partial_dataset_has_the_complete_chunks(tmp_path: Path, missing: list[int]) -> None:
    whole = SIMULATOR.sample(N, seed=1, sub_batch_size=4).compute()
    wanted = [i for i in range(N) if i // CHUNK not in missing]

    dataset = open_dataset(with_gaps(tmp_path / "s.zarr", missing), partial=True)

    assert dataset.sample.values.tolist() == wanted
    assert dataset.sample.dtype == np.int64
    assert dataset.chunksizes["batch"][:-1] == (CHUNK,) * (len(dataset.chunksizes["batch"]) - 1)
    assert dataset.drop_vars("sample").equals(whole.isel(batch=wanted))
    part = dataset.isel(batch=slice(40, 3, -7))
    assert part.drop_vars("sample").equals(whole.isel(batch=part.sample.values))


def test_a_partial_dataset_is_of_the_time_when_it_was_opened(tmp_path: Path) -> None:
    path = with_gaps(tmp_path / "s.zarr", [1, 2])
    dataset = open_dataset(path, partial=True)

    made(path)

    assert dataset.sizes["batch"] == N - 2 * CHUNK
    assert (dataset.x.values == open_dataset(path).x.values[dataset.sample.values]).all()


def test_a_chunk_of_which_an_extension_lacks_the_end_is_not_there(tmp_path: Path) -> None:
    path = made(tmp_path / "s.zarr")
    dasksim.extend(path, SIMULATOR, 2 * N, part=(2, 3), scheduler="synchronous")

    dataset = open_dataset(path, partial=True)

    first = N // CHUNK * CHUNK
    assert not np.isin(np.arange(first, first + CHUNK), dataset.sample.values).any()
    assert not dataset.x.isnull().any()
    assert np.isin(np.arange(first), dataset.sample.values).all()


def test_a_store_without_a_complete_chunk_is_refused(tmp_path: Path) -> None:
    path = with_gaps(tmp_path / "s.zarr", list(range(7)))

    with pytest.raises(IncompleteStoreError, match=r"no chunk of the store at '.*s\.zarr' is complete; wait for the f"):
        open_dataset(path, partial=True)


def test_what_is_missing_is_refused_with_the_way_to_what_is_there(tmp_path: Path) -> None:
    path = with_gaps(tmp_path / "s.zarr", [2])

    with pytest.raises(IncompleteStoreError, match=r"has 6 of 7 chunks; .*open_dataset\(store, partial=True\)"):
        open_dataset(path)
    with pytest.raises(ArgumentTypeError, match="partial must be True or False; got 'yes'"):
        open_dataset(path, partial="yes")  # type: ignore[arg-type]


def test_a_missing_shard_of_a_complete_chunk_is_an_error(tmp_path: Path) -> None:
    path = with_gaps(tmp_path / "s.zarr", [0])
    (path / "x" / "c" / "1" / "0").unlink()

    with pytest.raises(dasksim.StoreError, match=r"chunk 1: 'x' has no shard"):
        open_dataset(path, partial=True)


def test_a_variable_named_sample_is_left_as_it_is(tmp_path: Path) -> None:
    generate(make_simulator(lambda rng: {"sample": rng.normal()}), tmp_path / "s.zarr", 10, seed=1, **HOW)

    dataset = open_dataset(tmp_path / "s.zarr", partial=True)

    assert not dataset.coords
    assert dataset.sample.dtype == np.float64


def test_a_partial_dataset_tells_the_acceptance(tmp_path: Path) -> None:
    half = dasksim.RejectionSimulator(SIMULATOR, lambda theta: theta > 0)
    generate(half, tmp_path / "s.zarr", N, seed=1, **HOW)
    receipt_files(tmp_path / "s.zarr")[0].unlink()

    assert 0.3 < open_dataset(tmp_path / "s.zarr", partial=True).acceptance_rate < 0.7


def to_zarr(dataset: xr.Dataset, path: Path) -> xr.Dataset:
    dataset.to_zarr(path, consolidated=False, zarr_format=3)
    copy: xr.Dataset = xr.open_zarr(path, consolidated=False)
    return copy


def to_netcdf(dataset: xr.Dataset, path: Path) -> xr.Dataset:
    pytest.importorskip("scipy")
    dataset.to_netcdf(path, engine="scipy")
    return xr.open_dataset(path, engine="scipy")


CHANGES: dict[str, Callable[[xr.Dataset], xr.Dataset]] = {
    "as it is": lambda ds: ds,
    "smaller chunks": lambda ds: ds.chunk(batch=5),
    "larger chunks": lambda ds: ds.chunk(batch=3 * CHUNK),
    "one chunk": lambda ds: ds.chunk(batch=-1),
    "slices": lambda ds: ds.isel(batch=slice(3, 71, 2)).chunk(batch=7),
    "filtered": lambda ds: ds.isel(batch=np.flatnonzero(ds.flag.values)).chunk(batch=20),
    "joined": lambda ds: xr.concat([ds, ds.isel(batch=slice(10))], "batch").chunk(batch=30),
    "chunks of features": lambda ds: ds.chunk(batch=CHUNK, time=2),
}


@pytest.mark.parametrize("write", [to_zarr, to_netcdf])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("partial", [False, True])
def test_datasets_of_stores_are_changed_and_written_again(
    change: Callable[[xr.Dataset], xr.Dataset],
    write: Callable[[xr.Dataset, Path], xr.Dataset],
    partial: bool,
    tmp_path: Path,
) -> None:
    dataset = change(open_dataset(made(tmp_path / "s.zarr"), partial=partial))

    with write(dataset, tmp_path / "copy") as copy:
        assert copy.equals(dataset)
        assert all(copy[name].dtype.kind == dataset[name].dtype.kind for name in dataset)


def test_stores_are_joined_and_written_again(tmp_path: Path) -> None:
    first, second = (open_dataset(made(tmp_path / f"{seed}.zarr", seed)) for seed in (1, 2))

    joined = xr.concat([first, second], "batch").chunk(batch=CHUNK)

    copy = to_zarr(joined, tmp_path / "joined.zarr")
    assert copy.sizes["batch"] == 2 * N
    assert (copy.theta.values == np.concatenate([first.theta, second.theta])).all()


def test_nothing_of_the_layout_on_disk_is_left(tmp_path: Path) -> None:
    dataset = open_dataset(made(tmp_path / "s.zarr"))

    assert not any(variable.encoding for variable in dataset.variables.values())
    assert zarr.open_group(tmp_path / "s.zarr", mode="r")["x"].shards == (CHUNK, 3)  # type: ignore[union-attr]


def test_derived_variables_and_memory_are_partial_too() -> None:
    store = made(MemoryStore())
    dasksim.derive(store, lambda x: {"mean": x.mean()}, scheduler="synchronous")
    place = Store.at(store)
    place.forget(place.record(), [1])

    dataset = open_dataset(store, partial=True)

    np.testing.assert_allclose(dataset["mean"], dataset.x.mean("time"))
    assert dataset.sizes["batch"] == N - CHUNK


def test_a_dataset_says_how_it_was_made_without_what_it_shows_itself(tmp_path: Path) -> None:
    simulator = dasksim.make_simulator(
        lambda rng: {"x": rng.normal(size=200)}, dims={"x": "time"}, coords={"time": np.linspace(0, 1, 200)}
    )
    ds = dasksim.generate(simulator, tmp_path / "s.zarr", 10, seed=1, scheduler="synchronous", progress=False)

    assert len(ds.attrs["dasksim"]) < 1000
    assert "null" not in ds.attrs["dasksim"]
    assert ds.dasksim.provenance["seed"] == 1
    assert [stage["outputs"] for stage in ds.dasksim.provenance["stages"]] == [["x"]]
