"""How many proposals were accepted, and how often each model was chosen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dasksim._analysis._pyplot import label_text, legend_above, open_pyplot, text_color
from dasksim._analysis._summary import DataSource, Summary, summarize
from dasksim.errors import ArgumentError, ArgumentTypeError
from dasksim.store import Record, Store, StoreLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["acceptance", "model_frequencies"]

# The variable that says which model was chosen.
_INDICES = "model_indices"

# Runs of chunks that an acceptance rate is drawn for.
_MOST_RUNS = 200


def acceptance(store: StoreLike, *, ax: Axes | None = None) -> Axes:
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
    ax.fill_between(
        columns["chunk"][starts], *bounds, color="gray", alpha=0.25, linewidth=0, label="± 2 standard errors"
    )
    ax.axhline(total, color=text_color(), linewidth=1, linestyle="--", label=f"all: {total:.4g}")
    ax.set(xlabel="chunk", ylabel="acceptance rate")
    ax.locator_params(axis="x", integer=True)
    legend_above(ax)
    return ax


def model_frequencies(source: DataSource, *, expected: Sequence[float] | None = None, ax: Axes | None = None) -> Axes:
    """Draw how often each model of a comparison was chosen, and how often it was to be.

    Parameters
    ----------
    source
        A store, in any form that :func:`~dasksim.open_dataset` takes, a Zarr group or a Dataset with the dim ``batch``,
        or a list of these with the same variables.
    expected
        Probabilities of the models; by default those that the simulator was made with, which a store and a dataset of
        dasksim say. Where nothing says them, or ``model_indices`` is a condition, none are drawn.
    ax
        Where to draw; by default the axes of a new figure of ``pyplot``.

    Returns
    -------
    matplotlib.axes.Axes
        With a bar for each model, the number of samples beside it, and a line at its probability. Masked samples are
        left out. With rejection, probabilities are those of proposals.

    Raises
    ------
    ArgumentError
        If there is no variable ``model_indices``, or ``expected`` is not one probability for each model.
    StoreError
        If the store cannot be read, or lacks chunks.
    ImportError
        If Matplotlib is not installed.
    """
    pyplot = open_pyplot()
    summary = summarize(source, [_INDICES])
    found = summary.statistics[_INDICES]
    indices = summary.dataset[_INDICES]
    names = indices.coords["model"].values if "model" in indices.coords else range(indices.shape[-1])
    labels = [label_text(name) for name in names]
    ax = ax or pyplot.figure(layout="constrained").subplots()
    ax.barh(range(len(labels)), found.mean)
    ax.set_yticks(range(len(labels)), labels)
    asked = _asked(summary, len(labels)) if expected is None else _checked(expected, len(labels))
    if asked is not None:
        at = np.arange(len(labels))
        ax.vlines(asked, at - 0.4, at + 0.4, color=text_color(), linewidth=2, label="asked for")
        legend_above(ax)
    ends = found.mean if asked is None else np.maximum(found.mean, asked)
    for i, (end, count) in enumerate(zip(ends, found.mean * found.count)):
        ax.annotate(f"{count:,.0f}", (end, i), (6, 0), textcoords="offset points", va="center")
    ax.invert_yaxis()
    ax.margins(x=0.15)
    ax.set_xlabel("share of samples")
    return ax


def _checked(expected: Sequence[float], n_models: int) -> npt.NDArray[np.float64]:
    """Return probabilities of models that a caller gives."""
    try:
        values = np.asarray(expected, float)
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(f"expected must be {n_models} probabilities; got {expected!r}") from error
    if values.shape != (n_models,) or not ((values >= 0) & (values <= 1)).all():
        raise ArgumentError(f"expected must be {n_models} probabilities, one for each model; got {expected!r}")
    return values


def _asked(summary: Summary, n_models: int) -> npt.NDArray[np.float64] | None:
    """Return the probabilities of models that the dataset says, if it does; nothing is believed of it."""
    record = Record.of_dataset(summary.dataset.attrs)
    if _INDICES in record.conditions:
        return None
    for told in _probabilities(stage.settings for stage in record.stages):
        with contextlib.suppress(ArgumentError):
            return _checked(told, n_models)
    return None


def _probabilities(settings: Iterable[Any]) -> Iterator[Any]:
    """Yield what stages, and those inside them, say of probabilities of models."""
    for told in settings:
        if isinstance(told, dict):
            if "p" in told:
                yield told["p"]
            inside = told.get("stages")
            yield from _probabilities(inside.values() if isinstance(inside, dict) else ())
