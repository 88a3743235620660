"""What lies in a store, many objects at a time: their sizes, and the contents of small ones."""

import asyncio
import os
import stat
import zipfile
from collections.abc import Sequence
from pathlib import Path

from zarr.abc.store import Store
from zarr.buffer import default_buffer_prototype
from zarr.storage import FsspecStore, LocalStore, ObjectStore, ZipStore

from dasksim.store._zarr_private import sync

__all__ = ["contents_of", "names_below", "sizes_of"]

# Requests to a remote store at a time: it takes some milliseconds for each.
_MOST_REQUESTS = 64


def names_below(store: Store, path: str) -> list[str]:
    """Return what lies below a path, named from there."""
    # receipts lie side by side, as their keys have dots: one look at the folder, and no walk
    if isinstance(store, LocalStore) and not any(entry.is_dir() for entry in _entries(store.root / path)):
        return [entry.name for entry in _entries(store.root / path)]
    return [key.removeprefix(f"{path}/") for key in sync(_listed(store, f"{path}/"))]


def sizes_of(store: Store, keys: Sequence[str], prefix: str) -> dict[str, int | None]:
    """Return the sizes in bytes of those objects that are there, which begin with a prefix.

    None where the store lists names only: then that it is there is all that can be told without a request for each.
    """
    if isinstance(store, LocalStore):
        # one by one: as their keys have slashes, shards of variables with features lie in folders of their own
        found = {key: _size(f"{store.root}/{key}") for key in keys}
        return {key: size for key, size in found.items() if size is not None}
    return sync(_listed(store, prefix))


def contents_of(store: Store, keys: Sequence[str], most_bytes: int) -> list[bytes | None]:
    """Return the contents of small objects, each up to one byte more than it may have; None for those not there."""
    if isinstance(store, LocalStore):
        return [_content(f"{store.root}/{key}", most_bytes + 1) for key in keys]
    return sync(_fetched(store, keys))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _size(path: str) -> int | None:
    try:
        found = os.stat(path)  # noqa: PTH116  # a Path takes as long again
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _content(path: str, most_bytes: int) -> bytes | None:
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a stranger's pipe would wait for a writer
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return os.read(file, min(os.fstat(file).st_size + 1, most_bytes))
    finally:
        os.close(file)


async def _listed(store: Store, prefix: str) -> dict[str, int | None]:
    # these list sizes at once; by Zarr's own listing each size would be a request
    if isinstance(store, FsspecStore):
        found = await store.fs._find(f"{store.path}/{prefix}", detail=True, withdirs=False)
        return {path.removeprefix(f"{store.path}/"): entry.get("size") for path, entry in found.items()}
    if isinstance(store, ObjectStore):
        return {entry["path"]: entry["size"] async for batch in store.store.list(prefix) for entry in batch}
    if isinstance(store, ZipStore):
        with zipfile.ZipFile(store.path) as file:
            return {entry.filename: entry.file_size for entry in file.infolist() if entry.filename.startswith(prefix)}
    return {key: None async for key in store.list_prefix(prefix)}


async def _fetched(store: Store, keys: Sequence[str]) -> list[bytes | None]:
    slots = asyncio.Semaphore(_MOST_REQUESTS)

    async def fetch(key: str) -> bytes | None:
        async with slots:
            buffer = await store.get(key, default_buffer_prototype())
        return None if buffer is None else buffer.to_bytes()

    return list(await asyncio.gather(*map(fetch, keys)))
