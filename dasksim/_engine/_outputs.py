"""What a user's function returned: describe it at the probe, and check it afterwards."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim._core.arrays import cast, device_named, dtype_of
from dasksim._core.labelled import Labels, labels_of, plain
from dasksim._core.variables import Variable, as_values, brief, can_hold, check_name
from dasksim.errors import OutputError

__all__ = [
    "PaddedRows",
    "checked",
    "columns_of",
    "describe",
    "describe_rows",
    "known_labels",
    "labels_in",
    "loose_dims",
    "parts_alike",
    "rows_alike",
    "stacked",
    "with_labels",
    "with_sizes",
    "without_labels",
]

Array = npt.NDArray[Any]

# What NumPy makes arrays of by its own choice of dtype.
_PYTHON_KINDS = frozenset({bool, int, float, complex, list, tuple})


def describe(outputs: object, stage: str, axes: tuple[int, ...], *, is_shared: bool = False) -> tuple[Variable, ...]:
    """Return the variables that ``outputs``, returned by a probe, consist of.

    Raises
    ------
    OutputError
        If the outputs are not a mapping of names to numeric arrays that begin with ``axes``.
    """
    if not isinstance(outputs, Mapping):
        # as one of dasksim.models does that was not called
        if hasattr(outputs, "to_bayesflow"):
            raise OutputError(f"stage {stage!r} returned a simulator; call it, and give what it returns")
        raise OutputError(
            f"stage {stage!r} returned {brief(outputs)}; a simulator function must return a dict of "
            "variables, such as {'x': value}"
        )
    if not outputs:
        raise OutputError(f"stage {stage!r} returned an empty dict; return at least one variable")
    return tuple(_describe_one(name, value, stage, axes, is_shared) for name, value in outputs.items())


def labels_in(outputs: object, stage: str, n_axes: int) -> dict[str, Labels]:
    """Return what values say of themselves, by name, of those that are DataArrays or quantities."""
    if not isinstance(outputs, Mapping):
        return {}
    found = {str(name): labels_of(value, str(name), f"stage {stage!r}", n_axes) for name, value in outputs.items()}
    return {name: labels for name, labels in found.items() if labels is not None}


def known_labels(variables: Sequence[Variable]) -> dict[str, Labels]:
    """Return what a probe has found that values say of themselves."""
    return {v.name: v.labels for v in variables if v.labels is not None}


def without_labels(
    outputs: Any, labels: Mapping[str, Labels], where: str, loose: Mapping[str, frozenset[str]] | None = None
) -> Any:
    """Return outputs as plain values."""
    if not isinstance(outputs, Mapping):
        return outputs
    loose = loose or {}
    return {n: plain(value, labels.get(n), n, where, loose.get(n, frozenset())) for n, value in outputs.items()}


def loose_dims(variables: Sequence[Variable]) -> dict[str, frozenset[str]]:
    """Return the dims of labelled variables along which samples differ in size."""
    return {
        v.name: frozenset(v.labels.dims[v.labels.n_axes + axis] for axis in v.ragged)
        for v in variables
        if v.labels is not None and v.labels.dims
    }


def with_labels(variables: Sequence[Variable], labels: Mapping[str, Labels]) -> tuple[Variable, ...]:
    """Return variables with what their values say of themselves."""
    return tuple(replace(v, labels=labels[v.name]) if v.name in labels else v for v in variables)


def describe_rows(rows: Sequence[object], stage: str) -> tuple[Variable, ...]:
    """Return the variables that rows consist of; axes along which they differ in size are ragged."""
    first, *others = (describe(row, stage, ()) for row in rows)
    for other in others:
        if [v.name for v in other] == [v.name for v in first]:
            first = tuple(_common(mine, theirs) for mine, theirs in zip(first, other, strict=True))
    return first


def _common(mine: Variable, theirs: Variable) -> Variable:
    if len(mine.shape) != len(theirs.shape):
        return mine  # the check of the rows says so
    ragged = {axis for axis, sizes in enumerate(zip(mine.shape, theirs.shape, strict=True)) if len(set(sizes)) > 1}
    return replace(mine, shape=tuple(map(max, mine.shape, theirs.shape)), ragged=mine.ragged | ragged)


def _describe_one(name: object, value: Any, stage: str, axes: tuple[int, ...], is_shared: bool) -> Variable:
    check_name(name, f"stage {stage!r} returned")
    array = as_values(value, str(name), f"stage {stage!r}")
    if not is_shared and array.shape[: len(axes)] != axes:
        raise OutputError(
            f"stage {stage!r} returned {name!r} with shape {array.shape}; it is batched, so the shape must begin "
            f"with batch_shape={axes}"
        )
    return Variable(
        str(name),
        array.shape[len(axes) :],
        array.dtype,
        is_shared=is_shared,
        # by the very type: NumPy's float64 is a float too, and has a dtype that the user chose
        is_python=type(value) in (bool, int, float, complex),
    )


class PaddedRows(np.ndarray[Any, Any]):
    """Rows that differ in size, filled up to the largest that is declared; no function may take them so.

    Attributes
    ----------
    finite
        For each row, whether all of its own values are finite.
    shapes
        The shape of each row, one line a row.
    """

    finite: Array
    shapes: Array

    def __array_finalize__(self, obj: Any) -> None:
        self.finite = getattr(obj, "finite", np.ones(0, bool))
        self.shapes = getattr(obj, "shapes", np.zeros((0, 0), np.int64))


def rows_alike(values: Sequence[Any], variable: Variable) -> Array:
    """Return rows as one array; those that differ in size filled up to the shape of their variable."""
    if len({value.shape for value in values}) == 1:
        return np.array(values)
    padded = np.full((len(values), *variable.shape), variable.fill_value, variable.dtype).view(PaddedRows)
    for row, value in zip(padded, values, strict=True):
        row[tuple(map(slice, value.shape))] = value
    # asked of the rows themselves, since what fills them up may be NaN
    padded.finite = np.array([np.isfinite(value).all() for value in values])
    padded.shapes = np.array([value.shape for value in values])
    return padded


def with_sizes(made: Mapping[str, Any], variables: Sequence[Variable], device: str = "cpu") -> dict[str, Any]:
    """Return what a function made with the sizes of what differs in size, as far as there are variables of them."""
    by_name = {v.name: v for v in variables}
    found = dict(made)
    for variable in variables:
        if variable.sizes_of:
            of, array = by_name[variable.sizes_of], made[variable.sizes_of]
            axes, n_lead = sorted(of.ragged), array.ndim - len(of.shape)
            lead = array.shape[:n_lead]
            sizes = np.broadcast_to([array.shape[n_lead + axis] for axis in axes], (*lead, len(axes)))
            if isinstance(array, PaddedRows):
                sizes = array.shapes[: math.prod(lead), axes].reshape(*lead, len(axes))
            values = np.array(sizes if variable.shape else sizes[..., 0], variable.dtype)
            found[variable.name] = device_named(device).put(values)
    return found


def parts_alike(parts: Sequence[Any], variable: Variable) -> list[Any]:
    """Return arrays of rows with the same shape of a row; those that differ in size are filled up."""
    if len({part.shape[1:] for part in parts}) <= 1 or not variable.ragged:
        return list(parts)
    n_axes = len(variable.shape)
    alike = []
    for part in parts:
        shape = (*part.shape[: part.ndim - n_axes], *variable.shape)
        padded = np.full(shape, variable.fill_value, variable.dtype).view(PaddedRows)
        padded[tuple(map(slice, part.shape))] = part
        alike.append(padded)
    return alike


def columns_of(rows: list[Any]) -> dict[str, list[Any]]:
    """Return the values of rows by name; nothing where they are not dicts of the same names."""
    if not rows or not all(issubclass(kind, dict) for kind in set(map(type, rows))):
        return {}
    # a row with other names than the first then lacks one of them, which is a KeyError below
    if sum(map(len, rows)) != len(rows) * len(rows[0]):
        return {}
    try:
        return {name: list(map(itemgetter(name), rows)) for name in rows[0]}
    except KeyError:
        return {}


def stacked(columns: Mapping[str, list[Any]], outputs: Sequence[Variable]) -> dict[str, Array] | None:
    """Return one array for each variable, or None if a row needs a closer look; costs 0.1 microseconds a value."""
    if columns.keys() != {variable.name for variable in outputs}:
        return None
    arrays: dict[str, Array] = {}
    for variable in outputs:
        column = columns[variable.name]
        try:
            array = _joined(column, variable)
        except (TypeError, ValueError):
            return None
        is_python = not hasattr(column[0], "dtype")
        if array is None or not variable.fits(array.shape[1:]):
            return None
        if not can_hold(variable.dtype, array.dtype, is_python):
            return None
        arrays[variable.name] = array
    return arrays


def _joined(column: list[Any], variable: Variable) -> Array | None:
    """Return values as one array, or None where NumPy would change a dtype: where kinds or dtypes are mixed."""
    kinds = set(map(type, column))
    if kinds == {np.ndarray}:
        if not column[0].ndim or len(set(map(len, column))) > 1:
            return np.array(column) if [value.dtype for value in column].count(variable.dtype) == len(column) else None
        # raises where a row has another dtype; the rows are then looked at one by one
        array = np.concatenate(column, dtype=variable.dtype, casting="no")  # half the time that np.array takes
        return array.reshape(len(column), *column[0].shape)
    if kinds <= _PYTHON_KINDS or (len(kinds) == 1 and issubclass(kinds.pop(), np.generic)):
        return np.array(column)
    return None


def checked(
    outputs: Any, where: str, variables: Sequence[Variable], axes: tuple[int, ...], device: str = "cpu"
) -> dict[str, Any]:
    """Return outputs as arrays of a device.

    Raises
    ------
    OutputError
        If they are not what the schema says; ``where`` begins the message.
    """
    if not isinstance(outputs, Mapping):
        raise OutputError(
            f"{where} returned {type(outputs).__name__}, expected a dict of {[v.name for v in variables]}"
        )
    if set(outputs) != {v.name for v in variables}:
        raise OutputError(
            f"{where} returned the variables {sorted(map(str, outputs))}, expected "
            f"{sorted(v.name for v in variables)}; return the same variables every time"
        )
    return {v.name: _checked_value(outputs[v.name], where, v, () if v.is_shared else axes, device) for v in variables}


def _checked_value(value: Any, where: str, variable: Variable, axes: tuple[int, ...], device: str) -> Any:
    array = as_values(value, variable.name, where, device)
    if array.shape[: len(axes)] != axes or not variable.fits(array.shape[len(axes) :]):
        advice = (
            f"the sizes of its axes {sorted(variable.ragged)} are declared as at most these: give larger max_sizes"
            if variable.ragged
            else "return the same shape every time, or declare it with schema={...}; where a size follows a context "
            "or differs between samples, name the dim and declare its largest size, dims={...: ['obs']}, max_sizes="
            "{'obs': ...}"
        )
        raise OutputError(
            f"{where} returned {variable.name!r} with shape {array.shape}, expected "
            f"{(*axes, *variable.shape)}; {advice}"
        )
    # CuPy 13 has older rules of promotion than NumPy, whose dtypes the schema has
    is_near = device != "cpu" and np.can_cast(dtype_of(array), variable.dtype, "same_kind")
    if not is_near and not can_hold(variable.dtype, dtype_of(array), not hasattr(value, "dtype")):
        same = "1.0 for 1" if variable.dtype.kind in "bi" and array.dtype.kind == "f" else "the same dtype every time"
        raise OutputError(
            f"{where} returned {variable.name!r} with dtype {array.dtype}, expected {variable.dtype}; return {same}, "
            "or declare it with schema={...}"
        )
    return cast(array, variable.dtype)
