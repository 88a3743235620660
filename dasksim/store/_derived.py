"""Variables that were computed from those of a store afterwards, in arrays beside them.

A store has an entry for each derivation, under the name of its first variable, in a document beside the derivation's
own receipts: several can be made at once. Its variables are part of the dataset while the entry says that they are
complete for as many samples as the store has.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from dasksim.errors import StoreMismatchError
from dasksim.store._kept import folder_of, keep_entry, kept_record
from dasksim.store._layout import StoreLayout
from dasksim.store._location import ROOT, Location, explained
from dasksim.store._record import derived_view, read_record
from dasksim.store._root import finish_store, replace_root
from dasksim.store._shards import ShardReader
from dasksim.store._write import create_arrays

__all__ = [
    "StoredRows",
    "begin_derivation",
    "end_derivation",
    "grow_derived",
    "inner_rows_of",
    "remove_derivation",
]


@dataclass(frozen=True)
class StoredRows:
    """Rows of a variable of a store, which are read where they are needed.

    Parameters
    ----------
    location
        Where the store is.
    name
        The variable.
    samples
        Which samples: those of a chunk.
    """

    location: Location
    name: str
    samples: slice = field(default_factory=lambda: slice(None))

    def __getitem__(self, samples: slice) -> "StoredRows":
        return StoredRows(self.location, self.name, samples)

    def load(self) -> npt.NDArray[Any]:
        """Read them.

        Raises
        ------
        StoreError
            If they cannot be read, or differ from their checksums.
        """
        with explained(f"cannot read {self.name!r} of the store at {self.location.name!r}"):
            group = zarr.open_group(self.location.for_reading(), mode="r", zarr_format=3, use_consolidated=False)
            reader = ShardReader(self.location, group[self.name])  # type: ignore[arg-type]
            first, stop = self.samples.start, self.samples.stop
            chunk = first // reader.chunk_rows
            inners = range(-(-(stop - first) // reader.inner_rows))
            return np.concatenate([values for _, values in reader.read(chunk, inners)])[: stop - first]


def inner_rows_of(location: Location, name: str) -> int:
    """Return the rows of an inner chunk of a variable, which are those of all in the store."""
    with explained(f"cannot read {name!r} of the store at {location.name!r}"):
        array = zarr.open_group(location.for_reading(), mode="r", zarr_format=3, use_consolidated=False)[name]
        return int(array.chunks[0])  # type: ignore[union-attr]


def begin_derivation(location: Location, key: str, entry: Mapping[str, Any], layout: StoreLayout) -> StoreLayout:
    """Enter a derivation in the record of a store, unless it is there, and create its arrays; return its layout."""
    with location.changing(f"derive {key}") as place:
        _enter(place, key, entry)
        layout = StoreLayout(
            layout.arrays, {}, layout.n_chunks, layout.chunk_size, derived_view(_record(place), key) or {}, key
        )
        create_arrays(place, layout)
        finish_store(place, _record(place))
    return layout


def end_derivation(location: Location, key: str, n_samples: int) -> None:
    """Have a store say that a derivation is complete for so many samples, and gather its metadata."""
    with location.changing(f"derived {key}") as place:
        _enter(place, key, {**_entry(place, key), "n_samples": n_samples})
        finish_store(place, _record(place))


def remove_derivation(location: Location, key: str) -> None:
    """Remove a derivation.

    It becomes incomplete first, for readers of the root too, then its receipts go, and its entry last: a removal that
    is cut off leaves no receipts for others.
    """
    with location.changing(f"remove {key}") as place:
        entry = _entry(place, key)
        _enter(place, key, {**entry, "n_samples": 0})
        finish_store(place, _record(place))
        folder = folder_of(key)
        with explained(f"cannot remove {key!r} of the store at {location.name!r}"):
            receipts = [f"{folder}/{name}" for name in place.children(folder) if name != ROOT]
            place.remove([*receipts, *entry["variables"], folder])
        finish_store(place, _record(place))


def grow_derived(location: Location, record: Mapping[str, Any]) -> None:
    """Let the arrays of derivations grow to the length of a store that was extended; they are incomplete then."""
    with explained(f"cannot write to the store at {location.name!r}"):
        group = zarr.open_group(location.store, mode="r+", zarr_format=3, use_consolidated=False)
        for entry in record.get("derived", {}).values():
            for name in entry["variables"]:
                array = group.get(name)
                if isinstance(array, zarr.Array) and array.shape[0] < record["n_samples"]:
                    array.resize((record["n_samples"], *array.shape[1:]))


def _enter(location: Location, key: str, entry: Mapping[str, Any]) -> None:
    """Write an entry unless it is there, as the last in order unless it has a place."""
    record = _record(location)
    derived = record.get("derived", {})
    with explained(f"cannot write to the store at {location.name!r}"):
        if kept_record(location) is None:  # of an older version, which has all entries in its root
            replace_root(location, record)
            derived = _record(location).get("derived", {})
        orders = [other.get("order", 0) for name, other in derived.items() if name != key]
        placed = {"order": max(orders, default=-1) + 1, **entry}
        if derived.get(key) != placed:
            keep_entry(location, key, placed)


def _entry(location: Location, key: str) -> dict[str, Any]:
    entry: dict[str, Any] | None = _record(location).get("derived", {}).get(key)
    if entry is None:
        raise StoreMismatchError(
            f"the derivation of {key!r} in the store at {location.name!r} was removed by another run"
        )
    return entry


def _record(location: Location) -> dict[str, Any]:
    return read_record(location) or {}
