"""How many proposals were accepted, and how often each model was chosen."""

from typing import TYPE_CHECKING

import numpy as np

from dasksim._analysis._pyplot import label_text, legend_above, open_pyplot
from dasksim._analysis._summary import DataSource, summarize
from dasksim.errors import ArgumentError
from dasksim.store import Store, StoreLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["acceptance", "model_frequencies"]

# Runs of chunks that an acceptance rate is drawn for.
_MOST_RUNS = 200


def acceptance(store: StoreLike, *, ax: "Axes | None" = None) -> "Axes":
    """Draw the acceptance rate of a rejection store over its chunks, from their receipts.

    Where there are more than 200 complete chunks, each point is the rate of a run of them.

    Parameters
    ----------
    store
        A store, in any form that :func:`~dasksim.open_dataset` takes. It need not be complete.
    ax
        Where to draw; by default the axes of a new figure of ``pyplot``.

    Returns
    -------
    matplotlib.axes.Axes
        With the rate of all chunks together as a line, and around it two standard errors of a chunk's rate (binomial)
        if that of all chunks holds everywhere: where points leave that band, the rate changes over the store.

    Raises
    ------
    ArgumentError
        If nothing was rejected, or no chunk is complete.
    StoreError
        If the store cannot be read.
    ImportError
        If Matplotlib is not installed.
    """
    pyplot = open_pyplot()
    place = Store.at(store)
    place.record()
    columns = place.columns()
    if not len(columns["chunk"]):
        raise ArgumentError(f"the store at {place.name!r} has no complete chunk; generate it first")
    if (columns["accepted"] == columns["proposals"]).all():
        raise ArgumentError(
            f"in the store at {place.name!r} all proposals were accepted; an acceptance rate is that of a store of "
            "a dasksim.RejectionSimulator"
        )
    starts = np.arange(0, len(columns["chunk"]), -(-len(columns["chunk"]) // _MOST_RUNS))
    accepted, proposals = (np.add.reduceat(columns[field], starts) for field in ("accepted", "proposals"))
    total = columns["accepted"].sum() / columns["proposals"].sum()
    ax = ax or pyplot.figure(layout="constrained").subplots()
    ax.plot(columns["chunk"][starts], accepted / np.maximum(proposals, 1), "o-", markersize=3, linewidth=1)
    error = np.sqrt(total * (1 - total) / np.maximum(proposals, 1))
    bounds = [np.clip(total + sign * 2 * error, 0, 1) for sign in (-1, 1)]
    ax.fill_between(columns["chunk"][starts], *bounds, color="0.9", linewidth=0, label="± 2 standard errors")
    ax.axhline(total, color="black", linewidth=1, linestyle="--", label=f"all: {total:.4g}")
    ax.set(xlabel="chunk", ylabel="acceptance rate")
    ax.locator_params(axis="x", integer=True)
    legend_above(ax)
    return ax


def model_frequencies(source: DataSource, *, ax: "Axes | None" = None) -> "Axes":
    """Draw how often each model of a comparison was chosen.

    Parameters
    ----------
    source
        A store, in any form that :func:`~dasksim.open_dataset` takes, a Zarr group or a Dataset with the dim ``batch``,
        or a list of these with the same variables.
    ax
        Where to draw; by default the axes of a new figure of ``pyplot``.

    Returns
    -------
    matplotlib.axes.Axes
        With a bar for each model, and the number of samples beside it. Masked samples are left out.

    Raises
    ------
    ArgumentError
        If there is no variable ``model_indices``.
    StoreError
        If the store cannot be read, or lacks chunks.
    ImportError
        If Matplotlib is not installed.
    """
    pyplot = open_pyplot()
    summary = summarize(source, ["model_indices"])
    found = summary.statistics["model_indices"]
    indices = summary.dataset["model_indices"]
    names = indices.coords["model"].values if "model" in indices.coords else range(indices.shape[-1])
    labels = [label_text(name) for name in names]
    ax = ax or pyplot.figure(layout="constrained").subplots()
    bars = ax.barh(range(len(labels)), found.mean)
    ax.set_yticks(range(len(labels)), labels)
    ax.bar_label(bars, [f"{count:,.0f}" for count in found.mean * found.count], padding=3)
    ax.invert_yaxis()
    ax.margins(x=0.15)
    ax.set_xlabel("share of samples")
    return ax
