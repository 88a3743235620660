"""Histograms of features and of their pairs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dasksim._analysis._histograms import count_histograms
from dasksim._analysis._pyplot import label_text, open_pyplot
from dasksim._analysis._summary import DataSource, Feature, Summary, summarize
from dasksim._core.checks import check_count
from dasksim.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

__all__ = ["marginals", "pairs"]

# Characters that fit below a panel.
_MOST_IN_A_LINE = 15

# Intervals between the ticks of a panel of a pair plot.
_MOST_TICKS = 3


def pairs(
    source: DataSource,
    variables: Sequence[str] | None = None,
    *,
    bins: int = 50,
    max_features: int = 12,
    figure: "FigureBase | None" = None,
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
        Bins in each direction.
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
        If there are no such variables, or too many features.
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
    summary, features = _chosen(source, variables, bins, max_features)
    n = len(features)
    found = count_histograms(summary, features, bins, with_pairs=True)
    figure = figure or pyplot.figure(figsize=(1 + 1.6 * n, 1 + 1.6 * n), layout="constrained")
    axes = figure.subplots(n, n, squeeze=False, sharex="col")
    for i, feature in enumerate(features):
        _draw_histogram(axes[i, i], found.edges[i], found.counts[i])
        axes[i, 0].set_ylabel(_in_two_lines(feature.label) if i else "")
        axes[-1, i].set_xlabel(_in_two_lines(feature.label))
        for j in range(i):
            _draw_pair(axes[i, j], found.edges[j], found.edges[i], found.pairs[i, j])
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
    bins: int = 50,
    max_features: int = 60,
    figure: "FigureBase | None" = None,
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
        Bins of each histogram.
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
        If there are no such variables, or too many features.
    StoreError
        If the store cannot be read, or lacks chunks.
    ImportError
        If Matplotlib is not installed.
    """
    pyplot = open_pyplot()
    summary, features = _chosen(source, variables, bins, max_features)
    found = count_histograms(summary, features, bins, with_pairs=False)
    n_columns = min(4, len(features))
    n_rows = -(-len(features) // n_columns)
    figure = figure or pyplot.figure(figsize=(1 + 2.4 * n_columns, 0.6 + 2 * n_rows), layout="constrained")
    axes = np.asarray(figure.subplots(n_rows, n_columns, squeeze=False)).ravel()
    for axis, feature, edges, counts in zip(axes, features, found.edges, found.counts, strict=False):
        _draw_histogram(axis, edges, counts)
        axis.set_xlabel(label_text(feature.label))
    for axis in axes[len(features) :]:
        axis.set_visible(False)
    _note(figure, summary, features, found.counts)
    return np.asarray(axes[: len(features)])


def _chosen(
    source: DataSource, variables: Sequence[str] | None, bins: int, max_features: int
) -> tuple[Summary, list[Feature]]:
    check_count("bins", bins)
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
    return summary, features


def _draw_histogram(axis: "Axes", edges: npt.NDArray[Any], counts: npt.NDArray[Any]) -> None:
    axis.stairs(counts, edges, fill=True)
    axis.set(xlim=(edges[0], edges[-1]), ylim=(0, None), yticks=[])


def _draw_pair(axis: "Axes", x: npt.NDArray[Any], y: npt.NDArray[Any], counts: npt.NDArray[Any]) -> None:
    from matplotlib.colors import PowerNorm

    shown = np.ma.masked_equal(counts, 0)
    axis.pcolormesh(x, y, shown, cmap="viridis", norm=PowerNorm(0.5, vmin=0), rasterized=True)
    axis.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))


def _in_two_lines(label: str) -> str:
    text = label_text(label)
    return text if len(text) <= _MOST_IN_A_LINE else text.replace("[", "\n[", 1)


def _note(
    figure: "FigureBase", summary: Summary, features: Sequence[Feature], counts: Sequence[npt.NDArray[Any]]
) -> None:
    """Say below the panels how many samples they are of, and what is left out."""
    columns = [(summary.statistics[feature.variable], feature.column) for feature in features]
    not_finite = sum(int(found.n_nan[column] + found.n_infinite[column]) for found, column in columns)
    outside = sum(int(found.count[i]) - int(n.sum()) for (found, i), n in zip(columns, counts, strict=True))
    left = {"masked samples": summary.n_masked, "values not finite": not_finite, "values outside the panels": outside}
    parts = [f"{number:,} {what}" for what, number in left.items() if number]
    text = f"{summary.n_samples:,} samples" + (f"; left out: {', '.join(parts)}" if parts else "")
    figure.supxlabel(text, fontsize="small", color="gray")
