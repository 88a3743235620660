"""Receipts: the small records that say which chunks of a store are complete.

A receipt is one chunk of one small Zarr array, so that any number of writers can write receipts at the same time, and
its presence alone says that the chunk is complete: it is written after the data.
"""

import contextlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import zarr
from zarr.core.sync import sync
from zarr.errors import ContainsArrayError, ContainsGroupError

from dasksim.errors import StoreError
from dasksim.store._location import Location, explained
from dasksim.store._record import read_document, read_record

__all__ = ["RECEIPTS", "Receipt", "Receipts", "digest_rows", "open_receipts"]

#: Path of the array of receipts in a store.
RECEIPTS = "_dasksim/receipts"

_FIELDS = ("complete", "proposals", "accepted", "nanoseconds")
_KEY = re.compile(r"c[./](0|[1-9][0-9]{0,18})[./]0", re.ASCII)


@dataclass(frozen=True)
class Receipt:
    """The record that one chunk is complete.

    Parameters
    ----------
    chunk
        Number of the chunk.
    n_proposals
        Samples that were proposed to fill it.
    n_accepted
        How many of them were accepted; some may have been one too many.
    nanoseconds
        Time taken to simulate and write it.
    digests
        CRC32C of the stored values, by variable.
    """

    chunk: int
    n_proposals: int
    n_accepted: int
    nanoseconds: int
    digests: Mapping[str, int]


def digest_rows(values: npt.NDArray[Any]) -> int:
    """Return the CRC32C of an array's little-endian bytes in C order."""
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return int(google_crc32c.value(np.ascontiguousarray(little)))


class Receipts:
    """The receipts of one store.

    Parameters
    ----------
    array
        The Zarr array that holds them.
    name
        Name of the store for messages.
    """

    def __init__(self, array: zarr.Array[Any], name: str) -> None:
        self._array = array
        self._name = name
        self._fields: list[str] = list(array.attrs["fields"])  # type: ignore[arg-type]

    @classmethod
    def create(cls, group: zarr.Group, n_chunks: int, variables: Sequence[str], key_separator: str) -> None:
        """Create the array of receipts in a store, unless it is there."""
        fields = [*_FIELDS, *(f"digest:{name}" for name in variables)]
        with contextlib.suppress(ContainsGroupError):  # Zarr makes it with the array, but a kill may come between
            group.create_group(RECEIPTS.partition("/")[0])
        try:
            group.create_array(
                RECEIPTS,
                shape=(n_chunks, len(fields)),
                dtype="uint64",
                chunks=(1, len(fields)),
                compressors=None,
                fill_value=0,
                dimension_names=("chunk", "field"),
                chunk_key_encoding={"name": "default", "separator": key_separator},
                attributes={"fields": fields},
            )
        except ContainsArrayError:
            return

    def write(self, receipt: Receipt) -> None:
        """Write a receipt; the chunk's data must be in the store."""
        values = {
            "complete": 1,
            "proposals": receipt.n_proposals,
            "accepted": receipt.n_accepted,
            "nanoseconds": receipt.nanoseconds,
        }
        values |= {f"digest:{name}": digest for name, digest in receipt.digests.items()}
        self._array[receipt.chunk] = np.array([values[field] for field in self._fields], "uint64")

    def complete_chunks(self) -> set[int]:
        """Return the numbers of the complete chunks, from the names of the receipts alone.

        Raises
        ------
        StoreError
            If they cannot be listed.
        """
        with explained(f"cannot list the receipts of {self._name!r}"):
            return sync(_listed(self._array))

    def totals(self) -> dict[str, int]:
        """Return the sums of proposals, accepted proposals and nanoseconds over all complete chunks.

        Raises
        ------
        StoreError
            If they cannot be read.
        """
        chunks = sorted(self.complete_chunks())
        sums = dict.fromkeys(_FIELDS[1:], 0)
        with explained(f"cannot read the receipts of {self._name!r}"):
            for first, end in _runs(chunks):
                rows = np.asarray(self._array[first:end])
                columns = {field: rows[:, i] for i, field in enumerate(self._fields)}
                columns.setdefault("accepted", columns["proposals"])  # older stores have no such field
                for field in sums:
                    sums[field] += int(columns[field].sum())
        return sums


def open_receipts(location: Location) -> Receipts | None:
    """Return the receipts of a store, or None if its creation was cut off before them.

    Raises
    ------
    StoreError
        If they cannot be read, or do not fit the record.
    """
    document = read_document(location, RECEIPTS)
    if document is None:
        return None
    record = read_record(location) or {"n_samples": 0, "chunk_size": 1}
    n_chunks = -(-record["n_samples"] // record["chunk_size"])
    wrong = _first_wrong(document, n_chunks)
    if wrong:
        raise StoreError(f"the receipts of the store at {location.name!r} are damaged: {wrong}")
    with explained(f"cannot read the receipts of {location.name!r}"):
        return Receipts(zarr.open_array(location.for_reading(), path=RECEIPTS, mode="r", zarr_format=3), location.name)


def _first_wrong(document: Mapping[str, Any], n_chunks: int) -> str:
    """Return what is wrong in the metadata of receipts, or nothing."""
    attributes = document.get("attributes")
    fields = attributes.get("fields") if isinstance(attributes, dict) else None
    if not isinstance(fields, list) or not all(isinstance(field, str) for field in fields):
        return "their fields have no names"
    if len(set(fields)) < len(fields) or not set(fields) >= {"complete", "proposals", "nanoseconds"}:
        return f"their fields are {str(fields)[:200]}"
    if document.get("node_type") != "array" or document.get("data_type") != "uint64":
        return "they are no array of uint64"
    shape, grid = document.get("shape"), document.get("chunk_grid")
    if shape != [n_chunks, len(fields)]:
        return f"there must be {n_chunks} of {len(fields)} fields; they have shape {str(shape)[:100]}"
    one = {"name": "regular", "configuration": {"chunk_shape": [1, len(fields)]}}
    return "" if grid == one else f"each must be a chunk; got {str(grid)[:200]}"


def _runs(chunks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and the end of each run of consecutive numbers."""
    for _, run in itertools.groupby(enumerate(chunks), lambda pair: pair[1] - pair[0]):
        numbers = [chunk for _, chunk in run]
        yield numbers[0], numbers[-1] + 1


async def _listed(array: zarr.Array[Any]) -> set[int]:
    prefix = f"{array.path}/"
    keys = [key async for key in array.store.list_prefix(prefix)]
    numbers = {int(found[1]) for key in keys if (found := _KEY.fullmatch(key.removeprefix(prefix)))}
    return {number for number in numbers if number < array.shape[0]}
