"""Whatever holds samples as one dataset: stores, Zarr groups of others, datasets, and several of these together."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr

from dasksim._core.arrays import as_host
from dasksim._core.failures import VALID
from dasksim.errors import ArgumentError, StoreError
from dasksim.store._dataset import open_dataset
from dasksim.store._kept import FOLDER
from dasksim.store._locate import StoreLike, locate
from dasksim.store._location import ROOT, Location, expected_warnings, explained
from dasksim.store._record import ATTRIBUTE, Record
from dasksim.store._rounds import joined
from dasksim.store._told import present_record

__all__ = ["DatasetReader", "SamplesLike", "is_group_of_others", "mask_of", "open_samples"]

#: What holds samples: a store, a Zarr group or a Dataset with a dim ``batch``, or several of these in a list.
SamplesLike: TypeAlias = StoreLike | xr.Dataset | Sequence[StoreLike | xr.Dataset]

# Of a dataset in memory, so many bytes of all variables are a block, and so many samples at most, as in stores.
_BLOCK_BYTES, _BLOCK_ROWS = 1 << 20, 1 << 13


def open_samples(source: SamplesLike) -> xr.Dataset:
    """Return a dataset with the dim ``batch``: a given one as it is, stores and groups of others lazily.

    Raises
    ------
    ArgumentError
        If there is no dim ``batch``, or several have other variables.
    StoreError
        If a store cannot be read, or lacks chunks.
    """
    if isinstance(source, list | tuple):
        return joined([open_samples(each) for each in source])
    if not isinstance(source, xr.Dataset):
        location = locate(source)  # type: ignore[arg-type]
        source = _open_group(location) if is_group_of_others(location) else open_dataset(location)
    if "batch" not in source.dims:
        raise ArgumentError(f"the dataset must have the dim 'batch'; it has {', '.join(map(repr, source.dims))}")
    return source


def is_group_of_others(location: Location) -> bool:
    """Whether there is a Zarr group that is no store of dasksim, such as a copy of one.

    Raises
    ------
    StoreError
        If there is neither.
    """
    try:
        present_record(location)
    except StoreError:
        with contextlib.suppress(StoreError):
            if any(location.read(document) for document in (ROOT, ".zgroup")) and not location.children(FOLDER):
                return True
        raise
    return False


def _open_group(location: Location) -> xr.Dataset:
    """Open a Zarr group of others as xarray reads it, lazily."""
    store = location.for_reading()
    with explained(f"cannot open the Zarr group at {location.name!r} as a dataset"):
        group = zarr.open_group(store, mode="r", use_consolidated=False)
        arrays = dict(group.arrays())
        codecs = {codec for array in arrays.values() for codec in _codecs(array)}
        if "pickle" in codecs:
            raise StoreError(
                f"the Zarr group at {location.name!r} holds pickles, which may run any code; it is not read"
            )
        if ATTRIBUTE in group.attrs and any(array.shards for array in arrays.values()):
            raise StoreError(
                f"{location.name!r} says that it is a store of dasksim and has no receipts, so that nobody knows which "
                "of its samples are there; if all are, give xarray.open_zarr(...) of it instead of its path"
            )
        with expected_warnings():
            dataset: xr.Dataset = xr.open_zarr(store, chunks={}, consolidated=False)
    return dataset


def _codecs(array: zarr.Array[Any]) -> list[str]:
    """Return the names of the codecs of an array of Zarr's format 2; no others can be pickles."""
    if array.metadata.zarr_format != 2:
        return []
    return [codec.codec_id for codec in (*(array.metadata.filters or ()), array.metadata.compressor) if codec]


def mask_of(dataset: xr.Dataset) -> xr.DataArray | None:
    """Return the variable that says which samples are valid, if some may be masked."""
    record, mask = Record.of_dataset(dataset.attrs), dataset.get(VALID)
    may_be_masked = not record.document or record.policy.masks
    is_mask = mask is not None and mask.dims == ("batch",) and mask.dtype == bool
    return mask if may_be_masked and is_mask else None


class DatasetReader:
    """Reads blocks of consecutive samples of a dataset: its Dask chunks or, of what is in memory, slices.

    Parameters
    ----------
    dataset
        With a dim ``batch``; variables without it, and coordinates, are not read.

    Raises
    ------
    ArgumentError
        If there is no such dim, no sample, or a variable of Python objects.
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        names = [name for name, array in open_samples(dataset).items() if "batch" in array.dims]
        data = dataset[names].drop_vars(dataset.coords, errors="ignore").transpose("batch", ...).unify_chunks()
        if not names or not data.sizes["batch"]:
            raise ArgumentError(f"the dataset must have samples, along the dim 'batch'; got {dict(dataset.sizes)}")
        if objects := [str(name) for name, array in data.items() if array.dtype == object]:
            raise ArgumentError(f"variables of Python objects cannot be loaded; leave out {', '.join(objects)}")
        self.has_mask = mask_of(dataset) is not None
        #: Dtype and shape of a sample of each variable.
        self.variables = {str(name): (array.dtype, array.shape[1:]) for name, array in data.items()}
        self.n_samples = int(data.sizes["batch"])
        sizes = data.chunksizes.get("batch") or self._sizes_in_memory(data)
        #: Where blocks begin, and where the last one ends.
        self.edges: npt.NDArray[np.int64] = np.cumsum([0, *sizes])
        self._data = data

    @staticmethod
    def can_read(obj: object) -> bool:
        """Whether an object is a dataset."""
        return isinstance(obj, xr.Dataset)

    def _sizes_in_memory(self, data: xr.Dataset) -> list[int]:
        rows = min(max(_BLOCK_BYTES * self.n_samples // max(data.nbytes, 1), 1), _BLOCK_ROWS)
        return [min(rows, self.n_samples - first) for first in range(0, self.n_samples, rows)]

    def read(self, block: int, names: Sequence[str]) -> Mapping[str, npt.NDArray[Any]]:
        """Return some variables of a block, which are computed together."""
        rows = self._data[list(names)].isel(batch=slice(int(self.edges[block]), int(self.edges[block + 1])))
        if rows.chunksizes:
            rows = rows.compute(**_scheduler())
        return {name: as_host(rows.variables[name].data) for name in names}


def _scheduler() -> dict[str, Any]:
    """Return where blocks are computed, unless the user says: in the thread that reads, as forked processes can."""
    from dask.base import get_scheduler

    return {} if get_scheduler() is not None else {"scheduler": "synchronous"}
