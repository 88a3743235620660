"""Some samples as a report shows them: curves, images, and numbers."""

import functools
import math
from collections.abc import Collection
from typing import Any

import numpy as np
import xarray as xr

from dasksim._analysis._pictures import draw_picture, evenly
from dasksim._analysis._pyplot import axis_text, label_text, legend_above
from dasksim._analysis._summary import as_floats, features_of
from dasksim._core.telling import counted
from dasksim.store import Record, Store, mask_of

__all__ = ["numbers_of", "pictures_of_samples", "samples_of"]

# Samples that are shown, variables that are drawn of them, and rows of numbers.
_MOST_SAMPLES, _MOST_DRAWN, _MOST_ROWS = 6, 6, 24

# A variable of fewer features is shown as numbers, and an axis of at most so many elements as a panel for each.
_LEAST_LENGTH, _MOST_PANELS = 8, 4

# Points of a curve, and pixels of an image in each direction; of more, evenly spaced ones are drawn.
_MOST_POINTS = 1000

_IMAGES_ABREAST = 3

# Stands for the panels of a variable that has one.
_NO_DIM = ""


def samples_of(place: Store, record: Record, dataset: xr.Dataset, chunks: Collection[int]) -> xr.Dataset | None:
    """Return some samples of the first complete chunk in memory, evenly spaced, with their numbers along ``batch``.

    Masked ones are left out; there is nothing if all are.
    """
    rows = record.samples(min(chunks))
    numbers = np.arange(rows.start, rows.stop)
    mask = mask_of(dataset)
    with place.reading():
        if mask is not None:
            numbers = numbers[mask[rows].values]
        if not len(numbers):
            return None
        numbers = numbers[evenly(len(numbers), _MOST_SAMPLES)]
        names = [
            name for name, array in dataset.items() if "batch" in array.dims and (mask is None or name != mask.name)
        ]
        found = dataset[names].isel(batch=numbers).transpose("batch", ...).compute()
    return found.assign_coords(batch=numbers)


def numbers_of(samples: xr.Dataset) -> list[tuple[str, list[str]]]:
    """Return the features of small variables, each with its value in each sample."""
    rows = []
    for array in samples.values():
        if math.prod(array.shape[1:]) < _LEAST_LENGTH:
            values = array.values.reshape(len(array), -1)
            rows += [
                (feature.label, [_text(value) for value in values[:, feature.column]]) for feature in features_of(array)
            ]
    return rows[:_MOST_ROWS]


def _text(value: Any) -> str:
    return f"{value:.4g}" if value.dtype.kind in "fc" else str(value)


def pictures_of_samples(samples: xr.Dataset) -> list[dict[str, Any]]:
    """Return pictures of large variables: curves, or images."""
    large = [array for array in samples.values() if math.prod(array.shape[1:]) >= _LEAST_LENGTH]
    return [_picture(array) for array in large[:_MOST_DRAWN]]


def _picture(array: xr.DataArray) -> dict[str, Any]:
    """Return a picture over the two longest dims, at the first element along the others."""
    dims = sorted(array.dims[1:], key=lambda dim: array.sizes[dim])
    few = [dim for dim in dims if array.sizes[dim] == 1]
    others = [dim for dim in dims[:-2] if dim not in few]
    array = as_floats(array.isel(dict.fromkeys([*few, *others], 0), drop=True))
    where = f", at the first {' and '.join(map(str, others))}" if others else ""
    caption = f"{counted(len(array), 'sample')} of {array.name}{where}."
    if array.ndim == 3 and min(array.shape[1:]) > _MOST_PANELS:
        return draw_picture(
            caption,
            9,
            1 + 2.4 * -(-len(array) // _IMAGES_ABREAST),
            functools.partial(_draw_images, array),
            is_wide=True,
        )
    if array.ndim == 2:
        array = array.expand_dims({_NO_DIM: 1}, 2)
    elif array.shape[1] < array.shape[2]:
        array = array.transpose("batch", array.dims[2], array.dims[1])
    return draw_picture(caption, 6, 1.6 + 2 * array.shape[2], functools.partial(_draw_curves, array))


def _draw_images(array: xr.DataArray, figure: Any) -> None:
    """Draw images with one scale of colours."""
    array = array[:, *(slice(None, None, -(-size // _MOST_POINTS)) for size in array.shape[1:])]
    finite = array.values[np.isfinite(array.values)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0, 1)
    n_rows = -(-len(array) // _IMAGES_ABREAST)
    axes = figure.subplots(n_rows, min(len(array), _IMAGES_ABREAST), squeeze=False, sharex=True, sharey=True)
    for axis, image in zip(axes.flat, array, strict=False):
        drawn = axis.imshow(image.values, vmin=low, vmax=high, cmap="viridis", interpolation="nearest")
        axis.set_title(f"sample {int(image.batch):,}", fontsize="small")
    for axis in axes.flat[len(array) :]:
        axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel(label_text(array.dims[2]))
    for axis in axes[:, 0]:
        axis.set_ylabel(label_text(array.dims[1]))
    figure.colorbar(drawn, ax=axes, shrink=0.8, label=axis_text(array.attrs, str(array.name)))


def _draw_curves(array: xr.DataArray, figure: Any) -> None:
    """Draw a curve of each sample over the first feature dim, in a panel for each element along the second."""
    array = array[:, :: -(-array.shape[1] // _MOST_POINTS)]
    over, panels = array.dims[1:]
    has_numbers = over in array.coords and array[over].dtype.kind in "iufM"
    at = array[over].values if has_numbers else np.arange(array.shape[1])
    axes = figure.subplots(array.shape[2], 1, squeeze=False, sharex=True)[:, 0]
    for i, axis in enumerate(axes):
        for sample in array[:, :, i]:
            axis.plot(at, sample.values, linewidth=1, label=f"sample {int(sample.batch):,}")
        label = array[panels].values[i] if panels in array.coords else i
        name = str(array.name)
        axis.set_ylabel(axis_text(array.attrs, name, f"{name}[{label}]" if panels != _NO_DIM else name))
    if has_numbers and array[over].dtype.kind == "M":
        axes[-1].tick_params(axis="x", labelrotation=30)
    axes[-1].set_xlabel(axis_text(array[over].attrs if has_numbers else {}, str(over)))
    legend_above(axes[0], n_columns=3)
