"""How a dataset lies in a store: arrays, shards, inner chunks, codecs.

A shard holds one chunk of samples of one variable and is written whole by one task. An inner chunk is the least that a
reader has to fetch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim._core.failures import VALID
from dasksim._core.variables import is_supported
from dasksim.errors import ArgumentError, ArgumentTypeError, nearest
from dasksim.store._record import Record

__all__ = ["ArrayLayout", "StoreLayout", "choose_inner_rows", "stored_dtypes"]

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
    """

    name: str
    shape: tuple[int, ...]
    dims: tuple[str, ...]
    dtype: np.dtype[Any]
    chunk_rows: int
    inner_rows: int

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
        Coordinates of feature dims, each along the dim of its name.
    record
        What the store says of itself, or of the derivation.
    derivation
        The key of the derivation that the arrays belong to, if they were not simulated.
    """

    arrays: tuple[ArrayLayout, ...]
    coords: Mapping[str, npt.NDArray[Any]]
    record: Record
    derivation: str | None = None


def choose_inner_rows(chunk_size: int, sub_batch_size: int, row_bytes: int) -> int:
    """Return the rows of an inner chunk, a divisor of the chunk; whole sub-batches if they are small enough.

    Where the divisors below the right size are far from it, one that is up to four times as large.

    Parameters
    ----------
    chunk_size, sub_batch_size
        Sizes in samples.
    row_bytes
        Bytes of a sample of the widest variable.

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
    return unit * (above if 4 * below < most and above <= 4 * most else below)


def _divisors(n: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return small + [n // d for d in small]


def stored_dtypes(dtypes: Any, made: Mapping[str, np.dtype[Any]]) -> dict[str, np.dtype[Any]]:
    """Return the dtype in which each variable is stored.

    Parameters
    ----------
    dtypes
        None, one dtype for all floating-point variables, or a mapping of variables to dtypes.
    made
        The dtypes in which they are simulated.

    Raises
    ------
    ArgumentError
        If a variable does not exist, or its values could not be cast.
    """
    if dtypes is None:
        return dict(made)
    if not isinstance(dtypes, Mapping):
        one = _as_dtype(dtypes)
        dtypes = {name: one for name, dtype in made.items() if dtype.kind == "f"}
    for name in dtypes:
        if name not in made:
            raise ArgumentError(f"dtypes names {name!r}, which is no variable; {nearest(name, made)}")
    chosen = {name: _as_dtype(dtypes[name]) if name in dtypes else dtype for name, dtype in made.items()}
    for name, dtype in chosen.items():
        if not is_supported(dtype):
            raise ArgumentError(
                f"dtypes[{name!r}]={dtype} is neither boolean nor numeric, at most float64 or complex128"
            )
        if not np.can_cast(made[name], dtype, "same_kind"):
            raise ArgumentError(f"dtypes[{name!r}]={dtype} cannot hold {name!r} of dtype {made[name]}")
    return chosen


def _as_dtype(value: Any) -> np.dtype[Any]:
    if value is None:
        raise ArgumentTypeError("dtypes must hold NumPy dtypes; got None")
    try:
        dtype: np.dtype[Any] = np.dtype(value).newbyteorder("=")
        return dtype
    except TypeError as error:
        raise ArgumentTypeError(f"dtypes must hold NumPy dtypes; got {value!r}") from error
