"""What a store says of itself, which anybody may have written: nothing is believed that was not checked."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dasksim._schema import is_supported
from dasksim.errors import StoreError
from dasksim.store._location import ROOT, Location, explained

__all__ = [
    "ATTRIBUTE",
    "FORMAT",
    "check_documents",
    "derived_view",
    "read_document",
    "read_record",
    "visible_variables",
]

#: Name of the attribute that holds a store's record, a JSON string.
ATTRIBUTE = "dasksim"

#: Version of the store's layout.
FORMAT = 1

_REPAIR = "generate(..., repair=True) makes it again"

# Sizes and numbers of bytes beyond this are those of no store, and overflow in NumPy.
_MAX_SIZE = 2**63 - 1


def read_record(location: Location) -> dict[str, Any] | None:
    """Return what a store says of itself, or None if there is nothing.

    Raises
    ------
    StoreError
        If something else is there, a store of a newer format, or a record that is no possible one.
    """
    with explained(f"cannot read {location.name!r}"):
        content = location.read(ROOT)
        if not content and location.is_empty():
            return None
        content = content or location.read(ROOT)  # another run may have made the store between the two looks
    try:
        record = json.loads(json.loads(content or b"")["attributes"][ATTRIBUTE])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(
            f"{location.name!r} is not empty and is no store made by dasksim; choose another path"
        ) from error
    if not isinstance(record, dict) or not _is_int(record.get("format"), 0):
        raise StoreError(f"{location.name!r} is no store made by dasksim.generate; choose another path")
    if record["format"] > FORMAT:
        raise StoreError(
            f"the store at {location.name!r} has format {record['format']}, this dasksim knows up to {FORMAT}; "
            "upgrade it"
        )
    wrong = _first_wrong(record)
    if wrong:
        raise StoreError(f"the record of the store at {location.name!r} is damaged: {wrong}")
    return record


def visible_variables(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record says of the variables of its dataset: simulated ones, and derived ones that are complete."""
    complete = [e["variables"] for e in record.get("derived", {}).values() if e["n_samples"] == record["n_samples"]]
    return {name: variable for variables in (record["variables"], *complete) for name, variable in variables.items()}


def derived_view(record: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    """Return a record as that of a store of one derivation's variables, or None if there is no such derivation.

    It stays the same while the derivation, or another one, becomes complete.
    """
    entry = record.get("derived", {}).get(key)
    if entry is None:
        return None
    others = {name: value for name, value in record.items() if name != "derived"}
    return {**others, **entry, "n_samples": record["n_samples"], "coords": {}, "of": record["variables"]}


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


def check_documents(location: Location, record: Mapping[str, Any], *, is_whole: bool) -> None:
    """Check that arrays are what the record says of them.

    Parameters
    ----------
    location
        Where the store is.
    record
        Its record.
    is_whole
        Whether arrays may not be missing.

    Raises
    ------
    StoreError
        If one is not.
    """
    with explained(f"cannot read {location.name!r}"):
        location.check_documents()
    n_samples = record["n_samples"]
    # an extension that was cut off may have left the arrays shorter than the record says, or longer
    shortest = n_samples if is_whole else min([n_samples, *record.get("extended_from", ())])
    expected: dict[str, Any] = {
        name: ([n_samples, *variable["shape"]], shortest, variable["dims"], [variable["dtype"]])
        for name, variable in (visible_variables(record) if is_whole else record["variables"]).items()
    }
    labels: dict[str, Any] = {
        dim: ([len(values)], len(values), [dim], None) for dim, values in record["coords"].items()
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
    if not isinstance(found, list) or not found or not _is_int(found[0], least):
        return False
    return bool(found[1:] == shape[1:]) and (not is_exact or found == shape)


def _first_wrong(record: Mapping[str, Any]) -> str:
    """Return what is wrong in a record, or nothing; keys that are not known are left alone."""
    for key, (is_right, rule) in _RULES.items():
        if key not in record:
            return f"it has no {key!r}"
        if not is_right(record[key]):
            return f"{key} must be {rule}; got {repr(record[key])[:100]}"
    if record["chunk_size"] % record["sub_batch_size"]:
        return "chunk_size must be a multiple of sub_batch_size"
    derived = record.get("derived", {})
    if not isinstance(derived, dict) or not all(map(_is_derivation, derived.values())):
        return (
            f"derived must be a mapping to derivations, with variables, n_samples and stages; got {repr(derived)[:100]}"
        )
    variables = [pair for some in (record, *derived.values()) for pair in some["variables"].items()]
    names = [*(name for name, _ in variables), *record["coords"]]
    for name, variable in variables:
        wrong = _wrong_variable(name, variable, record)
        if wrong:
            return f"variable {name[:100]!r} {wrong}"
        if names.count(name) > 1:
            return f"the name {name[:100]!r} stands for two arrays"
    if not isinstance(record.get("extended_from", []), list):
        return "extended_from must be a list"
    dims = {dim for _, variable in variables for dim in variable["dims"]}
    if not all(_is_int(n, 1) and n < record["n_samples"] for n in record.get("extended_from", ())):
        return "extended_from must hold smaller numbers of samples"
    both = dims & {name for name, _ in variables}  # xarray would take it for a coordinate, and load it
    return f"{min(both)[:100]!r} is a variable and a dim" if both else ""


def _wrong_variable(name: str, variable: Any, record: Mapping[str, Any]) -> str:
    if not _is_name(name):
        return "has a name that no variable can have"
    if not isinstance(variable, dict) or not variable.keys() >= {"dims", "shape", "dtype"}:
        return "must have dims, shape and dtype"
    dims, shape, dtype = variable["dims"], variable["shape"], variable["dtype"]
    if not isinstance(shape, list) or not all(_is_int(size, 0) for size in shape):
        return f"must have a shape of integers >= 0; got {repr(shape)[:100]}"
    if not _is_names(dims) or dims[:1] != ["batch"] or not len(dims) == len(set(dims)) == len(shape) + 1:
        return f"must have dims that name each axis once, 'batch' first; got {repr(dims)[:100]}"
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        return f"must have a boolean or numeric dtype; got {repr(dtype)[:100]}"
    n_bytes = record["n_samples"] * np.dtype(dtype).itemsize
    for size in shape:
        n_bytes *= size
    return "" if n_bytes <= _MAX_SIZE else "is too large to exist"


def _is_derivation(entry: object) -> bool:
    if not isinstance(entry, dict) or not entry.keys() >= {"variables", "n_samples"}:
        return False
    has_variables = isinstance(entry["variables"], dict) and len(entry["variables"]) > 0
    return has_variables and _is_int(entry["n_samples"], 0) and _are_stages(entry.get("stages", []))


def _is_int(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= _MAX_SIZE


def _is_seed(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name != "" and "/" not in name and not name.startswith(("_", "."))


def _is_names(names: object) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) and name and "/" not in name for name in names)


def _are_stages(stages: object) -> bool:
    return isinstance(stages, list) and all(isinstance(s, dict) and isinstance(s.get("name"), str) for s in stages)


def _are_labels(coords: object) -> bool:
    return isinstance(coords, dict) and all(
        _is_names([dim]) and dim not in _NO_DIMS and isinstance(values, list) for dim, values in coords.items()
    )


def _is_grid(grid: object, n_axes: int) -> bool:
    configuration = grid.get("configuration") if isinstance(grid, dict) else None
    sizes = configuration.get("chunk_shape") if isinstance(configuration, dict) else None
    return isinstance(sizes, list) and len(sizes) == n_axes and all(_is_int(size, 1) for size in sizes)


def _is_label_dtype(name: object) -> bool:
    return name == "string" or (isinstance(name, str) and name in _DTYPES)


_DTYPES = {np.dtype(code).name for code in np.typecodes["All"] if is_supported(np.dtype(code))}

_NO_DIMS = {".", "..", "_dasksim", ROOT}

_SIZE = "an integer >= 1 that an array can have as its size"

#: What must be in a record.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "n_samples": (lambda value: _is_int(value, 1), _SIZE),
    "sub_batch_size": (lambda value: _is_int(value, 1), _SIZE),
    "chunk_size": (lambda value: _is_int(value, 1), _SIZE),
    "seed": (_is_seed, "an integer >= 0"),
    "further": (lambda value: isinstance(value, list) and all(_is_int(n, 1) for n in value), "a list of integers >= 1"),
    "variables": (lambda value: isinstance(value, dict) and len(value) > 0, "a mapping of one or more variables"),
    "coords": (_are_labels, "a mapping of dims to lists of labels"),
    "conditions": (lambda value: isinstance(value, dict), "a mapping"),
    "stages": (_are_stages, "a list of stages with names"),
}
