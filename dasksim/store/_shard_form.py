"""The bytes of a shard, both ways, as Zarr's specification of the codec ``sharding_indexed`` says.

Zarr takes some milliseconds for each MB, most of them for what it does around each inner chunk.
"""

import functools
import math
import multiprocessing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numcodecs
import numpy as np
import numpy.typing as npt
import zarr

from dasksim.store._checksums import CHECKSUM_BYTES, checked, checksum_of, joined, with_checksum
from dasksim.store._document import document_of, inner_codecs, list_of, mapping_of

__all__ = ["NOTHING", "ShardForm"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

_INDEX_BYTES = 16  # of each inner chunk: its offset and its length

#: Offset and length of an inner chunk that was not written.
NOTHING = np.iinfo(np.uint64).max

# As numcodecs numbers what Zarr names.
_SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}


@dataclass(frozen=True)
class ShardForm:
    """How shards of an array are encoded, which are whole along all axes but the first.

    Parameters
    ----------
    dtype
        Type of the values in memory.
    row_shape
        Shape of one sample.
    inner_rows
        Samples of an inner chunk.
    n_inner
        Inner chunks of a shard.
    fill_value
        What rows after the last sample hold.
    codecs
        What makes bytes of an inner chunk's bytes, in the order of writing: Blosc, or None for a checksum.
    is_index_first
        Whether the index stands before the inner chunks, not after them.
    """

    dtype: np.dtype[Any]
    row_shape: tuple[int, ...]
    inner_rows: int
    n_inner: int
    fill_value: Any
    codecs: tuple[numcodecs.Blosc | None, ...]
    is_index_first: bool = False

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> "ShardForm | None":
        """Return how an array's shards are encoded, or None if only Zarr can tell."""
        document = document_of(array)
        names = inner_codecs(document)
        if names is None or array.shards is None:
            return None
        sharding = mapping_of(list_of(document, "codecs")[0], "configuration")
        codecs = zip(names, list_of(sharding, "codecs")[1:], strict=True)
        return cls(
            dtype=array.dtype,
            row_shape=array.shape[1:],
            inner_rows=array.chunks[0],
            n_inner=array.shards[0] // array.chunks[0],
            fill_value=array.fill_value,
            codecs=tuple(_blosc(mapping_of(c, "configuration")) if name == "blosc" else None for name, c in codecs),
            is_index_first=sharding.get("index_location") == "start",
        )

    @property
    def index_bytes(self) -> int:
        """Bytes of the index, its checksum included."""
        return self.n_inner * _INDEX_BYTES + CHECKSUM_BYTES

    def encode(self, rows: Array) -> tuple[list[Bytes], int]:
        """Return a shard's bytes, in parts of which most are the rows' own, and the CRC32C of the rows' bytes.

        Inner chunks of nothing but fill values are written too, unless they lie after the last row, as Zarr does it.
        """
        values = np.ascontiguousarray(rows, self.dtype.newbyteorder("<"))
        parts: list[Bytes] = []
        index = np.full((self.n_inner, 2), NOTHING, "<u8")
        offset = self.index_bytes if self.is_index_first else 0
        digest = 0
        for i, (inner, n_own, checksum) in enumerate(self._inner(values)):
            # rows of whole inner chunks are read once for both checksums
            digest = joined(digest, checksum, n_own)
            encoded = self._encoded(inner, checksum if n_own == len(inner) else None)
            length = sum(map(len, encoded))
            index[i] = offset, length
            offset += length
            parts += encoded
        ends = _as_bytes(with_checksum(index.tobytes()))
        return ([ends, *parts] if self.is_index_first else [*parts, ends]), digest

    def _inner(self, values: Array) -> Iterator[tuple[Bytes, int, int]]:
        """Return the bytes of each inner chunk, how many of them are of rows, and the CRC32C of those."""
        content = values.reshape(-1).view(np.uint8)
        size = self.inner_rows * math.prod(self.row_shape) * self.dtype.itemsize
        for first in range(0, len(content), size):
            inner = content[first : first + size]
            n_own, checksum = len(inner), checksum_of(inner)
            if n_own < size:
                filled = self.filled().astype(values.dtype, copy=False).reshape(-1).view(np.uint8)
                inner = np.concatenate([inner, filled[n_own:]])
            yield inner, n_own, checksum

    def _encoded(self, content: Bytes, checksum: int | None) -> list[Bytes]:
        """Return an inner chunk in parts; its checksum is given if it is known."""
        parts = [content]
        for codec in self.codecs:
            whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
            is_own = whole is content
            if codec is not None:
                _use_nameless_lock()
                # shuffled by the size of what it is given
                parts = [_as_bytes(codec.encode(whole.view(self.dtype) if is_own else whole))]
            else:
                parts.append(_checksum_bytes(checksum if is_own and checksum is not None else checksum_of(whole)))
        return parts

    def filled(self) -> Array:
        """Return an inner chunk of which nothing was written."""
        return np.full((self.inner_rows, *self.row_shape), self.fill_value, self.dtype)

    def index(self, content: Bytes) -> Array | None:
        """Return offset and length of each inner chunk, or None if the index differs from its checksum."""
        values = checked(content) if len(content) == self.index_bytes else None
        return None if values is None else values.view("<u8").reshape(self.n_inner, 2)

    def decode(self, content: Bytes) -> Array | None:
        """Return the values of an inner chunk, or None if they differ from their checksum."""
        found: Bytes | None = content
        # from the last one written: the checksum is looked at before Blosc gets to see the bytes
        for codec in reversed(self.codecs):
            if found is None or len(found) < CHECKSUM_BYTES:
                return None
            found = checked(found) if codec is None else _as_bytes(codec.decode(found))
        if found is None:
            return None
        return found.view(self.dtype.newbyteorder("<")).reshape(self.inner_rows, *self.row_shape)


@functools.cache
def _use_nameless_lock() -> None:
    """Have numcodecs make the one lock of its Blosc without a name, which processes that are killed would leave behind.

    In worker processes it would have one, and Python warns of what is left of it. Only a context that forks has none.
    """
    method = multiprocessing.get_start_method(allow_none=True)
    if method not in (None, "fork"):
        multiprocessing.set_start_method("fork", force=True)
        try:
            numcodecs.Blosc().encode(bytes(1))  # makes it
        finally:
            multiprocessing.set_start_method(method, force=True)


def _blosc(configuration: Mapping[str, Any]) -> numcodecs.Blosc:
    # its type size is that of what it is given: older releases take none
    return numcodecs.Blosc(
        cname=configuration.get("cname", "zstd"),
        clevel=configuration.get("clevel", 5),
        shuffle=_SHUFFLES[configuration.get("shuffle", "bitshuffle")],
        blocksize=configuration.get("blocksize", 0),
    )


def _checksum_bytes(checksum: int) -> Bytes:
    return _as_bytes(checksum.to_bytes(CHECKSUM_BYTES, "little"))


def _as_bytes(content: bytes) -> Bytes:
    return np.frombuffer(content, np.uint8)  # of memoryviews no checksum can be made
