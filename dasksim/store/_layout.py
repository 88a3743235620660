"""How a dataset lies in a store: arrays, shards, inner chunks, codecs.

A shard holds one chunk of samples of one variable and is written whole by one task. An inner chunk is the least that a
reader has to fetch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim._core.attributes import Coordinate
from dasksim._core.failures import VALID
from dasksim.store._dtypes import as_stored
from dasksim.store._entries import StoredVariable
from dasksim.store._receipt import digest_rows
from dasksim.store._record import Record

__all__ = ["COORDINATES", "ArrayLayout", "StoreLayout", "array_layout", "choose_inner_rows", "inner_rows_for"]

#: The attribute that names coordinates.
COORDINATES = "coordinates"

# Rows of an inner chunk, the same for all variables so that a reader can shuffle them together: about 1 MiB of the
# widest variable, which reads at 0.4 to 0.5 of the speed of a whole shard with a tenth of the buffer, and at most 8192
# rows, where narrow variables lose little. See benchmarks/store_layout.py.
_INNER_BYTES = 1 << 20
_INNER_MAX_ROWS = 1 << 13


@dataclass(frozen=True)
class ArrayLayout:
    """How one variable is stored.

    Parameters
    ----------
    name
        Name of the variable and of its array.
    shape
        Shape of the array.
    dims
        Its dimension names.
    dtype
        Type of the stored values.
    chunk_rows
        Rows of a shard.
    inner_rows
        Rows of an inner chunk; divides ``chunk_rows``.
    attrs
        Its attributes, for readers such as xarray.
    """

    name: str
    shape: tuple[int, ...]
    dims: tuple[str, ...]
    dtype: np.dtype[Any]
    chunk_rows: int
    inner_rows: int
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fill_value(self) -> Any:
        """What readers see where nothing was written, and what masked samples hold.

        A mask that was never written says that all samples are valid: none was asked for when they were made.
        """
        if self.name == VALID and self.dtype == bool:
            return True
        return np.nan if self.dtype.kind in "fc" else 0

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


@dataclass(frozen=True)
class StoreLayout:
    """How a dataset is stored.

    Parameters
    ----------
    arrays
        The variables.
    coords
        Coordinates of feature dims.
    record
        What the store says of itself, or of the derivation.
    derivation
        The key of the derivation that the arrays belong to, if they were not simulated.
    """

    arrays: tuple[ArrayLayout, ...]
    coords: Mapping[str, Coordinate]
    record: Record
    derivation: str | None = None

    @classmethod
    def of(cls, record: Record, coords: Mapping[str, Coordinate]) -> "StoreLayout":
        """Return how a new store is laid out that says what a record says."""
        inner_rows = inner_rows_for(record)
        arrays = (array_layout(record, name, variable, inner_rows) for name, variable in record.variables.items())
        return cls(tuple(arrays), coords, record)

    def row_digests(
        self, variables: Mapping[str, npt.NDArray[Any]], rows: slice, most: int = 64
    ) -> dict[str, tuple[int, ...]]:
        """Return the CRC32C of each of some rows, as they are stored; of many rows, of some at a time."""
        found = {}
        for array in self.arrays:
            values = as_stored(variables[array.name][rows], array.name, array.dtype)
            size = _rows_at_a_time(len(values), most)
            found[array.name] = tuple(digest_rows(values[i : i + size]) for i in range(0, len(values), size))
        return found


def _rows_at_a_time(n_rows: int, most: int) -> int:
    """Return how many rows have one digest, so that there are at most so many."""
    return max(-(-n_rows // most), 1)


def array_layout(record: Record, name: str, variable: StoredVariable, inner_rows: int) -> ArrayLayout:
    """Return how a variable is stored in the store that a record is of."""
    shape = (record.n_samples, *variable.shape)
    # xarray finds coordinates that do not have the name of a dim by this attribute
    others = record.named_coords(variable.dims)
    attrs = {**variable.attrs, **({COORDINATES: " ".join(others)} if others else {})}
    return ArrayLayout(name, shape, variable.dims, variable.dtype, record.chunk_size, inner_rows, attrs)


def inner_rows_for(record: Record) -> int:
    """Return the rows of inner chunks that a store gets which says what a record says."""
    rows = choose_inner_rows(record.chunk_size, record.sub_batch_size, record.row_bytes)
    return math.gcd(rows, record.chunk_size)


def choose_inner_rows(chunk_size: int, sub_batch_size: int, row_bytes: int) -> int:
    """Return the rows of an inner chunk, a divisor of the chunk; whole sub-batches if they are small enough.

    Where the divisors below the right size are far from it, one that is up to four times as large.

    Examples
    --------
    >>> choose_inner_rows(chunk_size=65536, sub_batch_size=256, row_bytes=4000)
    256
    >>> choose_inner_rows(chunk_size=4 * 8209, sub_batch_size=8209, row_bytes=16)
    8209
    """
    wanted = min(max(_INNER_BYTES // max(row_bytes, 1), 1), _INNER_MAX_ROWS)
    if chunk_size <= wanted:
        return chunk_size
    unit = sub_batch_size if sub_batch_size <= wanted else 1
    n_units, most = chunk_size // unit, wanted // unit
    divisors = _divisors(n_units)
    below, above = max(d for d in divisors if d <= most), min(d for d in divisors if d >= min(most, n_units))
    # where a chunk has few divisors, the largest one below may make inner chunks tiny
    return unit * (above if 4 * below < most and above <= 4 * most else below)


def _divisors(n: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return small + [n // d for d in small]
