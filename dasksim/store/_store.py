"""A store, and what happens to it from its making to its removal, in the order that keeps it whole."""

import contextlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import xarray as xr

from dasksim.errors import StoreError, StoreMismatchError
from dasksim.store._check import ChunkChecker
from dasksim.store._create import check_store, create_arrays
from dasksim.store._damage import Columns
from dasksim.store._dataset import check_shards, open_dataset, open_part, open_simulated
from dasksim.store._derived import (
    begin_derivation,
    end_derivation,
    grow_derived,
    remove_derivation,
)
from dasksim.store._entries import Derivation
from dasksim.store._icechunk import open_writer
from dasksim.store._kept import OWN
from dasksim.store._layout import StoreLayout
from dasksim.store._locate import StoreLike, locate
from dasksim.store._location import ROOT, Location, expected_warnings, explained
from dasksim.store._metadata import check_arrays, forget_metadata, restore_derived
from dasksim.store._receipts import Receipts, open_receipts
from dasksim.store._record import Record
from dasksim.store._root import create_root, finish_store, remove_store, replace_root
from dasksim.store._samples import is_group_of_others
from dasksim.store._shards import ShardReader
from dasksim.store._status import Status, columns_of, status
from dasksim.store._stored_rows import StoredRows
from dasksim.store._told import check_documents, present_record, read_record
from dasksim.store._within import path_within
from dasksim.store._write import ChunkWriter, forget_chunks

__all__ = ["Store"]


@dataclass(frozen=True)
class Store:
    """A store, which need not be there yet.

    A run *claims* it, or finds by whom it was claimed, and *prepares* it: both within one change. It then *writes*
    chunks, each with its receipt, and *finishes* it. A derivation *begins*, writes and *ends* in the same way. Whatever
    is cut off can be done again; who does it again finds what is complete.

    Parameters
    ----------
    location
        Where it is.
    """

    location: Location

    @classmethod
    def at(cls, store: "StoreLike | Store") -> "Store":
        """Return the store that a caller means; nothing is made there.

        Raises
        ------
        ArgumentError, ArgumentTypeError
            If it cannot be one.
        """
        return store if isinstance(store, Store) else cls(locate(store))

    @property
    def name(self) -> str:
        """Its path or URL for messages, without credentials."""
        return self.location.name

    @property
    def is_shared(self) -> bool:
        """Whether other processes can write to it."""
        return self.location.is_shared

    @property
    def is_local(self) -> bool:
        """Whether it is a folder."""
        return self.location.folder is not None

    def check_writable(self) -> None:
        """Raise an ArgumentError if it cannot be written to."""
        self.location.check_writable()

    @staticmethod
    def is_place(obj: object) -> bool:
        """Whether an object only says where a store is; what reads from there holds an array too."""
        return isinstance(obj, Store | Location)

    def path_of(self, source: object) -> str | None:
        """Return the path within it at which a source of data lies, or None; see :func:`path_within`."""
        return path_within(self.location, source)

    # What it says, and holds

    def find_record(self, *, mends_root: bool = False) -> Record | None:
        """Return what it says of itself, or None if there is no store; see :func:`read_record`."""
        return read_record(self.location, mends_root=mends_root)

    def record(self) -> Record:
        """Return what it says of itself; raise a StoreError if there is no store."""
        return present_record(self.location)

    def is_group_of_others(self) -> bool:
        """Whether it is a Zarr group that was not made by dasksim; raise a StoreError if it is neither."""
        return is_group_of_others(self.location)

    def is_being_removed(self) -> bool:
        """Whether a part of what it says of itself is gone."""
        return not all(self.location.read(document) for document in (ROOT, OWN))

    def receipts(self, derivation: str | None = None) -> Receipts | None:
        """Return its receipts, or None if its creation was cut off before them."""
        return open_receipts(self.location, derivation)

    def sound_receipts(self) -> Receipts | None:
        """Return its receipts, or None if they are damaged, which is for verify to tell and for repair to mend."""
        with contextlib.suppress(StoreError):
            return self.receipts()
        return None

    def complete_chunks(self) -> set[int]:
        """Return the numbers of the complete chunks."""
        receipts = self.receipts()
        return receipts.complete_chunks() if receipts is not None else set()

    def columns(self) -> Columns:
        """Return what the receipts of complete chunks say, a column for each field."""
        return columns_of(self.location)

    def checker(self, record: Record, derivation: str | None = None) -> ChunkChecker:
        """Return what compares chunks with their receipts."""
        return ChunkChecker(self.location, record, derivation)

    def rows(self, name: str) -> StoredRows:
        """Return the samples of a variable, to be read where they are needed."""
        return StoredRows(self.location, name)

    def readers(self, record: Record, chunks: Collection[int]) -> dict[str, ShardReader]:
        """Return what reads its variables, checked, and the shards of some chunks with them.

        Raises
        ------
        StoreError
            If it is not what the record says, or cannot be read.
        """
        check_documents(self.location, self.record(), is_whole=True)
        check_arrays(self.location, record, record.visible_variables, is_whole=True)
        check_shards(self.location, record, chunks)
        with explained(f"cannot open the store at {self.name!r}"):
            group = self.location.group()
            return {name: ShardReader(self.location, group[name]) for name in record.visible_variables}  # type: ignore[arg-type]

    def reading(self) -> contextlib.AbstractContextManager[None]:
        """Turn what is raised while its samples are read into a StoreError; no user's function may run in the block."""
        return explained(f"cannot read {self.name!r}; dasksim.verify says what is damaged")

    def status(self) -> Status:
        """Return how far it is."""
        return status(self.location)

    def stored_bytes(self, record: Record) -> dict[str, int]:
        """Return how many bytes each variable takes where the store is."""
        with explained(f"cannot look at the store at {self.name!r}"), expected_warnings():
            group = self.location.group()
            return {name: group[name].nbytes_stored() for name in record.visible_variables}  # type: ignore[union-attr]

    def open(self) -> xr.Dataset:
        """Open it as a lazy dataset; see :func:`open_dataset`."""
        return open_dataset(self.location)

    def open_part(self) -> xr.Dataset:
        """Open it though chunks may be missing; reading one that is raises a StoreError."""
        return open_part(self.location)

    def open_simulated(self) -> xr.Dataset:
        """Open it though shards of derived variables may be missing."""
        return open_simulated(self.location)

    # Its life

    @contextlib.contextmanager
    def changing(self, message: str) -> Iterator["Store"]:
        """Give the store for a change, which others see as a whole where it has a history; the message goes there."""
        with self.location.changing(message) as place:
            yield Store(place)

    def claim(self, record: Record, removed: Record | None = None) -> Record:
        """Have it say what it is, unless it says so already; return what it says."""
        if removed is not None:
            remove_store(self.location, removed)
        return create_root(self.location, record)

    def check_sound(self, record: Record, *, repair: bool = False) -> None:
        """Check that what is there can be gone on with; damaged metadata can, where they are repaired."""
        check_store(self.location, record, check_metadata=not repair)

    def prepare(self, layout: StoreLayout, found: Record, *, repair: bool = False) -> None:
        """Have it say what its layout says, unless another run has changed it since, and create what it lacks.

        Raises
        ------
        StoreMismatchError
            If another run has changed it.
        """
        place, record = self.location, layout.record
        now = self.find_record()
        if now not in (found, record):
            raise StoreMismatchError(
                f"the store at {self.name!r} was changed by another run just now; see what dasksim.status says of it"
            )
        # before arrays are created: those that are there would only be made longer, damaged as they are
        if repair:
            forget_metadata(place, record)
        if now != record and record.n_samples == found.n_samples:
            create_arrays(place, layout)  # that of a mask is there before the record names it
        if now != record or repair:  # a repaired store's root holds no gathered metadata, which may be damaged too
            replace_root(place, record)
        create_arrays(place, layout)
        if repair:
            restore_derived(place, record)
        grow_derived(place, record)

    def writer(self, layout: StoreLayout) -> ChunkWriter:
        """Return what writes chunks; unfinished files of writers that were killed are removed."""
        self.location.remove_leftovers()
        return open_writer(self.location, layout)

    def forget(self, record: Record, chunks: Iterable[int], derivation: str | None = None) -> None:
        """Remove the receipts of chunks, so that they are made again."""
        with self.changing("forget damaged chunks") as change:
            forget_chunks(change.location, record, chunks, derivation)

    def finish(self, record: Record) -> None:
        """Have its root say what it does once all chunks are complete, so that readers open it at once."""
        finish_store(self.location, record)

    def begin_derivation(self, key: str, entry: Derivation) -> StoreLayout:
        """Have it name a derivation, unless it does, and create its arrays; return their layout."""
        return begin_derivation(self.location, key, entry)

    def end_derivation(self, key: str, n_samples: int) -> None:
        """Have it say that a derivation is complete for so many samples."""
        end_derivation(self.location, key, n_samples)

    def remove_derivation(self, key: str) -> None:
        """Remove a derivation."""
        remove_derivation(self.location, key)

    def holds_stranger(self, name: str) -> bool:
        """Whether there is an array of a name that is none of its variables."""
        return self.location.read(f"{name}/{ROOT}") is not None
