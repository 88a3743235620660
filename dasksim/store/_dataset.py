"""Open stores as lazy datasets."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import xarray as xr
import zarr

from dasksim._core import accessor  # noqa: F401  # which datasets have from then on
from dasksim._core.checks import check_flag
from dasksim._core.telling import counted
from dasksim.errors import IncompleteStoreError, StoreError
from dasksim.store._damage import Columns, refuse_damage
from dasksim.store._entries import Derivation
from dasksim.store._layout import COORDINATES
from dasksim.store._lazy import lazy_variable, sample_numbers
from dasksim.store._locate import StoreLike
from dasksim.store._location import Location, expected_warnings, explained
from dasksim.store._metadata import are_countable, are_labels, check_arrays
from dasksim.store._receipt import totals_of
from dasksim.store._record import ATTRIBUTE, Record
from dasksim.store._rounds import joined
from dasksim.store._shards import ShardReader
from dasksim.store._status import columns_of, stored_record
from dasksim.store._told import check_documents

__all__ = ["check_shards", "open_dataset", "open_part", "open_simulated"]

#: The coordinate of the numbers of samples in their store.
SAMPLE = "sample"


def open_dataset(store: StoreLike | Sequence[StoreLike], *, partial: bool = False) -> xr.Dataset:
    """Open a store, or several as one, as a lazy Dataset, one Dask chunk for each chunk of the store.

    Opening runs no code that a store holds, and believes nothing that it says of its arrays before they agree.

    Parameters
    ----------
    store
        Where the store is, in any form that :func:`~dasksim.generate` takes, or the path of a zip file of a store. A
        list of stores with the same variables, such as those of rounds, is one dataset.
    partial
        Whether chunks may be missing, as while the store is being written: the dataset then has the samples of the
        chunks that are complete now, and no others.

    Returns
    -------
    xarray.Dataset
        Of all variables, with the dim ``batch`` first, and the attribute ``acceptance_rate`` if the simulator rejects
        proposals. With ``partial`` it has the coordinate ``sample``, the number of each sample in the store, int64 of
        dims ``("batch",)``, unless a variable or dim has this name. Of a list it has the coordinate ``round``, the
        place of a sample's store in the list, in the same way, and only attributes that all stores share. What lies
        on disk as shards and inner chunks is no part of it, so that it can be rechunked, joined to others and written
        again.

    Raises
    ------
    ArgumentError
        If stores of a list have other variables or labels.
    StoreError
        If there is no store made by dasksim, or it cannot be read.
    IncompleteStoreError
        If chunks are missing; with ``partial``, if all are.

    Examples
    --------
    >>> import dasksim, tempfile
    >>> simulator, sizes = dasksim.models.two_moons(), {"sub_batch_size": 250, "chunk_size": 250}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ds = dasksim.generate(simulator, f"{folder}/s.zarr", 1000, seed=1, **sizes, part=(0, 2))
    ...     dict(dasksim.open_dataset(f"{folder}/s.zarr", partial=True).sizes)
    {'batch': 500, 'parameter': 2, 'observable': 2}
    """
    check_flag("partial", partial)
    if isinstance(store, list | tuple):
        return joined([open_dataset(each, partial=partial) for each in store])
    location, record = stored_record(store)  # type: ignore[arg-type]
    if partial:
        return _open_complete(location, record)
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
            f"the store at {location.name!r} has {n_complete:,} of {counted(record.n_chunks, 'chunk')}; run generate "
            "again with the same arguments to finish it, or open the complete ones with open_dataset(store, "
            "partial=True)"
        )
    dataset = open_part(location)
    refuse_damage(location, record.variables, columns)
    return _with_rate(dataset, columns)


def _open_complete(location: Location, record: Record) -> xr.Dataset:
    """Open the complete chunks of a store."""
    # receipts are read after the record: a chunk that was the last, short one of it counts only if it is whole now
    columns = columns_of(location)
    is_own = columns["chunk"] < record.n_chunks
    columns = {name: column[is_own] for name, column in columns.items()}
    chunks: list[int] = columns["chunk"].tolist()
    if not chunks:
        raise IncompleteStoreError(
            f"no chunk of the store at {location.name!r} is complete; wait for the first of its {record.n_chunks}"
        )
    dataset = _open_as(location, record, chunks)
    check_shards(location, record, chunks)
    return _with_rate(dataset, columns)


def _with_rate(dataset: xr.Dataset, columns: Columns) -> xr.Dataset:
    """Return a dataset that says how many proposals were accepted, if not all were."""
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
    return _open_as(location, record)


def _open_as(location: Location, record: Record, chunks: Sequence[int] | None = None) -> xr.Dataset:
    """Open a store as a record describes it, or only some of its chunks, with the numbers of their samples."""
    check_documents(location, record, is_whole=True)
    check_arrays(location, record, record.visible_variables, is_whole=True)
    with explained(f"cannot open the store at {location.name!r}"):
        dataset = _opened(location, record, chunks)
    dataset.attrs[ATTRIBUTE] = record.short_text  # the root's may have been changed by others
    return dataset


def _opened(location: Location, record: Record, chunks: Sequence[int] | None) -> xr.Dataset:
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
    n_samples = record.n_samples if chunks is None else sum(map(record.n_rows, chunks))
    dataset = dataset[list(described)].isel(batch=slice(n_samples))  # another run may have made it longer
    for name in described:
        # xarray's own arrays would read a shard that is lost as fill values
        reader = ShardReader(location, group[name])  # type: ignore[arg-type]
        dataset[name] = lazy_variable(dataset.variables[name], reader, chunks)
        dataset[name].attrs.pop(COORDINATES, None)  # which xarray writes anew
    if chunks is not None and SAMPLE not in dataset.variables and SAMPLE not in dataset.dims:
        dataset = dataset.assign_coords({SAMPLE: sample_numbers(chunks, record.chunk_size, n_samples)})
    sizes = {dim: record.chunk_size if dim == "batch" else -1 for dim in dataset.dims}
    dataset = dataset.chunk(sizes, token=uuid.uuid4().hex)  # what is there when it is opened again may be other bytes
    # how it lies on disk says nothing of where it is written next, and stands in the way of other chunks there
    return dataset.drop_encoding()
