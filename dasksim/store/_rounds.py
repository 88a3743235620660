"""Several datasets as one, such as those of the rounds of a sequential inference."""

from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr

from dasksim.errors import ArgumentError

__all__ = ["check_alike", "joined"]

#: The coordinate that tells from which of several datasets a sample is.
ROUND = "round"

# Characters of labels in a message.
_MOST_CHARACTERS = 100


def joined(datasets: Sequence[xr.Dataset]) -> xr.Dataset:
    """Return the samples of datasets one after the other, with the number of the dataset as a coordinate.

    Raises
    ------
    ArgumentError
        If there are none, they have other variables or labels, or xarray cannot join their arrays.
    """
    check_alike([_described(dataset) for dataset in datasets])
    numbered = [_numbered(dataset, i) for i, dataset in enumerate(datasets)]
    how: dict[str, Any] = {"data_vars": "minimal", "coords": "minimal", "compat": "override", "join": "override"}
    try:
        # what one of them says of itself, such as its seed, is not true of all
        return xr.concat(numbered, "batch", combine_attrs="drop_conflicts", **how)
    except NotImplementedError as error:
        raise ArgumentError(
            "xarray cannot join these arrays, as with Dask's option array.query-planning; turn it off, by "
            "DASK_ARRAY__QUERY_PLANNING=False in the environment, or open one store at a time"
        ) from error


def check_alike(described: Sequence[Mapping[str, str]]) -> None:
    """Check that several stores or datasets have the same variables, each described in words.

    Raises
    ------
    ArgumentError
        If there are none, or they differ.
    """
    if not described:
        raise ArgumentError("a list of stores must have one at least; got []")
    first = described[0]
    for i, other in enumerate(described):
        names = [name for name in {**first, **other} if first.get(name) != other.get(name)]
        if names:
            told = [f"{name}: {_short(first, name)} in number 0, {_short(other, name)} in number {i}" for name in names]
            raise ArgumentError(
                f"stores that are taken as one must have the same variables; {'; '.join(told)}; choose variables that "
                "all have, or give one store"
            )


def _short(described: Mapping[str, str], name: str) -> str:
    text = described.get(name, "nothing")
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"


def _described(dataset: xr.Dataset) -> dict[str, str]:
    variables = {
        str(name): f"{array.dtype} of shape {tuple(n for dim, n in array.sizes.items() if dim != 'batch')}"
        for name, array in dataset.items()
    }
    labels = {
        f"labels of {dim}": str(array.values.tolist()) for dim, array in dataset.coords.items() if dim in array.dims
    }
    return {**variables, **labels}


def _numbered(dataset: xr.Dataset, number: int) -> xr.Dataset:
    if ROUND in dataset.variables or ROUND in dataset.dims:
        return dataset
    like = min((array.variable for array in dataset.values() if "batch" in array.dims), key=lambda v: v.ndim)
    # lazy if the variable is, with its chunks
    first = like.isel({dim: 0 for dim in like.dims if dim != "batch"})
    return dataset.assign_coords({ROUND: xr.full_like(first, number, "int64")})
