"""Find out what the caller means by a store."""

import os
import pickle
import re
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote

from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore, ZipStore

from dasksim.errors import ArgumentError, ArgumentTypeError, StoreError
from dasksim.store._icechunk import IcechunkBranch, Repository, Session
from dasksim.store._location import FolderStore, Location, explained
from dasksim.store._steady import SteadyStore
from dasksim.store._zarr_private import open_zip, unwrapped

__all__ = ["StoreLike", "locate"]

#: What can be given as a store.
StoreLike: TypeAlias = str | os.PathLike[str] | Store | Repository | Session | Location


def locate(store: StoreLike) -> Location:
    """Return where a store is; nothing is made there.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If it is none of these, or a package is missing.
    """
    if isinstance(store, Location):
        return store
    if isinstance(store, Repository):
        return IcechunkBranch.of(store)
    if isinstance(store, Session):
        return _of_store(store.store)
    if isinstance(store, Store):
        return _of_store(store)
    given: Any = store
    path = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if not isinstance(path, str):
        raise ArgumentTypeError(
            f"store must be a path, a URL, a zarr.abc.store.Store, or an Icechunk Repository or Session; got {store!r}"
        )
    scheme, is_url, rest = path.partition("://")
    if is_url and scheme not in ("file", "local"):
        return _of_url(path)
    # absolute, since a path is relative to the folder of the call, and workers may have another
    return _of_path(Path(_local_path(path, rest) if is_url else _at_home(path)).absolute())


def _local_path(url: str, rest: str) -> str:
    path = rest.removeprefix("localhost")
    if not path.startswith("/"):
        raise ArgumentError(f"store={url!r} must have the form 'file:///folder/train.zarr'")
    return unquote(path)


def _at_home(path: str) -> str:
    """Return a path with the home of a user in place of ``~``."""
    expanded = os.path.expanduser(path)  # noqa: PTH111, pathlib takes "./~" for a home too
    if expanded.startswith("~"):
        raise ArgumentError(f"store={path!r} names the home of a user that is not known; a folder is './~name'")
    return expanded


def _of_path(path: Path) -> Location:
    if path.suffix != ".zip" or path.is_dir():
        return Location(str(path), FolderStore(path), is_shared=True)
    store = ZipStore(path, mode="r")
    if path.exists():
        with explained(f"cannot read the zip file {str(path)!r}"):
            open_zip(store)
    return Location(str(path), store, is_shared=False)


def _of_url(url: str) -> Location:
    name = _without_credentials(url)
    try:
        # listings of file systems are kept for the life of a process, and would hide other processes' receipts
        store = FsspecStore.from_url(url, storage_options={"use_listings_cache": False})
    except ImportError as error:
        raise ArgumentError(f"store={name!r} needs a package: {error}") from error
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"store={name!r} is no URL that fsspec can open: {error}") from error
    except Exception as error:
        raise StoreError(f"cannot open {name!r}: {type(error).__name__}: {error}") from error
    return Location(name, store, _is_shared(store))


def _of_store(store: Store) -> Location:
    # of these classes alone: a subclass would lose what it does otherwise
    if type(store) is LocalStore:
        return Location(_name(store), FolderStore(store.root.absolute(), read_only=store.read_only), is_shared=True)
    if type(store) is ObjectStore:
        store = SteadyStore(store.store, read_only=store.read_only)
    if isinstance(store, ZipStore):
        with explained(f"cannot read the zip file {str(store.path)!r}"):
            open_zip(store)
    separator = "/" if hasattr(unwrapped(store), "session") else "."  # Icechunk knows no other keys of chunks
    return Location(_name(store), store, _is_shared(store), separator)


def _name(store: Store) -> str:
    store = unwrapped(store)
    if isinstance(store, LocalStore):
        return str(store.root.absolute())
    if isinstance(store, ZipStore):
        return str(store.path)
    if isinstance(store, ObjectStore):  # of obstore's repr, none tells credentials
        return _without_credentials(re.sub(r"^<(.*) object at .*>$", r"\1", repr(store.store)))
    if isinstance(store, FsspecStore):
        is_url = "://" in store.path
        return _without_credentials(store.path if is_url else f"{_protocol(store.fs)}://{store.path.lstrip('/')}")
    return type(store).__name__


def _protocol(file_system: Any) -> str:
    """Return the protocol of the file system that others wrap."""
    while inner := getattr(file_system, "sync_fs", None) or getattr(file_system, "fs", None):
        file_system = inner
    protocol: str | tuple[str, ...] = file_system.protocol
    return protocol if isinstance(protocol, str) else protocol[0]


def _without_credentials(url: str) -> str:
    # they stand before the host, or in the query, as tokens do
    return re.sub(r"://[^/]*@", "://", url).partition("?")[0]


def _is_shared(store: Store) -> bool:
    store = unwrapped(store)
    if isinstance(store, MemoryStore) or (isinstance(store, FsspecStore) and _protocol(store.fs) == "memory"):
        return False  # the former would be copied
    try:
        pickle.dumps(store)
    except Exception:  # noqa: BLE001
        return False
    return True
