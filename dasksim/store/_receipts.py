"""Receipts: the small records that say which chunks of a store are complete.

A receipt is one chunk of one small Zarr array, so that any number of writers can write receipts at the same time, and
its presence alone says that the chunk is complete: it is written after the data.
"""

import contextlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec
from zarr.errors import ContainsArrayError, ContainsGroupError

from dasksim._core.chunk import Receipt
from dasksim._core.failures import Failure, summed
from dasksim.errors import StoreError
from dasksim.store._checksums import CHECKSUM_BYTES, checked
from dasksim.store._document import document_of, has_checksums, key_of, key_prefix
from dasksim.store._dtypes import as_stored
from dasksim.store._kept import FOLDER, folder_of
from dasksim.store._location import Location, explained
from dasksim.store._objects import contents_of, modified, names_below
from dasksim.store._receipt import KEY, digest_rows, failures_in, fields_of, totals_of
from dasksim.store._record import Record
from dasksim.store._told import read_document, read_record
from dasksim.store._zarr_private import sync

__all__ = [
    "FAILURES",
    "FOLDER",
    "RECEIPTS",
    "Receipts",
    "create_or_grow",
    "folder_of",
    "open_receipts",
]

#: Names of the arrays there: that of receipts, and that which holds, for chunks in which samples failed, how; JSON.
RECEIPTS, FAILURES = "receipts", "failures"

# What failed is told in some hundred bytes for each kind of failure.
_MOST_TEXT_BYTES = 1 << 26


class Receipts:
    """The receipts of one store.

    They are read without Zarr, which takes a millisecond for each: all at once, and decoded as its documents say.

    Parameters
    ----------
    group
        The root of the store.
    record
        What the store says of itself; None while it is being removed.
    name
        Name of the store for messages.
    folder
        Path of the group that holds them.
    """

    def __init__(self, group: zarr.Group, record: Record | None, name: str, folder: str = FOLDER) -> None:
        self._array = _array(group, f"{folder}/{RECEIPTS}")
        failures = f"{folder}/{FAILURES}"
        self._failures = _array(group, failures) if failures in group else None  # older stores have none
        self._store = group.store
        self._record = record
        self._name = name
        self._fields: list[str] = list(self._array.attrs["fields"])  # type: ignore[arg-type]
        document = document_of(self._array)
        self._prefix = f"{folder}/{RECEIPTS}/{key_prefix(document)}"
        self._has_checksums = has_checksums(document)
        self._failures_prefix = f"{failures}/{key_prefix(document_of(self._failures))}" if self._failures else ""

    @classmethod
    def create(
        cls, group: zarr.Group, n_chunks: int, variables: Sequence[str], key_separator: str, folder: str = FOLDER
    ) -> None:
        """Create the arrays of receipts in a store, or let them grow."""
        fields = fields_of(variables)
        for path in itertools.accumulate(folder.split("/"), lambda *parts: "/".join(parts)):
            with contextlib.suppress(ContainsGroupError):  # Zarr makes it with the array, but a kill may come between
                group.create_group(path)
        one_key_a_chunk = {"name": "default", "separator": key_separator}
        # that of receipts comes last: a store without it counts as one whose creation was cut off
        create_or_grow(
            group,
            f"{folder}/{FAILURES}",
            shape=(n_chunks,),
            dtype="str",
            chunks=(1,),
            compressors=[Crc32cCodec()],
            fill_value="",
            dimension_names=("chunk",),
            chunk_key_encoding=one_key_a_chunk,
        )
        create_or_grow(
            group,
            f"{folder}/{RECEIPTS}",
            shape=(n_chunks, len(fields)),
            dtype="uint64",
            chunks=(1, len(fields)),
            compressors=[Crc32cCodec()],
            fill_value=0,
            dimension_names=("chunk", "field"),
            chunk_key_encoding=one_key_a_chunk,
            attributes={"fields": fields},
        )

    def write(self, receipt: Receipt) -> None:
        """Write a receipt; the chunk's data must be in the store."""
        values = {
            "complete": receipt.n_rows,
            "proposals": receipt.n_proposals,
            "accepted": receipt.n_accepted,
            "failed": receipt.n_failed,
            "nanoseconds": receipt.nanoseconds,
        }
        values |= {f"digest:{name}": digest for name, digest in receipt.digests.items()}
        values |= {f"bytes:{name}": n_bytes for name, n_bytes in receipt.sizes.items()}
        # the receipt comes last: from then on the chunk counts, with what failed in it
        if self._failures is not None and receipt.failures:
            self._failures[receipt.chunk] = json.dumps([asdict(failure) for failure in receipt.failures])
        self._array[receipt.chunk] = np.array([values.get(field, 0) for field in self._fields], "uint64")

    def read(self, chunk: int) -> dict[str, int]:
        """Return the fields of a receipt; zeros if there is none.

        Raises
        ------
        StoreError
            If it cannot be read.
        """
        with explained(f"cannot read the receipt of chunk {chunk} of {self._name!r}"):
            (content,) = contents_of(self._store, [self._key(chunk)], self._n_bytes)
            row = bytes(8 * len(self._fields)) if content is None else self._decoded(content)
            if row is None:
                raise StoreError(
                    f"cannot read the receipt of chunk {chunk} of {self._name!r}: it differs from its checksum"
                )
        return dict(zip(self._fields, np.frombuffer(row, "<u8").tolist(), strict=True))

    def read_if_sound(self, chunk: int) -> dict[str, int]:
        """Return the fields of a receipt, none if it cannot be read."""
        try:
            return self.read(chunk)
        except StoreError:
            return {}

    def hold(self, chunk: int, digests: Mapping[str, int]) -> bool:
        """Whether there is a receipt for a chunk of the same content."""
        found = self.read_if_sound(chunk)
        return bool(found.get("complete")) and all(found.get(f"digest:{name}", 0) == digests[name] for name in digests)

    def first_whole(self, n_rows: Callable[[int], int]) -> int | None:
        """Return the first complete chunk that has all rows that it shall have, none of which failed, or None."""
        for chunk in sorted(self.complete_chunks()):
            receipt = self.read_if_sound(chunk)
            if receipt.get("complete") == n_rows(chunk) and not receipt.get("failed"):
                return chunk
        return None

    def differing(self, chunk: int, values: Mapping[str, npt.NDArray[Any]]) -> list[str]:
        """Return which variables have other values in a chunk than are given."""
        receipt, variables = self.read(chunk), self._record.variables if self._record else {}
        return [
            name
            for name, given in values.items()
            if digest_rows(as_stored(given, name, variables[name].dtype)) != receipt.get(f"digest:{name}")
        ]

    def remove(self, chunk: int) -> None:
        """Remove a receipt, so that its chunk is simulated again."""
        # in this order: a kill in between leaves a list of failures that no receipt asks for
        sync(self._store.delete(self._key(chunk)))
        if self._failures is not None:
            sync(self._store.delete(self._failures_key(chunk)))

    def complete_chunks(self) -> set[int]:
        """Return the numbers of the complete chunks, from the names of the receipts alone.

        A chunk that was the last, short one before the store was extended may have a receipt for its beginning only.

        Raises
        ------
        StoreError
            If they cannot be listed.
        """
        listed = self._listed(self._array)
        record = self._record
        if record is None:
            return set()
        once_last = {n // record.chunk_size for n in record.former_lengths if n % record.chunk_size}
        # there are more of them where another run has just made the store longer
        complete = (chunk for chunk in listed if chunk < record.n_chunks)
        return {c for c in complete if c not in once_last or not self._is_short(c, record.n_rows(c))}

    def _is_short(self, chunk: int, n_rows: int) -> bool:
        return self.read_if_sound(chunk).get("complete", n_rows) < n_rows  # a damaged one is there nevertheless

    def totals(self) -> dict[str, int]:
        """Return the sums of all fields that count something over all complete chunks.

        Raises
        ------
        StoreError
            If they cannot be read.
        """
        return totals_of(self.columns())

    def columns(self) -> dict[str, npt.NDArray[np.uint64]]:
        """Return the fields of all complete chunks, in ascending order, and as ``chunk`` their numbers.

        Raises
        ------
        StoreError
            If they cannot be read.
        """
        chunks = sorted(self.complete_chunks())
        with explained(f"cannot read the receipts of {self._name!r}"):
            found = contents_of(self._store, [self._key(chunk) for chunk in chunks], self._n_bytes)
        rows = [bytes(8 * len(self._fields)) if content is None else self._decoded(content) for content in found]
        if None in rows:
            raise self._damaged("receipts", [c for c, row in zip(chunks, rows, strict=True) if row is None])
        table = np.frombuffer(b"".join(filter(None, rows)), "<u8").reshape(len(rows), len(self._fields))
        columns = {field: table[:, i] for i, field in enumerate(self._fields)}
        columns.setdefault("accepted", columns["proposals"])  # older stores have no such fields
        columns.setdefault("failed", np.zeros(len(rows), "uint64"))
        return {**columns, "chunk": np.array(chunks, "uint64")}

    def written(self, columns: Mapping[str, npt.NDArray[np.uint64]]) -> npt.NDArray[np.float64]:
        """Return when the receipts of chunks were written, in seconds since 1970; NaN where the storage does not say.

        Raises
        ------
        StoreError
            If it cannot be asked.
        """
        keys = [self._key(chunk) for chunk in columns["chunk"].tolist()]
        with explained(f"cannot list the receipts of {self._name!r}"):
            found = modified(self._store, keys, f"{self._array.path}/")
        return np.array([found.get(key, np.nan) for key in keys], "float64")

    def failures(self, columns: Mapping[str, npt.NDArray[np.uint64]] | None = None) -> tuple[Failure, ...]:
        """Return what failed in all complete chunks, the most frequent first.

        Raises
        ------
        StoreError
            If it cannot be read.
        """
        columns = self.columns() if columns is None else columns
        chunks = columns["chunk"][columns["failed"] > 0].tolist()
        if self._failures is None and chunks:
            raise self._damaged("failures", chunks)
        if self._failures is None:
            return ()
        if "failed" not in self._fields:  # receipts of older stores do not say
            chunks = sorted(self._listed(self._failures).intersection(columns["chunk"].tolist()))
        with explained(f"cannot read the failures of {self._name!r}"):
            found = contents_of(self._store, [self._failures_key(chunk) for chunk in chunks], _MOST_TEXT_BYTES)
        failures: dict[int, list[Failure]] = {}
        for chunk, content in zip(chunks, found, strict=True):
            with contextlib.suppress(Exception):
                failures[chunk] = self._decoded_failures(content)
        if bad := [chunk for chunk in chunks if chunk not in failures]:
            raise self._damaged("failures", bad)
        return summed(itertools.chain.from_iterable(failures.values()))

    def failures_of(self, chunk: int) -> tuple[Failure, ...]:
        """Return what failed in a chunk, as its receipt says that something did; else it is a former receipt's."""
        n_failed = self.read(chunk).get("failed")  # receipts of older stores do not say
        if self._failures is None or n_failed == 0:
            return ()
        (content,) = contents_of(self._store, [self._failures_key(chunk)], _MOST_TEXT_BYTES)
        return () if content is None and n_failed is None else tuple(self._decoded_failures(content))

    def _decoded_failures(self, content: bytes | None) -> list[Failure]:
        if self._failures is None or content is None:
            raise StoreError(f"what failed in a chunk of {self._name!r} is not there")
        if has_checksums(document_of(self._failures)):
            content = checked(content)
        return failures_in(content or b"")

    def _failures_key(self, chunk: int) -> str:
        return key_of(self._failures_prefix, chunk, 1)

    def _key(self, chunk: int) -> str:
        return key_of(self._prefix, chunk, 2)

    def _listed(self, array: zarr.Array[Any]) -> set[int]:
        with explained(f"cannot list the receipts of {self._name!r}"):
            names = names_below(self._store, array.path)
        keys = [found for name in names if (found := KEY.fullmatch(name))]
        if any(key["separator"] != self._prefix[-1] for key in keys):
            raise StoreError(
                f"the receipts of the store at {self._name!r} are damaged: they have other keys than their metadata "
                "say; generate(..., repair=True) makes them again"
            )
        return {number for key in keys if (number := int(key["chunk"])) < array.shape[0]}

    @property
    def _n_bytes(self) -> int:
        return 8 * len(self._fields) + (CHECKSUM_BYTES if self._has_checksums else 0)

    def _decoded(self, content: bytes) -> bytes | None:
        """Return the bytes of a receipt's fields, or None if they differ from their checksum."""
        if len(content) != self._n_bytes:
            return None
        return checked(content) if self._has_checksums else content  # the oldest stores have none

    def _damaged(self, what: str, chunks: Sequence[int]) -> StoreError:
        """Return the error that says of which chunks something cannot be read."""
        return StoreError(
            f"the {what} of the chunks {chunks} in {self._name!r} are damaged; dasksim.verify lists all that is "
            "damaged in a store, and generate(..., repair=True) simulates such chunks again"
        )


def create_or_grow(group: zarr.Group, path: str, **how: Any) -> None:
    """Create an array; if it is there, let it grow to the shape."""
    try:
        group.create_array(path, **how)
    except ContainsArrayError:
        array = _array(group, path)
        # never shorter: another run may just have made it longer, and rows cut off would come back when it grows again
        if array.shape[0] < how["shape"][0]:
            array.resize((how["shape"][0], *array.shape[1:]))  # receipts of older stores have fewer fields


def _array(group: zarr.Group, path: str) -> zarr.Array[Any]:
    array = group[path]
    if not isinstance(array, zarr.Array):
        raise StoreError(f"{path!r} in the store is no array")
    return array


def open_receipts(location: Location, derivation: str | None = None) -> Receipts | None:
    """Return the receipts of a store, or of a derivation in it, or None if its creation was cut off before them.

    Raises
    ------
    StoreError
        If they cannot be read, or do not fit the record.
    """
    folder = folder_of(derivation)
    document = read_document(location, f"{folder}/{RECEIPTS}")
    if document is None:
        return None
    record = read_record(location)
    wrong = _first_wrong(document, record)
    if wrong:
        raise StoreError(
            f"the receipts of the store at {location.name!r} are damaged: {wrong}; generate(..., repair=True) makes "
            "them again"
        )
    with explained(f"the receipts of {location.name!r} are damaged, and generate(..., repair=True) makes them again"):
        group = location.group()
        return Receipts(group, record, location.name, folder)


def _first_wrong(document: Mapping[str, Any], record: Record | None) -> str:
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
    # an extension changes the record first, and may have been cut off before receipts grew
    lengths = record.chunk_counts if record is not None else (0,)
    if not isinstance(shape, list) or shape[1:] != [len(fields)] or shape[0] < min(lengths):  # may be longer
        return f"there must be {lengths[0]} of {len(fields)} fields; they have shape {str(shape)[:100]}"
    one = {"name": "regular", "configuration": {"chunk_shape": [1, len(fields)]}}
    return "" if grid == one else f"each must be a chunk; got {str(grid)[:200]}"
