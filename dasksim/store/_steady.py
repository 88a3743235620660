"""Reads from object stores that are tried again where their answer was cut off on the way."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest
from zarr.storage import ObjectStore

__all__ = ["SteadyStore"]

T = TypeVar("T")

_MOST_TRIES = 4


class SteadyStore(ObjectStore[Any]):
    """A store of obstore, which tries requests again that fail, but not all whose answer ends early."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        return await _steadily(lambda: super(SteadyStore, self).get(key, prototype, byte_range))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        # what can be gone through only once would be used up by the first try
        wanted = list(key_ranges)
        return await _steadily(lambda: super(SteadyStore, self).get_partial_values(prototype, wanted))


async def _steadily(read: Callable[[], Awaitable[T]]) -> T:
    for _ in range(_MOST_TRIES - 1):
        try:
            return await read()
        except Exception as error:
            if "response body" not in str(error):  # obstore has no class for it, and has tried others long enough
                raise
    return await read()
