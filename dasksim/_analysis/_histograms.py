"""Histograms of a dataset larger than memory, counted chunk by chunk."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dasksim._analysis._statistics import as_floats, columns_of, quantiles_of
from dasksim._analysis._summary import Feature, Summary, mask_of, over_chunks
from dasksim._core.arrays import as_host
from dasksim._core.failures import VALID

__all__ = ["Histograms", "count_histograms", "edges_between"]

Array = npt.NDArray[Any]

# Above this, rounding hides whether values are multiples of a step.
_MOST_STEPS = 10_000


class Histograms(NamedTuple):
    """Counts of features' values.

    Parameters
    ----------
    edges
        Of the bins, for each feature.
    counts
        For each feature, of shape (bins,).
    pairs
        For each pair of features ``(i, j)`` with ``i > j``, of shape (bins of i, bins of j).
    """

    edges: list[Array]
    counts: list[Array]
    pairs: dict[tuple[int, int], Array]


def count_histograms(summary: Summary, features: Sequence[Feature], bins: int, *, with_pairs: bool) -> Histograms:
    """Count the values of features, and of all their pairs, in one pass.

    Bins are of equal width over the 1 % to 99 % quantiles, widened by half their distance on either side and cut at the
    minimum and maximum. Where values are whole numbers, or multiples of another, each bin holds as many of them.
    """
    edges = [_edges(summary, feature, bins) for feature in features]
    pairs = [(i, j) for i in range(len(features)) for j in range(i)] if with_pairs else []
    mask = VALID if mask_of(summary.dataset) is not None else None
    names = {feature.variable for feature in features} | ({mask} if mask else set())
    measure = functools.partial(_count, features=features, edges=edges, pairs=pairs, mask=mask)
    found = over_chunks(summary.dataset[sorted(names)], measure, _add, chunks=summary.chunks, store=summary.store)
    counts = found or [np.zeros(len(e) - 1, np.int64) for e in edges] + [
        np.zeros((len(edges[i]) - 1, len(edges[j]) - 1), np.int64) for i, j in pairs
    ]
    return Histograms(edges, counts[: len(features)], dict(zip(pairs, counts[len(features) :], strict=True)))


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
    _start: int,
    chunk: Mapping[str, Any],
    *,
    features: Sequence[Feature],
    edges: Sequence[Array],
    pairs: Sequence[tuple[int, int]],
    mask: str | None,
) -> list[Array]:
    values = {name: columns_of(as_host(array)) for name, array in chunk.items()}
    valid = values[mask][:, 0] if mask is not None else None
    codes = [_codes(as_floats(values[f.variable][:, f.column], valid), e) for f, e in zip(features, edges, strict=True)]
    sizes = [len(e) - 1 for e in edges]
    counts = [np.bincount(c[c >= 0], minlength=size) for c, size in zip(codes, sizes, strict=True)]
    for i, j in pairs:
        both = (codes[i] >= 0) & (codes[j] >= 0)
        joint = codes[i][both] * sizes[j] + codes[j][both]
        counts.append(np.bincount(joint, minlength=sizes[i] * sizes[j]).reshape(sizes[i], sizes[j]))
    return counts


def _codes(values: Array, edges: Array) -> Array:
    """Return the bin of each value, as :func:`numpy.histogram` finds it, and -1 for none."""
    n = len(edges) - 1
    inside = (values >= edges[0]) & (values <= edges[-1])
    position = (np.where(inside, values, edges[0]) - edges[0]) * (n / (edges[-1] - edges[0]))
    code = np.minimum(position.astype(np.int64), n - 1)
    code -= np.where(inside, values, edges[0]) < edges[code]
    code += (values >= edges[code + 1]) & (code < n - 1)
    return np.where(inside, code, -1)


def _add(a: list[Array], b: list[Array]) -> list[Array]:
    return [x + y for x, y in zip(a, b, strict=True)]
