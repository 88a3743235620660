"""The objects of a store, without what Zarr does around them: sizes and small contents of many, and whole shards."""

import asyncio
import os
import stat
import uuid
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from zarr.abc.store import Store
from zarr.buffer import default_buffer_prototype
from zarr.buffer.cpu import Buffer
from zarr.storage import FsspecStore, LocalStore, ObjectStore, ZipStore

from dasksim.store._zarr_private import sync

__all__ = ["contents_of", "modified", "names_below", "sizes_of", "write_parts"]

# Requests to a remote store at a time: it takes some milliseconds for each.
_MOST_REQUESTS = 64

# Parts that a system writes at once at least, by POSIX; Linux takes as many as it has said.
_MOST_PARTS = os.sysconf("SC_IOV_MAX") if "SC_IOV_MAX" in os.sysconf_names else 16


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


def modified(store: Store, keys: Sequence[str], prefix: str) -> dict[str, float]:
    """Return when those objects were written that are there and say it, in seconds since 1970."""
    if isinstance(store, LocalStore):
        times = {key: _found(f"{store.root}/{key}") for key in keys}
        return {key: found.st_mtime for key, found in times.items() if found is not None}
    if isinstance(store, ObjectStore):
        return sync(_modified(store, prefix))
    return {}


def contents_of(store: Store, keys: Sequence[str], most_bytes: int) -> list[bytes | None]:
    """Return the contents of small objects, each up to one byte more than it may have; None for those not there."""
    if isinstance(store, LocalStore):
        return [_content(f"{store.root}/{key}", most_bytes + 1) for key in keys]
    return sync(_fetched(store, keys))


def write_parts(store: Store, key: str, parts: Sequence[npt.NDArray[np.uint8]]) -> int:
    """Write an object that is given in parts, whole or not at all, and return how many bytes it has."""
    # what a class of somebody's own does with what is written, it does with this too
    if isinstance(store, LocalStore) and type(store).set is LocalStore.set:
        _write_file(store.root / key, parts)
    else:
        sync(store.set(key, Buffer.from_array_like(np.concatenate(parts))))
    return sum(map(len, parts))


def _write_file(path: Path, parts: Sequence[npt.NDArray[np.uint8]]) -> None:
    """Write a file under another name at first, as Zarr does, so that no kill leaves a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{uuid.uuid4().hex}.partial")
    try:
        file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            for first in range(0, len(parts), _MOST_PARTS):
                _write_all(file, [part.data for part in parts[first : first + _MOST_PARTS]])
        finally:
            os.close(file)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _write_all(file: int, parts: list[memoryview]) -> None:
    while parts:
        # less than all where a signal or a quota comes between
        n_bytes = os.writev(file, parts)
        while parts and n_bytes >= len(parts[0]):
            n_bytes -= len(parts.pop(0))
        if parts:
            parts[0] = parts[0][n_bytes:]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _size(path: str) -> int | None:
    found = _found(path)
    return found.st_size if found is not None and stat.S_ISREG(found.st_mode) else None


def _found(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116  # a Path takes as long again
    except (FileNotFoundError, NotADirectoryError):
        return None


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


async def _modified(store: ObjectStore[Any], prefix: str) -> dict[str, float]:
    return {e["path"]: e["last_modified"].timestamp() async for batch in store.store.list(prefix) for e in batch}


async def _fetched(store: Store, keys: Sequence[str]) -> list[bytes | None]:
    slots = asyncio.Semaphore(_MOST_REQUESTS)

    async def fetch(key: str) -> bytes | None:
        async with slots:
            buffer = await store.get(key, default_buffer_prototype())
        return None if buffer is None else buffer.to_bytes()

    return list(await asyncio.gather(*map(fetch, keys)))
