"""Stores of older versions, whose records and receipts say less, are opened, checked, gone on with and extended."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from bits import as_if_older, bits, chunk_files, file_bytes, flip, receipt_files
from zoo.plain import ALONE, OPTIONS, fails_sometimes, simulator

from dasksim import extend, generate, make_simulator, open_dataset, replay, status, verify


def as_older(path: Path) -> None:
    """Make a store what an older version would have written: receipts say less, and there is no list of failures."""
    root = json.loads((path / "zarr.json").read_text())
    record = json.loads(root["attributes"]["dasksim"])
    for key in ("on_error", "on_nonfinite", "created"):
        del record[key]
    root["attributes"]["dasksim"] = json.dumps(record)
    gathered = root.get("consolidated_metadata", {}).get("metadata", {})
    (path / "zarr.json").write_text(json.dumps({**root, "consolidated_metadata": None} if gathered else root))
    as_if_older(path)
    folder = path / "_dasksim"
    shutil.rmtree(folder / "failures")
    rows = np.asarray(zarr.open_array(folder / "receipts", mode="r")[:])
    fields = list(json.loads((folder / "receipts" / "zarr.json").read_text())["attributes"]["fields"])
    present = set(receipt_files(path))
    shutil.rmtree(folder / "receipts")
    kept = [i for i, field in enumerate(fields) if field not in ("failed", "accepted", "digest:valid")]
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
def test_store_of_an_older_version_that_a_failure_stopped_is_finished(on_error: str, tmp_path: Path) -> None:
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
