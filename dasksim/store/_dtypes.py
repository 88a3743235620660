"""The dtypes in which variables are stored."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim._core.variables import is_supported
from dasksim.errors import ArgumentError, ArgumentTypeError, OutputError, nearest

__all__ = ["as_stored", "stored_dtypes"]

Array = npt.NDArray[Any]


def stored_dtypes(dtypes: Any, made: Mapping[str, np.dtype[Any]]) -> dict[str, np.dtype[Any]]:
    """Return the dtype in which each variable is stored.

    Raises
    ------
    ArgumentError
        If a variable does not exist, or its values could not be cast.
    """
    if dtypes is None:
        return dict(made)
    if not isinstance(dtypes, Mapping):
        one = _as_dtype(dtypes)
        dtypes = {name: one for name, dtype in made.items() if dtype.kind == "f"}
    for name in dtypes:
        if name not in made:
            raise ArgumentError(f"dtypes names {name!r}, which is no variable; {nearest(name, made)}")
    chosen = {name: _as_dtype(dtypes[name]) if name in dtypes else dtype for name, dtype in made.items()}
    for name, dtype in chosen.items():
        if not is_supported(dtype):
            raise ArgumentError(
                f"dtypes[{name!r}]={dtype} is neither boolean nor numeric, at most float64 or complex128"
            )
        if not np.can_cast(made[name], dtype, "same_kind"):
            raise ArgumentError(f"dtypes[{name!r}]={dtype} cannot hold {name!r} of dtype {made[name]}")
    return chosen


def _as_dtype(value: Any) -> np.dtype[Any]:
    if value is None:
        raise ArgumentTypeError("dtypes must hold NumPy dtypes; got None")
    try:
        dtype: np.dtype[Any] = np.dtype(value).newbyteorder("=")
        return dtype
    except TypeError as error:
        raise ArgumentTypeError(f"dtypes must hold NumPy dtypes; got {value!r}") from error


def as_stored(values: Array, name: str, dtype: np.dtype[Any]) -> Array:
    """Return a variable's values in the dtype in which they are stored.

    Raises
    ------
    OutputError
        If a value does not fit into it.
    """
    if values.dtype == dtype:
        return values
    error = OutputError(
        f"a value of {name!r} does not fit into {dtype}, in which it is to be stored; choose a wider dtype"
    )
    # floats beyond the range would become infinite; integers wrap around without a word, and are compared instead
    try:
        with np.errstate(over="raise"):
            rows = values.astype(dtype)
    except FloatingPointError:
        raise error from None
    if dtype.kind in "iu" and not np.array_equal(rows, values):
        raise error
    return rows
