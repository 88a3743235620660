"""What lies in a store, what is read back, and what is said of it."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from bits import array_bytes, bits, change_record, chunk_files, file_bytes, receipt_files
from hypothesis import given
from hypothesis import strategies as st

from dasksim import IncompleteStoreError, Simulator, StoreError, generate, make_simulator, open_dataset, status
from dasksim.store._layout import choose_inner_rows

OPTIONS: dict[str, Any] = {"seed": 1, "sub_batch_size": 4, "chunk_size": 8, "scheduler": "synchronous"}


def simulator(**options: Any) -> Simulator:
    def prior(rng: np.random.Generator) -> dict[str, Any]:
        return {"theta": rng.normal(size=2), "k": int(rng.integers(9)), "flag": bool(rng.integers(2))}

    def likelihood(theta: Any, rng: np.random.Generator) -> dict[str, Any]:
        return {"x": rng.normal(theta[0], 1.0, size=(3, 2)).astype("float32")}

    return make_simulator([prior, likelihood], **options)


def test_receipt_is_the_only_sign_of_completeness(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(simulator(), path, 20, **OPTIONS)
    before = array_bytes(path)
    receipt_files(path)[1].unlink()
    chunk_files(path, "theta")[1].write_bytes(b"rubbish")
    chunk_files(path, "theta")[2].write_bytes(b"rubbish")
    assert status(path).n_complete == 2
    with pytest.raises(StoreError, match=r"damaged: chunk 2: 'theta' has a shard of 7 bytes, not \d+; .*repair=True"):
        generate(simulator(), path, 20, **OPTIONS)
    after = array_bytes(path)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {str(chunk_files(path, "theta")[2].relative_to(path))}  # it had a receipt, and so was left


def test_digests_in_receipts_are_those_of_the_stored_values(tmp_path: Path) -> None:
    import google_crc32c

    path = tmp_path / "s.zarr"
    dataset = generate(simulator(), path, 20, dtypes={"theta": "float32"}, **OPTIONS).compute()
    receipts = zarr.open_array(path, path="_dasksim/receipts", mode="r")
    fields = list(receipts.attrs["fields"])  # type: ignore[arg-type]
    rows = np.asarray(receipts[:])
    for chunk in range(3):
        part = dataset.isel(batch=slice(8 * chunk, 8 * chunk + 8))
        for name in ("theta", "k", "flag", "x"):
            expected = google_crc32c.value(np.ascontiguousarray(part[name].values).tobytes())
            assert rows[chunk, fields.index(f"digest:{name}")] == expected
        assert rows[chunk, fields.index("complete")] == min(8, 20 - 8 * chunk)
        assert rows[chunk, fields.index("proposals")] == part.sizes["batch"]


def test_store_is_plain_zarr_with_named_dims(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(simulator(dims={"x": ["time", "channel"]}, coords={"channel": ["a", "b"]}), path, 20, **OPTIONS)
    group = zarr.open_group(path, mode="r")
    arrays = dict(group.arrays())
    assert set(arrays) == {"theta", "k", "flag", "x", "channel"}
    assert {name: getattr(array.metadata, "dimension_names", None) for name, array in arrays.items()} == {
        "theta": ("batch", "theta_dim_0"),
        "k": ("batch", "scalar"),
        "flag": ("batch", "scalar"),
        "x": ("batch", "time", "channel"),
        "channel": ("channel",),
    }
    assert {name: str(array.dtype) for name, array in arrays.items() if name != "channel"} == {
        "theta": "float64",
        "k": "int64",
        "flag": "bool",
        "x": "float32",
    }
    assert np.isnan(arrays["theta"].fill_value)
    assert arrays["x"].shards == (8, 3, 2)
    assert arrays["x"].chunks[1:] == (3, 2)


def test_store_holds_no_pickle(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    times = np.array(["2025-01-01", "2025-01-02", "2025-01-03"], "datetime64[ns]")
    coords = {"time": times, "channel": ["a", "b"]}
    generate(simulator(dims={"x": ["time", "channel"]}, coords=coords), path, 20, **OPTIONS)
    documents = [json.loads(content) for name, content in file_bytes(path).items() if name.endswith("zarr.json")]
    assert len(documents) == 12  # two of them an audit's
    for document in documents:
        text = json.dumps(document)
        assert "pickle" not in text
        assert "object" not in str(document.get("data_type"))


def test_every_data_file_has_a_checksum(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(simulator(), path, 20, **OPTIONS)
    for name in ("theta", "k", "flag", "x"):
        file = chunk_files(path, name)[1]
        content = bytearray(file.read_bytes())
        content[5] ^= 1
        file.write_bytes(content)
        with pytest.raises(Exception, match=r"(?i)checksum|crc32c"):
            open_dataset(path)[name].compute(scheduler="synchronous")


def test_xarray_opens_the_store_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    wanted = bits(generate(simulator(), path, 20, **OPTIONS))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = xr.open_zarr(path)
    assert bits(opened) == wanted
    assert set(opened.variables) == {"theta", "k", "flag", "x"}
    assert json.loads(opened.attrs["dasksim"])["seed"] == 1


@pytest.mark.parametrize(
    "values",
    [
        np.array([0.5, 1.5, np.pi]),
        np.array([3, 1, 2]),
        ["alpha", "Beta", "γάμμα"],
        np.array(["2025-01-01", "2025-06-30", "1969-12-31T23:59:59"], "datetime64[ns]"),
        np.array([1, 2, 10**9], "timedelta64[s]"),
        np.array([True, False, True]),
    ],
    ids=["floats", "integers", "strings", "datetimes", "timedeltas", "booleans"],
)
def test_coordinates_return_as_they_were(values: Any, tmp_path: Path) -> None:
    made = simulator(dims={"x": ["time", "channel"]}, coords={"time": values})
    sampled = made.sample(20, seed=1, sub_batch_size=4)
    stored = generate(made, tmp_path / "s.zarr", 20, **OPTIONS)
    np.testing.assert_array_equal(stored.time.values, sampled.time.values)
    assert stored.time.dtype.kind == sampled.time.dtype.kind or stored.time.dtype.kind in "OT"
    np.testing.assert_array_equal(xr.open_zarr(tmp_path / "s.zarr").time.values, np.asarray(values))
    np.testing.assert_array_equal(generate(made, tmp_path / "s.zarr", 20, **OPTIONS).time.values, sampled.time.values)


def test_coordinates_cut_off_by_a_kill_are_written_again(tmp_path: Path) -> None:
    made = simulator(dims={"x": ["time", "channel"]}, coords={"time": [0.5, 1.5, 2.5], "channel": ["a", "b"]})
    path = tmp_path / "s.zarr"
    generate(made, path, 20, **OPTIONS)
    before = array_bytes(path)
    # a kill while the store is created leaves what came before it: the array of coordinates, but not its values
    for file in receipt_files(path).values():
        file.unlink()
    (path / "_dasksim" / "receipts" / "zarr.json").unlink()
    (path / "time" / "c" / "0").unlink()
    again = generate(made, path, 20, **OPTIONS)
    assert again.time.values.tolist() == [0.5, 1.5, 2.5]
    assert array_bytes(path) == before


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_variables_of_only_the_fill_value_are_stored(value: float, tmp_path: Path) -> None:
    def constant(rng: np.random.Generator) -> dict[str, Any]:
        return {"f": np.full(3, value), "i": 0, "b": False}

    path = tmp_path / "s.zarr"
    dataset = generate(make_simulator(constant), path, 20, **OPTIONS)
    for name in ("f", "i", "b"):
        assert sorted(chunk_files(path, name)) == [0, 1, 2]
    assert status(path).is_complete
    np.testing.assert_array_equal(dataset.f, np.full((20, 3), value))
    assert not dataset.i.any()
    assert not dataset.b.any()


@pytest.mark.parametrize("name", ["with spaces.zarr", "données 数据 é.zarr", "no_suffix", "a/b/c/deep.zarr"])
def test_path_can_have_spaces_and_any_letters(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    wanted = bits(generate(simulator(), path, 20, **OPTIONS))
    assert path.is_dir()
    assert bits(open_dataset(str(path))) == bits(open_dataset(path)) == bits(xr.open_zarr(path)) == wanted
    assert bits(generate(simulator(), str(path), 20, **OPTIONS)) == wanted


def test_path_is_relative_to_the_folder_where_generate_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    generate(simulator(), "here.zarr", 20, **OPTIONS)
    assert status("here.zarr").is_complete
    assert (tmp_path / "here.zarr" / "zarr.json").is_file()


def test_status_says_how_far_a_store_is(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(simulator(), path, 20, **OPTIONS)
    found = status(path)
    assert (found.n_samples, found.n_complete_samples, found.n_chunks, found.n_complete) == (20, 20, 3, 3)
    assert (found.seed, found.sub_batch_size, found.chunk_size) == (1, 4, 8)
    assert found.is_complete
    assert found.seconds > 0
    lines = str(found).splitlines()
    assert lines[0] == f"{path}: complete"
    assert lines[1] == "  samples  20 of 20"
    assert lines[2] == "  chunks   3 of 3 (of 8 samples)"
    assert lines[3] == "  seed     1 (sub-batches of 4 samples)"

    receipt_files(path)[2].unlink()  # the last chunk, which is short
    found = status(path)
    assert (found.n_complete_samples, found.n_complete) == (16, 2)
    assert str(found).splitlines()[0] == (
        f"{path}: incomplete; run generate again with the same arguments to finish it"
    )
    assert "16 of 20" in str(found)


def test_incomplete_store_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(simulator(), path, 20, **OPTIONS)
    receipt_files(path)[0].unlink()
    with pytest.raises(IncompleteStoreError, match=r"s\.zarr' has 2 of 3 chunks; run generate again with the same arg"):
        open_dataset(path)


@pytest.mark.parametrize("read", [open_dataset, status])
def test_what_is_no_store_is_said_to_be_none(read: Any, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no store at '.*nothing\.zarr'"):
        read(tmp_path / "nothing.zarr")
    (tmp_path / "file").write_text("hello")
    with pytest.raises(StoreError, match=r"'.*file' is a file, not a store"):
        read(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "photo.jpg").write_text("hello")
    with pytest.raises(StoreError, match=r"'.*folder' is not empty and is no store made by dasksim"):
        read(tmp_path / "folder")
    xr.Dataset({"x": ("batch", np.arange(3))}).to_zarr(tmp_path / "foreign", consolidated=False, zarr_format=3)
    with pytest.raises(StoreError, match=r"'.*foreign' is not empty and is no store made by dasksim"):
        read(tmp_path / "foreign")


def test_dataset_written_by_xarray_is_no_store(tmp_path: Path) -> None:
    simulator().sample(20, seed=1).to_zarr(tmp_path / "x.zarr", consolidated=False, zarr_format=3)
    with pytest.raises(StoreError, match=r"is no store made by dasksim\.generate"):
        open_dataset(tmp_path / "x.zarr")


def test_store_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(simulator(), path, 20, **OPTIONS)
    change_record(path, lambda record: record.update(format=99))
    with pytest.raises(StoreError, match=r"has format 99, this dasksim knows up to 1; upgrade it"):
        open_dataset(path)


def test_further_batch_axes_are_stored(tmp_path: Path) -> None:
    dataset = generate(simulator(), tmp_path / "s.zarr", (20, 3), **OPTIONS)
    assert dataset.x.dims == ("batch", "batch_1", "x_dim_0", "x_dim_1")
    assert dataset.x.shape == (20, 3, 3, 2)
    assert bits(dataset) == bits(simulator().sample((20, 3), seed=1, sub_batch_size=4))


def test_opened_dataset_has_one_dask_chunk_a_chunk(tmp_path: Path) -> None:
    dataset = generate(simulator(), tmp_path / "s.zarr", 20, **OPTIONS)
    assert dict(dataset.chunks)["batch"] == (8, 8, 4)
    assert list(dataset.data_vars) == ["theta", "k", "flag", "x"]


def test_opened_dataset_is_read_only(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    generate(simulator(), path, 20, **OPTIONS)
    before = file_bytes(path)
    open_dataset(path).compute()
    status(path)
    assert file_bytes(path) == before


@given(st.integers(1, 2000), st.integers(1, 60), st.integers(0, 10**7))
def test_inner_rows_divide_the_chunk(sub_batch_size: int, sub_batches: int, row_bytes: int) -> None:
    chunk_size = sub_batch_size * sub_batches
    inner = choose_inner_rows(chunk_size, sub_batch_size, row_bytes)
    assert 1 <= inner <= chunk_size
    assert chunk_size % inner == 0
    assert inner * row_bytes <= 2**22 or inner == 1
