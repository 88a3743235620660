"""The pictures of a report as SVG, which take the colours of the page: large ones by Matplotlib."""

import functools
import io
import re
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim._analysis._histograms import edges_between
from dasksim._analysis._summary import Feature, Summary, quantiles_of
from dasksim._analysis.bands import predictive_bands
from dasksim._analysis.panels import pairs
from dasksim._analysis.rates import acceptance, model_frequencies
from dasksim.store import Store

__all__ = ["draw_picture", "draw_spark", "draw_strip", "evenly", "pictures_of", "ticks_below"]

Array = npt.NDArray[Any]

# Features of the pair plot, variables for which bands are drawn, and the least length of a dim to draw them over.
_MOST_PAIRED, _MOST_BANDS, _LEAST_LENGTH = 8, 4, 8

# Bars of a strip of chunks, and intervals of the axis below it.
_MOST_RUNS, _MOST_INTERVALS = 240, 4

# Of what is no lines in a picture.
_DPI = 144

# Stands for the colour of text, and what has it.
_INK = "#010203"
_INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")


def draw_spark(values: Array) -> Any:
    """Return a small histogram as SVG."""
    low, high = quantiles_of(values, [0.005, 0.995])
    inside = values[(values >= low) & (values <= high)]
    if not len(inside) or not low < high:
        return ""
    return _bars(np.histogram(inside, edges_between(low, high, 32, inside))[0], "spark")


def draw_strip(chunks: Array, values: Array, n_chunks: int) -> Any:
    """Return the values of some chunks as SVG, at their places among all; of many, the mean of each run."""
    run = -(-n_chunks // _MOST_RUNS)
    n_runs = -(-n_chunks // run)
    sums, counts = (np.bincount(chunks // run, weights, n_runs) for weights in (values, None))
    means = sums / np.maximum(counts, 1)
    # a chunk that is there is seen, however little it took beside others
    return _bars(np.where(counts > 0, np.maximum(means, means.max() / 50), 0.0), "strip")


def ticks_below(n_samples: int, n_chunks: int, chunk_size: int) -> list[tuple[str, float]]:
    """Return numbers of samples, each with where it is along a strip of all chunks in per cent."""
    whole = n_chunks * chunk_size
    numbers = {n_samples * i // _MOST_INTERVALS for i in range(_MOST_INTERVALS)}
    return [*((f"{n:,}", 100 * n / whole) for n in sorted(numbers)), (f"{n_samples:,}", 100.0)]


def _bars(heights: Array, style: str) -> Any:
    from markupsafe import Markup

    tops = np.maximum(100 - 100 * heights / max(heights.max(), 1e-300), 0.0)
    path = "".join(f"M{i} 100V{top:.0f}h.92V100z" for i, top in enumerate(tops))
    return Markup(
        f'<svg class="{style}" viewBox="0 0 {len(heights)} 100" preserveAspectRatio="none" aria-hidden="true">'
        f'<path d="{path}" fill="currentColor"/></svg>'
    )


def pictures_of(summary: Summary, rejects: Store | None) -> list[dict[str, Any]]:
    """Return the plots that suit a store, each with its caption."""
    pictures = []
    features = _spread_out(summary)
    if features:
        n_all = sum(len(found.count) for found in summary.statistics.values())
        some = f"{len(features)} of {n_all:,} features" if len(features) < n_all else "All features"
        size = 1 + len(features) * min(2, max(1.25, 7.5 / len(features)))
        labels = [feature.label for feature in features]
        caption = f"{some}, and their pairs."
        pictures.append(draw_picture(caption, size, size, lambda f: pairs(summary, labels, figure=f), is_wide=True))
    for name in _series(summary)[:_MOST_BANDS]:
        caption = f"Prior predictive median and bands of {name}."
        pictures.append(draw_picture(caption, 6, 3.6, functools.partial(_draw_bands, summary, name)))
    if "model_indices" in summary.statistics:
        caption = "Samples of each model."
        pictures.append(draw_picture(caption, 6, 3.6, lambda f: model_frequencies(summary, ax=f.subplots())))
    if rejects is not None:
        pictures.append(
            draw_picture("Acceptance rate.", 6, 3.6, lambda f: acceptance(rejects.location, ax=f.subplots()))
        )
    return pictures


def _draw_bands(summary: Summary, name: str, figure: Any) -> None:
    predictive_bands(summary, name, ax=figure.subplots())


def draw_picture(caption: str, width: float, height: float, draw: Any, *, is_wide: bool = False) -> dict[str, Any]:
    """Return what is drawn into a figure as SVG, with its caption; what is black in it has the colour of text.

    Matplotlib escapes texts; comments, which repeat them, are left out.
    """
    from markupsafe import Markup, escape
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    content = io.StringIO()
    looks: dict[Any, Any] = dict.fromkeys(_INKED, _INK)
    looks |= {"axes.facecolor": "none", "svg.fonttype": "path", "svg.hashsalt": "dasksim"}
    with warnings.catch_warnings(), rc_context(looks):
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
        draw(figure)
        figure.savefig(content, format="svg", dpi=_DPI, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        figure.clear()  # its parts hold each other, and so what was drawn, until garbage is collected
    text = content.getvalue()
    text = re.sub("<!--.*?-->\n?", "", text[text.index("<svg ") :], flags=re.DOTALL).replace(_INK, "currentColor")
    svg = text.replace("<svg ", f'<svg role="img" aria-label="{escape(caption)}" ', 1)
    return {"caption": caption, "svg": Markup(svg), "is_wide": is_wide}


def _spread_out(summary: Summary) -> list[Feature]:
    """Return features for the pair plot: those that vary, as many of each variable as there is room for."""
    found = {}
    for name, statistics in summary.statistics.items():
        varies = statistics.minimum < statistics.maximum
        if name != "model_indices" and varies.any():
            found[name] = [feature for feature in summary.features([name]) if varies[feature.column]]
    share = max(1, _MOST_PAIRED // max(1, len(found)))
    chosen = [features[i] for features in found.values() for i in evenly(len(features), share)]
    return chosen[:_MOST_PAIRED]


def evenly(n: int, most: int) -> list[int]:
    """Return evenly spaced indices of ``n`` elements, the first and last among them."""
    return [round(i) for i in np.linspace(0, n - 1, min(n, most)).tolist()]


def _series(summary: Summary) -> list[str]:
    """Return the variables with one long dim, whose labels are numbers if there are any."""
    arrays = {name: summary.dataset[name] for name in summary.statistics}
    return [
        name
        for name, array in arrays.items()
        if array.ndim == 2
        and array.shape[1] >= _LEAST_LENGTH
        and all(coord.dtype.kind in "iuf" for name, coord in array.coords.items() if name in array.dims)
    ]
