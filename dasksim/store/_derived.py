"""Variables that were computed from those of a store afterwards, in arrays beside them.

A store has an entry for each derivation, under the name of its first variable, in a document beside the derivation's
own receipts: several can be made at once. Its variables are part of the dataset while the entry says that they are
complete for as many samples as the store has.
"""

import math

import zarr

from dasksim.errors import StoreMismatchError
from dasksim.store._create import create_arrays
from dasksim.store._entries import Derivation
from dasksim.store._kept import folder_of, keep_entry, kept_record
from dasksim.store._layout import StoreLayout, array_layout
from dasksim.store._location import ROOT, Location, explained
from dasksim.store._record import Record
from dasksim.store._root import finish_store, replace_root
from dasksim.store._told import present_record

__all__ = ["begin_derivation", "end_derivation", "grow_derived", "remove_derivation"]


def _inner_rows(location: Location, name: str) -> int:
    with explained(f"cannot read {name!r} of the store at {location.name!r}"):
        array = location.group()[name]
        return int(array.chunks[0])  # type: ignore[union-attr]


def begin_derivation(location: Location, key: str, entry: Derivation) -> StoreLayout:
    """Enter a derivation in the record of a store, unless it is there, and create its arrays; return its layout."""
    with location.changing(f"derive {key}") as place:
        # the entry comes before the arrays: what a kill leaves of them is then known to belong to a derivation
        _enter(place, key, entry)
        _, view = _begun(place, key)
        # a batch of a loader is read from inner chunks of all variables, so they are those of what was simulated
        inner_rows = math.gcd(_inner_rows(place, next(iter(present_record(place).variables))), view.chunk_size)
        arrays = (array_layout(view, name, variable, inner_rows) for name, variable in view.variables.items())
        layout = StoreLayout(tuple(arrays), {}, view, key)
        create_arrays(place, layout)
        finish_store(place, present_record(place))
    return layout


def end_derivation(location: Location, key: str, n_samples: int) -> None:
    """Have a store say that a derivation is complete for so many samples, and gather its metadata."""
    with location.changing(f"derived {key}") as place:
        entry, _ = _begun(place, key)
        _enter(place, key, entry.with_length(n_samples))
        finish_store(place, present_record(place))


def remove_derivation(location: Location, key: str) -> None:
    """Remove a derivation.

    It becomes incomplete first, for readers of the root too, then its receipts go, and its entry last: a removal that
    is cut off leaves no receipts for others.
    """
    with location.changing(f"remove {key}") as place:
        entry, _ = _begun(place, key)
        _enter(place, key, entry.with_length(0))
        finish_store(place, present_record(place))
        folder = folder_of(key)
        with explained(f"cannot remove {key!r} of the store at {location.name!r}"):
            receipts = [f"{folder}/{name}" for name in place.children(folder) if name != ROOT]
            place.remove([*receipts, *entry.variables, folder])
        # the root still has copies of the documents that are gone now
        finish_store(place, present_record(place))


def grow_derived(location: Location, record: Record) -> None:
    """Let the arrays of derivations grow to the length of a store that was extended; they are incomplete then."""
    with explained(f"cannot write to the store at {location.name!r}"):
        group = location.group_to_change()
        for entry in record.derivations.values():
            for name in entry.variables:
                array = group.get(name)
                if isinstance(array, zarr.Array) and array.shape[0] < record.n_samples:
                    array.resize((record.n_samples, *array.shape[1:]))


def _enter(location: Location, key: str, entry: Derivation) -> None:
    """Write an entry unless it is there, as the last in order unless it has a place."""
    record = present_record(location)
    with explained(f"cannot write to the store at {location.name!r}"):
        if kept_record(location) is None:  # of an older version, which has all entries in its root
            replace_root(location, record)
            record = present_record(location)
        orders = [other.order for name, other in record.derivations.items() if name != key]
        placed = entry.placed(max(orders, default=-1) + 1)
        if record.derivations.get(key) != placed:
            keep_entry(location, key, placed)


def _begun(location: Location, key: str) -> tuple[Derivation, Record]:
    """Return the entry of a derivation, and the record as that of its variables alone."""
    record = present_record(location)
    entry, view = record.derivations.get(key), record.view(key)
    if entry is None or view is None:
        raise StoreMismatchError(
            f"the derivation of {key!r} in the store at {location.name!r} was removed by another run"
        )
    return entry, view
