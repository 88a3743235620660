"""What others do to a store: copies of it, variables beside its own, and attributes set by hand."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from bits import array_bytes, as_if_older, bits, file_bytes
from variants import quick

import dasksim
from dasksim import Simulator, StoreError, derive, extend, generate, make_simulator, open_dataset, status, verify
from dasksim.loaders import batches

N = 20
OPTIONS: dict[str, Any] = {"seed": 1, "sub_batch_size": 4, "chunk_size": 8, "scheduler": "synchronous"}
ALONE: dict[str, Any] = {"scheduler": "synchronous"}


def simulator() -> Simulator:
    return make_simulator(
        [lambda rng: {"theta": rng.normal()}, lambda theta, rng: {"x": theta + rng.normal(size=3)}],
        dims={"x": ["time"]},
        coords={"time": [0.5, 1.0, 1.5]},
    )


def half(x: Any) -> dict[str, Any]:
    return {"half": x / 2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "s.zarr"
    generate(simulator(), path, N, **OPTIONS)
    return path


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "s.zarr"))


def to_zarr(dataset: xr.Dataset, path: Path, **how: Any) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata")
        dataset.to_zarr(path, **how)


# Copies

COPIES: dict[str, Callable[[xr.Dataset, Path], Any]] = {
    "whole": lambda ds, path: to_zarr(ds, path),
    "not consolidated": lambda ds, path: to_zarr(ds, path, consolidated=False, zarr_format=3),
    "in memory": lambda ds, path: to_zarr(ds.load(), path),
    "a variable": lambda ds, path: to_zarr(ds[["theta"]], path),
    "renamed": lambda ds, path: to_zarr(ds.rename(x="y", theta="z"), path),
    "changed": lambda ds, path: to_zarr(ds.assign(x=ds.x.clip(-1, 1)), path),
    "a template": lambda ds, path: to_zarr(ds, path, compute=False),
    "cut": lambda ds, path: to_zarr(ds.isel(batch=slice(4)), path),
    "opened by xarray": lambda ds, path: to_zarr(xr.open_zarr(ds.encoding["source"]), path),
}

CALLS: dict[str, Callable[[Path], Any]] = {
    "generate": lambda path: generate(simulator(), path, N, **OPTIONS),
    "repair": lambda path: generate(simulator(), path, N, repair=True, **OPTIONS),
    "overwrite": lambda path: generate(simulator(), path, N, overwrite=True, **OPTIONS),
    "part": lambda path: generate(simulator(), path, N, part=(0, 2), **OPTIONS),
    "extend": lambda path: extend(path, simulator(), 30, **ALONE),
    "derive": lambda path: derive(path, half, **ALONE),
    "open_dataset": open_dataset,
    "status": status,
    "verify": verify,
    "replay": lambda path: dasksim.replay(path, simulator(), 3),
}

READING: dict[str, Callable[[Path], Any]] = {
    "batches": lambda path: list(batches(path, 4)),
    "report": lambda path: dasksim.report(path, path.parent / "report.html"),
}


@pytest.mark.parametrize("kind", COPIES)
def test_copy_by_xarray_is_no_store_and_is_left_alone(kind: str, path: Path) -> None:
    copy = path.parent / "mine.zarr"
    dataset = open_dataset(path)
    dataset.encoding["source"] = str(path)
    COPIES[kind](dataset, copy)
    before = file_bytes(copy)
    for call in CALLS.values():
        with pytest.raises(StoreError, match=r"is no store of dasksim but a copy.*xarray\.open_zarr.*another path"):
            call(copy)
    for call in READING.values():
        if kind == "opened by xarray":  # which keeps shards: it may be a store without its receipts
            with pytest.raises(StoreError, match=r"has no receipts.*xarray\.open_zarr"):
                call(copy)
        else:
            assert call(copy)
    assert file_bytes(copy) == before


def test_store_whose_creation_was_cut_off_is_no_copy(path: Path) -> None:
    whole, begun = array_bytes(path), path.parent / "begun.zarr"
    record = json.loads(zarr.open_group(path, mode="r").attrs["dasksim"])  # type: ignore[arg-type]
    begun.mkdir()
    root = {"zarr_format": 3, "node_type": "group", "attributes": {"dasksim": json.dumps(record)}}
    (begun / "zarr.json").write_text(json.dumps(root))
    assert status(begun).n_complete == 0
    for name in ("theta", "x"):  # older versions made the arrays before all else
        (begun / name).mkdir()
        shutil.copy(path / name / "zarr.json", begun / name)
        assert status(begun).n_complete == 0
    generate(simulator(), begun, N, **ALONE)
    assert array_bytes(begun) == whole


def test_copy_of_all_files_is_a_store(path: Path) -> None:
    copy = Path(shutil.copytree(path, path.parent / "copy.zarr"))
    assert verify(copy).is_good
    assert bits(extend(copy, simulator(), 30, **ALONE)) == bits(simulator().sample(30, seed=1, sub_batch_size=4))


# Neighbours


def add_label(path: Path, **how: Any) -> None:
    to_zarr(xr.Dataset({"label": ("batch", np.arange(N))}), path, mode="a", **how)


def set_attributes(path: Path) -> None:
    zarr.open_group(path, mode="r+").attrs.put({"author": "me"})


def write_another_record(path: Path) -> None:
    """Add a variable of another store's dataset, whose record xarray takes along."""
    other = generate(make_simulator(lambda rng: {"label": rng.normal()}), path.parent / "o.zarr", N, **OPTIONS)
    to_zarr(other, path, mode="a")


CHANGES: dict[str, Callable[[Path], Any]] = {
    "variable": add_label,
    "variable, not consolidated": lambda path: add_label(path, consolidated=False),
    "variable of another store": write_another_record,
    "attributes": set_attributes,
    "attribute broken": lambda path: zarr.open_group(path, mode="r+").attrs.update({"dasksim": "{"}),
    "attribute emptied": lambda path: zarr.open_group(path, mode="r+").attrs.update({"dasksim": None}),
}


@pytest.mark.parametrize("kind", quick(CHANGES, "variable", "variable of another store", "attribute broken"))
def test_store_beside_which_others_write_stays_a_store(kind: str, path: Path) -> None:
    expected, told = bits(open_dataset(path)), status(path)
    CHANGES[kind](path)
    label = file_bytes(path / "label")
    assert bits(open_dataset(path)) == expected
    assert json.loads(open_dataset(path).attrs["dasksim"])["seed"] == 1
    assert status(path) == told
    assert verify(path, simulator(), resimulate=2).is_good
    assert sum(len(batch["x"]) for batch in batches(path, 4)) == N
    assert bits(generate(simulator(), path, N, **OPTIONS)) == expected

    derive(path, half, **ALONE)
    again = extend(path, simulator(), 30, **ALONE)
    assert bits(again) == bits(simulator().sample(30, seed=1, sub_batch_size=4))
    assert bits(xr.open_zarr(path)[["x", "theta"]]) == bits(again)
    assert "half" in derive(path, half, **ALONE)
    assert "half" in xr.open_zarr(path)
    assert file_bytes(path / "label") == label
    generate(simulator(), path, N, overwrite=True, **OPTIONS)
    assert bits(open_dataset(path)) == expected
    assert file_bytes(path / "label") == label


def test_neighbour_is_seen_beside_the_store_as_long_as_it_fits(path: Path) -> None:
    add_label(path)
    generate(simulator(), path, N, **OPTIONS)
    assert list(xr.open_zarr(path).data_vars) == ["label", "theta", "x"]
    assert list(open_dataset(path).data_vars) == ["theta", "x"]
    extend(path, simulator(), 30, **ALONE)
    assert list(xr.open_zarr(path).data_vars) == ["theta", "x"]
    assert zarr.open_group(path, mode="r", use_consolidated=False)["label"].shape == (N,)  # type: ignore[union-attr]


def test_attributes_that_others_set_are_kept(path: Path) -> None:
    set_attributes(path)
    extend(path, simulator(), 30, **ALONE)
    assert open_dataset(path).attrs["author"] == "me"
    root = json.loads((path / "zarr.json").read_text())
    assert json.loads(root["attributes"]["dasksim"])["n_samples"] == 30


def test_incomplete_store_goes_on_beside_a_neighbour(path: Path) -> None:
    whole, store = array_bytes(path), path.parent / "part.zarr"
    generate(simulator(), store, N, part=(0, 2), **OPTIONS)
    add_label(store)
    generate(simulator(), store, N, **ALONE)
    found = array_bytes(store)
    assert {name: content for name, content in found.items() if name in whole and name != "zarr.json"} == {
        name: content for name, content in whole.items() if name != "zarr.json"
    }
    assert verify(store).is_good


def test_stale_attributes_do_not_make_a_store_shorter(path: Path) -> None:
    opened = open_dataset(path)
    extend(path, simulator(), 30, **ALONE)
    to_zarr(opened[[]].assign_attrs(opened.attrs), path, mode="a")
    assert json.loads(zarr.open_group(path, mode="r").attrs["dasksim"])["n_samples"] == N  # type: ignore[arg-type]
    assert open_dataset(path).sizes["batch"] == status(path).n_samples == 30


# What a store keeps within


def damaged(content: bytes, place: int) -> bytes:
    flipped = bytearray(content)
    flipped[place] ^= 1 << (place % 7)
    return bytes(flipped)


@pytest.mark.parametrize("step", [131, pytest.param(41, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["_dasksim", "_dasksim/derived/half"])
def test_record_within_that_is_damaged_is_taken_from_the_root(name: str, step: int, path: Path) -> None:
    derive(path, half, **ALONE)
    expected, file = bits(open_dataset(path)), path / name / "zarr.json"
    content = file.read_bytes()
    n_refused = 0
    damages = [damaged(content, place) for place in range(0, len(content), step)]
    for damage in (*damages, b"", b"{}", content[: len(content) // 2]):
        file.write_bytes(damage)
        assert status(path).derived == {"half": 3}
        try:
            assert bits(open_dataset(path)) == expected
        except StoreError:  # it is no document of a group at all, which Zarr needs
            n_refused += 1
    assert n_refused < len(damages)
    file.unlink()
    assert bits(open_dataset(path)) == expected
    generate(simulator(), path, N, repair=True, **OPTIONS)
    derive(path, half, repair=True, **ALONE)
    assert json.loads(file.read_text())["attributes"].keys() == {"dasksim", "crc32c"}
    assert bits(open_dataset(path)) == expected


def test_store_that_keeps_its_record_in_the_root_only_goes_on(path: Path) -> None:
    for name in ("half", "aside"):
        derive(path, lambda x, name=name: {name: x / 2}, **ALONE)
    whole = open_dataset(path)
    expected, order = bits(whole), list(whole)
    as_if_older(path)
    before = file_bytes(path)
    assert list(open_dataset(path)) == order
    generate(simulator(), path, N, **ALONE)  # complete: nothing is written
    assert file_bytes(path) == before
    derive(path, lambda theta: {"above": theta > 0}, **ALONE)
    assert list(open_dataset(path)) == [*order, "above"]
    assert bits(open_dataset(path)[order]) == expected
    derive(path, half, seed=3, overwrite=True, **ALONE)
    assert set(open_dataset(path)) == {*order, "above"}
    assert "crc32c" in (path / "_dasksim" / "zarr.json").read_text()
    assert verify(path).is_good
