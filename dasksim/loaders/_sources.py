"""The blocks of whatever a loader reads: a store, a dataset, or several of these as if they were one."""

from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dasksim.errors import ArgumentError
from dasksim.loaders._blocks import Blocks, Part
from dasksim.loaders._dataset_blocks import DatasetBlocks
from dasksim.loaders._request import LoaderRequest
from dasksim.loaders._store_blocks import Snapshot, StoreBlocks, take_snapshot
from dasksim.store import DatasetReader, Store, check_alike, open_samples

__all__ = ["Snapshots", "open_blocks", "take_snapshots"]

Array = npt.NDArray[Any]

#: What there is of each source at one time; None of what is no store, and does not change.
Snapshots: TypeAlias = tuple[Snapshot | None, ...]


def take_snapshots(request: LoaderRequest, without: Collection[int] = ()) -> Snapshots:
    """Return what there is of each source, but for some chunks.

    Raises
    ------
    ArgumentError
        If what is no store shall be read while it grows.
    StoreError
        If there is no store, it cannot be read, or chunks are missing and this is not asked for.
    """
    return tuple(_snapshot(source, request.partial, without) for source in request.sources)


def _snapshot(source: Store | DatasetReader, partial: bool, without: Collection[int]) -> Snapshot | None:
    if isinstance(source, Store) and not source.is_group_of_others():
        return take_snapshot(source, partial=partial, without=without)
    if partial:
        what = f"the Zarr group at {source.name!r}" if isinstance(source, Store) else "a Dataset"
        raise ArgumentError(f"partial=True is for stores of dasksim, whose receipts say what is there; got {what}")
    return None


def open_blocks(request: LoaderRequest, snapshots: Snapshots) -> Blocks:
    """Return the blocks of all sources.

    Raises
    ------
    ArgumentError
        If a variable is not there, or sources have other variables.
    StoreError
        If a store cannot be read, or is another one now.
    """
    found = [_open(request, *pair) for pair in zip(request.sources, snapshots, strict=True)]
    return found[0] if len(found) == 1 else JoinedBlocks(found)


def _open(request: LoaderRequest, source: Store | DatasetReader, snapshot: Snapshot | None) -> Blocks:
    if isinstance(source, DatasetReader):
        return DatasetBlocks(request, source)
    if snapshot is None:
        return DatasetBlocks(request, DatasetReader(open_samples(source.location)))
    return StoreBlocks(request, source, snapshot)


class JoinedBlocks(Blocks):
    """The blocks of several sources, numbered through.

    Parameters
    ----------
    members
        The sources; each says which of its own samples are wanted.
    """

    title, kind = "the stores", "inner chunks"

    def __init__(self, members: Sequence[Blocks]) -> None:
        check_alike([{name: str(form) for name, form in member.forms.items()} for member in members])
        self._members = members
        self._firsts = np.cumsum([0, *(member.n_numbers for member in members)])
        self.n_numbers = int(self._firsts[-1])
        self.is_far = any(member.is_far for member in members)
        self.forms = members[0].forms
        self.block_rows = max(member.block_rows for member in members)
        parts = zip(self._firsts.tolist(), members, strict=False)
        self.blocks = np.concatenate([first + member.blocks for first, member in parts])
        self.counts = np.concatenate([member.counts for member in members])
        self.contexts = None
        if members[0].contexts is not None:
            self.contexts = sorted({value for member in members for value in member.contexts or ()})
        # from the number of a value among those of its member to that among all
        self._numbers = [np.searchsorted(self.contexts or [], member.contexts or []) for member in members]

    def rows(self, block: int) -> Array:
        _, member, own = self._own(block)
        return member.rows(own)

    def groups(self, block: int, rows: Array) -> Array:
        i, member, own = self._own(block)
        return np.asarray(self._numbers[i][member.groups(own, rows)])

    def place(self, block: int) -> tuple[tuple[int, Any], int]:
        i, member, own = self._own(block)
        chunk, inner = member.place(own)
        return (i, chunk), inner

    def parts(self, chunk: tuple[int, Any], inners: Sequence[int]) -> list[Part]:
        i, own = chunk
        return self._members[i].parts(own, inners)

    def check_unchanged(self) -> None:
        for member in self._members:
            member.check_unchanged()

    def check_length(self) -> None:
        for member in self._members:
            member.check_length()

    def _own(self, block: int) -> tuple[int, Blocks, int]:
        """Return the source of a block, and the block's number there."""
        i = int(np.searchsorted(self._firsts, block, side="right")) - 1
        return i, self._members[i], block - int(self._firsts[i])
