"""Tell whether something is read from a store, whichever way it is named or opened."""

import os
from collections.abc import MutableMapping
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import zarr
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore

from dasksim.store._icechunk import IcechunkBranch
from dasksim.store._location import Location
from dasksim.store._zarr_private import unwrapped

__all__ = ["path_within"]

# What obstore's stores of buckets are called by fsspec.
_BUCKETS = {"S3Store": "s3", "GCSStore": "gs"}


def path_within(location: Location, source: object) -> str | None:
    """Return the path within a store at which a source of data lies, or None if it lies elsewhere.

    The empty path stands for the store as a whole. What was read from an Icechunk repository stays as it is there.
    """
    if isinstance(source, zarr.Array | zarr.Group | zarr.AsyncArray | zarr.AsyncGroup):
        store, path = source.store, source.path
    elif isinstance(source, Store):
        store, path = source, ""
    elif isinstance(source, str | os.PathLike):
        return _path_below(location, os.fspath(source))
    else:
        return None
    if isinstance(location, IcechunkBranch):
        return None
    (kind, base), (other_kind, other) = _address(location.store), _address(store)
    return _below(base, other / path) if kind == other_kind else None


def _path_below(location: Location, path: Any) -> str | None:
    """Return where a path of a file lies within a store in a folder; a word may be the name of anything."""
    folder = location.folder
    # the cheap test first: few texts name the folder, and only those are looked up in the file system
    if folder is None or not isinstance(path, str) or folder.name not in path:
        return None
    try:
        return _below(folder.resolve(), Path(path.removeprefix("file://")).expanduser().resolve())
    except (OSError, ValueError, RuntimeError):  # no path at all
        return None


def _below(base: PurePath, path: PurePath) -> str | None:
    # what lies above the store holds all of it
    if base.is_relative_to(path):
        return ""
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else None


def _address(store: Store) -> tuple[Any, PurePath]:
    """Return what kind of place a store is in, to be compared, and its path there."""
    store = unwrapped(store)
    if isinstance(store, LocalStore):
        return "file", store.root.resolve()
    if isinstance(store, FsspecStore):
        file_system = getattr(store.fs, "sync_fs", None) or store.fs
        protocols = file_system.protocol
        protocol = protocols if isinstance(protocols, str) else protocols[0]
        is_local = protocol in ("file", "local")
        return ("file", Path(store.path).resolve()) if is_local else (protocol, _bare(store.path))
    if isinstance(store, ObjectStore):
        return _address_of_obstore(store.store)
    if isinstance(store, MemoryStore):  # other views of it hold the same mapping
        held = (value for value in vars(store).values() if isinstance(value, MutableMapping))
        return next(("mapping", id(value)) for value in held), _bare("")
    return store, _bare("")


def _address_of_obstore(store: Any) -> tuple[Any, PurePath]:
    kind, prefix = type(store).__name__, getattr(store, "prefix", None)
    if kind == "LocalStore":
        return "file", Path(prefix or "/").resolve()
    if kind in _BUCKETS:
        return _BUCKETS[kind], _bare(f"{store.config.get('bucket')}/{prefix or ''}")
    return store, _bare(str(prefix or ""))


def _bare(path: str) -> PurePath:
    return PurePosixPath(path.strip("/"))
