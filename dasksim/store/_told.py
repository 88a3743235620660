"""Read what a store says of itself and of its arrays, which anybody may have written: all of it is checked."""

import json
from collections.abc import Mapping
from typing import Any

from dasksim.errors import StoreError
from dasksim.store._entries import Derivation
from dasksim.store._kept import FOLDER, is_group, kept_entries, kept_entry, kept_record
from dasksim.store._location import ROOT, Location, explained
from dasksim.store._record import ATTRIBUTE, FORMAT, Record
from dasksim.store._rules import DTYPES, first_wrong, is_int

__all__ = ["check_documents", "present_record", "read_document", "read_record", "read_told"]

_REPAIR = "generate(..., repair=True) makes it again"


def read_record(location: Location, *, mends_root: bool = False) -> Record | None:
    """Return what a store says of itself, or None if there is nothing.

    The root may be damaged where a caller mends it.

    Raises
    ------
    StoreError
        If something else is there, such as a copy that xarray made of a store, a store of a newer format, or a record
        that is no possible one.
    """
    with explained(f"cannot read {location.name!r}"):
        kept = kept_record(location)
        if kept is not None and not mends_root and not is_group(location.read(ROOT)):
            raise StoreError(f"the root document of the store at {location.name!r} is lost or damaged; {_REPAIR}")
        told = _told_in_root(location) if kept is None else kept
        if told is None:
            return None
        if not isinstance(told, dict) or not is_int(told.get("format"), 0):
            raise StoreError(f"{location.name!r} is no store made by dasksim.generate; choose another path")
        if told["format"] > FORMAT:
            raise StoreError(
                f"the store at {location.name!r} has format {told['format']}, this dasksim knows up to {FORMAT}; "
                "upgrade it"
            )
        told = _with_derivations(location, told, is_kept=kept is not None)
    wrong = first_wrong(told)
    if wrong:
        raise StoreError(f"the record of the store at {location.name!r} is damaged: {wrong}")
    record = Record(told)
    if kept is None:
        _refuse_copy(location, record)
    return record.with_derivations(_in_order(record.derivations))


def present_record(location: Location) -> Record:
    """Return what a store says of itself.

    Raises
    ------
    StoreError
        If there is no store.
    """
    record = read_record(location)
    if record is None:
        raise StoreError(f"there is no store at {location.name!r}")
    return record


def read_told(location: Location, derivation: str | None) -> Record | None:
    """Return what a store says of its simulated variables, or of a derivation's, with as few reads as possible.

    It stays the same while derivations, or others, come and go.
    """
    # asked twice for each chunk that is written, so without listing derivations
    with explained(f"cannot read {location.name!r}"):
        told = kept_record(location)
        entry = kept_entry(location, derivation) if derivation else None
    if told is None or (derivation and entry is None):
        record = read_record(location)
    else:
        record = Record(told)
        if derivation and entry is not None:
            record = record.with_derivations({derivation: Derivation(entry)})
    return record and record.view(derivation)


def _told_in_root(location: Location) -> Any:
    """Return what stands in the root, if there is a root, as nobody has checked it."""
    content = location.read(ROOT)
    if not content and location.is_empty():
        return None
    content = content or location.read(ROOT)  # another run may have made the store between the two looks
    try:
        return json.loads(json.loads(content or b"")["attributes"][ATTRIBUTE])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(
            f"{location.name!r} is not empty and is no store made by dasksim; choose another path"
        ) from error


def _with_derivations(location: Location, told: dict[str, Any], *, is_kept: bool) -> dict[str, Any]:
    """Return a record with its derivations: those kept within, else those in the root."""
    kept = kept_entries(location)
    derived = told.get("derived", {})
    if is_kept and None in kept.values():  # one is damaged, or was begun by a version that had it in the root
        derived = {key: entry for key, entry in _derived_in_root(location).items() if key in kept}
    if not isinstance(derived, dict):
        return told
    derived = {**derived, **{key: entry for key, entry in kept.items() if entry is not None}}
    others = {name: value for name, value in told.items() if name != "derived"}
    return {**others, **({"derived": derived} if derived else {})}


def _derived_in_root(location: Location) -> dict[str, Any]:
    try:
        told = _told_in_root(location)
    except StoreError:
        return {}
    derived = told.get("derived") if isinstance(told, dict) else None
    return derived if isinstance(derived, dict) else {}


def _in_order(derivations: Mapping[str, Derivation]) -> dict[str, Derivation]:
    """Return derivations in the order in which they were begun; those of older versions stand in it already."""
    orders = {key: (entry.order, key if entry.is_placed else "") for key, entry in derivations.items()}
    return {key: derivations[key] for key in sorted(derivations, key=orders.__getitem__)}


def _refuse_copy(location: Location, record: Record) -> None:
    """Raise a StoreError if a record that stands in the root only is that of another store, of which this is a copy.

    A store whose creation was cut off may lack receipts; it then holds no data, and no gathered metadata.
    """
    with explained(f"cannot read {location.name!r}"):
        if location.children(FOLDER):
            return
        is_gathered = bool(json.loads(location.read(ROOT) or b"{}").get("consolidated_metadata"))
        arrays = [name for name in record.variables if location.read(f"{name}/{ROOT}")]
        is_copy = is_gathered or any(map(location.holds_data, arrays))
    if is_copy:
        raise StoreError(
            f"{location.name!r} is no store of dasksim but a copy of one, such as xarray makes: it has data and no "
            "receipts. Open it with xarray.open_zarr. dasksim neither continues nor overwrites it; choose another path"
        )


def read_document(location: Location, key: str) -> dict[str, Any] | None:
    """Return the metadata of an array or group, or None if there is none.

    Raises
    ------
    StoreError
        If it is no JSON object.
    """
    with explained(f"cannot read {location.name!r}"):
        content = location.read(f"{key}/{ROOT}")
    if content is None:
        return None
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"the metadata of {key!r} in {location.name!r} is damaged: {error}; {_REPAIR}") from error
    if not isinstance(document, dict):
        raise StoreError(f"the metadata of {key!r} in {location.name!r} is damaged: it is no JSON object; {_REPAIR}")
    return document


def check_documents(location: Location, record: Record, *, is_whole: bool) -> None:
    """Check that arrays are what the record says of them.

    Raises
    ------
    StoreError
        If one is not.
    """
    with explained(f"cannot read {location.name!r}"):
        location.check_documents()
    n_samples = record.n_samples
    # an extension that was cut off may have left the arrays shorter than the record says, or longer
    shortest = n_samples if is_whole else record.shortest
    expected: dict[str, Any] = {
        name: ([n_samples, *variable.shape], shortest, list(variable.dims), [variable.dtype.name])
        for name, variable in (record.visible_variables if is_whole else record.variables).items()
    }
    labels: dict[str, Any] = {
        name: ([len(values)], len(values), [record.dim_of(name)], None) for name, values in record.coords.items()
    }
    for name, (shape, least, dims, dtypes) in {**expected, **labels}.items():
        found = read_document(location, name)
        if found is None and not is_whole:
            continue
        found = found or {"node_type": "nothing"}
        is_right = (
            (found.get("zarr_format"), found.get("node_type")) == (3, "array")
            and _is_shape(found.get("shape"), shape, least, is_exact=dtypes is None)
            and found.get("dimension_names") == dims
            and _is_grid(found.get("chunk_grid"), len(shape))
            and (found.get("data_type") in dtypes if dtypes else _is_label_dtype(found.get("data_type")))
        )
        if not is_right:
            got = {key: found.get(key) for key in ("node_type", "shape", "dimension_names", "data_type", "chunk_grid")}
            raise StoreError(
                f"{name!r} in the store at {location.name!r} is not the array that the record describes, of shape "
                f"{shape} and dims {dims}; got {str(got)[:300]}"
            )


def _is_shape(found: Any, shape: list[int], least: int, *, is_exact: bool) -> bool:
    if not isinstance(found, list) or not found or not is_int(found[0], least):
        return False
    return bool(found[1:] == shape[1:]) and (not is_exact or found == shape)


def _is_grid(grid: object, n_axes: int) -> bool:
    configuration = grid.get("configuration") if isinstance(grid, dict) else None
    sizes = configuration.get("chunk_shape") if isinstance(configuration, dict) else None
    return isinstance(sizes, list) and len(sizes) == n_axes and all(is_int(size, 1) for size in sizes)


def _is_label_dtype(name: object) -> bool:
    return name == "string" or (isinstance(name, str) and name in DTYPES)
