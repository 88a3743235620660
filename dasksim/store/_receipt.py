"""The fields of a receipt, and the bytes in which they lie in a store."""

import itertools
import json
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim._core.failures import Failure
from dasksim.errors import StoreError
from dasksim.store._checksums import checksum_of

__all__ = [
    "KEY",
    "digest_rows",
    "failures_in",
    "fields_of",
    "no_columns",
    "runs",
    "totals_of",
]

_FIELDS = ("complete", "proposals", "accepted", "failed", "nanoseconds")

_STRING_HEADER_BYTES = 8

#: Keys of receipts, and of failures: the number of the chunk, and what stands before it.
#: Neither digits of other scripts nor numbers that no array can have are taken for a chunk.
KEY = re.compile(r"c(?P<separator>[./])(?P<chunk>0|[1-9][0-9]{0,18})(?:[./]0)?", re.ASCII)


def digest_rows(values: npt.NDArray[Any]) -> int:
    """Return the CRC32C of an array's little-endian bytes in C order."""
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return checksum_of(np.ascontiguousarray(little))


def fields_of(variables: Iterable[str]) -> list[str]:
    """Return the names of the fields of receipts."""
    variables = list(variables)
    return [*_FIELDS, *(f"digest:{name}" for name in variables), *(f"bytes:{name}" for name in variables)]


def no_columns() -> dict[str, npt.NDArray[np.uint64]]:
    """Return the fields of no receipts."""
    return {name: np.zeros(0, "uint64") for name in ("chunk", *_FIELDS)}


def totals_of(columns: Mapping[str, npt.NDArray[np.uint64]]) -> dict[str, int]:
    """Return the sums of what receipts count."""
    return {field: int(columns[field].sum()) for field in _FIELDS[1:]}


def failures_in(content: bytes) -> list[Failure]:
    """Return what failed, from a chunk of one string as Zarr encodes it: how many there are, its length, its bytes.

    Raises
    ------
    Exception
        Of whatever kind, if it is nothing of the sort.
    """
    n_strings, n_bytes = struct.unpack_from("<II", content)
    if n_strings != 1 or len(content) != _STRING_HEADER_BYTES + n_bytes:
        raise StoreError("what failed is written in another way than dasksim writes it")
    return [_failure(**failure) for failure in json.loads(content[_STRING_HEADER_BYTES:])]


def _failure(stage: object, kind: object, message: object, count: Any, sample: Any) -> Failure:
    return Failure(str(stage), str(kind), str(message), int(count), int(sample))


def runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return ascending numbers as runs, each with its first and last one.

    Examples
    --------
    >>> runs([0, 1, 2, 5])
    [(0, 2), (5, 5)]
    """
    # in a run, numbers minus their places are the same
    grouped = itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    found = [[number for _, number in run] for _, run in grouped]
    return [(run[0], run[-1]) for run in found]
