"""What reads from the store that a call writes to, or removes, is refused before anything is touched."""

import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import obstore
import pytest
import xarray as xr
import zarr
from bits import bits, file_bytes
from dask.base import optimize
from dask.delayed import delayed
from variants import quick
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore

from dasksim import ArgumentError, Simulator, derive, extend, generate, make_simulator, open_dataset
from dasksim.store._locate import locate

N = 20
OPTIONS: dict[str, Any] = {"seed": 1, "sub_batch_size": 4, "chunk_size": 8, "scheduler": "threads"}
LAZY = r"condition 'theta' is lazy and reads from the store at .*, which this call writes to; give it computed"


def simulator() -> Simulator:
    stages = [lambda rng: {"theta": rng.normal()}, lambda theta, rng: {"x": theta + rng.normal()}]
    return make_simulator(stages, expand_outputs=False)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    generate(simulator(), "s.zarr", N, **OPTIONS)
    return tmp_path / "s.zarr"


def load(path: Any) -> Any:
    return zarr.open_array(path, mode="r")[:]


def added_to_zeros(array: xr.DataArray) -> Any:
    return da.zeros(N).map_blocks(lambda block: block + array.values, dtype=float)


def linked(path: Path) -> Path:
    (path.parent / "link").symlink_to(path)
    return path.parent / "link"


def from_obstore(path: Path) -> Any:
    store = ObjectStore(obstore.store.LocalStore(str(path)), read_only=True)
    return xr.open_zarr(store, consolidated=False).theta


#: Lazy arrays that are read from a store when they are computed.
READERS: dict[str, Callable[[Path], Any]] = {
    "open_dataset": lambda path: open_dataset(path).theta,
    "its Dask array": lambda path: open_dataset(path).theta.data,
    "open_zarr": lambda path: xr.open_zarr(path).theta,
    "open_zarr in other chunks": lambda path: xr.open_zarr(path, chunks={"batch": 7}).theta,
    "relative path": lambda path: xr.open_zarr("s.zarr").theta,
    "URL": lambda path: xr.open_zarr(f"file://{path}").theta,
    "link": lambda path: xr.open_zarr(linked(path)).theta,
    "LocalStore": lambda path: xr.open_zarr(LocalStore(path)).theta,
    "fsspec": lambda path: xr.open_zarr(FsspecStore.from_url(f"file://{path}", read_only=True)).theta,
    "obstore": from_obstore,
    "open_mfdataset": lambda path: xr.open_mfdataset([str(path)], engine="zarr").theta,
    "from_zarr": lambda path: da.from_zarr(path, component="theta"),
    "from_zarr of the array": lambda path: da.from_zarr(str(path / "theta")),
    "from_array": lambda path: da.from_array(zarr.open_array(path / "theta"), chunks=4),
    "array of a folder above": lambda path: da.from_array(zarr.open_group(path.parent)["s.zarr/theta"]),
    "expression": lambda path: (open_dataset(path).theta[::-1] * 2 + 1).data.rechunk(3),
    "renamed": lambda path: open_dataset(path).rename(theta="t").t.data.map_blocks(np.sort),
    "concatenated": lambda path: da.concatenate([da.zeros(4), open_dataset(path).theta.data[4:]]),
    "optimized": lambda path: optimize(open_dataset(path).theta.data + 1)[0],
    "mask": lambda path: da.where(open_dataset(path).x.data > 0, da.zeros(N), 1.0),
    "delayed": lambda path: da.from_delayed(delayed(load)(str(path / "theta")), (N,), float),
    "delayed by Path": lambda path: da.from_delayed(delayed(load)(Path("s.zarr/theta")), (N,), float),
    "closure": lambda path: added_to_zeros(open_dataset(path).theta),
    "sampled with its data": lambda path: simulator().sample(N, seed=1, theta=open_dataset(path).theta).theta,
}


@pytest.mark.parametrize(
    "kind",
    quick(
        READERS,
        *("open_dataset", "relative path", "URL", "link", "fsspec", "obstore", "from_zarr of the array"),
        *("array of a folder above", "concatenated", "delayed by Path", "closure", "sampled with its data"),
    ),
)
def test_condition_that_reads_the_store_it_is_written_to_is_refused(kind: str, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theta = READERS[kind](path)
    before = file_bytes(path)
    given: dict[str, Any] = {"conditions": {"theta": theta}, **OPTIONS}
    for how in ({"overwrite": True}, {"repair": True}, {"part": (0, 2)}):
        with pytest.raises(ArgumentError, match=LAZY):
            generate(simulator(), path, N, **given, **how)
    more = da.concatenate([getattr(theta, "data", theta), da.zeros(10)])
    with pytest.raises(ArgumentError, match=LAZY):
        extend(path, simulator(), N + 10, conditions={"theta": more}, scheduler="threads")
    assert file_bytes(path) == before

    values = np.asarray(theta)
    made = generate(simulator(), path, N, overwrite=True, conditions={"theta": values}, **OPTIONS)
    np.testing.assert_array_equal(made.theta, values)
    assert np.isfinite(made.x).all()


def other_store(path: Path) -> Any:
    generate(simulator(), path.parent / "s.zarr2", N, **OPTIONS)
    return open_dataset(path.parent / "s.zarr2").theta


#: Lazy arrays that are read from elsewhere.
OTHERS: dict[str, Callable[[Path], Any]] = {
    "another store": other_store,
    "loaded": lambda path: open_dataset(path).theta.load(),
    "loaded and chunked": lambda path: open_dataset(path).theta.load().chunk(batch=4),
    "not chunked": lambda path: xr.open_zarr(path, chunks=None).theta,
    "persisted": lambda path: open_dataset(path).theta.persist(),
    "made": lambda path: da.arange(float(N), chunks=4),
    "sampled": lambda path: simulator().sample(N, seed=5).theta,
    "words of its name": lambda path: da.zeros(N).map_blocks(lambda b, word: b + len(word), word="t.zarr", dtype=float),
    "in memory": lambda path: xr.open_zarr(copied(path)).theta,
}


def copied(path: Path) -> MemoryStore:
    store = MemoryStore()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        open_dataset(path).to_zarr(store)
    return store


@pytest.mark.parametrize(
    "kind", quick(OTHERS, "another store", "loaded and chunked", "persisted", "sampled", "in memory")
)
def test_condition_from_elsewhere_replaces_a_store(kind: str, path: Path) -> None:
    theta = OTHERS[kind](path)
    values = np.asarray(theta)
    made = generate(simulator(), path, N, overwrite=True, conditions={"theta": theta}, **OPTIONS)
    np.testing.assert_array_equal(made.theta, values)


def test_condition_on_a_cluster_that_reads_the_store_is_refused(path: Path, two_workers: Any) -> None:
    before, theta = file_bytes(path), open_dataset(path).theta
    options = {**OPTIONS, "scheduler": two_workers}
    with pytest.raises(ArgumentError, match=LAZY):
        generate(simulator(), path, N, overwrite=True, conditions={"theta": theta}, **options)
    assert file_bytes(path) == before


STORES: dict[str, Callable[[], Any]] = {
    "MemoryStore": MemoryStore,
    "fsspec": lambda: FsspecStore.from_url("memory://own/s.zarr"),
    "URL": lambda: "memory://own/other.zarr",
    "obstore": lambda: ObjectStore(obstore.store.MemoryStore()),
}


@pytest.mark.parametrize("kind", quick(STORES, "MemoryStore", "URL"))
def test_condition_that_reads_a_store_in_memory_is_refused(kind: str) -> None:
    store = STORES[kind]()
    whole = bits(generate(simulator(), store, N, **OPTIONS))
    for theta in (open_dataset(store).theta, xr.open_zarr(locate(store).store, consolidated=False).theta + 1):
        with pytest.raises(ArgumentError, match=LAZY):
            generate(simulator(), store, N, overwrite=True, conditions={"theta": theta}, **OPTIONS)
    assert bits(open_dataset(store)) == whole
    other = STORES[kind]() if kind in ("MemoryStore", "obstore") else f"memory://own/{kind}.further"
    generate(simulator(), other, N, **OPTIONS)
    theta = open_dataset(store).theta
    made = generate(simulator(), other, N, overwrite=True, conditions={"theta": theta}, **OPTIONS)
    np.testing.assert_array_equal(made.theta, theta)


def test_what_was_read_from_a_repository_stays(tmp_path: Path) -> None:
    icechunk = pytest.importorskip("icechunk")
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repo")))
    theta = generate(simulator(), repository, N, **OPTIONS).theta
    values = theta.values
    made = generate(simulator(), repository, N, overwrite=True, conditions={"theta": theta}, **{**OPTIONS, "seed": 2})
    np.testing.assert_array_equal(made.theta, values)
    assert np.isfinite(made.x).all()

    session = repository.writable_session("main")
    theta = open_dataset(session).theta
    with pytest.raises(ArgumentError, match=LAZY):
        generate(simulator(), session, N, overwrite=True, conditions={"theta": theta}, **OPTIONS)


# Functions that keep arrays of the store

KEPT: Any = None
CONFIG: dict[str, Any] = {}


def named_global(rng: np.random.Generator) -> dict[str, Any]:
    return {"theta": float(KEPT.theta[int(rng.integers(N))])}


def from_config(rng: np.random.Generator) -> dict[str, Any]:
    return {"theta": rng.normal() * CONFIG["scale"]}


class Resampler:
    def __init__(self, kept: Any) -> None:
        self.kept = kept

    def __call__(self, rng: np.random.Generator) -> dict[str, Any]:
        return {"theta": float(self.kept[int(rng.integers(N))])}


FUNCTIONS: dict[str, Callable[[xr.Dataset], Any]] = {
    "closure": lambda ds: lambda rng: {"theta": float(ds.theta[int(rng.integers(N))])},
    "default": lambda ds: lambda rng, kept=ds.theta: {"theta": float(kept[int(rng.integers(N))])},
    "object": lambda ds: Resampler(ds.theta),
    "method": lambda ds: types.MethodType(Resampler.__call__, Resampler(ds.theta)),
    "global": lambda ds: named_global,
    "array of Zarr": lambda ds: Resampler(zarr.open_array("s.zarr/theta", mode="r")),
}


@pytest.mark.parametrize("kind", quick(FUNCTIONS, "closure", "default", "object", "global"))
def test_function_that_keeps_the_store_is_not_run_after_its_removal(
    kind: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(path)
    monkeypatch.setitem(globals(), "KEPT", dataset)
    made = make_simulator(FUNCTIONS[kind](dataset))
    before = file_bytes(path)
    with pytest.raises(ArgumentError, match=r"a function keeps .*of the store at .*which overwrite=True removes"):
        generate(made, path, N, overwrite=True, **OPTIONS)
    assert file_bytes(path) == before
    assert np.isin(generate(made, path.parent / "new.zarr", N, **OPTIONS).theta, dataset.theta).all()


def test_function_whose_settings_name_the_store_is_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "CONFIG", {"scale": 2.0, "out": str(path), "folder": path})
    made = generate(make_simulator(from_config), path, N, overwrite=True, **OPTIONS)
    assert np.isfinite(made.theta).all()


def test_derivation_that_takes_what_it_replaces_is_refused(path: Path) -> None:
    derive(path, lambda theta: {"y": theta + 1.0}, scheduler="threads")
    derive(path, lambda y: {"z": y * 2}, scheduler="threads")
    before, dataset = file_bytes(path), open_dataset(path)
    with pytest.raises(ArgumentError, match="the function takes 'y', which overwrite=True removes"):
        derive(path, lambda y: {"y": y + 1}, overwrite=True, scheduler="threads")
    with pytest.raises(ArgumentError, match="the function takes 'z', which overwrite=True removes"):
        derive(path, lambda z: {"y": z + 1}, overwrite=True, scheduler="threads")
    with pytest.raises(ArgumentError, match="a function keeps 'y', 'z' of the store at"):
        derive(path, lambda theta: {"y": theta + dataset.y[0].values}, overwrite=True, scheduler="threads")
    assert file_bytes(path) == before

    first = dataset.x.isel(batch=0)  # it stays where it is
    made = derive(path, lambda theta: {"y": theta + float(first)}, overwrite=True, scheduler="threads")
    assert "z" not in made
    np.testing.assert_array_equal(made.y, dataset.theta + float(first))


def test_home_of_the_user_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    made = generate(simulator(), "~/s.zarr", N, **OPTIONS)
    assert [file.name for file in tmp_path.iterdir()] == ["s.zarr"]
    assert bits(open_dataset(Path("~/s.zarr"))) == bits(made)
    with pytest.raises(ArgumentError, match="names the home of a user that is not known"):
        open_dataset("~nobody-of-this-name/s.zarr")
    generate(simulator(), "./~", N, **OPTIONS)
    assert (tmp_path / "~" / "zarr.json").exists()
