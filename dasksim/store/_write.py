"""Write chunks to a store."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import zarr

from dasksim._core.audits import AuditOutcome
from dasksim._core.chunk import Chunk, Receipt
from dasksim.errors import StoreError, StoreMismatchError
from dasksim.store._dtypes import as_stored
from dasksim.store._kept import folder_of, keep_audit
from dasksim.store._layout import ArrayLayout, StoreLayout
from dasksim.store._location import Location, explained
from dasksim.store._receipts import Receipts, open_receipts
from dasksim.store._record import Record
from dasksim.store._shard_writer import ShardWriter
from dasksim.store._told import read_told

__all__ = ["ChunkWriter", "forget_chunks"]


def forget_chunks(location: Location, record: Record, chunks: Iterable[int], derivation: str | None = None) -> None:
    """Remove the receipts of chunks, so that they are simulated again.

    Raises
    ------
    StoreError
        If the store cannot be written.
    """
    with explained(f"cannot write to the store at {location.name!r}"):
        group = location.group_to_change()
        receipts = Receipts(group, record, location.name, folder_of(derivation))
        for chunk in chunks:
            receipts.remove(chunk)


class ChunkWriter:
    """Writes chunks to a store: the data first, the receipt last.

    Parameters
    ----------
    location
        Where the store is.
    layout
        How it is laid out.
    """

    def __init__(self, location: Location, layout: StoreLayout) -> None:
        self.location = location
        self.layout = layout
        # kept, since to open the arrays for each chunk takes as long as to write a small one
        self._opened: tuple[dict[str, ShardWriter], Receipts] | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        # locks cannot be sent, and each process opens arrays for itself
        return {"location": self.location, "layout": self.layout, "_opened": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def write(self, chunk: int, simulate: Callable[[], Chunk]) -> Receipt:
        """Simulate a chunk, write it, write its receipt, and return the receipt.

        Raises
        ------
        StoreError
            If it cannot be written.
        StoreMismatchError
            If the store was made anew in the meantime.
        """
        start = time.perf_counter_ns()
        # outside of the block, which would take a user's exception for one of the storage
        made = simulate()
        with explained(f"writing to {self.location.name!r} failed"):
            try:
                return self._write(chunk, made, start)
            except FileNotFoundError:  # it stood still for so long that another run took its file for a leftover
                return self._write(chunk, made, start)

    @contextlib.contextmanager
    def settling(self) -> Iterator[Callable[[Receipt], None]]:
        """Give what is called with each receipt by whoever gathers them."""
        yield lambda receipt: None

    def _write(self, chunk: int, made: Chunk, start: int) -> Receipt:
        # before and after: another run may take the store over while a chunk is simulated, or while it is written
        self.check_record(self.location)
        shards, receipts = self._open()
        digests, sizes = {}, {}
        n_rows = 0
        for array in self.layout.arrays:
            rows = as_stored(made.variables[array.name], array.name, array.dtype)
            n_rows = len(rows)
            # a whole shard at once: of writes to its parts some would be lost; the digest is of what is stored, which a
            # dtype may have rounded
            digests[array.name], sizes[array.name] = shards[array.name].write(chunk, rows)
        try:
            self.check_record(self.location)
        except StoreMismatchError:
            if not receipts.hold(chunk, digests):  # what was written may lie over another run's
                receipts.remove(chunk)
            raise
        nanoseconds = time.perf_counter_ns() - start
        receipt = Receipt(chunk, n_rows, made.n_proposals, made.n_accepted, nanoseconds, digests, made.failures, sizes)
        receipts.write(receipt)
        return receipt

    def keep_audit(self, chunk: int, outcome: AuditOutcome) -> None:
        """Write what was found of a run that began with a chunk."""
        with self.location.changing("keep what an audit found") as place, explained(f"cannot write to {place.name!r}"):
            keep_audit(place, chunk, outcome)

    def complete_chunks(self) -> set[int]:
        """Return the numbers of the chunks that are complete."""
        receipts = open_receipts(self.location, self.layout.derivation)
        return receipts.complete_chunks() if receipts else set()

    def check_record(self, location: Location) -> None:
        """Raise a StoreMismatchError if the store is no longer the one that this writes to."""
        if read_told(location, self.layout.derivation) != self.layout.record.alone:
            raise StoreMismatchError(
                f"the store at {location.name!r} was removed, made anew or changed by another run; this run has "
                "stopped, so as not to mix its samples in"
            )

    def _open(self) -> tuple[dict[str, ShardWriter], Receipts]:
        with self._lock:
            if self._opened is None:
                group = self.location.group_to_change()
                arrays = [_checked(_array(group, array.name), array) for array in self.layout.arrays]
                folder = folder_of(self.layout.derivation)
                receipts = Receipts(group, self.layout.record, self.location.name, folder)
                self._opened = {array.path: ShardWriter(array) for array in arrays}, receipts
            return self._opened


def _checked(found: zarr.Array[Any], array: ArrayLayout) -> zarr.Array[Any]:
    """Return an array if it is laid out as planned: a chunk that is no whole shard would not be written alone."""
    shards = (array.chunk_rows, *array.shape[1:])
    is_long_enough = found.shape[0] >= array.shape[0] and found.shape[1:] == array.shape[1:]
    if not is_long_enough or (found.dtype, found.shards) != (array.dtype, shards):
        raise StoreError(
            f"{array.name!r} in the store has shape {found.shape}, dtype {found.dtype} and shards {found.shards}, not "
            f"{array.shape}, {array.dtype} and {shards}"
        )
    return found


def _array(group: zarr.Group, path: str) -> zarr.Array[Any]:
    array = group[path]
    if not isinstance(array, zarr.Array):
        raise StoreError(f"{path!r} in the store is no array")
    return array
