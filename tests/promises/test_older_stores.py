"""Stores of older versions, whose records and receipts say less, are opened, checked, gone on with and extended."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from bits import as_if_older, bits, chunk_files, file_bytes, flip, receipt_files
from zoo.plain import ALONE, OPTIONS, fails_sometimes, simulator

from dasksim import Simulator, extend, generate, make_simulator, open_dataset, replay, status, verify


def as_older(path: Path) -> None:
    """Make a store what an older version would have written: receipts say less, and there is no list of failures."""
    root = json.loads((path / "zarr.json").read_text())
    record = json.loads(root["attributes"]["dasksim"])
    for key in ("on_error", "on_nonfinite", "created", "labels"):
        del record[key]
    root["attributes"]["dasksim"] = json.dumps(record)
    gathered = root.get("consolidated_metadata", {}).get("metadata", {})
    (path / "zarr.json").write_text(json.dumps({**root, "consolidated_metadata": None} if gathered else root))
    as_if_older(path)
    shutil.rmtree(path / "_dasksim" / "failures")
    forget_fields(path, {"failed", "accepted", "digest:valid"})


def forget_fields(path: Path, forgotten: set[str]) -> None:
    """Write receipts again that lack some fields."""
    folder = path / "_dasksim"
    rows = np.asarray(zarr.open_array(folder / "receipts", mode="r")[:])
    fields = list(json.loads((folder / "receipts" / "zarr.json").read_text())["attributes"]["fields"])
    present = set(receipt_files(path))
    shutil.rmtree(folder / "receipts")
    kept = [i for i, field in enumerate(fields) if field not in forgotten]
    array = zarr.create_array(
        folder / "receipts", shape=(len(rows), len(kept)), dtype="uint64", chunks=(1, len(kept)), compressors=None,
        fill_value=0, dimension_names=("chunk", "field"), chunk_key_encoding={"name": "default", "separator": "."},
        attributes={"fields": [fields[i] for i in kept]},
    )  # fmt: skip
    for chunk in present:
        array[chunk] = np.where(np.array(kept) == 0, 1, rows[chunk, kept])


@pytest.fixture
def older(tmp_path: Path) -> Path:
    path = tmp_path / "s.zarr"
    generate(simulator(), path, 10, **OPTIONS)
    as_older(path)
    return path


def test_store_of_an_older_version_is_opened_and_checked(older: Path) -> None:
    before = file_bytes(older)
    found = status(older)
    assert (found.is_complete, found.n_complete_samples, found.n_proposals, found.n_failed) == (True, 10, 10, 0)
    assert bits(open_dataset(older)) == bits(simulator().sample(10, seed=1, sub_batch_size=2))
    assert verify(older, simulator(), resimulate=3).is_good
    assert replay(older, simulator(), 7).is_stored
    assert file_bytes(older) == before


def test_store_of_an_older_version_is_gone_on_with(older: Path) -> None:
    receipt_files(older)[1].unlink()
    assert status(older).missing == ((1, 1),)
    dataset = generate(simulator(), older, 10, **OPTIONS)
    assert bits(dataset) == bits(simulator().sample(10, seed=1, sub_batch_size=2))
    assert verify(older, simulator(), resimulate=3).is_good
    assert status(older).failures == ()


@pytest.mark.parametrize("n", [11, 12, 21])
def test_store_of_an_older_version_is_extended(n: int, older: Path) -> None:
    dataset = extend(older, simulator(), n, **ALONE)
    assert bits(dataset) == bits(simulator().sample(n, seed=1, sub_batch_size=2))
    assert status(older).is_complete
    assert status(older).n_complete_samples == n
    assert verify(older, simulator(), resimulate=9).is_good


@pytest.mark.parametrize("on_error", ["mask", "redraw"])
def test_store_of_an_older_version_that_a_failure_stopped_is_finished(on_error: Any, tmp_path: Path) -> None:
    path, simulated = tmp_path / "s.zarr", make_simulator(fails_sometimes)
    generate(simulated, path, 20, part=(0, 1), on_error=on_error, **OPTIONS)
    expected, failed = bits(open_dataset(path)), {f.sample // 4 for f in status(path).failures}
    shutil.rmtree(path)
    with pytest.raises(ValueError, match="too small"):
        generate(simulated, path, 20, **OPTIONS)
    as_older(path)
    generate(simulated, path, 20, on_error=on_error, **ALONE)
    assert failed
    assert bits(open_dataset(path)) == expected
    assert status(path).n_failed > 0
    assert verify(path, simulated, resimulate=5).is_good
    if on_error == "mask":
        flip(chunk_files(path, "valid")[4], 0.1)
        assert not verify(path).is_good


def labelled(*, is_older: bool) -> Simulator:
    def prior(rng: np.random.Generator) -> dict[str, Any]:
        return {"a": rng.normal(), "b": rng.normal()}

    def simulate(a: float, rng: np.random.Generator) -> dict[str, Any]:
        n = int(rng.integers(1, 4))
        return {"x": xr.DataArray(a + rng.normal(size=2), dims=["k"], coords={"k": [1, 2]}), "y": rng.normal(size=n)}

    attrs = None if is_older else {"a": {"units": "m"}}
    return make_simulator([prior, simulate], attrs=attrs, max_sizes={"y_dim_0": 3})


def test_labels_of_an_older_version_stay(tmp_path: Path) -> None:
    """Names of dims that are others now, and what a simulator says of itself now, change no older store."""
    path, whole = tmp_path / "s.zarr", tmp_path / "whole.zarr"
    options: dict[str, Any] = {"seed": 1, "sub_batch_size": 5, "chunk_size": 10, "scheduler": "synchronous"}
    new = generate(labelled(is_older=False), whole, 30, **options)
    assert new.a.dims == new.b.dims == ("batch", "scalar")
    generate(labelled(is_older=True), path, 20, **options)
    make_unlabelled(path)

    for stored in (
        open_dataset(path),
        generate(labelled(is_older=False), path, 20, **options),
        extend(path, labelled(is_older=False), 30, scheduler="synchronous"),
        generate(labelled(is_older=False), path, 30, **options),
    ):
        assert stored.a.dims == ("batch", "a_dim_0")
        assert stored.x.dims == ("batch", "x_dim_0")
        assert list(stored) == ["a", "b", "x", "y"]
        assert not stored.coords
        assert stored.a.attrs == {}
    assert verify(path, labelled(is_older=False), resimulate=3, progress=False).is_good
    for name in ("a", "b", "x", "y"):
        assert np.array_equal(stored[name].values, new[name].values, equal_nan=True)
    replay(path, labelled(is_older=False), sample=25)


def make_unlabelled(path: Path) -> None:
    """Make a store what an older version would have written: dims had names of their variables, and no labels."""
    record = json.loads(json.loads((path / "zarr.json").read_text())["attributes"]["dasksim"])
    del record["labels"], record["variables"]["y_size"]
    record["coords"] = {}
    for name, told in record["variables"].items():
        told["dims"] = ["batch", f"{name}_dim_0"]
        document = json.loads((path / name / "zarr.json").read_text())
        document = {**document, "dimension_names": told["dims"], "attributes": {}}
        (path / name / "zarr.json").write_text(json.dumps(document))
    for name in ("k", "y_size"):
        shutil.rmtree(path / name)
    attributes = {"dasksim": json.dumps(record)}
    (path / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}))
    as_if_older(path)
    fields = json.loads((path / "_dasksim" / "receipts" / "zarr.json").read_text())["attributes"]["fields"]
    forget_fields(path, {field for field in fields if field.endswith(":y_size")})
