"""Check that the metadata of a store's arrays are there, and go with what the store says of itself."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store

from dasksim.store._document import document_of, list_of, mapping_of
from dasksim.store._location import ROOT, Location, explained
from dasksim.store._receipts import FAILURES, FOLDER, RECEIPTS, folder_of
from dasksim.store._zarr_private import sync

__all__ = ["damaged_metadata", "forget_metadata"]

_Node = zarr.Array[Any] | zarr.Group | None


def damaged_metadata(location: Location, record: Mapping[str, Any], derivation: str | None = None) -> list[str]:
    """Return the paths in a store of arrays whose metadata are lost, unreadable or others than its record says.

    The empty path stands for the metadata that are gathered in the root, which are a copy.
    """
    store = location.for_reading()
    folder = folder_of(derivation)
    groups = [folder] if derivation is None else []  # which a removal that is cut off takes from under receipts
    own = [*groups, f"{folder}/{RECEIPTS}", f"{folder}/{FAILURES}"]
    own = [name for name in own if not sync(store.is_empty(name))]
    found = {name: _opened(store, name) for name in [*record["variables"], *record.get("coords", ()), *own]}
    bad = [name for name, node in found.items() if not _fits(node, name, record)]
    return bad or ([] if derivation is not None or _is_gathered_well(location, found) else [""])


def forget_metadata(location: Location, record: Mapping[str, Any]) -> None:
    """Remove the metadata of arrays that are damaged, so that they are made again; data and receipts stay.

    Raises
    ------
    StoreError
        If the store cannot be written.
    """
    with explained(f"cannot write to the store at {location.name!r}"):
        for name in filter(None, damaged_metadata(location, record)):
            sync(location.store.delete(f"{name}/{ROOT}"))


def _opened(store: Store, name: str) -> _Node:
    try:
        return zarr.open_group(store, mode="r", use_consolidated=False)[name]
    except (ValueError, TypeError, KeyError):
        return None


def _fits(node: _Node, name: str, record: Mapping[str, Any]) -> bool:
    variable, coord = record["variables"].get(name), record.get("coords", {}).get(name)
    if name == FOLDER:
        return isinstance(node, zarr.Group)
    if not isinstance(node, zarr.Array):
        return False
    if variable is None and coord is None:
        return True
    if variable is None:
        return bool(_strings(node) == coord)
    dims = list_of(document_of(node), "dimension_names")
    found = {"dims": dims, "shape": list(node.shape[1:]), "dtype": node.dtype.name}
    if found != variable or node.shards is None:
        return False
    return bool(node.shards[0] == record["chunk_size"])


def _strings(coord: zarr.Array[Any]) -> list[str] | None:
    try:
        return [str(value) for value in np.asarray(coord[:])]
    except ValueError:
        return None


def _is_gathered_well(location: Location, found: Mapping[str, _Node]) -> bool:
    root = json.loads(location.read(ROOT) or b"{}")
    gathered = root.get("consolidated_metadata")
    if gathered is None:
        return True
    copies = mapping_of(gathered, "metadata")
    return all(copies.get(name) == document_of(node) for name, node in found.items() if isinstance(node, zarr.Array))
