"""The pictures of a report: small ones as SVG, large ones as PNG by Matplotlib."""

import base64
import functools
import io
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

__all__ = ["draw_spark", "draw_strip", "evenly", "pictures_of"]

Array = npt.NDArray[Any]

# Features of the pair plot, variables for which bands are drawn, and the least length of a dim to draw them over.
_MOST_PAIRED, _MOST_BANDS, _LEAST_LENGTH = 8, 4, 8

_DPI = 144


def draw_spark(values: Array) -> Any:
    """Return a small histogram as SVG."""
    low, high = quantiles_of(values, [0.005, 0.995])
    inside = values[(values >= low) & (values <= high)]
    if not len(inside) or not low < high:
        return ""
    return _bars(np.histogram(inside, edges_between(low, high, 32, inside))[0], "spark")


def draw_strip(values: Array) -> Any:
    """Return a value for each chunk as SVG, where there are many the mean of each run of them."""
    starts = np.arange(0, len(values), -(-len(values) // 240))
    sizes = np.diff([*starts, len(values)])
    return _bars(np.add.reduceat(values, starts) / sizes, "strip")


def _bars(heights: Array, style: str) -> Any:
    from markupsafe import Markup

    tops = 100 - 100 * heights / max(heights.max(), 1e-300)
    path = "".join(f"M{i} 100V{top:.0f}h.92V100z" for i, top in enumerate(tops))
    return Markup(
        f'<svg class="{style}" viewBox="0 0 {len(heights)} 100" preserveAspectRatio="none" aria-hidden="true">'
        f'<path d="{path}" fill="currentColor"/></svg>'
    )


def pictures_of(summary: Summary, rejects: Store | None) -> list[dict[str, Any]]:
    """Return the plots that suit a store, each a PNG with its caption."""
    pictures = []
    features = _spread_out(summary)
    if features:
        n_all = sum(len(found.count) for found in summary.statistics.values())
        some = f"{len(features)} of {n_all:,} features" if len(features) < n_all else "All features"
        size = 1 + len(features) * min(2, max(1.25, 7.5 / len(features)))
        labels = [feature.label for feature in features]
        caption = f"{some}, and their pairs."
        pictures.append(_picture(caption, size, size, lambda f: pairs(summary, labels, figure=f), is_wide=True))
    for name in _series(summary)[:_MOST_BANDS]:
        caption = f"Prior predictive median and bands of {name}."
        pictures.append(_picture(caption, 6, 3.6, functools.partial(_draw_bands, summary, name)))
    if "model_indices" in summary.statistics:
        caption = "Samples of each model."
        pictures.append(_picture(caption, 6, 3.6, lambda f: model_frequencies(summary, ax=f.subplots())))
    if rejects is not None:
        pictures.append(_picture("Acceptance rate.", 6, 3.6, lambda f: acceptance(rejects.location, ax=f.subplots())))
    return pictures


def _draw_bands(summary: Summary, name: str, figure: Any) -> None:
    predictive_bands(summary, name, ax=figure.subplots())


def _picture(caption: str, width: float, height: float, draw: Any, *, is_wide: bool = False) -> dict[str, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        draw(figure)
        figure.savefig(content, format="png", dpi=_DPI)
    png = base64.b64encode(content.getvalue()).decode()
    return {"caption": caption, "png": png, "width": round(100 * width), "is_wide": is_wide}


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
