"""The rules that a store's record keeps; what breaks one was not written by dasksim, or is damaged."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dasksim._core.variables import is_supported
from dasksim.store._location import ROOT

__all__ = ["DTYPES", "first_wrong", "is_int"]

#: Names of the dtypes that variables can have.
DTYPES = {np.dtype(code).name for code in np.typecodes["All"] if is_supported(np.dtype(code))}

# Sizes and numbers of bytes beyond this are those of no store, and overflow in NumPy.
_MAX_SIZE = 2**63 - 1


def first_wrong(record: Mapping[str, Any]) -> str:
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
        # variables and labels lie in one folder, under their names
        if names.count(name) > 1:
            return f"the name {name[:100]!r} stands for two arrays"
    wrong = _wrong_labels(record)
    if wrong:
        return wrong
    if not isinstance(record.get("extended_from", []), list):
        return "extended_from must be a list"
    dims = {dim for _, variable in variables for dim in variable["dims"]}
    if not all(is_int(n, 1) and n < record["n_samples"] for n in record.get("extended_from", ())):
        return "extended_from must hold smaller numbers of samples"
    both = dims & {name for name, _ in variables}  # xarray would take it for a coordinate, and load it
    return f"{min(both)[:100]!r} is a variable and a dim" if both else ""


def _wrong_variable(name: str, variable: Any, record: Mapping[str, Any]) -> str:
    if not _is_name(name):
        return "has a name that no variable can have"
    if not isinstance(variable, dict) or not variable.keys() >= {"dims", "shape", "dtype"}:
        return "must have dims, shape and dtype"
    dims, shape, dtype = variable["dims"], variable["shape"], variable["dtype"]
    if not isinstance(shape, list) or not all(is_int(size, 0) for size in shape):
        return f"must have a shape of integers >= 0; got {repr(shape)[:100]}"
    if not _is_names(dims) or dims[:1] != ["batch"] or not len(dims) == len(set(dims)) == len(shape) + 1:
        return f"must have dims that name each axis once, 'batch' first; got {repr(dims)[:100]}"
    if not isinstance(variable.get("attrs", {}), dict):
        return f"must have a mapping of attributes; got {repr(variable['attrs'])[:100]}"
    if not isinstance(dtype, str) or dtype not in DTYPES:
        return f"must have a boolean or numeric dtype; got {repr(dtype)[:100]}"
    # in Python's integers: sizes of a stranger's choosing overflow NumPy's
    n_bytes = record["n_samples"] * np.dtype(dtype).itemsize
    for size in shape:
        n_bytes *= size
    return "" if n_bytes <= _MAX_SIZE else "is too large to exist"


def _wrong_labels(record: Mapping[str, Any]) -> str:
    labels = record.get("labels", {})
    if not isinstance(labels, dict):
        return f"labels must be a mapping; got {repr(labels)[:100]}"
    for name, told in labels.items():
        is_right = isinstance(told, dict) and _is_names(told.get("dims")) and len(told["dims"]) == 1
        if not is_right or not isinstance(told.get("attrs"), dict) or name not in record["coords"]:
            return f"labels of {name[:100]!r} must be those of a coordinate, with one dim and attributes"
        if told["dims"][0] != name and not _is_name(name):
            return f"the coordinate {name[:100]!r} has a name that no array can have"
    return ""


def _is_derivation(entry: object) -> bool:
    if not isinstance(entry, dict) or not entry.keys() >= {"variables", "n_samples"}:
        return False
    has_variables = isinstance(entry["variables"], dict) and len(entry["variables"]) > 0
    are_numbers = all(is_int(number, 0) for number in (entry["n_samples"], entry.get("order", 0)))
    return has_variables and are_numbers and _are_stages(entry.get("stages", []))


def is_int(value: object, least: int) -> bool:
    """Whether a value is an integer of some size at least, that NumPy can hold."""
    # true is no number in JSON, and one in Python
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= _MAX_SIZE


def _is_seed(value: object) -> bool:
    # no size: any integer is a seed, and seeds of fresh entropy had 128 bits once
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_name(name: object) -> bool:
    # a name becomes a path, which must neither leave the store nor lie among what is dasksim's own
    return isinstance(name, str) and name != "" and "/" not in name and not name.startswith(("_", "."))


def _is_names(names: object) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) and name and "/" not in name for name in names)


def _are_stages(stages: object) -> bool:
    return isinstance(stages, list) and all(isinstance(s, dict) and isinstance(s.get("name"), str) for s in stages)


def _are_labels(coords: object) -> bool:
    return isinstance(coords, dict) and all(
        _is_names([dim]) and dim not in _NO_DIMS and isinstance(values, list) for dim, values in coords.items()
    )


# Labels lie at the path of their dim.
_NO_DIMS = {".", "..", "_dasksim", ROOT}

_SIZE = "an integer >= 1 that an array can have as its size"

#: What must be in a record.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "n_samples": (lambda value: is_int(value, 1), _SIZE),
    "sub_batch_size": (lambda value: is_int(value, 1), _SIZE),
    "chunk_size": (lambda value: is_int(value, 1), _SIZE),
    "seed": (_is_seed, "an integer >= 0"),
    "further": (lambda value: isinstance(value, list) and all(is_int(n, 1) for n in value), "a list of integers >= 1"),
    "variables": (lambda value: isinstance(value, dict) and len(value) > 0, "a mapping of one or more variables"),
    "coords": (_are_labels, "a mapping of dims to lists of labels"),
    "conditions": (lambda value: isinstance(value, dict), "a mapping"),
    "stages": (_are_stages, "a list of stages with names"),
}
