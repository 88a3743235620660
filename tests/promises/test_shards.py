"""Shards that dasksim encodes are read by Zarr, and Zarr's by dasksim, whatever the dtype, the shape and the codecs."""

import inspect
import json
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import numpy.typing as npt
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore, MemoryStore

import dasksim
from dasksim.store._checksums import checksum_of, joined
from dasksim.store._location import Location
from dasksim.store._receipt import digest_rows
from dasksim.store._shard_writer import ShardWriter
from dasksim.store._shards import ShardReader

CODECS: dict[str, list[Any]] = {
    "nothing": [],
    "checksum": [Crc32cCodec()],
    "blosc": [BloscCodec(cname="lz4", clevel=5)],
    "blosc, checksum": [BloscCodec(cname="zstd", clevel=3, shuffle="noshuffle"), Crc32cCodec()],
    "checksum, blosc, checksum": [Crc32cCodec(), BloscCodec(), Crc32cCodec()],
}

N_ROWS = 40


def array(store: Any, dtype: str, row: tuple[int, ...], codecs: list[Any], index: str = "end") -> zarr.Array[Any]:
    """Return an empty array of one shard with five inner chunks."""
    kind = np.dtype(dtype).kind
    zarr.create_group(store).create_array(
        "x",
        shape=(N_ROWS, *row),
        dtype=dtype,
        chunks=(8, *row),
        shards=(N_ROWS, *row),
        compressors=codecs,
        fill_value=np.nan if kind in "fc" else kind == "b",
    )
    if index == "start" and isinstance(store, LocalStore):  # create_array has no word for it
        file = store.root / "x" / "zarr.json"
        document = json.loads(file.read_text())
        document["codecs"][0]["configuration"]["index_location"] = "start"
        file.write_text(json.dumps(document))
    found = zarr.open_group(store)["x"]
    assert isinstance(found, zarr.Array)
    return found.with_config({"write_empty_chunks": True})


def some_rows(n_rows: int, dtype: str, row: tuple[int, ...]) -> npt.NDArray[Any]:
    return (np.random.default_rng(n_rows).normal(size=(n_rows, *row)) * 50).astype(dtype)


def shard(folder: Path) -> bytes:
    (file,) = (found for found in (folder / "x" / "c").rglob("*") if found.is_file())
    return file.read_bytes()


@pytest.mark.parametrize("index", ["start", "end"])
@pytest.mark.parametrize("codecs", CODECS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "uint64", "bool", "complex128"])
def test_the_same_values_both_ways(dtype: str, codecs: str, index: str, tmp_path: Path) -> None:
    has_sizes = "typesize" in inspect.signature(numcodecs.Blosc).parameters
    for row in ((), (2, 5)):
        for n_rows in (7, 24, N_ROWS):
            folders = [tmp_path / f"{who}{len(row)}{n_rows}" for who in ("ours", "theirs")]
            ours, theirs = (array(LocalStore(folder), dtype, row, CODECS[codecs], index) for folder in folders)
            rows = some_rows(n_rows, dtype, row)
            theirs[:n_rows] = rows
            digest, n_bytes = ShardWriter(ours).write(0, rows)
            assert digest == digest_rows(rows)
            assert np.asarray(ours[:]).tobytes() == np.asarray(theirs[:]).tobytes()
            reader = ShardReader(Location("theirs", LocalStore(folders[1]), True), theirs)
            assert reader._form is not None
            assert reader.rows(0, n_rows).tobytes() == rows.tobytes()
            assert n_bytes == len(shard(folders[0]))
            # values are shuffled by another size after a checksum, and in Zarr by that of bytes with an older numcodecs
            if "blosc" not in codecs or (has_sizes and "checksum, blosc" not in codecs):
                assert shard(folders[0]) == shard(folders[1])


def test_rows_of_the_other_byte_order_and_of_no_order_in_memory() -> None:
    rows = some_rows(24, ">f8", (6,))
    for given in (rows, rows[:, ::2], rows.astype("<f8")[:, :3].copy("F"), np.broadcast_to(rows[:1, :3], (24, 3))):
        made = array(MemoryStore(), "float64", given.shape[1:], CODECS["checksum"])
        digest, _ = ShardWriter(made).write(0, given)
        assert np.array_equal(made[:24], given)
        assert digest == digest_rows(given)


def test_a_shard_of_thousands_of_inner_chunks(tmp_path: Path) -> None:
    made = zarr.create_group(LocalStore(tmp_path)).create_array(
        "x", shape=(9000,), dtype="int16", chunks=(2,), shards=(9000,), compressors=[Crc32cCodec()]
    )
    rows = some_rows(8999, "int16", ())
    ShardWriter(made).write(0, rows)
    assert np.array_equal(made[:8999], rows)
    assert not list(tmp_path.rglob("*.partial"))


def test_other_codecs_are_left_to_zarr() -> None:
    made = array(MemoryStore(), "int32", (3,), [ZstdCodec()])
    rows = np.zeros((24, 3), "int32")
    writer = ShardWriter(made)
    assert writer._form is None
    # what is there is not merged with what is written
    made[:N_ROWS] = 7
    assert writer.write(0, rows)[0] == digest_rows(rows)
    assert np.array_equal(made[:], np.zeros((N_ROWS, 3)))


def test_a_store_class_of_somebodys_own_sees_what_is_written(tmp_path: Path) -> None:
    class Noted(LocalStore):
        async def set(self, key: str, value: Any) -> None:
            noted.append(key)
            await super().set(key, value)

    noted: list[str] = []
    simulator = dasksim.make_simulator(lambda rng: {"x": rng.normal(size=2)})
    dasksim.generate(simulator, Noted(tmp_path / "s.zarr"), 10, seed=1, chunk_size=5, scheduler="synchronous")
    assert {"x/c/0/0", "x/c/1/0"} < set(noted)


def test_checksums_of_what_is_joined() -> None:
    generator = np.random.default_rng(1)
    for sizes in ((0, 7), (7, 0), (3, 1), (5, 100_000)):
        first, second = map(generator.bytes, sizes)
        assert joined(checksum_of(first), checksum_of(second), len(second)) == checksum_of(first + second)
