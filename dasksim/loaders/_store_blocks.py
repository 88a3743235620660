"""The blocks of a store: inner chunks of all variables."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dasksim._core.telling import counted
from dasksim.errors import IncompleteStoreError, StoreError, StoreMismatchError
from dasksim.loaders._blocks import Form, Part, WantedBlocks
from dasksim.loaders._request import LoaderRequest
from dasksim.store import Record, ShardReader, Store

__all__ = ["Snapshot", "StoreBlocks", "take_snapshot"]

Array = npt.NDArray[Any]


class Snapshot(NamedTuple):
    """What a store says of itself at one time, and which of its chunks are complete."""

    record: Record
    chunks: tuple[int, ...]


def take_snapshot(store: Store, *, partial: bool, without: Collection[int] = ()) -> Snapshot:
    """Return what there is of a store, but for some chunks.

    Raises
    ------
    StoreError
        If there is no store, or it cannot be read.
    IncompleteStoreError
        If chunks are missing and this is not asked for.
    """
    record = store.record()
    complete = store.complete_chunks()
    if len(complete) < record.n_chunks and not partial:
        raise IncompleteStoreError(
            f"the store at {store.name!r} has {len(complete):,} of {counted(record.n_chunks, 'chunk')}; run generate "
            "again with the same arguments to finish it, or give partial=True to take the complete ones"
        )
    return Snapshot(record, tuple(sorted(complete.difference(without))))


class StoreBlocks(WantedBlocks):
    """A store, as it is at one time.

    Parameters
    ----------
    request
        What is wanted of it.
    store
        The store.
    snapshot
        What there is of it.

    Raises
    ------
    ArgumentError
        If a variable is not in the store, or samples are masked and nobody said what to do with them.
    StoreError
        If the store cannot be read.
    StoreMismatchError
        If the store is another one now.
    """

    kind = "inner chunks"

    def __init__(self, request: LoaderRequest, store: Store, snapshot: Snapshot) -> None:
        self.store, self.snapshot, self.record = store, snapshot, snapshot.record
        self.title = f"the store at {store.name!r}"
        self.is_far = not store.is_local
        # a copy in another process is given the snapshot of before, and the store may be another one by now
        self.check_unchanged()
        readers = store.readers(self.record, snapshot.chunks)
        inner_rows = self._inner_rows(readers.values())
        self._per_chunk = self.record.chunk_size // inner_rows
        self._n_blocks = -(-self.record.n_samples // inner_rows)
        numbers = [range(chunk * self._per_chunk, self._stop(chunk)) for chunk in snapshot.chunks]
        self._readers = readers
        super().__init__(
            request,
            {name: Form(reader.dtype, reader.row_shape) for name, reader in readers.items()},
            np.minimum(np.arange(self._n_blocks + 1) * inner_rows, self.record.n_samples),
            np.array([block for blocks in numbers for block in blocks], np.int64),
            self.record.sub_batch_size,
            has_mask=self.record.policy.masks,
        )

    def _stop(self, chunk: int) -> int:
        return min((chunk + 1) * self._per_chunk, self._n_blocks)

    def check_unchanged(self) -> None:
        """Raise a StoreMismatchError if the store was made anew since it was opened; longer it may be."""
        now = self._now()
        if now == self.record:
            return
        if now is None or not now.is_same_store(self.record):
            raise StoreMismatchError(
                f"the store at {self.store.name!r} was removed or made anew while it is being read; its samples are "
                "others now, so make a new loader"
            )

    def _now(self) -> Record | None:
        """Return what the store says of itself, or None if a part of that is gone: it is being removed."""
        try:
            return self.store.find_record()
        except StoreError:
            if self.store.is_being_removed():
                return None
            raise

    def check_length(self) -> None:
        """Raise a StoreMismatchError if the store was extended since it was opened."""
        self.check_unchanged()
        now = self.store.record().n_samples
        if now != self.record.n_samples:
            raise StoreMismatchError(
                f"the store at {self.store.name!r} was extended from {self.record.n_samples:,} to {now:,} "
                "samples since this loader was made; make a new one, or give partial=True to take what is there at "
                "each epoch"
            )

    def place(self, block: int) -> tuple[int, int]:
        return divmod(block, self._per_chunk)

    def parts(self, chunk: int, inners: Sequence[int]) -> list[Part]:
        return [self._read(name, chunk, inners) for name in self.forms]

    def _read(self, name: str, chunk: int, inners: Sequence[int]) -> Part:
        for inner, values in self._readers[name].read(chunk, inners):
            yield inner, {name: values}

    def read_all(self, name: str) -> Iterable[tuple[int, Array]]:
        for chunk in self.snapshot.chunks:
            first = chunk * self._per_chunk
            for inner, values in self._readers[name].read(chunk, range(self._stop(chunk) - first)):
                yield first + inner, values

    def _inner_rows(self, readers: Iterable[ShardReader]) -> int:
        sizes = {reader.inner_rows for reader in readers}
        if len(sizes) > 1 or self.record.chunk_size % min(sizes):
            raise StoreError(
                f"the variables of the store at {self.store.name!r} have inner chunks of different numbers of "
                f"samples, {sorted(sizes)}; stores made by dasksim.generate do not"
            )
        return sizes.pop()
