"""Quantile bands of the prior predictive distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dasksim._analysis._pyplot import axis_text, label_text, legend_above, open_pyplot, text_color
from dasksim._analysis._summary import DataSource, summarize
from dasksim.errors import ArgumentError, nearest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["predictive_bands"]


def predictive_bands(
    source: DataSource,
    variable: str,
    dim: str | None = None,
    *,
    levels: Sequence[float] = (0.5, 0.8, 0.95),
    ax: Axes | None = None,
) -> Axes:
    """Draw the prior predictive median of a variable, and central bands around it, over a dim such as time.

    Quantiles are those of at most 16,384 samples, evenly spaced over the store, and of fewer if all variables of these
    were more than 64 MiB. Of ``n`` samples, the level of a quantile ``q`` is right to ``sqrt(q * (1 - q) / n)``, one
    standard error, so 0.004 at the median. Masked samples and values that are not finite are left out.

    Parameters
    ----------
    source
        A store, in any form that :func:`~dasksim.open_dataset` takes, a Zarr group or a Dataset with the dim ``batch``,
        or a list of these with the same variables.
    variable
        A variable with one dim besides ``batch``; select along others first, with ``Dataset.sel`` or ``isel``.
    dim
        The dim to draw over; by default the only one.
    levels
        Probabilities of the bands, above 0 and below 1.
    ax
        Where to draw; by default the axes of a new figure of ``pyplot``.

    Returns
    -------
    matplotlib.axes.Axes
        With a line, and a filled band for each level.

    Raises
    ------
    ArgumentError
        If there is no such variable or dim, if it has others, or if a level is no probability.
    StoreError
        If the store cannot be read, or lacks chunks.
    ImportError
        If Matplotlib is not installed.
    """
    pyplot = open_pyplot()
    levels = sorted(levels, reverse=True)
    if not all(0 < level < 1 for level in levels):
        raise ArgumentError(f"levels must be probabilities above 0 and below 1; got {levels!r}")
    summary = summarize(source, [variable])
    array = summary.dataset.get(variable)
    if array is None:
        raise ArgumentError(f"there is no variable {variable!r}; {nearest(variable, summary.dataset)}")
    dims = [str(name) for name in array.dims if name != "batch"]
    if dim is not None and dim not in dims:
        raise ArgumentError(f"{variable!r} has no dim {dim!r}; {nearest(dim, dims)}")
    if len(dims) != 1:
        raise ArgumentError(
            f"{variable!r} must have one dim besides 'batch'; it has {dims}; select along the others first, as in "
            f"predictive_bands(dasksim.open_dataset(store).isel({(dims or ['dim'])[-1]}=0), {variable!r})"
        )
    at, labels = _positions(array, dims[0])
    bounds = summary.statistics[variable].quantiles(
        [0.5, *(0.5 - p / 2 for p in levels), *(0.5 + p / 2 for p in levels)]
    )
    ax = ax or pyplot.figure(layout="constrained").subplots()
    shades = pyplot.get_cmap("Blues")(np.linspace(0.25, 0.6, len(levels)))
    for i, level in enumerate(levels):
        low, high = bounds[1 + i], bounds[1 + i + len(levels)]
        ax.fill_between(at, low, high, color=shades[i], linewidth=0, label=f"{100 * level:g} %")
    ax.plot(at, bounds[0], color=text_color(), linewidth=1, label="median")
    if labels:
        ax.set_xticks(at, labels)
    of_dim = array.coords[dims[0]].attrs if dims[0] in array.coords else {}
    ax.set(xlabel=axis_text(of_dim, dims[0]), ylabel=axis_text(array.attrs, variable))
    legend_above(ax)
    return ax


def _positions(array: Any, dim: str) -> tuple[npt.NDArray[Any], list[str]]:
    """Return where along a dim values are drawn, and the labels there if they are no numbers."""
    values = array.coords[dim].values if dim in array.coords else np.arange(array.sizes[dim])
    if values.dtype.kind in "iuf":
        return values, []
    return np.arange(len(values)), [label_text(value) for value in values]
