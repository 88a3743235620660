"""Tables of a report: variables, coordinates and conditions."""

from collections.abc import Mapping
from typing import Any

import xarray as xr
from dask.utils import format_bytes

from dasksim._analysis._summary import Summary
from dasksim.store import Record

__all__ = ["conditions_of", "coords_of", "short", "variable_of_dataset", "variables_of_store"]

# Characters of one value that are shown, and values of a coordinate before its last one.
_MOST_CHARACTERS, _MOST_ENDS = 300, 3


def short(value: object) -> str:
    """Return a value as text that is not too long."""
    text = str(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"


def variables_of_store(
    record: Record, summary: Summary | None, n_samples: int, n_bytes: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Return the rows of the table of variables; ``n_bytes`` are those that are stored."""
    stages = {output: stage.name for stage in record.all_stages for output in stage.outputs}
    return [
        {
            "stage": stages.get(name, "given" if name in record.conditions else ""),
            "dims": ", ".join(variable.dims),
            "shape": " x ".join(f"{size:,}" for size in (n_samples, *variable.shape)),
            "dtype": variable.dtype.name,
            "sample_bytes": format_bytes(variable.sample_bytes),
            "size": format_bytes(n_samples * variable.sample_bytes),
            "stored": format_bytes(n_bytes[name]),
            **_found(name, variable.attrs, summary),
        }
        for name, variable in record.visible_variables.items()
    ]


def variable_of_dataset(array: xr.DataArray, summary: Summary) -> dict[str, Any]:
    """Return a row of the table of variables of a dataset that nobody knows the origin of."""
    return {
        "stage": "",
        "dims": ", ".join(map(str, array.dims)),
        "shape": " x ".join(f"{size:,}" for size in array.shape),
        "dtype": array.dtype.name,
        "sample_bytes": format_bytes(array.nbytes // max(array.sizes["batch"], 1)),
        "size": format_bytes(array.nbytes),
        "stored": "",
        **_found(str(array.name), array.attrs, summary),
    }


def _found(name: str, attrs: Mapping[Any, Any], summary: Summary | None) -> dict[str, Any]:
    statistics = summary.statistics.get(name) if summary else None
    units = f"[{attrs['units']}]" if attrs.get("units") else ""
    return {
        "name": name,
        "meaning": f"{attrs.get('long_name', '')} {units}".strip(),
        "n_nan": int(statistics.n_nan.sum()) if statistics is not None else None,
        "n_infinite": int(statistics.n_infinite.sum()) if statistics is not None else None,
    }


def coords_of(coords: Mapping[str, xr.DataArray]) -> list[dict[str, Any]]:
    """Return the rows of the table of coordinates."""
    rows = []
    for name, array in coords.items():
        # of those along the batch, which are lazy, these few are read
        first, last = array[:_MOST_ENDS].values, array[-1:].values if len(array) > _MOST_ENDS else ()
        shown, ends = ([short(f"{x:.6g}" if array.dtype.kind == "f" else x) for x in part] for part in (first, last))
        rows.append(
            {
                "name": name,
                "size": len(array),
                "values": ", ".join([*shown, *(["…"] if len(array) > _MOST_ENDS + 1 else []), *ends]),
                "attributes": ", ".join(f"{key}: {short(value)}" for key, value in array.attrs.items()),
            }
        )
    return rows


def conditions_of(record: Record) -> list[tuple[str, str, str]]:
    """Return the rows of the table of conditions: names, shapes, and values of scalars."""
    rows = []
    for name, value in record.conditions.items():
        is_array = isinstance(value, dict) and isinstance(value.get("shape"), list)
        shape = " x ".join(map(str, value["shape"])) if is_array else "scalar"
        told = f"{value.get('dtype', '')} {value.get('digest', '')}" if is_array else value
        rows.append((short(name), short(shape), short(told)))
    return rows
