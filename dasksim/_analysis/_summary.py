"""Statistics of a dataset larger than memory, chunk by chunk, for plots and reports."""

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.delayed import delayed

from dasksim._analysis._statistics import Statistics, columns_of, measure, merge
from dasksim._core.arrays import as_host
from dasksim._core.dask_private import check_graphs
from dasksim._core.failures import VALID
from dasksim.errors import ArgumentError, nearest
from dasksim.store import Record, Store, StoreLike

__all__ = ["DataSource", "Feature", "Summary", "mask_of", "over_chunks", "summarize"]

Array = npt.NDArray[Any]
T = TypeVar("T")

# Samples that are kept for quantiles: so many give a quantile's level to 0.004 (one standard error at the median).
_MOST_KEPT = 1 << 14
_MOST_KEPT_BYTES = 1 << 26

# Partial results that are merged by one task.
_FAN_IN = 16


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
DataSource: TypeAlias = StoreLike | xr.Dataset | Summary


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


def mask_of(dataset: xr.Dataset) -> xr.DataArray | None:
    """Return the variable that says which samples are valid, if some may be masked."""
    record, mask = Record.of_dataset(dataset.attrs), dataset.get(VALID)
    may_be_masked = not record.document or record.policy.masks
    is_mask = mask is not None and mask.dims == ("batch",) and mask.dtype == bool
    return mask if may_be_masked and is_mask else None


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
    if not isinstance(source, xr.Dataset):
        store = Store.at(source)
        source = store.open()
    dataset = source
    if "batch" not in dataset.dims:
        raise ArgumentError(f"the dataset must have the dim 'batch'; it has {', '.join(map(repr, dataset.dims))}")
    mask = mask_of(dataset)
    usual = [str(name) for name, array in dataset.items() if "batch" in array.dims and name != VALID]
    usual += [VALID] if VALID in dataset and mask is None else []
    names = usual if variables is None else [_variable_named(name, usual) for name in variables]
    chosen = dataset[list(dict.fromkeys([*names, *([VALID] if mask is not None else [])]))].transpose("batch", ...)
    row_bytes = sum(array.nbytes for array in chosen.values()) // max(1, dataset.sizes["batch"])
    most = min(_MOST_KEPT, max(1, _MOST_KEPT_BYTES // max(1, row_bytes)))
    step = max(1, -(-dataset.sizes["batch"] // most))
    ask = functools.partial(_measure, names=names, mask=VALID if mask is not None else None, step=step)
    found = over_chunks(chosen, ask, _merge, chunks=chunks, store=store) or (0, 0, {})
    return Summary(chosen, store, chunks, found[0], found[1], {n: s.finished() for n, s in found[2].items()})


def _variable_named(name: str, known: Sequence[str]) -> str:
    """Return the variable that a variable's or a feature's name begins with."""
    base = name if name in known else str(name).partition("[")[0]
    if base not in known:
        raise ArgumentError(f"there is no variable {name!r}; {nearest(name, known)}")
    return base


def over_chunks(
    dataset: xr.Dataset,
    ask: Callable[[int, dict[str, Array]], T],
    join: Callable[[T, T], T],
    *,
    chunks: Collection[int] | None,
    store: Store | None,
) -> T | None:
    """Ask each chunk of a dataset something, and join the answers in order, as soon as they are there.

    It is asked with the number of the chunk's first sample and the chunk's variables; what is in memory already is one
    chunk, and without chunks there is no answer.
    """
    check_graphs("look at some samples, with dasksim.open_dataset")
    whole = {dim: -1 for dim in dataset.dims if dim != "batch"}
    lazy = dataset.chunk(whole).unify_chunks()
    blocks = {str(name): array.data.to_delayed(optimize_graph=False).ravel() for name, array in lazy.items()}
    starts = np.cumsum([0, *lazy.chunks["batch"]])[:-1].tolist()
    asked = delayed(ask, pure=False)
    joined = delayed(functools.partial(functools.reduce, join), pure=False)
    numbers = range(len(starts)) if chunks is None else sorted(chunks)
    found = [asked(starts[i], {name: block[i] for name, block in blocks.items()}) for i in numbers]
    while len(found) > 1:
        found = [joined(found[i : i + _FAN_IN]) for i in range(0, len(found), _FAN_IN)]
    with store.reading() if store is not None else nullcontext():
        return found[0].compute() if found else None


_Measured: TypeAlias = tuple[int, int, dict[str, Statistics]]


def _measure(start: int, chunk: Mapping[str, Any], *, names: Sequence[str], mask: str | None, step: int) -> _Measured:
    values = {name: columns_of(as_host(array)) for name, array in chunk.items()}
    n_rows = len(next(iter(values.values())))
    valid = values[mask][:, 0] if mask is not None else None
    kept = slice(-start % step, None, step)
    n_masked = 0 if valid is None else int((~valid).sum())
    return n_rows, n_masked, {name: measure(values[name], valid, kept) for name in names}


def _merge(a: _Measured, b: _Measured) -> _Measured:
    return a[0] + b[0], a[1] + b[1], {name: merge(a[2][name], b[2][name]) for name in a[2]}
