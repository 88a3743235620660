"""Make, change, finish and remove what a store says of itself."""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from dasksim.errors import StoreError
from dasksim.store._kept import (
    AUDITS,
    FOLDER,
    OWN,
    folder_of,
    group_document,
    is_group,
    keep_entry,
    keep_record,
    kept_record,
)
from dasksim.store._location import ROOT, Location, explained, is_being_written
from dasksim.store._record import ATTRIBUTE, Record
from dasksim.store._told import present_record, read_document, read_record

__all__ = ["create_root", "finish_store", "remove_store", "replace_root"]


def create_root(location: Location, record: Record) -> Record:
    """Create the root of a store unless there is one, and return the record that is there.

    The root comes first and is created exclusively, so that of two writers with different arguments one sees the
    other's.

    Raises
    ------
    StoreError
        If the store cannot be written.
    """
    with explained(f"cannot write a store at {location.name!r}"):
        kept, root = kept_record(location), location.read(ROOT)
        # a root that was lost is made again from the record within, which counts
        if kept and not is_group(root):
            location.write(ROOT, _root(Record(kept)))
        elif not root:  # what is complete need not be writable
            location.create_root(_root(record))
        found = read_record(location)
        # a store of an older version has receipts there and no record, and gets one when it is changed
        if found is not None and all(map(is_being_written, location.children(FOLDER))):
            location.create(OWN, group_document(found.alone.document))
    return present_record(location)


def replace_root(location: Location, record: Record) -> None:
    """Replace the record of a store, and its root as a whole, without the gathered metadata of a complete one.

    The root comes first, so that nothing is gathered that does not go with the record within, which counts where a kill
    comes between the two.

    Raises
    ------
    StoreError
        If the store cannot be written.
    """
    with explained(f"cannot write to the store at {location.name!r}"):
        location.write(ROOT, _root(record, _others(location)))
        keep_record(location, record)


def finish_store(location: Location, record: Record) -> None:
    """Have the root of a complete store say what the store does, with its metadata, so that readers open it at once.

    The root is replaced as a whole, and not at all if it is right. Derived variables that are incomplete are left out,
    so that xarray does not see them, and so are arrays of others that do not fit beside the store's. Where another
    run completes a derivation at the same time, one of the two sees both.

    Raises
    ------
    StoreError
        If the store cannot be written.
    """
    with explained(f"cannot finish the store at {location.name!r}"):
        found = record
        # read again after each write: a derivation that became complete meanwhile must not be left out
        while found.alone == record.alone:
            gathered = _gathered(location, found)
            if any(gathered[name]["shape"][0] > record.n_samples for name in gathered.keys() & record.variables):
                return  # another run makes the store longer, and will finish it
            root = _root(found, _others(location), gathered)
            # a complete store need not be writable
            if not _agree(location.read(ROOT), root):
                location.write(ROOT, root)
            now = read_record(location)
            if now is None or now == found:
                return
            found = now


def remove_store(location: Location, record: Record) -> None:
    """Remove a store that dasksim made; its folder stays, with what somebody else may have put there.

    Receipts go first and the record last, so that a removal that is cut off leaves an incomplete store.

    Raises
    ------
    StoreError
        If it cannot be removed.
    """
    # derived variables leave the dataset before their receipts go, in the root too, which counts where an entry is gone
    derived = {key: entry.with_length(0) for key, entry in record.derivations.items()}
    with explained(f"cannot remove the store at {location.name!r}"):
        # without gathered metadata: a copy by xarray has these
        location.write(ROOT, _root(record.with_derivations(derived)))
        for key, entry in derived.items():
            keep_entry(location, key, entry)
        folders = [FOLDER, *map(folder_of, derived)]
        receipts = [f"{f}/{name}" for f in folders for name in location.children(f) if name not in (ROOT, "derived")]
        made = [name for of in (record, *derived.values()) for name in of.variables]
        location.remove([*receipts, *made, *record.coords, f"{FOLDER}/derived", FOLDER, ROOT])


def _root(record: Record, others: Mapping[str, Any] | None = None, gathered: Mapping[str, Any] | None = None) -> bytes:
    """Return the root: the record, attributes that others have set, and the metadata of what lies below, if any."""
    root = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {**(others or {}), ATTRIBUTE: record.text},
    }
    if gathered:
        root["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": gathered}
    return json.dumps(root, indent=2).encode()


def _parsed(content: bytes | None) -> dict[str, Any]:
    try:
        root = json.loads(content or b"")
    except (ValueError, RecursionError):
        return {}
    return root if isinstance(root, dict) else {}


def _others(location: Location) -> dict[str, Any]:
    """Return the attributes of the root that others have set."""
    attributes = _parsed(location.read(ROOT)).get("attributes")
    return {key: value for key, value in attributes.items() if key != ATTRIBUTE} if isinstance(attributes, dict) else {}


def _agree(content: bytes | None, wanted: bytes) -> bool:
    """Whether a root says what it shall of the store, and has gathered the right arrays in their present shapes."""
    try:
        told, right = ((r["attributes"][ATTRIBUTE], _shapes_in(r)) for r in (_parsed(content), json.loads(wanted)))
        return bool(json.loads(told[0]) == json.loads(right[0]) and told[1] == right[1])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def _shapes_in(root: Mapping[str, Any]) -> dict[str, Any]:
    nodes = (root.get("consolidated_metadata") or {}).get("metadata", {})
    return {name: node["shape"] for name, node in nodes.items() if node["node_type"] == "array"}


def _gathered(location: Location, record: Record) -> dict[str, Any]:
    """Return the metadata of what lies below the root, as far as readers can open it together."""
    # a store that has a way of its own to the same end, such as Icechunk's, wants none
    if not location.store.supports_consolidated_metadata:
        return {}
    visible = {*record.visible_variables, *record.coords}
    hidden = {name for entry in record.derivations.values() for name in entry.variables} - visible
    found = {name: document for name, document in _nodes(location, "", visible) if name not in hidden}
    sizes = {dim: size for name in visible if name in found for dim, size in _sizes(found[name])}
    # one array without names of dims, or of another size along one, keeps xarray from opening all
    misfits = {
        name
        for name, document in found.items()
        if "/" not in name and document.get("node_type") == "array" and name not in visible
        for dim, size in _sizes(document)
        if dim is None or sizes.get(dim, size) != size
    }
    # parents before children, as Zarr writes them
    return {
        name: found[name] for name in sorted(found, key=lambda name: (name.count("/"), name)) if name not in misfits
    }


def _sizes(document: Mapping[str, Any]) -> list[tuple[str | None, int]]:
    shape = document["shape"]
    return list(zip(document.get("dimension_names") or [None] * len(shape), shape, strict=True))


def _nodes(location: Location, path: str, own: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return the documents below a path; the store's own groups without attributes, which change by themselves."""
    for child in location.children(path):
        name = f"{path}/{child}".removeprefix("/")
        try:
            document = None if child == ROOT or name == AUDITS else read_document(location, name)
        except StoreError:
            # a damaged document of somebody else's array is left out, and in nobody's way
            if name in own:
                raise
            continue
        if document is None:
            continue
        is_group = document.get("node_type") == "group"
        yield name, {**document, "attributes": {}} if is_group and f"{name}/".startswith(f"{FOLDER}/") else document
        if is_group:
            yield from _nodes(location, name, own)
