"""Where in the prior samples failed."""

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dasksim._analysis._histograms import count_histograms
from dasksim._analysis._pictures import draw_picture, evenly
from dasksim._analysis._pyplot import label_text, text_color
from dasksim._analysis._summary import Feature, summarize
from dasksim._core.failures import Failure
from dasksim.store import Record, Store, mask_of

__all__ = ["FailedShare", "failed_shares", "picture_of_failed"]

# No variable has this name.
_FAILED = "failed/"

# Features that are shown, bins of each, and the least number of samples in a bin that tells a share.
_MOST_SHOWN, _BINS, _LEAST_SAMPLES = 8, 20, 5


class FailedShare(NamedTuple):
    """How many samples failed in each bin of a parameter.

    Parameters
    ----------
    label
        The parameter's, or that of one of its features.
    edges
        Of the bins.
    counts, failed
        All samples in each bin, and those that failed.
    """

    label: str
    edges: npt.NDArray[Any]
    counts: npt.NDArray[Any]
    failed: npt.NDArray[Any]


def failed_shares(
    place: Store, record: Record, chunks: Collection[int], failures: Collection[Failure]
) -> list[FailedShare]:
    """Return where masked samples lie in the prior, in two passes over the parameters that there are of them."""
    dataset = place.open_part()
    mask = mask_of(dataset)
    names = [name for name in _kept_parameters(record, failures) if "batch" in dataset[name].dims]
    if mask is None or not names:
        return []
    summary = summarize(dataset[names].assign({_FAILED: ~mask}), chunks=chunks, store=place)
    some = [
        feature
        for name in names
        for feature in summary.features([name])
        if summary.statistics[name].minimum[feature.column] < summary.statistics[name].maximum[feature.column]
    ]
    shown = [Feature(_FAILED, 0, _FAILED), *(some[i] for i in evenly(len(some), _MOST_SHOWN))]
    found = count_histograms(summary, shown, _BINS, [(i, 0) for i in range(1, len(shown))])
    if len(found.counts[0]) < 2:
        return []
    joint = [found.pairs[i, 0] for i in range(1, len(shown))]
    return [
        FailedShare(feature.label, edges, counts.sum(axis=1), counts[:, 1])
        for feature, edges, counts in zip(shown[1:], found.edges[1:], joint, strict=True)
    ]


def _kept_parameters(record: Record, failures: Collection[Failure]) -> list[str]:
    """Return the variables of the prior that there are of masked samples too.

    These are made before the first stage that failed. Where a stage holds others, or a sub-batch took too long, nobody
    knows what was made.
    """
    failing = {failure.stage for failure in failures}
    if not record.keeps_what_was_made or "" in failing:
        return []
    given = record.contexts | record.conditions.keys()
    names = [name for name, value in record.conditions.items() if isinstance(value, dict)]
    for stage in record.stages:
        if stage.name in failing or "stages" in stage.settings:
            break
        names += stage.outputs if given.issuperset(stage.inputs) else ()
    return [name for name in dict.fromkeys(names) if name in record.variables]


def picture_of_failed(shares: Collection[FailedShare]) -> dict[str, Any]:
    """Return a picture of the share of failed samples over each parameter."""
    n_columns = min(2, len(shares))
    n_rows = -(-len(shares) // n_columns)

    def draw(figure: Any) -> None:
        axes = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True)
        for axis, share in zip(axes.flat, shares, strict=False):
            _draw_share(axis, share)
        for axis in axes[:, 0]:
            axis.set_ylabel("share of failed")
        for axis in axes.flat[len(shares) :]:
            axis.set_visible(False)

    caption = "Share of samples that failed, over each parameter, and of all samples (dashed)."
    return draw_picture(caption, 0.6 + 3.2 * n_columns, 0.6 + 2 * n_rows, draw)


def _draw_share(axis: Any, share: FailedShare) -> None:
    is_told = share.counts >= _LEAST_SAMPLES
    heights = np.where(is_told, share.failed / np.maximum(share.counts, 1), 0.0)
    axis.stairs(heights, share.edges, fill=True)
    axis.axhline(share.failed.sum() / max(share.counts.sum(), 1), color=text_color(), linewidth=1, linestyle="--")
    axis.set(xlim=(share.edges[0], share.edges[-1]), ylim=(0, None), xlabel=label_text(share.label))
    axis.locator_params(axis="x", nbins=4)
