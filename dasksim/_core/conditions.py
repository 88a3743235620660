"""Conditions: variables that the caller gives instead of having them simulated."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim._core.arrays import is_lazy
from dasksim._core.attributes import Coordinate, same_values, shown
from dasksim._core.variables import Variable
from dasksim.errors import ArgumentError

__all__ = ["Condition", "pad_rows"]


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
    labels
        Its labels along these, by dim.
    """

    variable: Variable
    values: Any
    is_scalar: bool
    dims: tuple[Hashable, ...] = ()
    labels: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

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
        # a Python int is an int64, which may yet stand for unsigned integers: whether its value fits is seen below
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
        # so a dataset holds a scalar whose outputs are expanded
        if not produced.shape and shape == (*axes, 1):
            values, shape = values[..., 0], axes
        if shape != (*axes, *produced.shape):
            raise ArgumentError(
                f"condition {name!r} must be a scalar or have shape {(*axes, *produced.shape)}, the batch axes in "
                f"front; got {shape}"
            )
        if is_lazy(values):
            values = values.map_blocks(_fitting, name, dtype, dtype=dtype)
        else:
            values = _fitting(values, name, dtype)
        return Condition(produced, values, is_scalar=False, labels=self.labels)

    def check_labels(self, dims: Collection[str], coords: Mapping[str, Coordinate]) -> None:
        """Refuse labels that are not those of the dims, since values would get the labels of others.

        Raises
        ------
        ArgumentError
            If there are some.
        """
        for dim in self.labels.keys() & dims & coords.keys():
            own, others = self.labels[dim], coords[dim].values
            if not same_values(own, others):
                raise ArgumentError(
                    f"condition {self.variable.name!r} has the labels {shown(own)} along {dim!r}, where the simulator "
                    f"has {shown(others)}; give it with these, as sel or reindex does, or without labels"
                )

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


def _fitting(values: npt.NDArray[Any], name: str, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return values in the dtype of the variable that they stand for, if they fit."""
    if values.dtype == dtype:
        return values
    # what overflows is an error below, and needs no warning besides
    with np.errstate(over="ignore"):
        cast = values.astype(dtype)
    # floats may lose digits, and NaN differs from itself: what must stay is which values are finite
    fits = np.isfinite(cast) == np.isfinite(values) if dtype.kind in "fc" else cast == values
    if not fits.all():
        raise ArgumentError(
            f"condition {name!r} has values that do not fit into {dtype}, the dtype of the variable; got "
            f"{values[~fits].flat[0]!r}"
        )
    return cast


def pad_rows(values: Any, n_rows: int) -> Any:
    """Return ``n_rows`` rows: the given ones, the last of them repeated where they are too few.

    A batched stage computes a last, short sub-batch whole; conditions have no rows for the part that is cut away.
    """
    if values.shape[0] >= n_rows:
        # the array API standard wants an index for each axis, or an ellipsis
        return values[:n_rows, ...]
    return np.concatenate([values, np.repeat(values[-1:], n_rows - len(values), axis=0)])
