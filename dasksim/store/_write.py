"""Create a store, and write chunks to it."""

import json
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from zarr.buffer.cpu import Buffer
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.sync import sync
from zarr.errors import ContainsArrayError
from zarr.storage import LocalStore

from dasksim.errors import StoreError
from dasksim.store._layout import ArrayLayout, StoreLayout
from dasksim.store._read import ATTRIBUTE
from dasksim.store._receipts import RECEIPTS, Receipt, Receipts, digest_rows

__all__ = ["ChunkWriter", "create_store", "remove_store"]

Array = npt.NDArray[Any]


def create_store(path: Path, layout: StoreLayout) -> None:
    """Create what is missing of a store's metadata: nothing that is there is changed.

    The record in the root comes first and is created exclusively, so that of two writers with different arguments one
    sees the other's.

    Raises
    ------
    StoreError
        If the store cannot be written.
    """
    try:
        store = LocalStore(path)
        sync(store.set_if_not_exists("zarr.json", _root(layout.record)))
        group = zarr.open_group(store, mode="r+")
        for array in layout.arrays:
            _create_array(group, array)
        if any(dim not in group for dim in layout.coords):  # xarray knows how to encode times and strings
            values = {dim: _storable(value) for dim, value in layout.coords.items()}
            coords = xr.Dataset(coords=values, attrs=dict(group.attrs))
            coords.to_zarr(store, mode="a", consolidated=False, zarr_format=3)
        Receipts.create(group, layout.n_chunks, [array.name for array in layout.arrays])
    except OSError as error:
        raise StoreError(f"cannot write a store at {str(path)!r}: {error}") from error


def _root(record: Mapping[str, Any]) -> Buffer:
    root = {"zarr_format": 3, "node_type": "group", "attributes": {ATTRIBUTE: json.dumps(record)}}
    return Buffer.from_bytes(json.dumps(root, indent=2).encode())


def _storable(values: Array) -> Array:
    """Return strings as objects, which Zarr stores in its specified type for strings of any length."""
    return values.astype(object) if values.dtype.kind == "U" else values


def _create_array(group: zarr.Group, array: ArrayLayout) -> None:
    features = array.shape[1:]
    is_float = array.dtype.kind in "fc"
    try:
        group.create_array(
            array.name,
            shape=array.shape,
            dtype=array.dtype,
            shards=(array.chunk_rows, *features),
            chunks=(array.inner_rows, *features),
            # random floats do not compress; counts and flags do
            compressors=[Crc32cCodec()] if is_float else [BloscCodec(cname="lz4", clevel=5), Crc32cCodec()],
            fill_value=np.nan if is_float else 0,
            dimension_names=array.dims,
            config={"write_empty_chunks": True},
        )
    except ContainsArrayError:
        return


def remove_store(path: Path) -> None:
    """Remove a store that dasksim made.

    Raises
    ------
    StoreError
        If it cannot be removed.
    """
    try:
        shutil.rmtree(path)
    except OSError as error:
        raise StoreError(f"cannot remove the store at {str(path)!r}: {error}") from error


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

    def write(self, chunk: int, simulate: Callable[[], Mapping[str, Array]]) -> Receipt:
        """Simulate a chunk, write it, write its receipt, and return the receipt."""
        arrays, receipts = self._open()
        start = time.perf_counter_ns()
        values = simulate()
        digests = {}
        first = chunk * self.layout.chunk_size
        for array in self.layout.arrays:
            rows = values[array.name].astype(array.dtype, copy=False)
            arrays[array.name][first : first + len(rows)] = rows
            digests[array.name] = digest_rows(rows)
        n_rows = len(rows)
        receipt = Receipt(chunk, n_rows, time.perf_counter_ns() - start, digests)
        receipts.write(receipt)
        return receipt

    def _open(self) -> tuple[dict[str, zarr.Array[Any]], Receipts]:
        with self._lock:
            if self._opened is None:
                group = zarr.open_group(LocalStore(self.path), mode="r+")
                arrays = {array.name: _array(group, array.name) for array in self.layout.arrays}
                self._opened = arrays, Receipts(_array(group, RECEIPTS))
            return self._opened


def _array(group: zarr.Group, path: str) -> zarr.Array[Any]:
    array = group[path]
    if not isinstance(array, zarr.Array):
        raise StoreError(f"{path!r} in the store is no array")
    # set when an array is opened, not kept in the store: shards that hold nothing but the fill value are written too
    return array.with_config({"write_empty_chunks": True})
