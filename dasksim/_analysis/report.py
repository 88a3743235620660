"""One page on a store: what it holds, how it was made, and what is missing."""

import datetime
import importlib.resources
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from dask.utils import format_bytes, format_time

from dasksim._analysis._failed import failed_shares, picture_of_failed
from dasksim._analysis._pictures import draw_spark, draw_strip, evenly, pictures_of, ticks_below
from dasksim._analysis._samples import numbers_of, pictures_of_samples, samples_of
from dasksim._analysis._summary import Summary, summarize
from dasksim._version import __version__
from dasksim.errors import ArgumentError
from dasksim.store import Record, Status, Store, StoreLike

__all__ = ["report"]

# Rows of the table of statistics, for one variable and for all.
_MOST_FEATURES, _MOST_ROWS = 12, 200

# Runs of missing chunks, and characters of one value, that are shown.
_MOST_RUNS, _MOST_CHARACTERS = 20, 300

# Values of a coordinate before its last one.
_MOST_ENDS = 3

_QUANTILES = (0.025, 0.5, 0.975)


def report(store: StoreLike, path: str | os.PathLike[str] = "report.html") -> Path:
    """Write a page on a store: what it holds, with samples, statistics and plots, how it was made, and what is missing.

    The page is one HTML file, without scripts, that needs no network, and is light or dark as the browser is. The whole
    store is read, chunk by chunk, with one chunk for each worker in memory. Quantiles are those of at most 16,384
    evenly spaced samples.

    Parameters
    ----------
    store
        Where the store is, in any form that :func:`~dasksim.open_dataset` takes. Of one that lacks chunks the complete
        ones are described.
    path
        Where to write the page; a file that is there is replaced.

    Returns
    -------
    pathlib.Path
        The page.

    Raises
    ------
    ArgumentError
        If no file can be written there.
    StoreError
        If there is no store made by dasksim, or it cannot be read.

    Notes
    -----
    Plots need Matplotlib; without it, the page has none and says so. What a store says is escaped, and the page forbids
    scripts, so that a stranger's store can be looked at.

    Examples
    --------
    >>> import dasksim, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ds = dasksim.generate(dasksim.models.two_moons(), f"{folder}/s.zarr", 1000, seed=1, scheduler="threads")
    ...     dasksim.report(f"{folder}/s.zarr", f"{folder}/report.html").name
    'report.html'
    """
    path = Path(path)
    _check_writable(path)
    page = _render(_described(store))
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ArgumentError(_unwritable(path, error)) from error
    return path


def _check_writable(path: Path) -> None:
    """Refuse a path before the work to which no page could be written after it; what is there stays as it is."""
    try:
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise ArgumentError(
                f"cannot write a report to {str(path)!r}: give the path of a file in a folder that exists"
            )
        is_new = not path.exists()
        path.open("ab").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise ArgumentError(_unwritable(path, error)) from error


def _unwritable(path: Path, error: OSError) -> str:
    return f"cannot write a report to {str(path)!r}: {error.strerror or error}; give another path"


def _render(content: Mapping[str, Any]) -> str:
    import jinja2

    source = importlib.resources.files("dasksim._analysis").joinpath("report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(source).render(content)


def _described(store: StoreLike) -> dict[str, Any]:
    """Return what stands on the page."""
    place = Store.at(store)
    found = place.status()
    record = place.record()
    columns = place.columns()
    chunks = columns["chunk"].tolist()
    dataset = place.open_part()
    summary = summarize(dataset, chunks=chunks, store=place) if chunks else None
    samples = samples_of(place, record, dataset, chunks) if chunks else None
    shares = failed_shares(place, record, chunks, found.failures) if chunks else []
    n_bytes = place.stored_bytes(record)
    seconds = columns["nanoseconds"] / 1e9 if chunks else np.zeros(0)
    has_matplotlib = importlib.util.find_spec("matplotlib") is not None
    rejects = found.n_accepted != found.n_proposals
    return {
        "title": place.name.rstrip("/").rpartition("/")[2] or place.name,
        "status": found,
        "cards": _cards(found, record, n_bytes),
        "variables": _variables(record, summary, found.n_complete_samples, n_bytes),
        "coords": _coords(record, dataset),
        "conditions": _conditions(record),
        "numbers": numbers_of(samples) if samples is not None else [],
        "sample_numbers": samples["batch"].values.tolist() if samples is not None else [],
        "sample_pictures": pictures_of_samples(samples) if samples is not None and has_matplotlib else [],
        "failed_picture": picture_of_failed(shares) if shares and has_matplotlib else None,
        "features": _features(summary) if summary else [],
        "n_samples": summary.n_samples if summary else 0,
        "n_masked": summary.n_masked if summary else 0,
        "n_kept": summary.n_kept if summary else 0,
        "has_matplotlib": has_matplotlib,
        "pictures": pictures_of(summary, place if rejects else None) if summary and has_matplotlib else [],
        "missing": _missing(found),
        "seconds": _spread(seconds) if chunks else "",
        "seconds_strip": draw_strip(columns["chunk"].astype(int), seconds, found.n_chunks) if len(chunks) > 1 else "",
        "ticks": ticks_below(found.n_samples, found.n_chunks, found.chunk_size),
        "on_error": record.policy.on_error,
        "on_nonfinite": record.policy.on_nonfinite,
        "stages": _stages(record),
        "provenance": _provenance(record),
        "version": __version__,
        "now": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "count": "{:,}".format,
    }


def _cards(found: Status, record: Record, n_bytes: Mapping[str, int]) -> list[tuple[str, str]]:
    whole = "" if found.is_complete else f" of {found.n_samples:,}"
    uncompressed = found.n_complete_samples * sum(
        variable.sample_bytes for variable in record.visible_variables.values()
    )
    cards = [
        (f"samples{whole}", f"{found.n_complete_samples:,}"),
        ("uncompressed", format_bytes(uncompressed)),
        ("stored", format_bytes(sum(n_bytes.values()))),
        ("seed", _short(found.seed)),
        ("worker time", format_time(found.seconds)),
    ]
    if found.n_accepted != found.n_proposals:
        cards.append(("of proposals accepted", f"{100 * found.acceptance_rate:.3g} %"))
    if found.n_failed:
        cards.append(("failures", found.failed_share))
    return cards


def _variables(
    record: Record, summary: Summary | None, n_samples: int, n_bytes: Mapping[str, int]
) -> list[dict[str, Any]]:
    stages = {output: stage.name for stage in record.all_stages for output in stage.outputs}
    statistics = summary.statistics if summary else {}
    return [
        {
            "name": name,
            "meaning": _meaning(variable.attrs),
            "stage": stages.get(name, "given" if name in record.conditions else ""),
            "dims": ", ".join(variable.dims),
            "shape": " x ".join(f"{size:,}" for size in (n_samples, *variable.shape)),
            "dtype": variable.dtype.name,
            "sample_bytes": format_bytes(variable.sample_bytes),
            "size": format_bytes(n_samples * variable.sample_bytes),
            "stored": format_bytes(n_bytes[name]),
            "n_nan": int(statistics[name].n_nan.sum()) if name in statistics else None,
            "n_infinite": int(statistics[name].n_infinite.sum()) if name in statistics else None,
        }
        for name, variable in record.visible_variables.items()
    ]


def _meaning(attrs: Mapping[str, Any]) -> str:
    """Return what the attributes of a variable say that stand in plots, too."""
    units = f"[{attrs['units']}]" if attrs.get("units") else ""
    return f"{attrs.get('long_name', '')} {units}".strip()


def _coords(record: Record, dataset: xr.Dataset) -> list[dict[str, Any]]:
    """Return the rows of the table of coordinates."""
    rows = []
    for name in record.coords:
        array = dataset.coords[name]
        shown = [_short(f"{value:.6g}" if array.dtype.kind == "f" else value) for value in array.values[:_MOST_ENDS]]
        last = array.values[-1:] if len(array) > _MOST_ENDS else array.values[:0]
        ends = [_short(f"{value:.6g}" if array.dtype.kind == "f" else value) for value in last]
        rows.append(
            {
                "name": name,
                "size": len(array),
                "values": ", ".join([*shown, *(["…"] if len(array) > _MOST_ENDS + 1 else []), *ends]),
                "attributes": ", ".join(f"{key}: {_short(value)}" for key, value in array.attrs.items()),
            }
        )
    return rows


def _conditions(record: Record) -> list[tuple[str, str, str]]:
    """Return the rows of the table of conditions: names, shapes, and values of scalars."""
    rows = []
    for name, value in record.conditions.items():
        is_array = isinstance(value, dict) and isinstance(value.get("shape"), list)
        shape = " x ".join(map(str, value["shape"])) if is_array else "scalar"
        told = f"{value.get('dtype', '')} {value.get('digest', '')}" if is_array else value
        rows.append((_short(name), _short(shape), _short(told)))
    return rows


def _features(summary: Summary) -> list[dict[str, Any]]:
    """Return the rows of the table of statistics."""
    rows: list[dict[str, Any]] = []
    for name, found in summary.statistics.items():
        features = summary.features([name]) if len(rows) < _MOST_ROWS else []
        shown = [features[i] for i in evenly(len(features), _MOST_FEATURES)]
        quantiles = found.quantiles(_QUANTILES)
        for feature in shown:
            i = feature.column
            numbers = (found.mean[i], found.sd[i], found.minimum[i], *quantiles[:, i], found.maximum[i])
            rows.append(
                {
                    "label": feature.label,
                    "spark": draw_spark(found.kept[:, i]),
                    "numbers": [f"{number:.4g}" for number in numbers],
                    "n_nan": int(found.n_nan[i]),
                }
            )
        if len(found.count) > len(shown):
            rows.append({"more": len(found.count) - len(shown), "variable": name})
    return rows


def _missing(found: Status) -> str:
    runs = [str(first) if first == last else f"{first}-{last}" for first, last in found.missing]
    more = f", and {len(runs) - _MOST_RUNS:,} more runs" if len(runs) > _MOST_RUNS else ""
    return f"{', '.join(runs[:_MOST_RUNS])}{more}"


def _spread(seconds: Any) -> str:
    return f"median {np.median(seconds):.3g}, from {seconds.min():.3g} to {seconds.max():.3g}"


def _stages(record: Record) -> list[dict[str, str]]:
    """Return the rows of the table of stages."""
    rows = []
    for stage in record.all_stages:
        words = {"name": stage.name, "kind": stage.kind, "digest": stage.digest}
        names = {"inputs": stage.inputs, "outputs": stage.outputs}
        words |= {key: ", ".join(name for name in found if "//" not in name) for key, found in names.items()}
        rows.append({key: _short(text) for key, text in words.items()})
    return rows


def _provenance(record: Record) -> list[tuple[str, str]]:
    rows: list[tuple[str, object]] = [
        ("created", f"{record.created.get('at', 'unknown')} on {record.created.get('host', 'unknown')}"),
        ("seed", record.seed),
        ("sub-batches", f"{record.sub_batch_size:,} samples"),
        ("device", record.device),
        ("dasksim", record.version or "unknown"),
    ]
    rows += record.packages.items()
    rows += [("extended from", f"{n:,} samples") for n in record.former_lengths]
    return [(_short(what), _short(value)) for what, value in rows]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"
