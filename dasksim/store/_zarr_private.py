"""What dasksim uses of Zarr that Zarr does not document, each with why and what would replace it; nowhere else."""

from typing import cast

from zarr.abc.store import Store

# Stores are asynchronous, and their documented methods are coroutines for Zarr's own event loop: the connections of
# remote stores are bound to it. It would be replaced by a documented way to call a store from synchronous code.
from zarr.core.sync import sync
from zarr.storage import WrapperStore, ZipStore

__all__ = ["open_zip", "sync", "unwrapped"]


def open_zip(store: ZipStore) -> None:
    """Open a zip file, which is otherwise opened when a group in it is.

    ``Store.open`` is documented, but makes another store; this one may be the caller's. A documented way to open a
    store that exists would replace it.
    """
    sync(store._ensure_open())


def unwrapped(store: Store) -> Store:
    """Return the store that others wrap, which alone tells where it is.

    Zarr names the attribute in its documentation, but as a private one; a documented property would replace it.
    """
    while isinstance(store, WrapperStore):
        store = cast("Store", store._store)
    return store
