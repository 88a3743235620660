"""Stores in Icechunk repositories: every change is a commit, and readers see whole commits only."""

import contextlib
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

from zarr.abc.store import Store

from dasksim._core.chunk import Chunk, Receipt
from dasksim._core.telling import counted
from dasksim.errors import ArgumentError
from dasksim.store._layout import StoreLayout
from dasksim.store._location import Location, explained
from dasksim.store._write import ChunkWriter

__all__ = ["IcechunkBranch", "Repository", "Session", "open_writer"]

_BRANCH = "main"

# A commit takes some 15 ms, and a kill loses the chunks since the last one.
_WINDOW_CHUNKS = 50
_WINDOW_SECONDS = 30


@runtime_checkable
class Repository(Protocol):
    """An Icechunk repository."""

    def readonly_session(self, branch: str) -> Any:
        """Return a session on what a branch holds now."""

    def writable_session(self, branch: str) -> Any:
        """Return a session whose changes can be committed to a branch."""


@runtime_checkable
class Session(Protocol):
    """An Icechunk session; what is written in it is committed by whoever opened it."""

    @property
    def snapshot_id(self) -> str:
        """The commit that it starts from."""

    @property
    def store(self) -> Store:
        """Its Zarr store."""


@dataclass(frozen=True)
class IcechunkBranch(Location):
    """The branch ``main`` of an Icechunk repository.

    Parameters
    ----------
    repository
        The repository.
    """

    repository: Any = None

    @classmethod
    def of(cls, repository: Any) -> Self:
        """Return the branch of a repository as it is now."""
        storage = repr(repository.storage)
        name = f"Icechunk repository {' '.join(storage.split())}"
        if storage == _in_memory():  # a fork of a session would have a memory of its own
            raise ArgumentError("an Icechunk repository in memory cannot take chunks from workers; give one on storage")
        with explained(f"cannot open the {name}"):
            store = repository.readonly_session(_BRANCH).store
        return cls(name, store, True, "/", repository)

    def check_writable(self) -> None:
        """Do nothing: a repository can be written to."""

    def for_reading(self) -> Store:
        """Return the store of the last commit."""
        # a new session each time: one that is open stays at the commit from which it started
        store: Store = self.repository.readonly_session(_BRANCH).store
        return store

    @contextlib.contextmanager
    def changing(self, message: str) -> Iterator[Location]:
        """Give a session's store, and commit it."""
        session = self.repository.writable_session(_BRANCH)
        # what raises in the block leaves the session behind uncommitted, and the branch as it was
        yield _at(self.name, session)
        if session.has_uncommitted_changes:
            with explained(f"cannot commit to the {self.name}; run generate again to go on from its last commit"):
                session.commit(f"dasksim: {message}")


def _in_memory() -> str:
    """Return what Icechunk calls a storage in memory, which is all it tells, and not the same in each version."""
    import icechunk  # whoever gave a repository has it

    return repr(icechunk.in_memory_storage())


def _at(name: str, session: Any) -> Location:
    return Location(name, session.store, is_shared=False, key_separator="/")


@dataclass(frozen=True)
class _ForkReceipt(Receipt):
    """A receipt that takes along what was written, for the client to commit."""

    fork: bytes = b""


class IcechunkWriter(ChunkWriter):
    """Writes each chunk in a fork of a session, and commits them in windows; only the client commits.

    Parameters
    ----------
    location
        The branch.
    layout
        How the store is laid out.
    """

    def __init__(self, location: IcechunkBranch, layout: StoreLayout) -> None:
        super().__init__(location, layout)
        self._repository = location.repository
        # forked before anything is written: a session with uncommitted changes cannot be
        self._fork = pickle.dumps(self._repository.writable_session(_BRANCH).fork())

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_fork": self._fork}

    def write(self, chunk: int, simulate: Callable[[], Chunk]) -> Receipt:
        """Simulate and write a chunk in a fork of its own, which the receipt takes along."""
        # a fork for each chunk: one that held several would be merged once with each of their receipts
        fork = pickle.loads(self._fork)
        receipt = ChunkWriter(_at(self.location.name, fork), self.layout).write(chunk, simulate)
        return _ForkReceipt(**vars(receipt), fork=pickle.dumps(fork))

    @contextlib.contextmanager
    def settling(self) -> Iterator[Callable[[Receipt], None]]:
        """Commit receipts and their chunks in windows, the last one when the block ends in whatever way."""
        forks: list[bytes] = []
        last = time.monotonic()

        def settle(receipt: Receipt) -> None:
            nonlocal last
            if isinstance(receipt, _ForkReceipt):
                forks.append(receipt.fork)
            if len(forks) >= _WINDOW_CHUNKS or time.monotonic() - last > _WINDOW_SECONDS:
                self._commit(forks)
                last = time.monotonic()

        try:
            yield settle
        except BaseException as error:
            # after an interrupt too: chunks that are complete are worth a commit
            try:
                self._commit(forks)
            except Exception as failed:  # noqa: BLE001, what ended the run must not be lost
                error.add_note(f"Chunks since the last commit are lost: {type(failed).__name__}: {failed}")
            raise
        self._commit(forks)

    def _commit(self, forks: list[bytes]) -> None:
        if not forks:
            return
        import icechunk  # whoever gave a repository has it

        # a chunk has one possible content, so that of two writers either may win
        solver = icechunk.BasicConflictSolver(on_chunk_conflict=icechunk.VersionSelection.UseOurs)
        with explained(f"cannot commit to the {self.location.name}"):
            session = self._repository.writable_session(_BRANCH)
            self.check_record(_at(self.location.name, session))  # forks know only what was there when they were made
            session.merge(*map(pickle.loads, forks))
            session.commit(f"dasksim: {counted(len(forks), 'chunk')}", rebase_with=solver)
        # only now: what a commit that failed has left is tried again when the block ends
        forks.clear()


def open_writer(location: Location, layout: StoreLayout) -> ChunkWriter:
    """Return what writes chunks to a location."""
    return IcechunkWriter(location, layout) if isinstance(location, IcechunkBranch) else ChunkWriter(location, layout)
