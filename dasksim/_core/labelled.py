"""Values that bear labels of their own, DataArrays and quantities: what they say, and their plain values.

They are known by their types, since a worker need import neither xarray nor a package of units.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dasksim._core.attributes import Coordinate, attrs_of, same_values, wrong_attribute
from dasksim.errors import ArgumentTypeError, OutputError

__all__ = ["Labels", "is_labelled", "is_quantity", "labels_of", "plain"]

# Names that xarray gives to dims without one.
_UNNAMED = re.compile(r"dim_\d+")


@dataclass(frozen=True)
class Labels:
    """What the value of a variable says of itself.

    Parameters
    ----------
    dims
        Names of all its axes, in the order in which they are kept; nothing if it does not name them.
    n_axes
        How many of these are batch axes.
    coords
        Its coordinates along feature dims.
    attrs
        Its attributes, units among them.
    is_quantity
        Whether it has a unit that others can be converted to.
    """

    dims: tuple[str, ...] = ()
    n_axes: int = 0
    coords: Mapping[str, Coordinate] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    is_quantity: bool = False

    def feature_dims(self, variable: str) -> tuple[str, ...]:
        """Return the names of feature dims; those that have none are named after the variable."""
        names = self.dims[self.n_axes :]
        return tuple(f"{variable}_dim_{i}" if _UNNAMED.fullmatch(name) else name for i, name in enumerate(names))


def is_labelled(value: object) -> bool:
    """Whether a value is a DataArray or a quantity."""
    return bool(_package(value))


def is_quantity(value: object) -> bool:
    """Whether a value has a unit: a quantity, or a DataArray that holds one."""
    return is_labelled(value) and _units(_data(value)) is not None


def _package(value: Any) -> str:
    """Return the package that makes a value a labelled one, or nothing."""
    kind: Any = type(value)
    return _package_of(kind)


@functools.lru_cache(maxsize=256)
def _package_of(kind: Any) -> str:
    packages = {base.__module__.partition(".")[0] for base in kind.__mro__}
    if "xarray" in packages and hasattr(kind, "dims"):
        return "xarray"
    if "pint" in packages and hasattr(kind, "m_as"):
        return "pint"
    return "astropy" if "astropy" in packages and hasattr(kind, "to_value") and hasattr(kind, "unit") else ""


def labels_of(value: Any, name: str, where: str, n_axes: int) -> Labels | None:
    """Return what a value says of itself, or None if it is a plain one; ``where`` begins a message.

    Raises
    ------
    OutputError
        If its labels cannot be kept.
    """
    if not is_labelled(value):
        if isinstance(value, list | tuple) and any(map(is_labelled, value)):
            raise OutputError(
                f"{where} returned {name!r} as a {type(value).__name__} of values with labels or units, which would be "
                "lost; return one DataArray or Quantity"
            )
        return None
    attrs: dict[str, Any] = {}
    dims: tuple[str, ...] = ()
    coords: dict[str, Coordinate] = {}
    if _package(value) == "xarray":
        attrs = dict(value.attrs)
        dims = tuple(map(str, value.dims))
        if n_axes and "batch" in dims:
            dims = ("batch", *(dim for dim in dims if dim != "batch"))
        coords = _coords_of(value, name, where, dims[n_axes:])
    units = _units(_data(value))
    if units is not None:
        attrs["units"] = units
    wrong = wrong_attribute(attrs)
    if wrong:
        raise OutputError(f"{where} returned {name!r} with {wrong}")
    return Labels(dims, n_axes, coords, attrs_of(attrs), units is not None)


def _coords_of(value: Any, name: str, where: str, dims: Sequence[str]) -> dict[str, Coordinate]:
    """Return the coordinates of a DataArray along one feature dim each; those of a sample as a whole are none."""
    found = {}
    for label, coordinate in getattr(value, "coords", {}).items():
        others = [dim for dim in coordinate.dims if dim not in dims]
        if others or not coordinate.dims:
            continue
        wrong = wrong_attribute(coordinate.attrs)
        if wrong or len(coordinate.dims) > 1:
            what = wrong or f"{len(coordinate.dims)} dims"
            raise OutputError(
                f"{where} returned {name!r} with the coordinate {label!r}, which has {what}; drop it "
                f"(drop_vars({label!r})), or return it as a variable"
            )
        values = np.asarray(coordinate.values)
        try:
            found[str(label)] = Coordinate.checked(str(label), coordinate.dims, values, coordinate.attrs)
        except ArgumentTypeError as error:
            raise OutputError(f"{where} returned {name!r} with coordinates that cannot be kept: {error}") from error
    return found


def plain(value: Any, labels: Labels | None, name: str, where: str, loose: frozenset[str] = frozenset()) -> Any:
    """Return a value without labels: its axes in the order, and its numbers in the unit, of what labels are of.

    Along ``loose`` dims sizes may differ, and so coordinates.

    Raises
    ------
    OutputError
        If its labels are others.
    """
    if not is_labelled(value) and (labels is None or not labels.is_quantity):
        return value
    if labels is None or not is_labelled(value):
        raise OutputError(
            f"{where} returned {name!r} as {_told(value)}, expected {_expected(labels)}; return the same kind every "
            "time, and leave schema= out, since a probe finds dims and units"
        )
    data = _data(value)
    if _package(value) == "xarray":
        if labels.dims or value.dims:
            _check_dims(value, labels, name, where)
            order = [value.dims.index(dim) for dim in labels.dims]
            data = data if order == sorted(order) else data.transpose(order)
        for label, coordinate in labels.coords.items():
            if coordinate.dims[0] not in loose:
                _check_coordinate(value, label, coordinate, name, where)
        if not labels.is_quantity and value.attrs.get("units") != labels.attrs.get("units"):
            raise OutputError(
                f"{where} returned {name!r} with the units {value.attrs.get('units')!r}, and "
                f"{labels.attrs.get('units')!r} at the probe; return the same units every time"
            )
    return _magnitude(data, labels, name, where)


def _check_dims(value: Any, labels: Labels, name: str, where: str) -> None:
    if set(value.dims) != set(labels.dims):
        raise OutputError(
            f"{where} returned {name!r} with the dims {tuple(value.dims)}, expected {labels.dims}; return the "
            "same dims every time, in any order"
        )


def _check_coordinate(value: Any, label: str, coordinate: Coordinate, name: str, where: str) -> None:
    # asked for by name, xarray makes up a coordinate of a dim that has none
    found = {name: value.coords[name] for name in value.coords if name == label}.get(label)
    if found is None or found.dims != coordinate.dims or not same_values(np.asarray(found.values), coordinate.values):
        raise OutputError(
            f"{where} returned {name!r} with another coordinate {label!r} than at the probe, and all samples share "
            f"coordinates; return it as a variable, or drop it (drop_vars({label!r}))"
        )


def _data(value: Any) -> Any:
    return value.data if _package(value) == "xarray" else value


def _units(data: Any) -> str | None:
    """Return the unit of a quantity as text that its package reads, or None."""
    kind = _package(data)
    if kind == "pint":
        return f"{data.units:~}" or "dimensionless"
    return str(data.unit) if kind == "astropy" else None


def _magnitude(data: Any, labels: Labels, name: str, where: str) -> Any:
    """Return the numbers of a quantity in the unit that its variable has; of other values themselves."""
    units, wanted = _units(data), labels.attrs.get("units")
    if (units is not None) != labels.is_quantity:
        raise OutputError(f"{where} returned {name!r} as {_told(data)}, expected {_expected(labels)}")
    if units is None:
        return data
    is_pint = _package(data) == "pint"
    if units == wanted:
        return data.magnitude if is_pint else data.value
    try:
        return data.m_as(wanted) if is_pint else data.to_value(wanted)
    except Exception as error:
        raise OutputError(
            f"{where} returned {name!r} in the unit {units!r}, which cannot be converted to {wanted!r}, that of the "
            "probe; return units of one kind"
        ) from error


def _told(value: Any) -> str:
    units = _units(_data(value))
    return f"a {type(value).__name__}" + (f" in {units!r}" if units is not None else "")


def _expected(labels: Labels | None) -> str:
    if labels is None:
        return "a plain value"
    return f"a quantity in {labels.attrs['units']!r}" if labels.is_quantity else "a value without a unit of its own"
