"""Statistics of a dataset larger than memory, in one pass by xarray and Dask, for plots and reports."""

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.base import compute

from dasksim._core.arrays import as_host
from dasksim._core.dask_private import check_graphs
from dasksim._core.failures import VALID
from dasksim.errors import ArgumentError, nearest
from dasksim.store import SamplesLike, Store, mask_of, open_samples

__all__ = [
    "DataSource",
    "Feature",
    "Statistics",
    "Summary",
    "as_floats",
    "chunks_of",
    "columns_of",
    "quantiles_of",
    "summarize",
]

Array = npt.NDArray[Any]

# Samples that are kept for quantiles: so many give a quantile's level to 0.004 (one standard error at the median).
_MOST_KEPT = 1 << 14
_MOST_KEPT_BYTES = 1 << 26

# A lazy dataset of at most so many bytes is computed once and held, since histograms take a second pass.
_MOST_HELD_BYTES = 1 << 26


@dataclass(frozen=True)
class Statistics:
    """What is known of a variable's features; all arrays have an element for each, in C order.

    Samples that are masked are left out; mean, standard deviation, minimum and maximum are those of finite values, and
    NaN where there are none.

    Parameters
    ----------
    count
        Finite values.
    mean, sd
        Their mean, and their standard deviation with divisor n as in NumPy.
    minimum, maximum
        Their range.
    n_nan, n_infinite
        Other values.
    kept
        Evenly spaced samples, of shape (samples, features).
    """

    count: Array
    mean: Array
    sd: Array
    minimum: Array
    maximum: Array
    n_nan: Array
    n_infinite: Array
    kept: Array

    def quantiles(self, levels: Sequence[float]) -> Array:
        """Return quantiles of the kept samples, of shape (levels, features); NaN where no value is finite."""
        return quantiles_of(self.kept, levels)


def quantiles_of(values: Array, levels: Sequence[float]) -> Array:
    """Return quantiles of the finite values along the first axis, of shape (levels, ...); NaN where there are none."""
    values = np.where(np.isfinite(values), values, np.nan)
    if not len(values):
        return np.full((len(levels), *values.shape[1:]), np.nan)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        return np.asarray((np.nanquantile if np.isnan(values).any() else np.quantile)(values, levels, axis=0))


class Feature(NamedTuple):
    """One number of each sample: an element of a variable, which is read as if it had one feature axis.

    Parameters
    ----------
    variable, column
        Whose, and which one in C order.
    label
        Such as ``x[time_3]``.
    """

    variable: str
    column: int
    label: str


@dataclass(frozen=True)
class Summary:
    """A dataset with its statistics.

    Parameters
    ----------
    dataset
        What it is of.
    store
        Where it is stored, for messages.
    chunks
        Numbers of the chunks that it is of; None stands for all.
    n_samples, n_masked
        Samples in these chunks, and how many of them are masked.
    statistics
        By variable.
    """

    dataset: xr.Dataset
    store: Store | None
    chunks: Collection[int] | None
    n_samples: int
    n_masked: int
    statistics: Mapping[str, Statistics]

    @property
    def n_kept(self) -> int:
        """Samples that quantiles are estimated from."""
        return min((len(found.kept) for found in self.statistics.values()), default=0)

    def features(self, variables: Sequence[str] | None = None) -> list[Feature]:
        """Return features of variables, by default of all; a name is that of a variable or of one feature.

        Raises
        ------
        ArgumentError
            If there is none of a name.
        """
        found = {name: features_of(self.dataset[name]) for name in self.statistics}
        if variables is None:
            return [feature for features in found.values() for feature in features]
        by_label = {feature.label: [feature] for features in found.values() for feature in features}
        known = {**by_label, **found}
        if unknown := [name for name in variables if name not in known]:
            raise ArgumentError(f"there is no variable or feature {unknown[0]!r}; {nearest(unknown[0], known)}")
        return list(dict.fromkeys(feature for name in variables for feature in known[name]))


#: What can be summarized. A summary is one already, so that several plots can share it.
DataSource: TypeAlias = SamplesLike | Summary


def features_of(array: xr.DataArray) -> list[Feature]:
    """Return a variable's features, labelled by its coordinates or by number."""
    name, dims = str(array.name), [dim for dim in array.dims if dim != "batch"]
    sizes = [array.sizes[dim] for dim in dims]
    if math.prod(sizes) == 1 and not any(dim in array.coords for dim in dims):
        return [Feature(name, 0, name)]
    labels = [_labels(array, str(dim)) for dim in dims]
    return [
        Feature(name, column, f"{name}[{', '.join(label[i] for label, i in zip(labels, index, strict=True))}]")
        for column, index in enumerate(np.ndindex(*sizes))
    ]


def _labels(array: xr.DataArray, dim: str) -> list[str]:
    """Return what tells the elements along a dim from each other; numbers are shortened as long as they do."""
    values = array.coords[dim].values if dim in array.coords else np.arange(array.sizes[dim])
    short = [f"{value:g}" if values.dtype.kind == "f" else str(value) for value in values.tolist()]
    return short if len(set(short)) == len(short) else [str(value) for value in values.tolist()]


def summarize(
    source: DataSource,
    variables: Sequence[str] | None = None,
    *,
    chunks: Collection[int] | None = None,
    store: Store | None = None,
) -> Summary:
    """Return the statistics of a store or dataset, in one pass that has one chunk for each worker in memory.

    Quantiles are those of at most 16,384 samples, evenly spaced, and of fewer if that were more than 64 MiB. The level
    of a quantile ``q`` is then right to ``sqrt(q * (1 - q) / n)``, one standard error, 0.004 at the median.

    Raises
    ------
    ArgumentError
        If a variable is not there, or there is no dim ``batch``.
    StoreError
        If there is no store, it lacks chunks, or it cannot be read.
    """
    if isinstance(source, Summary):
        return source
    if not isinstance(source, xr.Dataset | list | tuple):
        store = Store.at(source)  # type: ignore[arg-type]
    dataset = open_samples(source)
    mask = mask_of(dataset)
    usual = [str(name) for name, array in dataset.items() if "batch" in array.dims and name != VALID]
    usual += [VALID] if VALID in dataset and mask is None else []
    names = usual if variables is None else [_variable_named(name, usual) for name in variables]
    chosen = dataset[list(dict.fromkeys([*names, *([VALID] if mask is not None else [])]))].transpose("batch", ...)
    check_graphs("look at some samples, with dasksim.open_dataset")
    with store.reading() if store is not None else nullcontext():
        if store is None and chosen.nbytes <= _MOST_HELD_BYTES:
            chosen = chosen.compute()
        data = chunks_of(chosen, chunks)
        n_masked, statistics = _computed(data, names, VALID if mask is not None else None)
    return Summary(chosen, store, chunks, data.sizes["batch"], n_masked, statistics)


def _variable_named(name: str, known: Sequence[str]) -> str:
    """Return the variable that a variable's or a feature's name begins with."""
    base = name if name in known else str(name).partition("[")[0]
    if base not in known:
        raise ArgumentError(f"there is no variable {name!r}; {nearest(name, known)}")
    return base


def chunks_of(dataset: xr.Dataset, chunks: Collection[int] | None) -> xr.Dataset:
    """Return some chunks of a dataset, lazily; what is in memory is one chunk."""
    lazy = dataset.chunk({dim: -1 for dim in dataset.dims if dim != "batch"}).unify_chunks()
    if chunks is None:
        return lazy
    stops = np.cumsum(lazy.chunksizes["batch"])
    parts = [lazy.isel(batch=slice(stops[i] - lazy.chunksizes["batch"][i], stops[i])) for i in sorted(chunks)]
    return xr.concat(parts, "batch") if parts else lazy.isel(batch=slice(0))


def columns_of(values: Array) -> Array:
    """Return a variable's values as an array of shape (samples, features)."""
    return values.reshape(len(values), math.prod(values.shape[1:]))


def as_floats(values: Any) -> Any:
    """Return an array as 8-byte floats; of complex numbers the magnitudes."""
    return (abs(values) if values.dtype.kind == "c" else values).astype("float64")


def _computed(data: xr.Dataset, names: Sequence[str], mask: str | None) -> tuple[int, dict[str, Statistics]]:
    """Return how many samples are masked, and the statistics of variables.

    All are computed at once, so that Dask makes each chunk once and then drops it.
    """
    n_samples = data.sizes["batch"]
    if not n_samples:
        return 0, {}
    most = min(_MOST_KEPT, max(1, _MOST_KEPT_BYTES * n_samples // max(1, data.nbytes)))
    some = {"batch": slice(None, None, max(1, -(-n_samples // most)))}
    valid = True if mask is None else data[mask]
    asked = {name: _asked(as_floats(data[name]), valid, some) for name in names}
    of_mask = {} if mask is None else {"n_valid": data[mask].sum().data, "kept": data[mask][some].data}
    with warnings.catch_warnings():  # of features without a finite value
        warnings.filterwarnings("ignore", "invalid value|overflow|All-NaN slice", RuntimeWarning)
        found, of_mask = compute(asked, of_mask)
    is_kept = as_host(of_mask["kept"]) if of_mask else slice(None)
    statistics = {}
    for name, of in found.items():
        kept = columns_of(as_host(of.pop("kept")))[is_kept]
        statistics[name] = Statistics(**{what: as_host(array).ravel() for what, array in of.items()}, kept=kept)
    return n_samples - int(of_mask["n_valid"]) if of_mask else 0, statistics


def _asked(values: xr.DataArray, valid: xr.DataArray | bool, some: Mapping[str, slice]) -> dict[str, Any]:
    """Return what :class:`Statistics` hold of a variable, as Dask arrays."""
    finite = values.where(xr.ufuncs.isfinite(values) & valid)
    asked = {
        "count": finite.count("batch"),
        "mean": finite.mean("batch"),
        "sd": finite.std("batch"),
        "minimum": finite.min("batch"),
        "maximum": finite.max("batch"),
        "n_nan": (xr.ufuncs.isnan(values) & valid).sum("batch"),
        "n_infinite": (xr.ufuncs.isinf(values) & valid).sum("batch"),
        "kept": values[some],
    }
    # without their labels: Dask of 2025 wants pyarrow where it meets an index of pandas
    return {what: array.data for what, array in asked.items()}
