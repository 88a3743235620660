"""Conditions: variables that the caller gives instead of having them simulated."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.array.utils import meta_from_array

from dasksim._core.arrays import as_host
from dasksim._core.failures import VALID
from dasksim._core.variables import Variable, check_name, is_supported
from dasksim.errors import ArgumentError, ArgumentTypeError

__all__ = ["Condition", "pad_rows", "read_conditions"]


@dataclass(frozen=True)
class Condition:
    """One condition.

    Parameters
    ----------
    variable
        What it stands for.
    values
        A scalar, or a NumPy or Dask array that begins with the batch axes.
    is_scalar
        Whether one value was given for all samples.
    dims
        The feature dims of a DataArray.
    """

    variable: Variable
    values: Any
    is_scalar: bool
    dims: tuple[Hashable, ...] = ()

    def without_rows(self) -> "Condition":
        """Return the condition without its rows, which travel by chunk."""
        return self if self.is_scalar else replace(self, values=None)

    def standing_for(
        self, produced: Variable, n_samples: int, sizes: Mapping[str, int], dims: Sequence[str]
    ) -> "Condition":
        """Return the condition in the shape and dtype of the variable that it replaces.

        Raises
        ------
        ArgumentError
            If it does not fit.
        """
        name, dtype = produced.name, produced.dtype
        is_integer = {self.variable.dtype.kind, dtype.kind} <= {"i", "u"}
        if not is_integer and not np.can_cast(self.variable.dtype, dtype, "same_kind"):
            raise ArgumentError(
                f"condition {name!r} has dtype {self.variable.dtype}, which cannot stand for a variable of dtype "
                f"{dtype}; give values of dtype {dtype}"
            )
        if self.is_scalar:
            return Condition(produced, _fitting(np.asarray(self.values), name, dtype)[()], is_scalar=True)
        if produced.is_shared:
            raise ArgumentError(
                f"condition {name!r} stands for a context, which a whole sub-batch shares; give one scalar"
            )
        axes = (n_samples, *(sizes[plate] for plate in produced.plates))
        values = self._in_order(name, 1 + len(self.variable.plates), (*produced.plates, *dims))
        shape = tuple(values.shape)
        if not produced.shape and shape == (*axes, 1):
            values, shape = values[..., 0], axes
        if shape != (*axes, *produced.shape):
            raise ArgumentError(
                f"condition {name!r} must be a scalar or have shape {(*axes, *produced.shape)}, the batch axes in "
                f"front; got {shape}"
            )
        if isinstance(values, da.Array):
            values = da.map_blocks(_fitting, values, name, dtype, dtype=dtype)
        else:
            values = _fitting(values, name, dtype)
        return Condition(produced, values, is_scalar=False)

    def _in_order(self, name: str, n_axes: int, dims: Sequence[str]) -> Any:
        """Return the values with the feature dims of a DataArray, if they bear the variable's names, in its order."""
        dims = tuple(dim for dim in dims if dim not in self.variable.plates)
        if self.dims and set(self.dims) == set(dims):
            order = [n_axes + self.dims.index(dim) for dim in dims]
            return self.values.transpose((*range(n_axes), *order))
        if set(self.dims) & set(dims) and len(self.dims) == len(dims):
            raise ArgumentError(
                f"condition {name!r} has the feature dims {self.dims}, but those of the variable are {dims}; "
                "rename them"
            )
        return self.values

    def rows(self, samples: slice) -> Any:
        """Return the values of some samples; Dask arrays stay lazy, and one value for all has plates of size 1."""
        if not self.is_scalar:
            return self.values[samples]
        if self.variable.is_shared and not self.variable.shape:
            return self.values.item() if self.variable.is_python else self.values
        if self.variable.is_shared:
            return np.broadcast_to(self.values, self.variable.shape)
        shape = (samples.stop - samples.start, *(1 for _ in self.variable.plates), *self.variable.shape)
        return np.full(shape, self.values, self.variable.dtype)


def read_conditions(
    conditions: Mapping[str, Any], axes: tuple[int, ...], plates: Sequence[str], *, any_level: bool
) -> dict[str, Condition]:
    """Read what the caller gave, before it is known which variables the simulator has.

    With ``any_level`` an array may have only the first of the batch axes; it is taken to have as many as match.

    Raises
    ------
    ArgumentError
        If an array does not begin with the batch axes, or is not numeric.
    """
    return {name: _read(name, value, axes, plates, any_level) for name, value in conditions.items()}


def _read(name: str, value: Any, axes: tuple[int, ...], plates: Sequence[str], any_level: bool) -> Condition:
    if name != VALID:  # a derivation takes it from its store
        check_name(name, "the call gives", ArgumentError)
    dims: tuple[Hashable, ...] = ()
    if isinstance(value, xr.DataArray):
        if any_level and value.dims:  # it says itself which axes it has
            axes = axes[: 1 + sum(plate in value.dims for plate in plates)]
            any_level = False
        array = _batch_first(name, value, ("batch", *plates[: len(axes) - 1]))
        value, dims = array.data, array.dims[len(axes) :]
    value, dtype = _numeric(name, value)
    shape = value.shape if isinstance(value, da.Array) else np.shape(value)
    if not shape:
        value = value if isinstance(value, np.generic | int | float | complex) else np.asarray(value)[()]
        return Condition(Variable(name, (), dtype, is_shared=True), value, is_scalar=True)
    if any_level:
        axes = axes[: max(_n_matching(shape, axes), 1)]
    if shape[: len(axes)] != axes:
        raise ArgumentError(
            f"condition {name!r} has shape {shape}, which does not begin with the batch axes {axes}; give a scalar, an "
            "array with one row a sample, or bind a value that all samples share into the function "
            "(functools.partial)"
        )
    variable = Variable(name, shape[len(axes) :], dtype, plates=tuple(plates[: len(axes) - 1]))
    return Condition(variable, value, is_scalar=False, dims=dims)


def _numeric(name: str, value: Any) -> tuple[Any, np.dtype[Any]]:
    """Return a value as a scalar, an array of the host or a Dask array of such, and its dtype.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If it is no numbers, or its rows have different shapes.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise ArgumentTypeError(f"condition {name!r} is a masked array, whose mask would be lost; give it filled")
    try:
        if isinstance(value, da.Array) and not isinstance(meta_from_array(value), np.ndarray):
            value = value.map_blocks(as_host, dtype=value.dtype, meta=np.empty((0,) * value.ndim, value.dtype))  # type: ignore[call-arg,arg-type]
        elif not isinstance(value, da.Array | np.generic | int | float | complex):
            value = as_host(value)
        dtype = getattr(value, "dtype", None) or np.asarray(value).dtype
    except ValueError as error:
        raise ArgumentError(f"condition {name!r} has rows of different shapes: {error}") from error
    if not is_supported(dtype):
        raise ArgumentTypeError(
            f"condition {name!r} must be boolean or numeric, at most float64 or complex128; got {value!r}"
        )
    return value, dtype


def _n_matching(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    """Return how many axes of an array are the batch axes, from the first on."""
    pairs = enumerate(zip(shape, axes))
    return next((i for i, (got, size) in pairs if got != size), min(len(shape), len(axes)))


def _fitting(values: npt.NDArray[Any], name: str, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return values in the dtype of the variable that they stand for, if they fit."""
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore"):
        cast = values.astype(dtype)
    fits = np.isfinite(cast) == np.isfinite(values) if dtype.kind in "fc" else cast == values
    if not fits.all():
        raise ArgumentError(
            f"condition {name!r} has values that do not fit into {dtype}, the dtype of the variable; got "
            f"{values[~fits].flat[0]!r}"
        )
    return cast


def _batch_first(name: str, array: xr.DataArray, dims: Sequence[str]) -> xr.DataArray:
    missing = [dim for dim in dims if dim not in array.dims]
    if array.dims and missing:
        raise ArgumentError(
            f"condition {name!r} is a DataArray with dims {array.dims}; it needs the dim {missing[0]!r} to be matched "
            "with samples"
        )
    return array.transpose(*dims, ...) if array.dims else array


def pad_rows(values: Any, n_rows: int) -> Any:
    """Return ``n_rows`` rows: the given ones, the last of them repeated where they are too few.

    A batched stage computes a last, short sub-batch whole; conditions have no rows for the part that is cut away.
    """
    if values.shape[0] >= n_rows:
        return values[:n_rows, ...]
    return np.concatenate([values, np.repeat(values[-1:], n_rows - len(values), axis=0)])
