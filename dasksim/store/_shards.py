"""Read inner chunks out of shards, without the milliseconds that Zarr takes for each."""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.buffer import default_buffer_prototype

from dasksim._core.failures import VALID
from dasksim.errors import StoreError
from dasksim.store._document import document_of, key_of, key_prefix
from dasksim.store._location import Location, explained
from dasksim.store._shard_form import NOTHING, ShardForm
from dasksim.store._zarr_private import sync

__all__ = ["ShardReader"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

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
        self._form = ShardForm.of(array)
        self._key_prefix = key_prefix(document_of(array))
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

    def rows(self, start: int, stop: int, chunks: Sequence[int] | None = None) -> Array:
        """Return some samples, counted through all chunks or through some.

        Raises
        ------
        StoreError
            If a chunk cannot be read, or differs from its checksum.
        """
        found = np.empty((stop - start, *self.row_shape), self.dtype)
        for place in range(start // self.chunk_rows, -(-stop // self.chunk_rows)):
            chunk, before = place if chunks is None else chunks[place], place * self.chunk_rows
            last = min(stop - before, self.chunk_rows) - 1
            inners = range(max(start - before, 0) // self.inner_rows, last // self.inner_rows + 1)
            for inner, values in self.read(chunk, inners):
                first = before + inner * self.inner_rows
                # of an inner chunk at either end, a part only
                wanted = slice(max(start - first, 0), min(stop - first, len(values)))
                found[first + wanted.start - start : first + wanted.stop - start] = values[wanted]
        return found

    def _read(self, chunk: int, inners: Sequence[int]) -> Iterator[tuple[int, Array]]:
        form = self._form
        if form is None:
            for inner in inners:
                first = (chunk * self._n_inner + inner) * self.inner_rows
                yield inner, np.asarray(self._array[first : first + self.inner_rows])
            return
        index = self._index(chunk, form)
        # Zarr leaves out inner chunks of nothing but fill values, unless it is told to write them
        written = [] if index is None else [inner for inner in inners if index[inner, 0] != NOTHING]
        yield from ((inner, form.filled()) for inner in sorted(set(inners).difference(written)))
        if index is not None and written:
            for inner, content in zip(written, self._contents(chunk, index[written]), strict=True):
                values = form.decode(content)
                yield inner, self._again(chunk, inner, form) if values is None else values

    def _again(self, chunk: int, inner: int, form: ShardForm) -> Array:
        """Return an inner chunk of a shard that was replaced since its index was read, as extending a store does."""
        self._indices.pop(chunk, None)
        index = self._index(chunk, form)
        if index is not None and index[inner, 0] != NOTHING:
            (content,) = self._contents(chunk, index[[inner]])
            values = form.decode(content)
            if values is not None:
                return values
        raise self._error(chunk, "differs from its checksum; generate(..., repair=True) simulates it again")

    def _key(self, chunk: int) -> str:
        return f"{self.name}/{key_of(self._key_prefix, chunk, 1 + len(self.row_shape))}"

    def _error(self, chunk: int, problem: str) -> StoreError:
        return StoreError(f"{self.name!r} of chunk {chunk} of the store at {self._location.name!r} {problem}")

    def _index(self, chunk: int, form: ShardForm) -> Array | None:
        """Return offset and length of each inner chunk, or None if there is no shard and none is needed."""
        found = self._indices.get(chunk)
        if found is not None:
            return found
        content = self._index_content(chunk, form)
        if content is None and self.name == VALID:  # made before samples could be masked
            return None
        if content is None:
            raise self._error(chunk, f"has no shard; {_REPAIR}")
        index = form.index(content)
        if index is None:
            raise self._error(chunk, f"has an index that differs from its checksum; {_REPAIR}")
        self._indices[chunk] = index
        return index

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

    def _index_content(self, chunk: int, form: ShardForm) -> Bytes | None:
        n_bytes = form.index_bytes
        if self._location.folder is None:
            content = self._fetched(
                chunk, RangeByteRequest(0, n_bytes) if form.is_index_first else SuffixByteRequest(n_bytes)
            )
            return content if len(content) else None
        try:
            with (self._location.folder / self._key(chunk)).open("rb", buffering=0) as file:
                # of a file that was cut short all of it, which is then found to be too little
                size = os.fstat(file.fileno()).st_size
                first = 0 if form.is_index_first else max(size - n_bytes, 0)
                return _as_bytes(os.pread(file.fileno(), n_bytes, first))
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
