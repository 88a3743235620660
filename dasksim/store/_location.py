"""Where a store is: a folder, a zip file, memory, or a bucket, with the few raw operations that stores need."""

import asyncio
import contextlib
import errno
import os
import shutil
import stat
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import zarr
from zarr.abc.buffer import Buffer as ZarrBuffer
from zarr.abc.store import Store
from zarr.buffer import default_buffer_prototype
from zarr.buffer.cpu import Buffer
from zarr.errors import ZarrUserWarning
from zarr.storage import LocalStore, ZipStore

from dasksim.errors import ArgumentError, DasksimError, StoreError
from dasksim.store._zarr_private import sync

__all__ = ["ROOT", "FolderStore", "Location", "expected_warnings", "explained", "is_being_written"]

#: Key of a store's root document.
ROOT = "zarr.json"

# Documents are read whole. Coordinates have their labels in the root; a million of them make some 20 MB.
_MAX_DOCUMENT_BYTES = 1 << 28

# A file that is being written has a name of its own; one that has lain for so long belongs to a writer that was killed.
_LEFTOVER_SECONDS = 600

# How file systems without hard links refuse one.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}

# How file systems say that nothing more fits, for all or for this user.
_FULL = {errno.ENOSPC, errno.EDQUOT}

_filters_lock = threading.RLock()  # filters of warnings belong to the whole process


def is_being_written(name: str) -> bool:
    """Whether a file has the name of one that is being written, or was when its writer was killed."""
    return name.endswith(".partial")


@contextlib.contextmanager
def expected_warnings() -> Iterator[None]:
    """Silence Zarr's warnings of consolidated metadata, of files that are being written, and of files of others."""
    with _filters_lock, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata", category=ZarrUserWarning)
        warnings.filterwarnings("ignore", "Object at .* is not recognized", category=ZarrUserWarning)
        yield


@contextlib.contextmanager
def explained(message: str) -> Iterator[None]:
    """Turn what a storage backend raises into a StoreError; no user's function may run in the block."""
    try:
        yield
    except (DasksimError, MemoryError):
        raise
    except OSError as error:
        full = "; the disk is full: make room on it" if error.errno in _FULL else ""
        raise StoreError(f"{message}: {error}{full}") from error
    except Exception as error:  # backends have classes of their own, as do Zarr and codecs
        raise StoreError(f"{message}: {type(error).__name__}: {error}") from error


class FolderStore(LocalStore):
    """A folder, also in a file system without hard links, by which Zarr creates documents exclusively."""

    async def set_if_not_exists(self, key: str, value: ZarrBuffer) -> None:
        try:
            await super().set_if_not_exists(key, value)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # for the root alone it matters who is first; whoever goes on writes other documents alike
            if key == ROOT and await asyncio.to_thread(_create, self.root / key, value.to_bytes()):
                return
            if not await self.exists(key) or not await self.getsize(key):  # the latter by a kill in `_create`
                await self.set(key, value)


def _create(file: Path, content: bytes) -> bool:
    try:
        with file.open("xb") as opened:
            # a kill before this leaves an empty root, which counts as unfinished
            opened.write(content)
    except FileExistsError:
        return False
    return True


@dataclass(frozen=True)
class Location:
    """Where a store is.

    Parameters
    ----------
    name
        Its path or URL for messages, without credentials.
    store
        What Zarr reads and writes.
    is_shared
        Whether other processes can write there.
    key_separator
        What stands between the numbers in the keys of receipts.
    """

    name: str
    store: Store
    is_shared: bool
    key_separator: str = "."

    @property
    def folder(self) -> Path | None:
        """The folder that holds the store, if it is one."""
        return self.store.root if isinstance(self.store, LocalStore) else None

    def check_writable(self) -> None:
        """Raise an ArgumentError if no store can be generated here."""
        if isinstance(self.store, ZipStore):
            raise ArgumentError(
                f"store={self.name!r} is a zip file, in which nothing can be replaced; generate into a folder and make "
                "a zip file of that, with shutil.make_archive"
            )
        if self.store.read_only:
            raise ArgumentError(f"store={self.name!r} is read-only; give one that can be written to")

    def for_reading(self) -> Store:
        """Return a Zarr store that cannot be written to."""
        try:
            # stores of others need not have a read-only view
            return self.store if self.store.read_only else self.store.with_read_only(True)
        except NotImplementedError:
            return self.store

    def group(self) -> zarr.Group:
        """Return the root for reading, as its documents are now, not as they were gathered in it."""
        return zarr.open_group(self.for_reading(), mode="r", zarr_format=3, use_consolidated=False)

    def group_to_change(self) -> zarr.Group:
        """Return the root, below which arrays can be created and written."""
        return zarr.open_group(self.store, mode="r+", zarr_format=3, use_consolidated=False)

    @contextlib.contextmanager
    def changing(self, message: str) -> Iterator["Location"]:
        """Give the location in which metadata can be changed; changes are there for others when the block ends."""
        yield self

    def read(self, key: str) -> bytes | None:
        """Return a document, or None if there is none.

        Raises
        ------
        StoreError
            If it is no regular file, or too large to be a document of a store.
        """
        if self._is_missing_zip():
            return None
        if self.folder is None:
            buffer = sync(self.for_reading().get(key, default_buffer_prototype()))
            content = None if buffer is None else buffer.to_bytes()
            self._check_size(key, len(content or b""))
            return content
        # looked at before it is opened: a pipe that lies there would wait for a writer
        file = self.folder / key
        try:
            found = file.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        self._check_file(key, found)
        return file.read_bytes()

    def _is_missing_zip(self) -> bool:
        return isinstance(self.store, ZipStore) and not self.store.path.exists()  # it can then not even be opened

    def check_documents(self) -> None:
        """Raise a StoreError if Zarr would find a pipe, a device or the like where documents should be."""
        folder = self.folder
        if folder is None:
            return
        for file in (*folder.glob(f"*/{ROOT}"), *folder.glob(f"*/*/{ROOT}")):
            self._check_file(str(file.relative_to(folder)), file.stat())

    def _check_file(self, key: str, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise StoreError(f"{key!r} in {self.name!r} is no regular file, so this is no store made by dasksim")
        self._check_size(key, found.st_size)

    def _check_size(self, key: str, n_bytes: int) -> None:
        if n_bytes > _MAX_DOCUMENT_BYTES:
            raise StoreError(
                f"{key!r} in {self.name!r} has {n_bytes / 1e6:,.0f} MB, more than the {_MAX_DOCUMENT_BYTES / 1e6:,.0f} "
                "MB of metadata that dasksim reads"
            )

    def is_empty(self) -> bool:
        """Whether nothing is there but unfinished files."""
        if self._is_missing_zip():
            return True
        if self.folder is None:
            return sync(self.for_reading().is_empty(""))
        if not self.folder.exists():
            return True
        if not self.folder.is_dir():
            raise StoreError(f"{self.name!r} is a file, not a store; choose another path")
        return all(_is_unfinished(child) for child in self.folder.iterdir())

    def create_root(self, content: bytes) -> None:
        """Write the root document, unless there is one.

        Of two writers at the same time one is first where the storage can tell: in folders, in memory and in object
        stores with conditional writes. Through fsspec the last one wins; each reads the root again afterwards.
        """
        self.create(ROOT, content)

    def create(self, key: str, content: bytes) -> None:
        """Write a document, unless there is one."""
        self._check_size(key, len(content))
        sync(self.store.set_if_not_exists(key, Buffer.from_bytes(content)))

    def write(self, key: str, content: bytes) -> None:
        """Write a document as a whole, in place of one that is there."""
        self._check_size(key, len(content))
        sync(self.store.set(key, Buffer.from_bytes(content)))

    def children(self, path: str) -> list[str]:
        """Return the names of what lies directly at a path."""
        return sorted(sync(_listed(self.for_reading(), path)))

    def holds_data(self, path: str) -> bool:
        """Whether anything but the document lies at the path of an array."""
        return sync(_has_more(self.for_reading(), path))

    def remove(self, names: Sequence[str]) -> None:
        """Remove what lies at some paths, in their order, unfinished files first; links are removed, not followed."""
        children = sync(_listed(self.store)) if self.folder is None else [c.name for c in self.folder.iterdir()]
        unfinished = [name for name in children if is_being_written(name)]
        for name in [*unfinished, *(name for name in names if name.partition("/")[0] in children)]:
            if self.folder is not None:
                _remove(self.folder / name)
            elif name == ROOT:
                sync(self.store.delete(name))
            else:
                sync(self.store.delete_dir(name))

    def remove_leftovers(self) -> None:
        """Remove the unfinished files of writers that were killed; only folders have any."""
        files = list(self.folder.rglob("*.partial")) if self.folder is not None else []
        oldest = self._clock() - _LEFTOVER_SECONDS if files else 0.0
        for file in files:
            try:
                if file.lstat().st_mtime < oldest:
                    file.unlink()
            except FileNotFoundError:  # its writer finished
                continue

    def _clock(self) -> float:
        """Return the time by the clock that stamps files, which need not be this machine's; 0 if it is unknown."""
        try:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                return os.fstat(file.fileno()).st_mtime
        except OSError:
            return 0.0

    def refuse_links(self) -> None:
        """Raise a StoreError if a folder within is a link, through which a write would leave the store."""
        for child in self.folder.rglob("*") if self.folder is not None else ():
            if child.is_symlink() and child.is_dir():
                raise StoreError(
                    f"{str(child)!r} is a link to a folder elsewhere, into which dasksim does not write; replace it by "
                    "what it points to"
                )


def _is_unfinished(path: Path) -> bool:
    """Whether a file was not finished: it has another name still, or no content where links are not to be had."""
    return is_being_written(path.name) or (path.name == ROOT and path.is_file() and not path.stat().st_size)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


async def _listed(store: Store, path: str = "") -> list[str]:
    return [name.rstrip("/") async for name in store.list_dir(path)]


async def _has_more(store: Store, path: str) -> bool:
    async for key in store.list_prefix(f"{path}/"):
        if not key.endswith((f"/{ROOT}", ".partial")):
            return True
    return False
