"""Create a store, and write chunks to it."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from zarr.abc.buffer import BufferPrototype
from zarr.abc.store import ByteRequest
from zarr.buffer.cpu import Buffer
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore, WrapperStore

from dasksim._chunk import Chunk
from dasksim._failures import VALID
from dasksim.errors import OutputError, StoreError, StoreMismatchError
from dasksim.store._layout import ArrayLayout, StoreLayout
from dasksim.store._read import ATTRIBUTE, damage, expected_warnings, read_record
from dasksim.store._receipts import RECEIPTS, Receipt, Receipts, create_or_grow, digest_rows

__all__ = [
    "ChunkWriter",
    "cast",
    "create_arrays",
    "create_root",
    "finish_store",
    "forget_chunks",
    "remove_store",
    "replace_root",
]

Array = npt.NDArray[Any]

_RECEIPTS_FOLDER = RECEIPTS.partition("/")[0]


def create_root(path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Create the root of a store unless there is one, and return the record that is there.

    The root comes first and is created exclusively, so that of two writers with different arguments one sees the
    other's.

    Raises
    ------
    StoreError
        If the store cannot be written.
    """
    try:
        if not (path / "zarr.json").exists():  # what is complete need not be writable
            sync(LocalStore(path).set_if_not_exists("zarr.json", _root(record)))
    except OSError as error:
        raise StoreError(f"cannot write a store at {str(path)!r}: {error}") from error
    return read_record(path) or {}


def replace_root(path: Path, record: Mapping[str, Any]) -> None:
    """Replace the root of a store as a whole, without the gathered metadata of a complete one.

    Raises
    ------
    StoreError
        If the store cannot be written.
    """
    try:
        sync(LocalStore(path).set("zarr.json", _root(record)))
    except OSError as error:
        raise StoreError(f"cannot write to the store at {str(path)!r}: {error}") from error


def create_arrays(path: Path, layout: StoreLayout) -> None:
    """Create what is missing of a store's arrays, and let those grow that are shorter than they shall be.

    Raises
    ------
    StoreError
        If the store cannot be written.
    """
    try:
        store = LocalStore(path)
        group = zarr.open_group(store, mode="r+", use_consolidated=False)
        for array in layout.arrays:
            _create_array(group, array)
        if RECEIPTS not in group or any(dim not in group for dim in layout.coords):  # creation may have been cut off
            _write_coords(store, layout.coords)
        names = dict.fromkeys([*(array.name for array in layout.arrays), VALID])  # samples may be masked later on
        Receipts.create(group, layout.n_chunks, list(names))
    except OSError as error:
        raise StoreError(f"cannot write a store at {str(path)!r}: {error}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(damage(path, error)) from error


def _root(record: Mapping[str, Any]) -> Buffer:
    root = {"zarr_format": 3, "node_type": "group", "attributes": {ATTRIBUTE: json.dumps(record)}}
    return Buffer.from_bytes(json.dumps(root, indent=2).encode())


def _write_coords(store: LocalStore, coords: Mapping[str, Array]) -> None:
    """Write coordinates as xarray encodes them, file by whole file, so that two writers do each other no harm."""
    encoded: dict[str, Any] = {}
    values = {dim: _storable(value) for dim, value in coords.items()}
    xr.Dataset(coords=values).to_zarr(MemoryStore(encoded), consolidated=False, zarr_format=3)
    for key in sorted(encoded.keys() - {"zarr.json"}):
        sync(store.set(key, encoded[key]))


def _storable(values: Array) -> Array:
    """Return strings as objects, which Zarr stores in its specified type for strings of any length."""
    return values.astype(object) if values.dtype.kind == "U" else values


def _create_array(group: zarr.Group, array: ArrayLayout) -> None:
    features = array.shape[1:]
    is_float = array.dtype.kind in "fc"
    create_or_grow(
        group,
        array.name,
        shape=array.shape,
        dtype=array.dtype,
        shards=(array.chunk_rows, *features),
        chunks=(array.inner_rows, *features),
        # random floats do not compress; counts and flags do
        compressors=[Crc32cCodec()] if is_float else [BloscCodec(cname="lz4", clevel=5), Crc32cCodec()],
        fill_value=array.fill_value,
        dimension_names=array.dims,
        config={"write_empty_chunks": True},
    )


def forget_chunks(path: Path, record: Mapping[str, Any], chunks: Iterable[int]) -> None:
    """Remove the receipts of chunks, so that they are simulated again.

    Raises
    ------
    StoreError
        If the store cannot be written.
    """
    try:
        receipts = Receipts(zarr.open_group(LocalStore(path), mode="r+", use_consolidated=False), record)
        for chunk in chunks:
            receipts.remove(chunk)
    except OSError as error:
        raise StoreError(f"cannot write to the store at {str(path)!r}: {error}") from error


def finish_store(path: Path, record: Mapping[str, Any]) -> None:
    """Gather the metadata of a complete store in its root, so that readers open it at once and xarray has no warning.

    The root is replaced as a whole; what it says of the store stays.
    """
    store, n = LocalStore(path), record["n_samples"]
    try:
        gathered = zarr.open_group(store, mode="r").metadata.consolidated_metadata
        if gathered is None or any(gathered.metadata[name].shape[0] < n for name in record["variables"]):  # type: ignore[union-attr]
            with expected_warnings():
                zarr.consolidate_metadata(store)
    except OSError as error:
        raise StoreError(f"cannot write to the store at {str(path)!r}: {error}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(damage(path, error)) from error


def remove_store(path: Path, record: Mapping[str, Any]) -> None:
    """Remove a store that dasksim made; its folder stays, with what somebody else may have put there.

    Receipts go first and the record last, so that a removal that is cut off leaves an incomplete store.

    Raises
    ------
    StoreError
        If it cannot be removed.
    """
    try:
        own = [_RECEIPTS_FOLDER, *record["variables"], *record.get("coords", ()), "zarr.json"]
        for child in [path / own[0], *path.glob("*.partial"), *(path / name for name in own[1:])]:
            if child.is_dir():
                shutil.rmtree(child)
            else:
                child.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot remove the store at {str(path)!r}: {error}") from error


class _Unread(WrapperStore[LocalStore]):
    """A store in which no shard can be read: Zarr then writes shards whole, and does not merge them with what is there.

    What is there without a receipt may be anything.
    """

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Any:
        is_readable = key.endswith("zarr.json") or key.startswith(f"{_RECEIPTS_FOLDER}/")
        return await super().get(key, prototype, byte_range) if is_readable else None


class ChunkWriter:
    """Writes chunks to a store: the data first, the receipt last.

    Parameters
    ----------
    path
        Where the store is.
    layout
        How it is laid out.
    """

    def __init__(self, path: Path, layout: StoreLayout) -> None:
        self.path = path
        self.layout = layout
        self._opened: tuple[dict[str, zarr.Array[Any]], Receipts] | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "layout": self.layout, "_opened": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def write(self, chunk: int, simulate: Callable[[], Chunk]) -> Receipt:
        """Simulate a chunk, write it, write its receipt, and return the receipt.

        Raises
        ------
        StoreError
            If it cannot be written.
        StoreMismatchError
            If the store was made anew in the meantime.
        """
        start = time.perf_counter_ns()
        made = simulate()
        try:
            try:
                return self._write(chunk, made, start)
            except FileNotFoundError:  # it stood still for so long that another run took its file for a leftover
                return self._write(chunk, made, start)
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(f"writing to {str(self.path)!r} failed: {error}") from error

    def _write(self, chunk: int, made: Chunk, start: int) -> Receipt:
        self._check_record()
        arrays, receipts = self._open()
        digests = {}
        first = chunk * self.layout.chunk_size
        n_rows = 0
        for array in self.layout.arrays:
            rows = cast(made.variables[array.name], array.name, array.dtype)
            n_rows = len(rows)
            arrays[array.name][first : first + n_rows] = rows
            digests[array.name] = digest_rows(rows)
        try:
            self._check_record()
        except StoreMismatchError:
            if not receipts.hold(chunk, digests):  # what was written may lie over another run's
                receipts.remove(chunk)
            raise
        nanoseconds = time.perf_counter_ns() - start
        receipt = Receipt(chunk, n_rows, made.n_proposals, made.n_accepted, nanoseconds, digests, made.failures)
        receipts.write(receipt)
        return receipt

    def _check_record(self) -> None:
        if read_record(self.path) != self.layout.record:
            raise StoreMismatchError(
                f"the store at {str(self.path)!r} was removed, made anew or changed by another run; this run has "
                "stopped, so as not to mix its samples in"
            )

    def _open(self) -> tuple[dict[str, zarr.Array[Any]], Receipts]:
        with self._lock:
            if self._opened is None:
                group = zarr.open_group(_Unread(LocalStore(self.path)), mode="r+", use_consolidated=False)
                arrays = {array.name: _array(group, array.name) for array in self.layout.arrays}
                self._opened = arrays, Receipts(group, self.layout.record)
            return self._opened


def cast(values: Array, name: str, dtype: np.dtype[Any]) -> Array:
    """Return a variable's values in the dtype in which they are stored.

    Raises
    ------
    OutputError
        If a value does not fit into it.
    """
    if values.dtype == dtype:
        return values
    error = OutputError(
        f"a value of {name!r} does not fit into {dtype}, in which it is to be stored; choose a wider dtype"
    )
    try:
        with np.errstate(over="raise"):
            rows = values.astype(dtype)
    except FloatingPointError:
        raise error from None
    if dtype.kind in "iu" and not np.array_equal(rows, values):
        raise error
    return rows


def _array(group: zarr.Group, path: str) -> zarr.Array[Any]:
    array = group[path]
    if not isinstance(array, zarr.Array):
        raise StoreError(f"{path!r} in the store is no array")
    # set when an array is opened, not kept in the store: shards that hold nothing but the fill value are written too
    return array.with_config({"write_empty_chunks": True})
