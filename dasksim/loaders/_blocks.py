"""A store as loaders see it: inner chunks of samples, some of which are wanted."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dasksim._core.failures import VALID
from dasksim.errors import ArgumentError, IncompleteStoreError, StoreError, StoreMismatchError, nearest
from dasksim.loaders._request import LoaderRequest
from dasksim.store import Record, ShardReader, Store

__all__ = ["Snapshot", "StoreBlocks", "take_snapshot"]

Array = npt.NDArray[Any]


class Snapshot(NamedTuple):
    """What a store says of itself at one time, and which of its chunks are complete."""

    record: Record
    chunks: tuple[int, ...]


def take_snapshot(request: LoaderRequest, without: Collection[int] = ()) -> Snapshot:
    """Return what there is of a store, but for some chunks.

    Raises
    ------
    StoreError
        If there is no store, or it cannot be read.
    IncompleteStoreError
        If chunks are missing and this is not asked for.
    """
    store = request.store
    record = store.record()
    complete = store.complete_chunks()
    if len(complete) < record.n_chunks and not request.partial:
        raise IncompleteStoreError(
            f"the store at {store.name!r} has {len(complete)} of {record.n_chunks} chunks; run generate again with "
            "the same arguments to finish it, or give partial=True to take the complete ones"
        )
    return Snapshot(record, tuple(sorted(complete.difference(without))))


class StoreBlocks:
    """A store, as it is at one time.

    A *block* is an inner chunk of every variable, numbered through the store: the least that is read.

    Parameters
    ----------
    request
        What is wanted of it.
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

    def __init__(self, request: LoaderRequest, snapshot: Snapshot) -> None:
        self.store: Store = request.store
        self.snapshot = snapshot
        self.record = snapshot.record
        # a copy in another process is given the snapshot of before, and the store may be another one by now
        self.check_unchanged()
        readers = self.store.readers(self.record, snapshot.chunks)
        is_masked = self.record.policy.masks
        names = _names(request, readers, is_masked)
        self.readers = {name: readers[name] for name in names}
        self.inner_rows = self._inner_rows(readers.values())
        self.blocks_per_chunk = self.record.chunk_size // self.inner_rows
        n_blocks = -(-self.record.n_samples // self.inner_rows)
        self.blocks = np.array(
            [
                block
                for chunk in snapshot.chunks
                for block in range(chunk * self.blocks_per_chunk, min((chunk + 1) * self.blocks_per_chunk, n_blocks))
            ],
            np.int64,
        )
        self._split = request.split
        self._invalid = self._find_invalid(request, readers[VALID]) if is_masked and VALID in readers else {}
        self.counts = np.array([self._count(int(block)) for block in self.blocks], np.int64)
        self.groups = self._find_groups(request.within, readers)

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample in memory."""
        return sum(reader.row_bytes for reader in self.readers.values())

    @property
    def n_groups(self) -> int:
        """Number of values of the context within which batches are drawn; 1 without one."""
        return int(self.groups.max(initial=0)) + 1

    def refreshed(self, request: LoaderRequest) -> "StoreBlocks":
        """Return the store as it is now: itself, if it has not changed.

        Raises
        ------
        StoreMismatchError
            If it was made anew.
        """
        self.check_unchanged()
        now = take_snapshot(request)
        return self if now == self.snapshot else StoreBlocks(request, now)

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

    def rows(self, block: int) -> Array:
        """Return the wanted samples of a block, counted from its first one."""
        wanted = self._wanted(block)
        n_rows = self._n_rows(block)
        if isinstance(wanted, bool):
            return np.arange(n_rows if wanted else 0)
        return np.flatnonzero(wanted[:n_rows])

    def _wanted(self, block: int) -> npt.NDArray[np.bool_] | bool:
        wanted = True if self._split is None else self._split.rows(block, self.inner_rows)
        if block in self._invalid and wanted is not False:
            wanted = np.full(self.inner_rows, True) if wanted is True else wanted
            wanted[self._invalid[block]] = False
        return wanted

    def _n_rows(self, block: int) -> int:
        return min(self.inner_rows, self.record.n_samples - block * self.inner_rows)

    def _count(self, block: int) -> int:
        wanted = self._wanted(block)
        n_rows = self._n_rows(block)
        return n_rows * int(wanted) if isinstance(wanted, bool) else int(np.count_nonzero(wanted[:n_rows]))

    def _inner_rows(self, readers: Iterable[ShardReader]) -> int:
        sizes = {reader.inner_rows for reader in readers}
        if len(sizes) > 1 or self.record.chunk_size % min(sizes):
            raise StoreError(
                f"the variables of the store at {self.store.name!r} have inner chunks of different numbers of "
                f"samples, {sorted(sizes)}; stores made by dasksim.generate do not"
            )
        return sizes.pop()

    def _find_invalid(self, request: LoaderRequest, reader: ShardReader) -> dict[int, Array]:
        """Return the masked samples of each block that has some, if they are not wanted."""
        if request.masked == "keep":
            return {}
        # no order can be planned before it is known how many samples each block has, so the whole mask is read
        found = {}
        for block, valid in self._read(reader):
            if not valid.all():
                found[block] = np.flatnonzero(~valid)
        if found and request.masked == "refuse":
            n_masked = sum(map(len, found.values()))
            raise ArgumentError(
                f"{n_masked:,} samples of the store at {self.store.name!r} failed and are masked; give "
                "masked='drop' to leave them out, which conditions prior and likelihood on success, or masked='keep' "
                f"to have them, with NaN or 0 as values and False as {VALID!r}"
            )
        return found

    def _find_groups(self, within: str | None, readers: dict[str, ShardReader]) -> Array:
        """Return for each sub-batch the number of its context's value."""
        size = self.record.sub_batch_size
        if within is None:
            return np.zeros(0, np.int32)
        if within not in readers:
            raise ArgumentError(f"within={within!r} is no variable of the store; {nearest(within, readers)}")
        values: dict[int, Any] = {}
        for block, content in self._read(readers[within]):
            rows = self._valid_rows(block)
            flat = content.reshape(len(content), -1)[rows[rows < len(content)]]
            # the sub-batch of each sample, the first sample of each sub-batch, and whether all others have its value
            batches = (block * self.inner_rows + rows) // size
            first = np.flatnonzero(np.diff(batches, prepend=-1))
            if flat.shape[1] != 1 or np.any(flat != np.repeat(flat[first], np.diff([*first, len(rows)]), axis=0)):
                raise ArgumentError(
                    f"within={within!r} must be a context: one number for each sub-batch; it differs within the "
                    f"sub-batches of samples {block * self.inner_rows} to {block * self.inner_rows + len(content) - 1}"
                )
            # a sub-batch may lie in several blocks
            for batch, value in zip(batches[first].tolist(), flat[first, 0].tolist(), strict=True):
                values.setdefault(batch, value)
                if values[batch] != value:
                    raise ArgumentError(f"within={within!r} must be a context; it differs within sub-batch {batch}")
        groups = np.zeros(-(-self.record.n_samples // size), np.int32)
        number = {value: i for i, value in enumerate(sorted(set(values.values())))}
        for batch, value in values.items():
            groups[batch] = number[value]
        return groups

    def _valid_rows(self, block: int) -> Array:
        keep = np.full(self._n_rows(block), True)
        keep[self._invalid.get(block, np.zeros(0, np.int64))] = False
        return np.flatnonzero(keep)

    def _read(self, reader: ShardReader) -> Iterable[tuple[int, Array]]:
        """Return one variable of all blocks."""
        n_blocks = -(-self.record.n_samples // self.inner_rows)
        for chunk in self.snapshot.chunks:
            first = chunk * self.blocks_per_chunk
            for inner, values in reader.read(chunk, range(min(self.blocks_per_chunk, n_blocks - first))):
                yield first + inner, values


def _names(request: LoaderRequest, known: Iterable[str], is_masked: bool) -> Sequence[str]:
    """Return the variables to read; ``valid`` is a user's own in older stores whose samples may not be masked."""
    known = list(known)
    if request.variables is None:
        return [name for name in known if name != VALID or request.masked == "keep" or not is_masked]
    for name in request.variables:
        if name not in known:
            raise ArgumentError(f"variables names {name!r}, which is not in the store; {nearest(name, known)}")
    return request.variables
