"""Receipts: the small records that say which chunks of a store are complete.

A receipt is one chunk of one small Zarr array, so that any number of writers can write receipts at the same time, and
its presence alone says that the chunk is complete: it is written after the data.
"""

import contextlib
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec
from zarr.errors import ContainsArrayError, ContainsGroupError

from dasksim._failures import Failure, summed
from dasksim.errors import StoreError
from dasksim.store._document import document_of, key_of, key_prefix
from dasksim.store._location import Location, explained
from dasksim.store._record import read_document, read_record
from dasksim.store._zarr_private import sync

__all__ = [
    "RECEIPTS",
    "Receipt",
    "Receipts",
    "chunk_key",
    "create_or_grow",
    "digest_rows",
    "folder_of",
    "open_receipts",
    "runs",
]

#: Path of the group that holds a store's receipts.
FOLDER = "_dasksim"

#: Names of the arrays there: that of receipts, and that which holds, for chunks in which samples failed, how; JSON.
RECEIPTS, FAILURES = "receipts", "failures"

_FIELDS = ("complete", "proposals", "accepted", "failed", "nanoseconds")
_KEY = re.compile(r"c[./](0|[1-9][0-9]{0,18})(?:[./]0)?", re.ASCII)


@dataclass(frozen=True)
class Receipt:
    """The record that one chunk is complete.

    Parameters
    ----------
    chunk
        Number of the chunk.
    n_rows
        Its samples.
    n_proposals
        Samples that were proposed to fill it.
    n_accepted
        How many of them were accepted; some may have been one too many.
    nanoseconds
        Time taken to simulate and write it.
    digests
        CRC32C of the stored values, by variable.
    failures
        What failed.
    """

    chunk: int
    n_rows: int
    n_proposals: int
    n_accepted: int
    nanoseconds: int
    digests: Mapping[str, int]
    failures: tuple[Failure, ...] = ()

    @property
    def n_failed(self) -> int:
        """How many times a sample failed."""
        return sum(failure.count for failure in self.failures)


def digest_rows(values: npt.NDArray[Any]) -> int:
    """Return the CRC32C of an array's little-endian bytes in C order."""
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return int(google_crc32c.value(np.ascontiguousarray(little)))


class Receipts:
    """The receipts of one store.

    Parameters
    ----------
    group
        The root of the store.
    record
        What the store says of itself.
    name
        Name of the store for messages.
    folder
        Path of the group that holds them.
    """

    def __init__(self, group: zarr.Group, record: Mapping[str, Any], name: str, folder: str = FOLDER) -> None:
        self._array = _array(group, f"{folder}/{RECEIPTS}")
        failures = f"{folder}/{FAILURES}"
        self._failures = _array(group, failures) if failures in group else None  # older stores have none
        self._record = record
        self._name = name
        self._fields: list[str] = list(self._array.attrs["fields"])  # type: ignore[arg-type]

    @classmethod
    def create(
        cls, group: zarr.Group, n_chunks: int, variables: Sequence[str], key_separator: str, folder: str = FOLDER
    ) -> None:
        """Create the arrays of receipts in a store, or let them grow."""
        fields = [*_FIELDS, *(f"digest:{name}" for name in variables)]
        for path in itertools.accumulate(folder.split("/"), lambda *parts: "/".join(parts)):
            with contextlib.suppress(ContainsGroupError):  # Zarr makes it with the array, but a kill may come between
                group.create_group(path)
        one_key_a_chunk = {"name": "default", "separator": key_separator}
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
            return dict(zip(self._fields, np.asarray(self._array[chunk]).tolist(), strict=True))

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

    def remove(self, chunk: int) -> None:
        """Remove a receipt, so that its chunk is simulated again."""
        sync(self._array.store.delete(chunk_key(self._array, chunk)))
        if self._failures is not None:
            sync(self._failures.store.delete(chunk_key(self._failures, chunk)))

    def complete_chunks(self) -> set[int]:
        """Return the numbers of the complete chunks, from the names of the receipts alone.

        A chunk that was the last, short one before the store was extended may have a receipt for its beginning only.

        Raises
        ------
        StoreError
            If they cannot be listed.
        """
        with explained(f"cannot list the receipts of {self._name!r}"):
            listed = sync(_listed(self._array))
        n, size = self._record["n_samples"], self._record["chunk_size"]
        complete = {chunk for chunk in listed if chunk * size < n}
        once_last = {before // size for before in self._record.get("extended_from", ()) if before % size}
        return {c for c in complete if c not in once_last or not self._is_short(c, min(size, n - c * size))}

    def _is_short(self, chunk: int, n_rows: int) -> bool:
        return self.read_if_sound(chunk).get("complete", n_rows) < n_rows  # a damaged one is there nevertheless

    def totals(self) -> dict[str, int]:
        """Return the sums of all fields but ``complete`` over all complete chunks.

        Raises
        ------
        StoreError
            If they cannot be read.
        """
        columns = self.columns()
        return {field: int(columns[field].sum()) for field in _FIELDS[1:]}

    def columns(self) -> dict[str, npt.NDArray[np.uint64]]:
        """Return the fields of all complete chunks, in ascending order, and as ``chunk`` their numbers.

        Raises
        ------
        StoreError
            If they cannot be read.
        """
        chunks = sorted(self.complete_chunks())
        try:
            found = [np.asarray(self._array[first : last + 1]) for first, last in runs(chunks)]
            rows = np.concatenate([np.zeros((0, len(self._fields)), "uint64"), *found])
        except Exception as error:
            raise self._unreadable("receipts", chunks, self.read) from error
        columns = {field: rows[:, i] for i, field in enumerate(self._fields)}
        columns.setdefault("accepted", columns["proposals"])  # older stores have no such fields
        columns.setdefault("failed", np.zeros(len(rows), "uint64"))
        return {**columns, "chunk": np.array(chunks, "uint64")}

    def failures(self) -> tuple[Failure, ...]:
        """Return what failed in all complete chunks, the most frequent first.

        Raises
        ------
        StoreError
            If it cannot be read.
        """
        if self._failures is None:
            return ()
        chunks = sorted(sync(_listed(self._failures)) & self.complete_chunks())
        try:
            return summed(failure for chunk in chunks for failure in self.failures_of(chunk))
        except Exception as error:
            raise self._unreadable("failures", chunks, self.failures_of) from error

    def failures_of(self, chunk: int) -> tuple[Failure, ...]:
        """Return what failed in a chunk, as its receipt says that something did; else it is a former receipt's."""
        n_failed = self.read(chunk).get("failed")  # receipts of older stores do not say
        text = str(self._failures[chunk]) if self._failures is not None and n_failed != 0 else ""
        return tuple(_failure(**failure) for failure in json.loads(text)) if text or n_failed else ()

    def _unreadable(self, what: str, chunks: Sequence[int], read: Callable[[int], Any]) -> StoreError:
        """Return the error that says of which chunks something cannot be read."""
        bad = []
        for chunk in chunks:
            try:
                read(chunk)
            except Exception:  # noqa: BLE001
                bad.append(chunk)
        return StoreError(
            f"the {what} of the chunks {bad} in {self._name!r} are damaged; dasksim.verify lists all that is "
            "damaged in a store, and generate(..., repair=True) simulates such chunks again"
        )


def _failure(stage: object, kind: object, message: object, count: Any, sample: Any) -> Failure:
    return Failure(str(stage), str(kind), str(message), int(count), int(sample))


def create_or_grow(group: zarr.Group, path: str, **how: Any) -> None:
    """Create an array; if it is there, let it grow to the shape."""
    try:
        group.create_array(path, **how)
    except ContainsArrayError:
        array = _array(group, path)
        if array.shape[0] < how["shape"][0]:
            array.resize((how["shape"][0], *array.shape[1:]))  # receipts of older stores have fewer fields


def chunk_key(array: zarr.Array[Any], chunk: int) -> str:
    """Return the key under which a chunk of an array lies in its store."""
    return f"{array.path}/{key_of(key_prefix(document_of(array)), chunk, len(array.shape))}"


def _array(group: zarr.Group, path: str) -> zarr.Array[Any]:
    array = group[path]
    if not isinstance(array, zarr.Array):
        raise StoreError(f"{path!r} in the store is no array")
    return array


def folder_of(derivation: str | None) -> str:
    """Return the path of the group that holds the receipts of a derivation, or of a store itself."""
    return FOLDER if derivation is None else f"{FOLDER}/derived/{derivation}"


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
    record = read_record(location) or {"n_samples": 0, "chunk_size": 1}
    wrong = _first_wrong(document, record)
    if wrong:
        raise StoreError(
            f"the receipts of the store at {location.name!r} are damaged: {wrong}; generate(..., repair=True) makes "
            "them again"
        )
    with explained(f"the receipts of {location.name!r} are damaged, and generate(..., repair=True) makes them again"):
        group = zarr.open_group(location.for_reading(), mode="r", zarr_format=3, use_consolidated=False)
        return Receipts(group, record, location.name, folder)


def _first_wrong(document: Mapping[str, Any], record: Mapping[str, Any]) -> str:
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
    lengths = [-(-n // record["chunk_size"]) for n in (record["n_samples"], *record.get("extended_from", ()))]
    if not isinstance(shape, list) or shape[1:] != [len(fields)] or shape[0] < min(lengths):  # may be longer
        return f"there must be {lengths[0]} of {len(fields)} fields; they have shape {str(shape)[:100]}"
    one = {"name": "regular", "configuration": {"chunk_shape": [1, len(fields)]}}
    return "" if grid == one else f"each must be a chunk; got {str(grid)[:200]}"


def runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return ascending numbers as runs, each with its first and last one.

    Examples
    --------
    >>> runs([0, 1, 2, 5])
    [(0, 2), (5, 5)]
    """
    grouped = itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    found = [[number for _, number in run] for _, run in grouped]
    return [(run[0], run[-1]) for run in found]


async def _listed(array: zarr.Array[Any]) -> set[int]:
    prefix = f"{array.path}/"
    keys = [key async for key in array.store.list_prefix(prefix)]
    numbers = {int(found[1]) for key in keys if (found := _KEY.fullmatch(key.removeprefix(prefix)))}
    return {number for number in numbers if number < array.shape[0]}
