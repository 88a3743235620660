"""Open stores as lazy datasets."""

import uuid
from collections.abc import Collection
from typing import Any

import numpy as np
import xarray as xr
import zarr

from dasksim._core import accessor  # noqa: F401  # which datasets have from then on
from dasksim.errors import IncompleteStoreError, StoreError
from dasksim.store._damage import refuse_damage
from dasksim.store._entries import Derivation
from dasksim.store._layout import COORDINATES
from dasksim.store._lazy import lazy_variable
from dasksim.store._locate import StoreLike
from dasksim.store._location import Location, expected_warnings, explained
from dasksim.store._metadata import are_countable, are_labels, check_arrays
from dasksim.store._receipt import totals_of
from dasksim.store._record import ATTRIBUTE, Record
from dasksim.store._shards import ShardReader
from dasksim.store._status import columns_of, stored_record
from dasksim.store._told import check_documents

__all__ = ["check_shards", "open_dataset", "open_part", "open_simulated"]


def open_dataset(store: StoreLike) -> xr.Dataset:
    """Open a complete store as a lazy Dataset, one Dask chunk for each chunk of the store.

    Opening runs no code that a store holds, and believes nothing that it says of its arrays before they agree.

    Parameters
    ----------
    store
        Where the store is, in any form that :func:`~dasksim.generate` takes, or the path of a zip file of a store.

    Returns
    -------
    xarray.Dataset
        With the attribute ``acceptance_rate`` if the simulator rejects proposals.

    Raises
    ------
    StoreError
        If there is no store made by dasksim, or it cannot be read.
    IncompleteStoreError
        If chunks are missing.
    """
    location, record = stored_record(store)
    dataset = open_simulated(location)
    for key, entry in record.complete_derivations.items():
        refuse_damage(location, entry.variables, columns_of(location, key), "derive")
    return dataset


def open_simulated(store: StoreLike) -> xr.Dataset:
    """Open a complete store in which shards of derived variables may be missing; reading these raises a StoreError."""
    location, record = stored_record(store)
    columns = columns_of(location)
    n_complete = len(columns["chunk"])
    if n_complete < record.n_chunks:
        raise IncompleteStoreError(
            f"the store at {location.name!r} has {n_complete} of {record.n_chunks} chunks; run generate again with the "
            "same arguments to finish it"
        )
    dataset = open_part(location)
    refuse_damage(location, record.variables, columns)
    totals = totals_of(columns)
    if totals["accepted"] != totals["proposals"]:
        dataset.attrs["acceptance_rate"] = totals["accepted"] / totals["proposals"]
    return dataset


def check_shards(location: Location, record: Record, chunks: Collection[int]) -> None:
    """Check that the shards of complete chunks, and of derived variables that are complete, are as they were written.

    Raises
    ------
    StoreError
        If one is missing, or has another size.
    """
    looked_at: list[tuple[str | None, Record | Derivation]] = [(None, record), *record.complete_derivations.items()]
    for key, entry in looked_at:
        found = columns_of(location, key)
        is_wanted = np.isin(found["chunk"], list(chunks))
        columns = {name: column[is_wanted] for name, column in found.items()}
        refuse_damage(location, entry.variables, columns, "derive" if key else "generate")


def open_part(store: StoreLike) -> xr.Dataset:
    """Open a store of which chunks may be missing; reading one that is raises a StoreError."""
    location, record = stored_record(store)
    check_documents(location, record, is_whole=True)
    check_arrays(location, record, record.visible_variables, is_whole=True)
    with explained(f"cannot open the store at {location.name!r}"):
        dataset = _opened(location, record)
    dataset.attrs[ATTRIBUTE] = record.text  # the root's may have been changed by others
    return dataset


def _opened(location: Location, record: Record) -> xr.Dataset:
    """Return variables as they are stored, whatever attributes they have, and labels as xarray encodes them."""
    described, labels = record.visible_variables, set(record.coords)
    store = location.for_reading()
    how: dict[str, Any] = {"chunks": None, "consolidated": False, "zarr_format": 3}
    with expected_warnings():
        group = zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=False)
        names = set(group.array_keys())
        # nothing is decoded, so that attributes such as scale_factor, whoever set them, change no value; arrays of
        # others are dropped before xarray looks at them
        dataset: xr.Dataset = xr.open_zarr(store, decode_cf=False, drop_variables=names - set(described), **how)
        # labels are decoded, as times need it, but not before their texts were counted
        if labels and all(are_countable(location, dim) for dim in labels):
            coords = xr.open_zarr(store, decode_coords=False, drop_variables=names - labels, **how)
            dataset = dataset.assign_coords(
                coords.set_coords(labels & set(coords.variables)).coords.to_dataset().load().coords
            )
    for dim in labels:
        if dim not in dataset.coords or not are_labels(dataset[dim].values, record.coords[dim]):
            raise StoreError(
                f"the labels of {dim!r} in the store at {location.name!r} are others than its record says; "
                "generate(..., repair=True) writes them again"
            )
    for name, variable in described.items():
        if dataset[name].dtype != variable.dtype:  # an attribute of its name may say so
            raise StoreError(f"{name!r} has the attribute dtype, by which xarray reads it as {dataset[name].dtype}")
    dataset = dataset[list(described)].isel(batch=slice(record.n_samples))  # another run may have made it longer
    for name in described:
        # xarray's own arrays would read a shard that is lost as fill values
        reader = ShardReader(location, group[name])  # type: ignore[arg-type]
        dataset[name] = lazy_variable(dataset.variables[name], reader)
        dataset[name].attrs.pop(COORDINATES, None)  # which xarray writes anew
    chunks = {dim: record.chunk_size if dim == "batch" else -1 for dim in dataset.dims}
    return dataset.chunk(chunks, token=uuid.uuid4().hex)  # what is there when it is opened again may be other bytes
