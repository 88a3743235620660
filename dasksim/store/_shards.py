"""Read inner chunks out of shards, without the milliseconds that Zarr takes for each."""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import google_crc32c
import numcodecs.blosc
import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.buffer import default_buffer_prototype

from dasksim._core.failures import VALID
from dasksim.errors import StoreError
from dasksim.store._document import document_of, inner_codecs, key_of, key_prefix
from dasksim.store._location import Location, explained
from dasksim.store._zarr_private import sync

__all__ = ["ShardReader"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

_CHECKSUM_BYTES = 4
_INDEX_BYTES = 16  # of each inner chunk: its offset and its length
_NOTHING = np.iinfo(np.uint64).max  # both, of an inner chunk that was not written

_REPAIR = "dasksim.verify lists all that is damaged in a store, and generate(..., repair=True) simulates it again"

# Read at once at most: what is read is a copy beside the one that it goes into.
_RUN_BYTES = 1 << 23


class ShardReader:
    """Reads inner chunks of one variable; may be used by several threads.

    Shards as dasksim writes them are decoded here; what has other codecs is read by Zarr.

    Parameters
    ----------
    location
        Where the store is.
    array
        The variable's array.
    """

    def __init__(self, location: Location, array: zarr.Array[Any]) -> None:
        self.name = array.path
        self.dtype: np.dtype[Any] = array.dtype
        self.row_shape: tuple[int, ...] = array.shape[1:]
        self.inner_rows: int = array.chunks[0]
        self.chunk_rows: int = (array.shards or array.chunks)[0]
        self._n_inner = self.chunk_rows // self.inner_rows
        self._n_rows: int = array.shape[0]
        self._location = location
        self._array = array
        document = document_of(array)
        codecs = inner_codecs(document)
        # from the last one written: the checksum is looked at before Blosc gets to see the bytes
        self._codecs = None if codecs is None else codecs[::-1]
        self._key_prefix = key_prefix(document)
        self._indices: dict[int, Array] = {}  # needs no lock, which a forked process might find taken for ever

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample in memory."""
        return math.prod(self.row_shape) * self.dtype.itemsize

    def read(self, chunk: int, inners: Sequence[int]) -> Iterator[tuple[int, Array]]:
        """Return inner chunks of a chunk, each with its number in the chunk; rows after the last sample are cut off.

        Raises
        ------
        StoreError
            If one cannot be read, or differs from its checksum.
        """
        with explained(f"cannot read {self.name!r} of chunk {chunk} of the store at {self._location.name!r}"):
            for inner, values in self._read(chunk, inners):
                first = (chunk * self._n_inner + inner) * self.inner_rows
                yield inner, values[: self._n_rows - first]

    def rows(self, start: int, stop: int) -> Array:
        """Return some samples.

        Raises
        ------
        StoreError
            If a chunk cannot be read, or differs from its checksum.
        """
        found = np.empty((stop - start, *self.row_shape), self.dtype)
        for chunk in range(start // self.chunk_rows, -(-stop // self.chunk_rows)):
            before = chunk * self.chunk_rows
            last = min(stop - before, self.chunk_rows) - 1
            inners = range(max(start - before, 0) // self.inner_rows, last // self.inner_rows + 1)
            for inner, values in self.read(chunk, inners):
                first = before + inner * self.inner_rows
                # of an inner chunk at either end, a part only
                wanted = slice(max(start - first, 0), min(stop - first, len(values)))
                found[first + wanted.start - start : first + wanted.stop - start] = values[wanted]
        return found

    def _read(self, chunk: int, inners: Sequence[int]) -> Iterator[tuple[int, Array]]:
        if self._codecs is None:
            for inner in inners:
                first = (chunk * self._n_inner + inner) * self.inner_rows
                yield inner, np.asarray(self._array[first : first + self.inner_rows])
            return
        index = self._index(chunk)
        # Zarr leaves out inner chunks of nothing but fill values, unless it is told to write them
        written = [] if index is None else [inner for inner in inners if index[inner, 0] != _NOTHING]
        yield from ((inner, self._filled()) for inner in sorted(set(inners).difference(written)))
        if index is not None and written:
            for inner, content in zip(written, self._contents(chunk, index[written]), strict=True):
                values = self._decoded(content, self._codecs)
                yield inner, self._again(chunk, inner, self._codecs) if values is None else values

    def _filled(self) -> Array:
        return np.full((self.inner_rows, *self.row_shape), self._array.fill_value, self.dtype)

    def _again(self, chunk: int, inner: int, codecs: Sequence[str]) -> Array:
        """Return an inner chunk of a shard that was replaced since its index was read, as extending a store does."""
        self._indices.pop(chunk, None)
        index = self._index(chunk)
        if index is not None and index[inner, 0] != _NOTHING:
            (content,) = self._contents(chunk, index[[inner]])
            values = self._decoded(content, codecs)
            if values is not None:
                return values
        raise self._error(chunk, "differs from its checksum; generate(..., repair=True) simulates it again")

    def _key(self, chunk: int) -> str:
        return f"{self.name}/{key_of(self._key_prefix, chunk, 1 + len(self.row_shape))}"

    def _error(self, chunk: int, problem: str) -> StoreError:
        return StoreError(f"{self.name!r} of chunk {chunk} of the store at {self._location.name!r} {problem}")

    def _index(self, chunk: int) -> Array | None:
        """Return offset and length of each inner chunk, or None if there is no shard and none is needed."""
        found = self._indices.get(chunk)
        if found is not None:
            return found
        n_bytes = self._n_inner * _INDEX_BYTES + _CHECKSUM_BYTES
        content = self._tail(chunk, n_bytes)
        if content is None and self.name == VALID:  # made before samples could be masked
            return None
        if content is None:
            raise self._error(chunk, f"has no shard; {_REPAIR}")
        checked = _checked(content) if len(content) == n_bytes else None
        if checked is None:
            raise self._error(chunk, f"has an index that differs from its checksum; {_REPAIR}")
        index: Array = checked.view("<u8").reshape(self._n_inner, 2)
        self._indices[chunk] = index
        return index

    def _decoded(self, content: Bytes | None, codecs: Sequence[str]) -> Array | None:
        """Return the values of an inner chunk, or None if they differ from their checksum."""
        for codec in codecs:
            if content is None or len(content) < _CHECKSUM_BYTES:
                return None
            is_checksum = codec == "crc32c"
            content = _checked(content) if is_checksum else _as_bytes(numcodecs.blosc.decompress(content))
        if content is None:
            return None
        return content.view(self.dtype.newbyteorder("<")).reshape(self.inner_rows, *self.row_shape)

    def _contents(self, chunk: int, entries: Array) -> Iterator[Bytes]:
        """Return inner chunks as they are stored; those that touch are read at once."""
        folder = self._location.folder
        with (
            contextlib.nullcontext() if folder is None else (folder / self._key(chunk)).open("rb", buffering=0) as file
        ):
            for run in _runs([(offset, offset + length) for offset, length in entries.tolist()]):
                first, last = run[0][0], run[-1][1]
                if file is None:
                    content = self._fetched(chunk, RangeByteRequest(first, last))
                else:
                    content = _as_bytes(os.pread(file.fileno(), last - first, first))
                yield from (content[start - first : stop - first] for start, stop in run)

    def _tail(self, chunk: int, n_bytes: int) -> Bytes | None:
        if self._location.folder is None:
            content = self._fetched(chunk, SuffixByteRequest(n_bytes))
            return content if len(content) else None
        try:
            with (self._location.folder / self._key(chunk)).open("rb", buffering=0) as file:
                # of a file that was cut short all of it, which is then found to be too little
                size = os.fstat(file.fileno()).st_size
                return _as_bytes(os.pread(file.fileno(), n_bytes, max(size - n_bytes, 0)))
        except FileNotFoundError:
            return None

    def _fetched(self, chunk: int, request: ByteRequest) -> Bytes:
        buffer = sync(self._array.store.get(self._key(chunk), default_buffer_prototype(), request))
        return _as_bytes(b"" if buffer is None else buffer.to_bytes())


def _runs(ranges: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Join ranges that touch, up to some size."""
    runs: list[list[tuple[int, int]]] = []
    for start, stop in ranges:
        if runs and runs[-1][-1][1] == start and stop - runs[-1][0][0] <= _RUN_BYTES:
            runs[-1].append((start, stop))
        else:
            runs.append([(start, stop)])
    return runs


def _as_bytes(content: bytes) -> Bytes:
    return np.frombuffer(content, np.uint8)  # of memoryviews no checksum can be made


def _checked(content: Bytes) -> Bytes | None:
    """Return a content without its checksum, or None if it differs from that."""
    values, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    is_right = google_crc32c.value(values) == int.from_bytes(checksum.tobytes(), "little")
    return values if is_right else None
