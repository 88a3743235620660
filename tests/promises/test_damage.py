"""What is missing, short or otherwise damaged in a store is said, with the way to mend it; nothing is made up."""

import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numcodecs.zstd
import numpy as np
import pytest
import zarr
from bits import bits, chunk_files, receipt_files
from variants import quick
from zarr.storage import MemoryStore, ObjectStore

from dasksim import StoreError, derive, extend, generate, loaders, make_simulator, open_dataset, status, verify
from dasksim.cli import main

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import damage  # type: ignore[import-not-found]  # the fuzz, of which a small part runs here

N = 18  # in chunks of 4: 5 chunks, the last one short
ALONE: dict[str, Any] = {"scheduler": "synchronous"}
OPTIONS: dict[str, Any] = {"seed": 1, "sub_batch_size": 2, "chunk_size": 4, **ALONE}
SIMULATOR = make_simulator(lambda rng: {"k": int(rng.integers(1, 9)), "x": rng.normal(size=3)})
WANTED = bits(SIMULATOR.sample(N, seed=1, sub_batch_size=2))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "s.zarr"
    generate(SIMULATOR, path, N, **OPTIONS)
    return path


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "s.zarr"))


def empty(file: Path) -> None:
    file.write_bytes(b"")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def lengthen(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"x")


def batches(path: Path) -> Any:
    return loaders.batches(path, 2)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


SHARDS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "emptied": (empty, r"has a shard of 0 bytes, not \d+"),
    "cut": (cut, r"has a shard of \d+ bytes, not \d+"),
    "longer": (lengthen, r"has a shard of \d+ bytes, not \d+"),
    "removed": (Path.unlink, "has no shard"),
    "a folder": (replace_by_folder, "has no shard"),
}


@pytest.mark.parametrize("name", quick(["k", "x"], "x"))
@pytest.mark.parametrize("how", SHARDS)
def test_missing_and_short_shards_are_said_by_all_calls(how: str, name: str, path: Path) -> None:
    change, problem = SHARDS[how]
    change(chunk_files(path, name)[3])
    wanted = rf"is damaged: chunk 3: '{name}' {problem}; generate\(\.\.\., repair=True\) makes such chunks again"
    for call in (
        open_dataset,
        lambda path: loaders.batches(path, 2),
        lambda path: loaders.batches(path, 2, partial=True),
    ):
        with pytest.raises(StoreError, match=wanted):
            call(path)
    found = status(path)
    assert list(found.damaged) == [3]
    assert not found.is_complete
    assert found.n_complete == 5
    assert f"  damaged  chunk 3: '{name}' has" in str(found)
    assert "damaged; generate(..., repair=True)" in str(found)
    assert list(verify(path).problems) == [3]
    if how != "a folder":
        assert bits(generate(SIMULATOR, path, N, repair=True, **ALONE)) == WANTED
        assert status(path).is_complete


def test_status_of_a_damaged_store_has_an_exit_code(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(path)]) == 0
    empty(chunk_files(path, "k")[0])
    receipt_files(path)[4].unlink()
    assert main(["status", str(path)]) == 3
    assert "missing  4" in capsys.readouterr().out


def test_receipts_keep_the_bytes_of_each_shard(path: Path) -> None:
    receipts = zarr.open_array(path, path="_dasksim/receipts", mode="r")
    fields = list(receipts.attrs["fields"])  # type: ignore[arg-type]
    for name in ("k", "x"):
        sizes = [chunk_files(path, name)[chunk].stat().st_size for chunk in range(5)]
        assert np.asarray(receipts[:])[:, fields.index(f"bytes:{name}")].tolist() == sizes


def as_before(path: Path) -> None:
    """Make receipts what they were before they kept the bytes of shards."""
    folder = path / "_dasksim" / "receipts"
    document = json.loads((folder / "zarr.json").read_text())
    rows, fields = np.asarray(zarr.open_array(folder, mode="r")[:]), document["attributes"]["fields"]
    kept = [i for i, field in enumerate(fields) if not field.startswith("bytes:")]
    document["attributes"]["fields"] = [fields[i] for i in kept]
    document["shape"][1] = document["chunk_grid"]["configuration"]["chunk_shape"][1] = len(kept)
    (folder / "zarr.json").write_text(json.dumps(document))
    for chunk in receipt_files(path):
        zarr.open_array(folder, mode="r+")[chunk] = rows[chunk, kept]


def test_stores_whose_receipts_say_no_sizes_are_gone_on_with(path: Path) -> None:
    as_before(path)
    receipt_files(path)[4].unlink()
    assert bits(extend(path, SIMULATOR, N + 4, **ALONE)) == bits(SIMULATOR.sample(N + 4, seed=1, sub_batch_size=2))
    assert status(path).is_complete
    assert verify(path, SIMULATOR, resimulate=9).is_good
    chunk_files(path, "k")[1].unlink()
    empty(chunk_files(path, "x")[2])
    assert status(path).damaged == {1: ("'k' has no shard",), 2: ("'x' has a shard of 0 bytes",)}
    with pytest.raises(StoreError, match="chunk 1: 'k' has no shard; chunk 2: 'x' has a shard of 0 bytes; generate"):
        open_dataset(path)


def test_shards_of_derived_variables_are_looked_at(path: Path) -> None:
    def mean(x: Any) -> dict[str, Any]:
        return {"mean": x.mean()}

    derive(path, mean, **ALONE)
    empty(chunk_files(path, "mean")[2])
    assert list(status(path).damaged) == [2]
    for call in (open_dataset, batches):
        with pytest.raises(StoreError, match=r"chunk 2: 'mean' has a shard of 0 .*derive\(\.\.\., repair=True\)"):
            call(path)
    with pytest.raises(StoreError, match=r"derive\(\.\.\., repair=True\)"):
        generate(SIMULATOR, path, N, repair=True, **ALONE)
    assert derive(path, mean, repair=True, **ALONE)["mean"].dims == ("batch",)
    assert status(path).is_complete


@pytest.mark.parametrize("policy", ["mask", "raise"])
def test_a_mask_that_was_never_written_is_not_missed(policy: Any, path: Path) -> None:
    receipt_files(path)[4].unlink()
    generate(SIMULATOR, path, N, on_error=policy, **ALONE)
    assert status(path).damaged == {}
    assert verify(path).is_good
    if policy == "mask":
        chunk_files(path, "valid")[4].unlink()
        assert status(path).damaged == {4: ("'valid' has no shard",)}


@pytest.mark.parametrize("n", [19, 20, 30])
def test_a_short_last_chunk_that_was_made_longer_is_sound(n: int, path: Path) -> None:
    extend(path, SIMULATOR, n, **ALONE)
    assert status(path).damaged == {}
    empty(chunk_files(path, "x")[4])
    assert list(status(path).damaged) == [4]


def test_zip_files_are_looked_at(path: Path, tmp_path: Path) -> None:
    empty(chunk_files(path, "k")[3])
    zipped = shutil.make_archive(str(tmp_path / "packed"), "zip", path)
    assert zipfile.is_zipfile(zipped)
    with pytest.raises(StoreError, match=r"chunk 3: 'k' has a shard of 0 bytes, not \d+"):
        open_dataset(zipped)
    assert list(status(zipped).damaged) == [3]


def test_memory_tells_what_is_not_there() -> None:
    content: dict[str, Any] = {}
    store = MemoryStore(content)
    generate(SIMULATOR, store, N, **OPTIONS)
    assert status(store).damaged == {}
    del content["x/c/1/0"]
    assert status(store).damaged == {1: ("'x' has no shard",)}


def test_file_systems_of_fsspec_tell_sizes(path: Path) -> None:
    pytest.importorskip("fsspec")
    store = zarr.storage.FsspecStore.from_url(f"local://{path}")
    assert bits(open_dataset(store)) == WANTED
    cut(chunk_files(path, "x")[1])
    with pytest.raises(StoreError, match=r"chunk 1: 'x' has a shard of \d+ bytes, not \d+"):
        open_dataset(store)


def test_object_stores_tell_sizes(path: Path) -> None:
    obstore = pytest.importorskip("obstore.store")
    store = ObjectStore(obstore.LocalStore(str(path)), read_only=True)
    assert bits(open_dataset(store)) == WANTED
    cut(chunk_files(path, "x")[1])
    with pytest.raises(StoreError, match=r"chunk 1: 'x' has a shard of \d+ bytes, not \d+"):
        open_dataset(store)


def test_icechunk_tells_what_is_not_there(tmp_path: Path) -> None:
    icechunk = pytest.importorskip("icechunk")
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repository")))
    generate(SIMULATOR, repository, N, **OPTIONS)
    assert status(repository).damaged == {}
    session = repository.writable_session("main")
    zarr.open_group(session.store, mode="r+")
    zarr.core.sync.sync(session.store.delete("x/c/1/0"))
    session.commit("damage")
    assert status(repository).damaged == {1: ("'x' has no shard",)}


def test_receipts_are_read_all_at_once_and_not_by_zarr(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(MemoryStore):
        n_gets = 0

        async def get(self, key: str, *arguments: Any, **options: Any) -> Any:
            Counting.n_gets += key.startswith("_dasksim/receipts/c")
            return await super().get(key, *arguments, **options)

    store = Counting()
    generate(SIMULATOR, store, N, **OPTIONS)
    monkeypatch.delattr(zarr.Array, "__getitem__")
    for call in (open_dataset, status):
        Counting.n_gets = 0
        call(store)
        call(path)
        assert Counting.n_gets == 5


# What is read lazily


def test_a_shard_that_is_removed_after_opening_is_an_error(path: Path) -> None:
    dataset = open_dataset(path)
    chunk_files(path, "k")[2].unlink()
    assert dataset.k[:8].values.all()
    with pytest.raises(StoreError, match=r"'k' of chunk 2 of the store at .* has no shard; .*repair=True"):
        dataset.k.compute(scheduler="synchronous")


def test_lazy_reads_name_the_chunk_whose_bytes_are_damaged(path: Path) -> None:
    file = chunk_files(path, "x")[3]
    content = bytearray(file.read_bytes())
    content[20] ^= 4
    file.write_bytes(content)
    dataset = open_dataset(path)
    for scheduler in ("synchronous", "threads"):
        with pytest.raises(StoreError, match=r"'x' of chunk 3 of the store at .* differs from its checksum; generate"):
            dataset.x.compute(scheduler=scheduler)
    assert bits(dataset[["k"]])["k"] == WANTED["k"]


def test_what_is_read_lazily_is_what_numpy_says(path: Path) -> None:
    dataset = open_dataset(path)
    for name in ("k", "x"):
        values = dataset[name].values
        keys: list[Any] = [3, -1, slice(2, 11), slice(None, None, 5), slice(11, 2, -3), slice(4, 4), [5, 0, 17, 5]]
        for key in keys:
            with dask.config.set(scheduler="synchronous"):
                np.testing.assert_array_equal(dataset[name][key].values, values[key])
    np.testing.assert_array_equal(dataset.x[3:9:2, ::-1].values, dataset.x.values[3:9:2, ::-1])
    np.testing.assert_array_equal(dataset.x[7, 1].values, dataset.x.values[7, 1])


# Metadata


def change_document(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


METADATA: dict[str, dict[str, Any]] = {
    "keys": {"chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}}},
    "other keys": {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}}},
    "grid": {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [8]}}},
    "fill value": {"fill_value": 3},
    "transformers": {"storage_transformers": [{"name": "nothing"}]},
}


@pytest.mark.parametrize("case", METADATA)
def test_metadata_are_compared_with_the_record_before_they_are_believed(case: str, path: Path, original: Path) -> None:
    change_document(path / "k" / "zarr.json", **METADATA[case])
    for call in (open_dataset, status, verify, batches):
        with pytest.raises(StoreError, match=r"the metadata of 'k' in the store at .* are lost or damaged"):
            call(path)
    assert bits(generate(SIMULATOR, path, N, repair=True, **ALONE)) == WANTED
    assert damage.content_of(path) == damage.content_of(original)


@pytest.mark.parametrize("file", ["receipts", "failures"])
def test_receipts_under_other_keys_are_found(file: str, path: Path, original: Path) -> None:
    encoding = {"name": "default", "configuration": {"separator": "/"}}
    change_document(path / "_dasksim" / file / "zarr.json", chunk_key_encoding=encoding)
    if file == "receipts":
        for call in (open_dataset, status, verify):
            with pytest.raises(StoreError, match="damaged: they have other keys than their metadata say"):
                call(path)
    assert bits(generate(SIMULATOR, path, N, repair=True, **ALONE)) == WANTED
    assert sorted(map(str, receipt_files(path))) == sorted(map(str, receipt_files(original)))


@pytest.mark.parametrize("file", ["_dasksim", "_dasksim/receipts", "_dasksim/failures", "x"])
def test_metadata_of_another_array_are_found(file: str, path: Path) -> None:
    shutil.copy(path / "k" / "zarr.json", path / file / "zarr.json")
    with pytest.raises(StoreError, match=r"damaged.*repair=True"):
        verify(path)
    assert bits(generate(SIMULATOR, path, N, repair=True, **ALONE)) == WANTED
    assert verify(path).is_good


def test_a_lost_list_of_failures_is_said(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    damage.make_masked(path)
    assert status(path).failures
    (path / "_dasksim" / "failures" / "zarr.json").unlink()
    with pytest.raises(StoreError, match=r"the failures of the chunks \[.*\] in .* are damaged; .*repair=True"):
        status(path)


def test_metadata_of_derived_variables_are_made_again(path: Path) -> None:
    def mean(x: Any) -> dict[str, Any]:
        return {"mean": x.mean()}

    wanted = bits(derive(path, mean, **ALONE))
    (path / "mean" / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match=r"'mean'.*repair=True"):
        open_dataset(path)
    assert bits(generate(SIMULATOR, path, N, repair=True, **ALONE)) == wanted
    assert verify(path).is_good


def test_labels_are_compared_with_the_record(tmp_path: Path) -> None:
    simulator = make_simulator(lambda rng: {"x": rng.normal(size=3)}, dims={"x": ["t"]}, coords={"t": [0.5, 1.0, 2.0]})
    path = tmp_path / "s.zarr"
    generate(simulator, path, N, **OPTIONS)
    zarr.open_array(path / "t", mode="r+")[1] = 7.0
    with pytest.raises(StoreError, match=r"the labels of 't' in the store at .* are others than its record says"):
        open_dataset(path)
    assert generate(simulator, path, N, repair=True, **ALONE).t.values.tolist() == [0.5, 1.0, 2.0]


def without_checksums(path: Path, dim: str) -> None:
    """Have labels be as older versions wrote them."""
    own, root = (json.loads((path / name).read_text()) for name in (f"{dim}/zarr.json", "zarr.json"))
    for document in (own, root["consolidated_metadata"]["metadata"][dim]):
        assert document["codecs"].pop()["name"] == "crc32c"
    (path / dim / "zarr.json").write_text(json.dumps(own))
    (path / "zarr.json").write_text(json.dumps(root))
    file = path / dim / "c" / "0"
    file.write_bytes(file.read_bytes()[:-4])


def test_texts_of_older_stores_that_say_that_they_are_more_are_not_let_loose(tmp_path: Path) -> None:
    simulator = make_simulator(lambda rng: {"x": rng.normal(size=3)}, dims={"x": ["t"]}, coords={"t": ["a", "b", "c"]})
    path = tmp_path / "s.zarr"
    generate(simulator, path, N, **OPTIONS)
    without_checksums(path, "t")
    assert open_dataset(path).t.values.tolist() == ["a", "b", "c"]
    assert verify(path).is_good
    file = path / "t" / "c" / "0"
    texts = bytearray(numcodecs.zstd.decompress(file.read_bytes()))
    texts[:4] = (1_000_000).to_bytes(4, "little")  # 4 000 million would take 32 GB
    file.write_bytes(numcodecs.zstd.compress(bytes(texts)))
    with pytest.raises(StoreError, match=r"the labels of 't' in the store at .* are others than its record says"):
        open_dataset(path)
    with pytest.raises(StoreError, match=r"the metadata of 't' in the store at .* are lost or damaged"):
        verify(path)
    assert generate(simulator, path, N, repair=True, **ALONE).t.values.tolist() == ["a", "b", "c"]


@pytest.mark.parametrize(
    "labels",
    [
        ["a", "b", "c"],
        *(pytest.param(x, marks=pytest.mark.slow) for x in ([0.5, 1.0, 2.0], np.array([1, 2, 3], "timedelta64[s]"))),
    ],
    ids=str,
)
def test_damaged_bytes_of_labels_are_found_by_their_checksum(labels: Any, tmp_path: Path) -> None:
    simulator = make_simulator(lambda rng: {"x": rng.normal(size=3)}, dims={"x": ["t"]}, coords={"t": labels})
    path = tmp_path / "s.zarr"
    generate(simulator, path, N, **OPTIONS)
    file = path / "t" / "c" / "0"
    for place in range(file.stat().st_size):
        content = bytearray(file.read_bytes())
        content[place] ^= 64
        file.write_bytes(content)
        with pytest.raises(StoreError, match=r"(?i)checksum"):
            open_dataset(path)
        content[place] ^= 64
        file.write_bytes(content)
    assert open_dataset(path).t.size == 3


@pytest.mark.parametrize("values", [np.array(["2025-01-01", "2025-06-30"], "datetime64[s]"), [True, False]], ids=str)
def test_stores_with_times_or_booleans_as_labels_are_good(values: Any, tmp_path: Path) -> None:
    simulator = make_simulator(lambda rng: {"x": rng.normal(size=2)}, dims={"x": ["t"]}, coords={"t": values})
    generate(simulator, tmp_path / "s.zarr", N, **OPTIONS)
    assert verify(tmp_path / "s.zarr").is_good


def test_metadata_of_labels_that_lack_a_name_are_made_again(tmp_path: Path) -> None:
    """They read as before, since Zarr has a default in its place."""
    path = tmp_path / "s.zarr"
    simulator = make_simulator(
        lambda rng: {"x": rng.normal(size=3)}, dims={"x": ["time"]}, coords={"time": [0.5, 1.0, 2.0]}
    )
    generate(simulator, path, N, seed=1, **ALONE)
    file = path / "time" / "zarr.json"
    whole = json.loads(file.read_text())
    damaged = json.loads(file.read_text())
    damaged["codecs"][0]["configurataon"] = damaged["codecs"][0].pop("configuration")
    file.write_text(json.dumps(damaged))
    with pytest.raises(
        StoreError, match=r"metadata of 'time' in the store .* lost or damaged; generate\(\.\.\., repair=True\)"
    ):
        verify(path)
    generate(simulator, path, N, seed=1, repair=True, **ALONE)
    assert json.loads(file.read_text()) == whole
    assert verify(path).is_good


# All of it at random


@pytest.mark.parametrize("n", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_random_damage_gives_the_right_values_or_a_clear_error(n: int, tmp_path: Path) -> None:
    counts, faults = damage.run(n, seed=2026, folder=tmp_path)

    assert not faults
    assert counts["open_dataset", "error"] > 3 * n // 8
    assert counts["repair", "right"] > 3 * n // 4
