"""Histograms of features and of their pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dasksim._analysis._histograms import count_histograms
from dasksim._analysis._pyplot import axis_text, open_pyplot
from dasksim._analysis._summary import DataSource, Feature, Summary, as_floats, summarize
from dasksim._core.checks import check_count
from dasksim._core.telling import counted
from dasksim.errors import ArgumentError, ArgumentTypeError, nearest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

__all__ = ["marginals", "pairs"]

# Characters that fit below a panel.
_MOST_IN_A_LINE = 15

# Bins that are chosen by the number of samples.
_LEAST_BINS, _MOST_BINS = 8, 60

# Intervals between the ticks of a panel of a pair plot.
_MOST_TICKS = 3

# Of what was observed, beside blue histograms and colours from violet to yellow.
_OBSERVED = "tab:red"


def pairs(
    source: DataSource,
    variables: Sequence[str] | None = None,
    *,
    bins: int | None = None,
    observed: Mapping[str, Any] | None = None,
    max_features: int = 12,
    figure: FigureBase | None = None,
) -> npt.NDArray[np.object_]:
    """Draw histograms of all features, on the diagonal, and of all their pairs, below it.

    The colour of a pair's bin stands for the square root of its count, so that few samples show beside many. The range
    of a panel is that from the 1 % to the 99 % quantile, widened by half its length on either side and cut at the
    minimum and maximum. A line below the panels says how many samples are left out: those that are masked, and values
    that are NaN, infinite or outside a panel.

    Parameters
    ----------
    source
        A store, in any form that :func:`~dasksim.open_dataset` takes, a Zarr group or a Dataset with the dim ``batch``,
        or a list of these with the same variables.
    variables
        Variables such as ``"x"``, and features such as ``"x[3]"`` or ``"x[label]"``; by default all.
    bins
        Bins in each direction; by default Rice's rule, ``2 * n ** (1 / 3)`` of ``n`` samples that are not masked, at
        least 8 and at most 60.
    observed
        Values of variables, each of as many numbers as the variable has features, or of single features, which are
        drawn as lines and points. Panels are widened where they lie outside.
    max_features
        More features than these are refused.
    figure
        Where to draw; by default a new figure of ``pyplot``.

    Returns
    -------
    numpy.ndarray
        Matplotlib's Axes, of shape (features, features); those above the diagonal are hidden.

    Raises
    ------
    ArgumentError
        If there are no such variables, or too many features, or if what was observed is not drawn, is not finite, or is
        more or fewer numbers than there are features.
    StoreError
        If the store cannot be read, or lacks chunks.
    ImportError
        If Matplotlib is not installed.

    Examples
    --------
    >>> import dasksim
    >>> ds = dasksim.models.two_moons().sample(10_000, seed=1)
    >>> dasksim.plots.pairs(ds, ["parameters", "observables[x_1]"]).shape  # doctest: +SKIP
    (3, 3)
    """
    pyplot = open_pyplot()
    summary, features, n_bins = _chosen(source, variables, bins, max_features)
    lines = _observed(summary, features, observed)
    n = len(features)
    found = count_histograms(summary, features, n_bins, [(i, j) for i in range(n) for j in range(i)])
    figure = figure or pyplot.figure(figsize=(1 + 1.6 * n, 1 + 1.6 * n), layout="constrained")
    axes = figure.subplots(n, n, squeeze=False, sharex="col")
    for i, feature in enumerate(features):
        _draw_histogram(axes[i, i], found.edges[i], found.counts[i], lines[i])
        axes[i, 0].set_ylabel(_in_two_lines(_text(summary, feature)) if i else "")
        axes[-1, i].set_xlabel(_in_two_lines(_text(summary, feature)))
        for j in range(i):
            _draw_pair(axes[i, j], found.edges[j], found.edges[i], found.pairs[i, j])
            _draw_observed(axes[i, j], lines[j], lines[i])
            axes[i, j].tick_params(labelleft=j == 0)
        for axis in axes[i, i + 1 :]:
            axis.set_visible(False)
        for axis in axes[i, : i + 1]:
            axis.tick_params(labelsize="small")
            axis.locator_params(axis="x", nbins=_MOST_TICKS)
            axis.locator_params(axis="y", nbins=_MOST_TICKS)
    _note(figure, summary, features, found.counts)
    return np.asarray(axes)


def marginals(
    source: DataSource,
    variables: Sequence[str] | None = None,
    *,
    bins: int | None = None,
    observed: Mapping[str, Any] | None = None,
    max_features: int = 60,
    figure: FigureBase | None = None,
) -> npt.NDArray[np.object_]:
    """Draw a histogram of each feature.

    Ranges, and what is left out, are those of :func:`pairs`.

    Parameters
    ----------
    source
        A store, in any form that :func:`~dasksim.open_dataset` takes, a Zarr group or a Dataset with the dim ``batch``,
        or a list of these with the same variables.
    variables
        Variables such as ``"x"``, and features such as ``"x[3]"`` or ``"x[label]"``; by default all.
    bins
        Bins of each histogram; by default as in :func:`pairs`.
    observed
        Values of variables or of features, which are drawn as lines; see :func:`pairs`.
    max_features
        More features than these are refused.
    figure
        Where to draw; by default a new figure of ``pyplot``.

    Returns
    -------
    numpy.ndarray
        Matplotlib's Axes, of shape (features,).

    Raises
    ------
    ArgumentError
        If there are no such variables, or too many features, or if what was observed is not drawn, is not finite, or is
        more or fewer numbers than there are features.
    StoreError
        If the store cannot be read, or lacks chunks.
    ImportError
        If Matplotlib is not installed.
    """
    pyplot = open_pyplot()
    summary, features, n_bins = _chosen(source, variables, bins, max_features)
    lines = _observed(summary, features, observed)
    found = count_histograms(summary, features, n_bins)
    n_columns = min(4, len(features))
    n_rows = -(-len(features) // n_columns)
    figure = figure or pyplot.figure(figsize=(1 + 2.4 * n_columns, 0.6 + 2 * n_rows), layout="constrained")
    axes = np.asarray(figure.subplots(n_rows, n_columns, squeeze=False)).ravel()
    for axis, feature, edges, counts, line in zip(axes, features, found.edges, found.counts, lines, strict=False):
        _draw_histogram(axis, edges, counts, line)
        axis.set_xlabel(_text(summary, feature))
    for axis in axes[len(features) :]:
        axis.set_visible(False)
    _note(figure, summary, features, found.counts)
    return np.asarray(axes[: len(features)])


def _chosen(
    source: DataSource, variables: Sequence[str] | None, bins: int | None, max_features: int
) -> tuple[Summary, list[Feature], int]:
    n_bins = None if bins is None else check_count("bins", bins)
    if isinstance(variables, str):
        raise ArgumentError(f"variables must be a sequence of names; give [{variables!r}]")
    summary = summarize(source, variables)
    features = summary.features(variables)
    if not features:
        raise ArgumentError("there is no feature to draw; give the names of variables")
    if len(features) > max_features:
        some = [features[0].label, features[-1].label]
        raise ArgumentError(
            f"there are {len(features):,} features, and at most max_features={max_features} are drawn; choose some, "
            f"such as variables={some}, or give a larger max_features"
        )
    return summary, features, n_bins or _rice(summary)


def _rice(summary: Summary) -> int:
    """Return a number of bins that grows with that of samples."""
    n_samples = summary.n_samples - summary.n_masked
    return int(np.clip(math.ceil(2 * float(n_samples) ** (1 / 3)), _LEAST_BINS, _MOST_BINS))


def _observed(summary: Summary, features: Sequence[Feature], observed: Mapping[str, Any] | None) -> list[float | None]:
    """Return what was observed of each feature, or None."""
    if not isinstance(observed, Mapping | None):
        raise ArgumentTypeError(f"observed must be a mapping of variables to values; got {observed!r}")
    drawn = [feature.variable for feature in features] + [feature.label for feature in features]
    found: dict[Feature, float] = {}
    for name, given in (observed or {}).items():
        if name not in drawn:
            raise ArgumentError(f"observed has a value of {name!r}, which is not drawn; {nearest(name, drawn)}")
        found |= zip(summary.features([name]), _numbers(name, given, len(summary.features([name]))), strict=True)
    return [found.get(feature) for feature in features]


def _numbers(name: str, given: Any, n_features: int) -> list[float]:
    """Return what was observed of a variable or a feature, or raise."""
    try:
        values = np.ravel(as_floats(np.asarray(given)))
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(f"observed[{name!r}] must be numbers; got {given!r}") from error
    if len(values) != n_features:
        raise ArgumentError(f"observed[{name!r}] must be {n_features} numbers, one for each feature; got {len(values)}")
    if not np.isfinite(values).all():
        raise ArgumentError(f"observed[{name!r}] must be finite; got {given!r}; leave it out")
    return [float(value) for value in values]


def _draw_histogram(axis: Axes, edges: npt.NDArray[Any], counts: npt.NDArray[Any], observed: float | None) -> None:
    axis.stairs(counts, edges, fill=True)
    axis.set(xlim=(edges[0], edges[-1]), ylim=(0, None), yticks=[])
    _draw_observed(axis, observed, None)


def _draw_observed(axis: Axes, x: float | None, y: float | None) -> None:
    """Draw what was observed as lines, and as a point where they cross; widen the panel where it lies outside."""
    if x is not None:
        axis.axvline(x, color=_OBSERVED, linewidth=1)
        axis.set_xlim(*_widened(axis.get_xlim(), x))
    if y is not None:
        axis.axhline(y, color=_OBSERVED, linewidth=1)
        axis.set_ylim(*_widened(axis.get_ylim(), y))
    if x is not None and y is not None:
        axis.plot(x, y, "o", color=_OBSERVED, markersize=4)


def _widened(limits: tuple[float, float], value: float) -> tuple[float, float]:
    """Return limits between which a value lies, with a margin beside it."""
    low, high = limits
    margin = 0.05 * (max(high, value) - min(low, value))
    return min(low, value - margin) if value < low else low, max(high, value + margin) if value > high else high


def _draw_pair(axis: Axes, x: npt.NDArray[Any], y: npt.NDArray[Any], counts: npt.NDArray[Any]) -> None:
    from matplotlib.colors import PowerNorm

    shown = np.ma.masked_equal(counts, 0)
    axis.pcolormesh(x, y, shown, cmap="viridis", norm=PowerNorm(0.5, vmin=0), rasterized=True)
    axis.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))


def _text(summary: Summary, feature: Feature) -> str:
    return axis_text(summary.dataset[feature.variable].attrs, feature.variable, feature.label)


def _in_two_lines(text: str) -> str:
    return text if len(text) <= _MOST_IN_A_LINE else text.replace("[", "\n[", 1)


def _note(
    figure: FigureBase, summary: Summary, features: Sequence[Feature], counts: Sequence[npt.NDArray[Any]]
) -> None:
    """Say below the panels how many samples they are of, and what is left out."""
    columns = [(summary.statistics[feature.variable], feature.column) for feature in features]
    not_finite = sum(int(found.n_nan[column] + found.n_infinite[column]) for found, column in columns)
    outside = sum(int(found.count[i]) - int(n.sum()) for (found, i), n in zip(columns, counts, strict=True))
    left = {"masked samples": summary.n_masked, "values not finite": not_finite, "values outside the panels": outside}
    parts = [f"{number:,} {what}" for what, number in left.items() if number]
    text = counted(summary.n_samples, "sample") + (f"; left out: {', '.join(parts)}" if parts else "")
    figure.supxlabel(text, fontsize="small", color="gray")
