"""Variables of a store as arrays that are read when they are needed, and in which nothing is made up."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from dasksim.store._shards import ShardReader

__all__ = ["lazy_variable", "sample_numbers"]


def lazy_variable(like: xr.Variable, reader: ShardReader, chunks: Sequence[int] | None = None) -> xr.Variable:
    """Return a variable with the dims and attributes of another one, whose values are read when needed.

    It has the samples of all chunks, or those of some chunks, one after the other.

    That raises a StoreError, which names variable and chunk, where a shard is missing or damaged.
    """
    values = indexing.LazilyIndexedArray(_StoredArray(reader, like.shape[0], chunks))
    return xr.Variable(like.dims, values, like.attrs)


def sample_numbers(chunks: Sequence[int], chunk_size: int, n_samples: int) -> xr.Variable:
    """Return the numbers of the samples of some chunks, which are counted where they are needed."""
    return xr.Variable("batch", indexing.LazilyIndexedArray(_SampleNumbers(chunks, chunk_size, n_samples)))


class _StoredArray(BackendArray):
    """What xarray slices: any ranges of samples, and anything along the other axes."""

    def __init__(self, reader: ShardReader, n_samples: int, chunks: Sequence[int] | None) -> None:
        self._reader = reader
        self._chunks = chunks
        self.shape = (n_samples, *reader.row_shape)
        self.dtype = reader.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        # by BASIC xarray asks for integers and slices only, and picks anything else out of what they give
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[int | slice, ...]) -> npt.NDArray[Any]:
        samples, *others = key
        rows = range(self.shape[0])[samples]
        if isinstance(rows, int):
            return np.asarray(self._reader.rows(rows, rows + 1, self._chunks)[(0, *others)])
        if not rows:
            return np.empty((0, *self.shape[1:]), self.dtype)[(slice(None), *others)]
        values = self._reader.rows(min(rows[0], rows[-1]), max(rows[0], rows[-1]) + 1, self._chunks)
        return values[(slice(None, None, rows.step), *others)]


class _SampleNumbers(BackendArray):
    """The numbers of the samples of some chunks."""

    def __init__(self, chunks: Sequence[int], chunk_size: int, n_samples: int) -> None:
        self._firsts = np.asarray(chunks, np.int64) * chunk_size
        self._chunk_size = chunk_size
        self.shape = (n_samples,)
        self.dtype = np.dtype(np.int64)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._count)

    def _count(self, key: tuple[int | slice]) -> npt.NDArray[np.int64]:
        rows = range(self.shape[0])[key[0]]
        places = np.asarray(rows) if isinstance(rows, int) else np.arange(rows.start, rows.stop, rows.step)
        numbers: npt.NDArray[np.int64] = np.asarray(
            self._firsts[places // self._chunk_size] + places % self._chunk_size
        )
        return numbers
