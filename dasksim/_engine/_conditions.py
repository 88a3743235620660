"""Read what a caller gives as conditions, before it is known which variables the simulator has."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.array.utils import meta_from_array

from dasksim._core.arrays import as_host
from dasksim._core.conditions import Condition
from dasksim._core.failures import VALID
from dasksim._core.labelled import is_quantity
from dasksim._core.variables import Variable, check_name, is_supported
from dasksim.errors import ArgumentError, ArgumentTypeError

__all__ = ["read_conditions"]


def read_conditions(
    conditions: Mapping[str, Any], axes: tuple[int, ...], plates: Sequence[str], *, any_level: bool
) -> dict[str, Condition]:
    """Read what the caller gave.

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
    labels: dict[str, Any] = {}
    if isinstance(value, xr.Dataset):
        raise ArgumentTypeError(f"condition {name!r} is a Dataset; give one of its variables, such as ds[{name!r}]")
    if isinstance(value, xr.DataArray):
        if any_level and value.dims:  # it says itself which axes it has
            axes = axes[: 1 + sum(plate in value.dims for plate in plates)]
            any_level = False
        array = _batch_first(name, value, ("batch", *plates[: len(axes) - 1]))
        value, dims = array.data, array.dims[len(axes) :]
        labels = {str(dim): array[dim].values for dim in dims if dim in array.coords}
    if is_quantity(value):
        raise ArgumentTypeError(
            f"condition {name!r} has a unit, which would be lost; give its numbers in the unit that the variable has"
        )
    value, dtype = _numeric(name, value)
    shape = value.shape if isinstance(value, da.Array) else np.shape(value)
    if not shape:
        # a Python number stays one, since functions are given it as it was given
        value = value if isinstance(value, np.generic | int | float | complex) else np.asarray(value)[()]
        return Condition(Variable(name, (), dtype, is_shared=True), value, is_scalar=True)
    if any_level:
        # one at least, which the message below is about
        axes = axes[: max(_n_matching(shape, axes), 1)]
    if shape[: len(axes)] != axes:
        raise ArgumentError(
            f"condition {name!r} has shape {shape}, which does not begin with the batch axes {axes}; give a scalar, an "
            "array with one row a sample, or bind a value that all samples share into the function "
            f"(functools.partial){_for_draws(name, shape, axes)}"
        )
    variable = Variable(name, shape[len(axes) :], dtype, plates=tuple(plates[: len(axes) - 1]))
    return Condition(variable, value, is_scalar=False, dims=dims, labels=labels)


def _for_draws(name: str, shape: tuple[int, ...], axes: tuple[int, ...]) -> str:
    """Return the call for what may be several draws for each of some datasets, as a posterior gives them."""
    if len(axes) > 1 or len(shape) < 2:
        return ""
    return f"; for {shape[1]} draws for each of {shape[0]} datasets, call sample({shape[:2]}, {name}=...)"


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
            # as of a dataset that was made on a GPU
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


def _batch_first(name: str, array: xr.DataArray, dims: Sequence[str]) -> xr.DataArray:
    missing = [dim for dim in dims if dim not in array.dims]
    if array.dims and missing:
        raise ArgumentError(
            f"condition {name!r} is a DataArray with dims {array.dims}; it needs the dim {missing[0]!r} to be matched "
            "with samples"
        )
    return array.transpose(*dims, ...) if array.dims else array
