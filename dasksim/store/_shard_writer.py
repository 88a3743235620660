"""Write shards, without the milliseconds that Zarr takes for each MB."""

from typing import Any

import numpy.typing as npt
import zarr
from zarr.abc.buffer import BufferPrototype
from zarr.abc.store import ByteRequest, Store
from zarr.buffer.cpu import Buffer
from zarr.storage import WrapperStore

from dasksim.store._document import document_of, key_of, key_prefix
from dasksim.store._location import ROOT
from dasksim.store._objects import write_parts
from dasksim.store._receipt import digest_rows
from dasksim.store._shard_form import ShardForm

__all__ = ["ShardWriter"]


class ShardWriter:
    """Writes whole shards of one variable; may be used by several threads.

    Shards as dasksim lays them out are encoded here; what has other codecs is written by Zarr.

    Parameters
    ----------
    array
        The variable's array.
    """

    def __init__(self, array: zarr.Array[Any]) -> None:
        self._array = array
        self._form = ShardForm.of(array)
        self._key_prefix = f"{array.path}/{key_prefix(document_of(array))}"

    def write(self, chunk: int, rows: npt.NDArray[Any]) -> tuple[int, int]:
        """Write the rows of a chunk; return the CRC32C of their bytes, and how many bytes the shard has."""
        if self._form is None:
            return digest_rows(rows), self._written_by_zarr(chunk, rows)
        parts, digest = self._form.encode(rows)
        return digest, write_parts(self._array.store, key_of(self._key_prefix, chunk, rows.ndim), parts)

    def _written_by_zarr(self, chunk: int, rows: npt.NDArray[Any]) -> int:
        store = _Unread(self._array.store)
        array = zarr.open_array(store, path=self._array.path, mode="r+", zarr_format=3)
        first = chunk * (array.shards or array.chunks)[0]
        # set when an array is opened, not kept in the store: shards that hold nothing but the fill value count too
        array.with_config({"write_empty_chunks": True})[first : first + len(rows)] = rows
        return store.n_bytes


class _Unread(WrapperStore[Store]):
    """A store in which no shard can be read: Zarr then writes shards whole, and does not merge them with what is there.

    What is there without a receipt may be anything. It remembers how many bytes were written.
    """

    n_bytes = 0

    async def set(self, key: str, value: Buffer) -> None:  # type: ignore[override]
        await super().set(key, value)
        self.n_bytes += len(value)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Any:
        return await super().get(key, prototype, byte_range) if key.endswith(ROOT) else None
