"""Histograms of a dataset larger than memory, counted chunk by chunk."""

import functools
import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from dask.delayed import delayed

from dasksim._analysis._summary import Feature, Summary, as_floats, chunks_of, columns_of, quantiles_of
from dasksim._core.arrays import as_host
from dasksim._core.failures import VALID
from dasksim.store import mask_of

__all__ = ["Histograms", "count_histograms", "edges_between"]

Array = npt.NDArray[Any]

# Above this, rounding hides whether values are multiples of a step.
_MOST_STEPS = 10_000

# Partial counts that are added up by one task.
_FAN_IN = 16


class Histograms(NamedTuple):
    """Counts of features' values.

    Parameters
    ----------
    edges
        Of the bins, for each feature.
    counts
        For each feature, of shape (bins,).
    pairs
        For each pair of features ``(i, j)``, of shape (bins of i, bins of j).
    """

    edges: list[Array]
    counts: list[Array]
    pairs: dict[tuple[int, int], Array]


def count_histograms(
    summary: Summary, features: Sequence[Feature], bins: int, pairs: Sequence[tuple[int, int]] = ()
) -> Histograms:
    """Count the values of features, and of pairs of them, in one pass.

    Bins are of equal width over the 1 % to 99 % quantiles, widened by half their distance on either side and cut at the
    minimum and maximum. Where values are whole numbers, or multiples of another, each bin holds as many of them.
    """
    edges = [_edges(summary, feature, bins) for feature in features]
    mask = [VALID] if mask_of(summary.dataset) is not None else []
    names = list(dict.fromkeys([*(feature.variable for feature in features), *mask]))
    data = chunks_of(summary.dataset[names], summary.chunks)
    count = delayed(functools.partial(_count, names=names, features=features, edges=edges, pairs=pairs), pure=False)
    blocks = zip(*(array.data.to_delayed(optimize_graph=False).ravel() for array in data.values()), strict=True)
    counts = [count(*block) for block in blocks]
    while len(counts) > 1:
        counts = [delayed(_total, pure=False)(counts[i : i + _FAN_IN]) for i in range(0, len(counts), _FAN_IN)]
    with summary.store.reading() if summary.store is not None else nullcontext():
        found = counts[0].compute()
    return Histograms(edges, found[: len(features)], dict(zip(pairs, found[len(features) :], strict=True)))


def _edges(summary: Summary, feature: Feature, bins: int) -> Array:
    found = summary.statistics[feature.variable]
    least, most = found.minimum[feature.column], found.maximum[feature.column]
    values = found.kept[:, feature.column]
    low, high = quantiles_of(values, [0.01, 0.99])
    if not np.isfinite([least, most, most - least]).all():
        return np.linspace(0.0, 1.0, bins + 1)
    if low < high:
        least, most = max(least, low - (high - low) / 2), min(most, high + (high - low) / 2)
    return edges_between(least, most, bins, values, is_integer=summary.dataset[feature.variable].dtype.kind in "biu")


def edges_between(least: float, most: float, bins: int, values: Array, *, is_integer: bool = False) -> Array:
    """Return edges of bins of equal width, with as many steps of a lattice in each bin if values lie on one.

    Otherwise some bins would hold a value more than others, and the histogram of counts or of rounded numbers would
    look like a comb.
    """
    start, step = _lattice(values)
    if is_integer and not step:
        start, step = math.floor(least), 1.0
    if step:
        first, last = math.floor((least - start) / step + 0.01), math.ceil((most - start) / step - 0.01)
        width = -(-(last - first + 1) // bins)
        return start + step * (np.arange(first, last + width + 1, width) - 0.5)
    if not np.all(np.diff(np.linspace(least, most, bins + 1)) > 0):  # one value, or neighbours
        least, most = least - max(0.5, abs(least) * 1e-3), most + max(0.5, abs(most) * 1e-3)
    return np.linspace(least, most, bins + 1)


def _lattice(values: Array) -> tuple[float, float]:
    """Return the least value and the step between values that are multiples of one, or a step of 0."""
    found = np.unique(values[np.isfinite(values)])
    if not 2 <= len(found) <= len(values) // 4:
        return 0.0, 0.0
    with np.errstate(over="ignore"):
        steps = (found - found[0]) / np.diff(found).min()
    if steps[-1] > _MOST_STEPS:
        return 0.0, 0.0
    step = (found[-1] - found[0]) / np.rint(steps[-1])
    is_multiple = np.abs((found - found[0]) / step - np.rint(steps)) < 0.01
    return float(found[0]), float(step) if is_multiple.all() else 0.0


def _count(
    *block: Any,
    names: Sequence[str],
    features: Sequence[Feature],
    edges: Sequence[Array],
    pairs: Sequence[tuple[int, int]],
) -> list[Array]:
    """Return the counts of a chunk, whose variables are those named: of all features, and of all pairs."""
    values = {name: columns_of(as_host(array)) for name, array in zip(names, block, strict=True)}
    valid = values[VALID][:, 0] if VALID in names else slice(None)
    codes = [_codes(as_floats(values[f.variable][valid, f.column]), e) for f, e in zip(features, edges, strict=True)]
    sizes = [len(e) - 1 for e in edges]
    counts = [np.bincount(c[c >= 0], minlength=size) for c, size in zip(codes, sizes, strict=True)]
    for i, j in pairs:
        both = (codes[i] >= 0) & (codes[j] >= 0)
        joint = codes[i][both] * sizes[j] + codes[j][both]
        counts.append(np.bincount(joint, minlength=sizes[i] * sizes[j]).reshape(sizes[i], sizes[j]))
    return counts


def _codes(values: Array, edges: Array) -> Array:
    """Return the bin of each value, the last one with its upper edge as in :func:`numpy.histogram`; -1 for none."""
    code = np.searchsorted(edges, values, side="right") - 1
    code[values == edges[-1]] -= 1
    return np.where(code < len(edges) - 1, code, -1)


def _total(counts: Sequence[list[Array]]) -> list[Array]:
    """Return the sums of counts."""
    return [sum(arrays) for arrays in zip(*counts, strict=True)]
