"""One page on a store: what it holds, how it was made, and what is missing."""

from __future__ import annotations

import datetime
import importlib.resources
import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import xarray as xr
from dask.utils import format_bytes, format_time

from dasksim._analysis._failed import failed_shares, picture_of_failed
from dasksim._analysis._pictures import draw_spark, draw_strip, evenly, pictures_of, ticks_below
from dasksim._analysis._samples import numbers_of, pictures_of_samples, samples_of
from dasksim._analysis._summary import Summary, summarize
from dasksim._analysis._tables import conditions_of, coords_of, short, variable_of_dataset, variables_of_store
from dasksim._core.telling import counted
from dasksim._version import __version__
from dasksim.errors import ArgumentError
from dasksim.store import Record, SamplesLike, Status, Store, StoreLike, open_samples

__all__ = ["report"]

# Rows of the table of statistics, for one variable and for all.
_MOST_FEATURES, _MOST_ROWS = 12, 200

# Runs of missing chunks that are shown.
_MOST_RUNS = 20

# A page has its title there.
_HEAD_BYTES = 8192

_QUANTILES = (0.025, 0.5, 0.975)


def report(store: SamplesLike, path: str | os.PathLike[str] = "report.html") -> Path:
    """Write a page on a store: what it holds, with samples, statistics and plots, how it was made, and what is missing.

    The page is one HTML file, without scripts, that needs no network, and is light or dark as the browser is. The whole
    store is read, chunk by chunk, with one chunk for each worker in memory. Quantiles are those of at most 16,384
    evenly spaced samples.

    Parameters
    ----------
    store
        Where the store is, in any form that :func:`~dasksim.open_dataset` takes. Of one that lacks chunks the complete
        ones are described. Of a Zarr group or a Dataset with the dim ``batch``, or of a list of these and stores with
        the same variables, the page says what it holds and no more.
    path
        Where to write the page; a report that is there is replaced, and no other file.

    Returns
    -------
    pathlib.Path
        The page.

    Raises
    ------
    ArgumentError
        If no file can be written there, or one is there that is no report, or there is no dim ``batch``.
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
    page = _render(_described(store) if _is_store(store) else _described_dataset(open_samples(store)))
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
        if not is_new and not _is_replaceable(path):
            raise ArgumentError(f"{str(path)!r} is there, and is no report of dasksim's; give another path")
        path.open("ab").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise ArgumentError(_unwritable(path, error)) from error


def _is_replaceable(path: Path) -> bool:
    """Whether a file is empty or a report; what cannot be told, such as a pipe, is written to."""
    if not path.is_file() or not path.stat().st_size:
        return True
    with path.open("rb") as file:
        return b" dasksim report</title>" in file.read(_HEAD_BYTES)


def _unwritable(path: Path, error: OSError) -> str:
    return f"cannot write a report to {str(path)!r}: {error.strerror or error}; give another path"


def _render(content: Mapping[str, Any]) -> str:
    import jinja2

    source = importlib.resources.files("dasksim._analysis").joinpath("report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(source).render(content)


def _is_store(source: SamplesLike) -> TypeGuard[StoreLike]:
    is_place = not isinstance(source, xr.Dataset | list | tuple)
    return is_place and not Store.at(source).is_group_of_others()  # type: ignore[arg-type]


def _described_dataset(dataset: xr.Dataset) -> dict[str, Any]:
    """Return what stands on the page of a dataset, of which nothing is known but what it holds."""
    summary = summarize(dataset)
    arrays = [array for array in dataset.values() if "batch" in array.dims]
    cards = [
        ("samples", f"{summary.n_samples:,}"),
        ("uncompressed", format_bytes(sum(array.nbytes for array in arrays))),
    ]
    return {
        "title": "dataset",
        "status": None,
        "cards": cards,
        "variables": [variable_of_dataset(array, summary) for array in arrays],
        "coords": coords_of({str(name): array for name, array in dataset.coords.items() if name in dataset.dims}),
        "conditions": [],
        **_contents(summary),
    }


def _contents(
    summary: Summary | None,
    rejects: Store | None = None,
    samples: xr.Dataset | None = None,
    shares: Sequence[Any] = (),
) -> dict[str, Any]:
    """Return samples, statistics and plots, and who made the page."""
    has_matplotlib = importlib.util.find_spec("matplotlib") is not None
    return {
        "numbers": numbers_of(samples) if samples is not None else [],
        "sample_numbers": samples["batch"].values.tolist() if samples is not None else [],
        "sample_pictures": pictures_of_samples(samples) if samples is not None and has_matplotlib else [],
        "failed_picture": picture_of_failed(shares) if shares and has_matplotlib else None,
        "features": _features(summary) if summary else [],
        "n_samples": summary.n_samples if summary else 0,
        "n_masked": summary.n_masked if summary else 0,
        "n_kept": summary.n_kept if summary else 0,
        "has_matplotlib": has_matplotlib,
        "pictures": pictures_of(summary, rejects) if summary and has_matplotlib else [],
        "version": __version__,
        "now": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "count": "{:,}".format,
    }


def _described(store: StoreLike) -> dict[str, Any]:
    """Return what stands on the page of a store."""
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
    rejects = found.n_accepted != found.n_proposals
    return {
        "title": place.name.rstrip("/").rpartition("/")[2] or place.name,
        "status": found,
        "cards": _cards(found, record, n_bytes),
        "variables": variables_of_store(record, summary, found.n_complete_samples, n_bytes),
        "coords": coords_of({name: dataset.coords[name] for name in record.coords}),
        "conditions": conditions_of(record),
        "missing": _missing(found),
        "seconds": _spread(seconds) if chunks else "",
        "seconds_strip": draw_strip(columns["chunk"].astype(int), seconds, found.n_chunks) if len(chunks) > 1 else "",
        "ticks": ticks_below(found.n_samples, found.n_chunks, found.chunk_size),
        "on_error": record.policy.on_error,
        "on_nonfinite": record.policy.on_nonfinite,
        "stages": _stages(record),
        "provenance": _provenance(record),
        **_contents(summary, place if rejects else None, samples, shares),
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
        ("seed", short(found.seed)),
        ("worker time", format_time(found.seconds)),
    ]
    if found.n_accepted != found.n_proposals:
        cards.append(("of proposals accepted", f"{100 * found.acceptance_rate:.3g} %"))
    if found.n_failed:
        cards.append(("failures", found.failed_share))
    return cards


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
    more = f", and {counted(len(runs) - _MOST_RUNS, 'more run')}" if len(runs) > _MOST_RUNS else ""
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
        rows.append({key: short(text) for key, text in words.items()})
    return rows


def _provenance(record: Record) -> list[tuple[str, str]]:
    rows: list[tuple[str, object]] = [
        ("created", f"{record.created.get('at', 'unknown')} on {record.created.get('host', 'unknown')}"),
        ("seed", record.seed),
        ("sub-batches", counted(record.sub_batch_size, "sample")),
        ("device", record.device),
        ("dasksim", record.version or "unknown"),
    ]
    rows += record.packages.items()
    rows += [("extended from", counted(n, "sample")) for n in record.former_lengths]
    return [(short(what), short(value)) for what, value in rows]
