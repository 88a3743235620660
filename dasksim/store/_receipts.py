"""Receipts: the small records that say which chunks of a store are complete.

A receipt is one chunk of one small Zarr array, so that any number of writers can write receipts at the same time, and
its presence alone says that the chunk is complete: it is written after the data.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import zarr
from zarr.core.sync import sync
from zarr.errors import ContainsArrayError, ContainsGroupError

__all__ = ["RECEIPTS", "Receipt", "Receipts", "digest_rows"]

#: Path of the array of receipts in a store.
RECEIPTS = "_dasksim/receipts"

_FIELDS = ("complete", "proposals", "accepted", "nanoseconds")


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
    """

    def __init__(self, array: zarr.Array[Any]) -> None:
        self._array = array
        self._fields: list[str] = list(array.attrs["fields"])  # type: ignore[arg-type]

    @classmethod
    def create(cls, group: zarr.Group, n_chunks: int, variables: Sequence[str]) -> None:
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
                chunk_key_encoding={"name": "default", "separator": "."},
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
        """Return the numbers of the complete chunks, from the names of the receipts alone."""
        return sync(_listed(self._array))

    def totals(self) -> dict[str, int]:
        """Return the sums of proposals, accepted proposals and nanoseconds over all complete chunks."""
        chunks = sorted(self.complete_chunks())
        rows = np.asarray(self._array[: chunks[-1] + 1]) if chunks else np.zeros((0, len(self._fields)), "uint64")
        columns = {field: rows[:, i] for i, field in enumerate(self._fields)}
        columns.setdefault("accepted", columns["proposals"])  # older stores have no such field
        return {field: int(columns[field].sum()) for field in _FIELDS[1:]}


async def _listed(array: zarr.Array[Any]) -> set[int]:
    prefix = f"{array.path}/c."
    keys = [key async for key in array.store.list_prefix(f"{array.path}/")]
    return {
        int(key.removeprefix(prefix).partition(".")[0])
        for key in keys
        if key.startswith(prefix) and not key.endswith(".partial")
    }
