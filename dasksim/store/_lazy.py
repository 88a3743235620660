"""Variables of a store as arrays that are read when they are needed, and in which nothing is made up."""

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from dasksim.store._shards import ShardReader

__all__ = ["lazy_variable"]


def lazy_variable(like: xr.Variable, reader: ShardReader) -> xr.Variable:
    """Return a variable with the dims, attributes and encoding of another one, whose values are read when needed.

    That raises a StoreError, which names variable and chunk, where a shard is missing or damaged.
    """
    values = indexing.LazilyIndexedArray(_StoredArray(reader, like.shape[0]))
    return xr.Variable(like.dims, values, like.attrs, like.encoding)


class _StoredArray(BackendArray):
    """What xarray slices: any ranges of samples, and anything along the other axes."""

    def __init__(self, reader: ShardReader, n_samples: int) -> None:
        self._reader = reader
        self.shape = (n_samples, *reader.row_shape)
        self.dtype = reader.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        # by BASIC xarray asks for integers and slices only, and picks anything else out of what they give
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[int | slice, ...]) -> npt.NDArray[Any]:
        samples, *others = key
        rows = range(self.shape[0])[samples]
        if isinstance(rows, int):
            return np.asarray(self._reader.rows(rows, rows + 1)[(0, *others)])
        if not rows:
            return np.empty((0, *self.shape[1:]), self.dtype)[(slice(None), *others)]
        values = self._reader.rows(min(rows[0], rows[-1]), max(rows[0], rows[-1]) + 1)
        return values[(slice(None, None, rows.step), *others)]
