"""Create the arrays of a store."""

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import zarr
from zarr.abc.store import Store
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from dasksim._core.attributes import Coordinate
from dasksim._core.failures import VALID
from dasksim.store._kept import folder_of
from dasksim.store._layout import ArrayLayout, StoreLayout
from dasksim.store._location import ROOT, Location, explained
from dasksim.store._receipts import RECEIPTS, Receipts, create_or_grow, open_receipts
from dasksim.store._record import Record
from dasksim.store._told import check_documents
from dasksim.store._zarr_private import sync

__all__ = ["check_store", "create_array", "create_arrays"]

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
        # the array of receipts is made last: where it is, a kill has left out none of the others
        for array in layout.arrays:
            create_array(group, array)
        folder = folder_of(layout.derivation)
        is_begun = f"{folder}/{RECEIPTS}" in group
        if not is_begun or any(dim not in group for dim in layout.coords):  # creation may have been cut off
            _write_coords(location.store, layout.coords)
        names = dict.fromkeys([*(array.name for array in layout.arrays), VALID])  # samples may be masked later on
        Receipts.create(group, layout.record.n_chunks, list(names), location.key_separator, folder)


def _write_coords(store: Store, coords: Mapping[str, Coordinate]) -> None:
    """Write coordinates as xarray encodes them, file by whole file, so that two writers do each other no harm."""
    if not coords:
        return
    import xarray as xr  # which takes half a second, and is not needed where the metadata of a store are looked at

    encoded: dict[str, Any] = {}
    values = {name: c._replace(values=_storable(c.values)) for name, c in coords.items()}
    # a length among damaged bytes may be that of gigabytes, so that the checksum comes first when they are read
    how = {name: {"compressors": (ZstdCodec(), Crc32cCodec())} for name in values}
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
    # shards and inner chunks are always given: by default Zarr splits features, and two writers of one shard lose rows
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
        attributes=dict(array.attrs),
        config={"write_empty_chunks": True},
    )
