"""Create a store, and write chunks to it."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy.typing as npt
import xarray as xr
import zarr
from zarr.abc.buffer import BufferPrototype
from zarr.abc.store import ByteRequest, Store
from zarr.buffer.cpu import Buffer
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore, WrapperStore

from dasksim._core.chunk import Chunk, Receipt
from dasksim._core.failures import VALID
from dasksim.errors import StoreError, StoreMismatchError
from dasksim.store._document import shard_key
from dasksim.store._dtypes import as_stored
from dasksim.store._kept import FOLDER, folder_of
from dasksim.store._layout import ArrayLayout, StoreLayout
from dasksim.store._location import ROOT, Location, explained
from dasksim.store._receipt import digest_rows
from dasksim.store._receipts import RECEIPTS, Receipts, create_or_grow, open_receipts
from dasksim.store._record import Record
from dasksim.store._told import check_documents, read_told
from dasksim.store._zarr_private import sync

__all__ = [
    "ChunkWriter",
    "check_store",
    "create_array",
    "create_arrays",
    "forget_chunks",
]

Array = npt.NDArray[Any]


def check_store(location: Location, record: Record, *, check_metadata: bool = True) -> None:
    """Check that a store can be continued: that what is there of it is as its record says, and lies within it.

    Raises
    ------
    StoreError
        If it cannot.
    """
    with explained(f"cannot read {location.name!r}"):
        location.refuse_links()
    if check_metadata:
        check_documents(location, record, is_whole=False)
        open_receipts(location)


def create_arrays(location: Location, layout: StoreLayout) -> None:
    """Create what is missing of a store's arrays, and let those grow that are shorter than they shall be.

    Raises
    ------
    StoreError
        If the store cannot be written.
    """
    with explained(f"cannot write a store at {location.name!r}"):
        group = location.group_to_change()
        for array in layout.arrays:
            create_array(group, array)
        folder = folder_of(layout.derivation)
        is_begun = f"{folder}/{RECEIPTS}" in group
        if not is_begun or any(dim not in group for dim in layout.coords):  # creation may have been cut off
            _write_coords(location.store, layout.coords)
        names = dict.fromkeys([*(array.name for array in layout.arrays), VALID])  # samples may be masked later on
        Receipts.create(group, layout.record.n_chunks, list(names), location.key_separator, folder)


def _write_coords(store: Store, coords: Mapping[str, Array]) -> None:
    """Write coordinates as xarray encodes them, file by whole file, so that two writers do each other no harm."""
    encoded: dict[str, Any] = {}
    values = {dim: _storable(value) for dim, value in coords.items()}
    # a length among damaged bytes may be that of gigabytes, so that the checksum comes first when they are read
    how = {dim: {"compressors": (ZstdCodec(), Crc32cCodec())} for dim in values}
    xr.Dataset(coords=values).to_zarr(MemoryStore(encoded), consolidated=False, zarr_format=3, encoding=how)
    for key in sorted(encoded.keys() - {ROOT}, key=lambda key: (not key.endswith(ROOT), key)):  # as Icechunk needs it
        sync(store.set(key, encoded[key]))


def _storable(values: Array) -> Array:
    """Return strings as objects, which Zarr stores in its specified type for strings of any length."""
    return values.astype(object) if values.dtype.kind == "U" else values


def create_array(group: zarr.Group, array: ArrayLayout) -> None:
    """Create the array of a variable; if it is there, let it grow to the shape."""
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


def forget_chunks(location: Location, record: Record, chunks: Iterable[int], derivation: str | None = None) -> None:
    """Remove the receipts of chunks, so that they are simulated again.

    Raises
    ------
    StoreError
        If the store cannot be written.
    """
    with explained(f"cannot write to the store at {location.name!r}"):
        group = location.group_to_change()
        receipts = Receipts(group, record, location.name, folder_of(derivation))
        for chunk in chunks:
            receipts.remove(chunk)


class _Unread(WrapperStore[Store]):
    """A store in which no shard can be read: Zarr then writes shards whole, and does not merge them with what is there.

    What is there without a receipt may be anything. It remembers how many bytes were written.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.sizes: dict[str, int] = {}

    async def set(self, key: str, value: Buffer) -> None:  # type: ignore[override]
        await super().set(key, value)
        self.sizes[key] = len(value)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Any:
        is_readable = key.endswith(ROOT) or key.startswith(f"{FOLDER}/")
        return await super().get(key, prototype, byte_range) if is_readable else None


class ChunkWriter:
    """Writes chunks to a store: the data first, the receipt last.

    Parameters
    ----------
    location
        Where the store is.
    layout
        How it is laid out.
    """

    def __init__(self, location: Location, layout: StoreLayout) -> None:
        self.location = location
        self.layout = layout
        self._opened: tuple[_Unread, dict[str, zarr.Array[Any]], Receipts] | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"location": self.location, "layout": self.layout, "_opened": None}

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
        with explained(f"writing to {self.location.name!r} failed"):
            try:
                return self._write(chunk, made, start)
            except FileNotFoundError:  # it stood still for so long that another run took its file for a leftover
                return self._write(chunk, made, start)

    @contextlib.contextmanager
    def settling(self) -> Iterator[Callable[[Receipt], None]]:
        """Give what is called with each receipt by whoever gathers them."""
        yield lambda receipt: None

    def _write(self, chunk: int, made: Chunk, start: int) -> Receipt:
        self.check_record(self.location)
        store, arrays, receipts = self._open()
        digests, sizes = {}, {}
        first = chunk * self.layout.record.chunk_size
        n_rows = 0
        for array in self.layout.arrays:
            rows = as_stored(made.variables[array.name], array.name, array.dtype)
            n_rows = len(rows)
            arrays[array.name][first : first + n_rows] = rows
            digests[array.name] = digest_rows(rows)
            sizes[array.name] = store.sizes.pop(shard_key(array.name, chunk, len(array.shape)), 0)
        try:
            self.check_record(self.location)
        except StoreMismatchError:
            if not receipts.hold(chunk, digests):  # what was written may lie over another run's
                receipts.remove(chunk)
            raise
        nanoseconds = time.perf_counter_ns() - start
        receipt = Receipt(chunk, n_rows, made.n_proposals, made.n_accepted, nanoseconds, digests, made.failures, sizes)
        receipts.write(receipt)
        return receipt

    def complete_chunks(self) -> set[int]:
        """Return the numbers of the chunks that are complete."""
        receipts = open_receipts(self.location, self.layout.derivation)
        return receipts.complete_chunks() if receipts else set()

    def check_record(self, location: Location) -> None:
        """Raise a StoreMismatchError if the store is no longer the one that this writes to."""
        if read_told(location, self.layout.derivation) != self.layout.record.alone:
            raise StoreMismatchError(
                f"the store at {location.name!r} was removed, made anew or changed by another run; this run has "
                "stopped, so as not to mix its samples in"
            )

    def _open(self) -> tuple[_Unread, dict[str, zarr.Array[Any]], Receipts]:
        with self._lock:
            if self._opened is None:
                store = _Unread(self.location.store)
                group = zarr.open_group(store, mode="r+", zarr_format=3, use_consolidated=False)
                arrays = {array.name: _checked(_array(group, array.name), array) for array in self.layout.arrays}
                folder = folder_of(self.layout.derivation)
                self._opened = store, arrays, Receipts(group, self.layout.record, self.location.name, folder)
            return self._opened


def _checked(found: zarr.Array[Any], array: ArrayLayout) -> zarr.Array[Any]:
    """Return an array if it is laid out as planned: a chunk that is no whole shard would not be written alone."""
    shards = (array.chunk_rows, *array.shape[1:])
    is_long_enough = found.shape[0] >= array.shape[0] and found.shape[1:] == array.shape[1:]
    if not is_long_enough or (found.dtype, found.shards) != (array.dtype, shards):
        raise StoreError(
            f"{array.name!r} in the store has shape {found.shape}, dtype {found.dtype} and shards {found.shards}, not "
            f"{array.shape}, {array.dtype} and {shards}"
        )
    return found


def _array(group: zarr.Group, path: str) -> zarr.Array[Any]:
    array = group[path]
    if not isinstance(array, zarr.Array):
        raise StoreError(f"{path!r} in the store is no array")
    # set when an array is opened, not kept in the store: shards that hold nothing but the fill value are written too
    return array.with_config({"write_empty_chunks": True})
