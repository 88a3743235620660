"""Attributes of variables and coordinates, and coordinates with all that a dataset says of them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dasksim.errors import ArgumentTypeError

__all__ = ["Coordinate", "as_coordinate", "attrs_of", "check_attrs", "same_values", "wrong_attribute"]

_COORD_KINDS = "biufMmU"

# By these readers of a store, xarray among them, would change values, or take others for coordinates.
_DECODED = frozenset(
    {"_FillValue", "_Unsigned", "add_offset", "calendar", "coordinates", "dtype", "missing_value", "scale_factor"}
)


class Coordinate(NamedTuple):
    """A coordinate along one feature dim, in the form that xarray takes."""

    dims: tuple[str, ...]
    values: npt.NDArray[Any]
    attrs: Mapping[str, Any]

    @classmethod
    def checked(cls, name: str, dims: Sequence[Any], array: npt.NDArray[Any], attrs: Mapping[Any, Any]) -> "Coordinate":
        """Return a coordinate that a store can hold.

        Raises
        ------
        ArgumentTypeError
            If it cannot.
        """
        if len(dims) != 1:
            raise ArgumentTypeError(f"coords[{name!r}] must have one dim; got {dims!r}")
        if array.dtype.kind not in _COORD_KINDS and not all(isinstance(value, str) for value in array.flat):
            raise ArgumentTypeError(f"coords[{name!r}] must hold numbers, strings or times; got {array!r}")
        kept = check_attrs({name: attrs}, "coords")[name]
        if array.dtype.kind in "Mm" and "units" in kept:
            raise ArgumentTypeError(
                f"coords[{name!r}] holds times, whose unit is their own; leave 'units' out of its attributes"
            )
        return cls(tuple(dims), array, kept)


def as_coordinate(name: str, given: Any) -> Coordinate:
    """Return a coordinate that was given as values, as a DataArray, or as ``(dim, values)`` with or without attributes.

    Raises
    ------
    ArgumentTypeError
        If it is none, has other dims than one, or holds something else than numbers, strings or times.
    """
    dims: Any = (name,)
    values, attrs = given, {}
    # without importing xarray, which takes half a second
    if hasattr(given, "dims") and hasattr(given, "values"):
        dims, values, attrs = given.dims, given.values, given.attrs
    elif isinstance(given, tuple) and len(given) in (2, 3) and _are_dims(given[0]) and _are_values(given[1]):
        dims, values, attrs = given[0], given[1], given[2] if len(given) == 3 else {}
        dims = (dims,) if isinstance(dims, str) else tuple(dims)
    return Coordinate.checked(name, tuple(dims), np.asarray(values), attrs)


def _are_dims(dims: object) -> bool:
    is_sequence = isinstance(dims, Sequence) and not isinstance(dims, str)
    return isinstance(dims, str) or (is_sequence and all(isinstance(dim, str) for dim in dims))  # type: ignore[attr-defined]


def _are_values(values: object) -> bool:
    # a tuple of strings holds labels
    return hasattr(values, "__len__") and not isinstance(values, str)


def check_attrs(attrs: Any, argument: str = "attrs") -> dict[str, dict[str, Any]]:
    """Return attributes by the name of a variable or coordinate, as a store keeps them.

    Raises
    ------
    ArgumentTypeError
        If they are no mappings, or JSON cannot hold one.
    """
    if not isinstance(attrs, Mapping | None):
        raise ArgumentTypeError(f"{argument} must be a mapping, such as {{'x': {{'units': 'mV'}}}}; got {attrs!r}")
    checked = {}
    for name, of_one in (attrs or {}).items():
        if not isinstance(of_one, Mapping):
            raise ArgumentTypeError(
                f"{argument}[{name!r}] must be a mapping of attributes, such as {{'units': 'mV'}}; got {of_one!r}"
            )
        wrong = wrong_attribute(of_one)
        if wrong:
            raise ArgumentTypeError(f"{argument}[{name!r}] has {wrong}")
        checked[name] = attrs_of(of_one)
    return checked


def wrong_attribute(attrs: Mapping[Any, Any]) -> str:
    """Return what is wrong with attributes, or nothing."""
    for name, value in attrs.items():
        if not isinstance(name, str) or name in _DECODED:
            return (
                f"the attribute {name!r}, by which readers of a store change values; leave it out, or name it otherwise"
            )
        if name == "units" and "since" in str(value):
            return (
                f"the units {value!r}, by which xarray reads numbers as dates; give dates as a coordinate of "
                "datetime64, or other units"
            )
        try:
            json.dumps(value, allow_nan=False, default=_plain)
        except (TypeError, ValueError, RecursionError) as error:
            return (
                f"the attribute {name!r} with the value {value!r}, which JSON cannot hold: {error}; give text, finite "
                "numbers, booleans, None, or lists and mappings of them"
            )
    return ""


def attrs_of(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Return attributes as they are read from JSON again."""
    return dict(json.loads(json.dumps(dict(attrs), default=_plain)))


def _plain(value: Any) -> Any:
    """Return a scalar or an array of NumPy's as Python has it."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else json.JSONEncoder().default(value)


def shown(labels: npt.NDArray[Any]) -> str:
    """Return labels as a message has them: a few of many."""
    return np.array2string(labels, separator=", ", threshold=10)


def same_values(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    """Whether coordinates are the same, where they are missing too."""
    return one is other or np.array_equal(one, other, equal_nan=one.dtype.kind in "fcmM" and one.dtype == other.dtype)
