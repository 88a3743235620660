"""Statistics of the features of a variable, found piece by piece and merged."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Statistics", "as_floats", "columns_of", "measure", "merge", "quantiles_of"]

Array = npt.NDArray[Any]

# Rows of a chunk are worked on a few MiB at a time, as 8-byte floats.
_PIECE_BYTES = 1 << 22


@dataclass(frozen=True)
class Statistics:
    """What is known of a variable's features; all arrays have an element for each, in C order.

    Samples that are masked are left out; mean, standard deviation, minimum and maximum are those of finite values.

    Parameters
    ----------
    count
        Finite values.
    mean
        Their mean.
    squares
        The sum of their squared deviations from it.
    minimum, maximum
        Their range.
    n_nan, n_infinite
        Other values.
    kept
        Evenly spaced samples, of shape (samples, features).
    """

    count: Array
    mean: Array
    squares: Array
    minimum: Array
    maximum: Array
    n_nan: Array
    n_infinite: Array
    kept: Array

    @property
    def sd(self) -> Array:
        """Standard deviation, with divisor n as in NumPy."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.sqrt(self.squares / self.count)

    def quantiles(self, levels: Sequence[float]) -> Array:
        """Return quantiles of the kept samples, of shape (levels, features); NaN where no value is finite."""
        return quantiles_of(self.kept, levels)

    def finished(self) -> "Statistics":
        """Return the same with NaN where there is no finite value."""
        found = (np.where(self.count == 0, np.nan, v) for v in (self.mean, self.minimum, self.maximum))
        return replace(self, **dict(zip(("mean", "minimum", "maximum"), found, strict=True)))


def quantiles_of(values: Array, levels: Sequence[float]) -> Array:
    """Return quantiles of the finite values along the first axis, of shape (levels, ...); NaN where there are none."""
    values = np.where(np.isfinite(values), values, np.nan)
    if not len(values):
        return np.full((len(levels), *values.shape[1:]), np.nan)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        return np.asarray((np.nanquantile if np.isnan(values).any() else np.quantile)(values, levels, axis=0))


def columns_of(values: Array) -> Array:
    """Return a variable's values as an array of shape (samples, features)."""
    return values.reshape(len(values), math.prod(values.shape[1:]))


def as_floats(rows: Array, valid: Array | None) -> Array:
    """Return the valid rows as 8-byte floats, a feature at a time in memory; of complex numbers the magnitudes."""
    rows = rows if valid is None else rows[valid]
    return (np.abs(rows) if rows.dtype.kind == "c" else rows).astype(np.float64, order="F")


def measure(values: Array, valid: Array | None, kept: slice) -> Statistics:
    """Return the statistics of some samples."""
    rows = as_floats(values[kept], None if valid is None else valid[kept])
    found = _of_piece(rows[:0], rows)
    step = max(1, _PIECE_BYTES // (8 * max(1, values.shape[1])))
    for start in range(0, len(values), step):
        piece = slice(start, start + step)
        rows = as_floats(values[piece], None if valid is None else valid[piece])
        found = merge(found, _of_piece(rows, rows[:0]))
    return found


def _of_piece(piece: Array, kept: Array) -> Statistics:
    finite = np.isfinite(piece)
    count = finite.sum(axis=0)
    n_nan = np.isnan(piece).sum(axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = np.where(finite, piece, 0).sum(axis=0) / np.maximum(count, 1)
        squares = (np.where(finite, piece - mean, 0) ** 2).sum(axis=0)
    minimum = np.min(piece, axis=0, initial=np.inf, where=finite)
    maximum = np.max(piece, axis=0, initial=-np.inf, where=finite)
    return Statistics(count, mean, squares, minimum, maximum, n_nan, len(piece) - count - n_nan, kept)


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Merge the statistics of two runs of samples, as Chan, Golub and LeVeque do (1983), which cancels no digits."""
    count = a.count + b.count
    share = b.count / np.maximum(count, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        delta = b.mean - a.mean
        squares = a.squares + b.squares + delta**2 * a.count * share
    return Statistics(
        count,
        a.mean + delta * share,
        squares,
        np.minimum(a.minimum, b.minimum),
        np.maximum(a.maximum, b.maximum),
        a.n_nan + b.n_nan,
        a.n_infinite + b.n_infinite,
        np.concatenate([a.kept, b.kept]) if len(b.kept) else a.kept,
    )
