"""Compare datasets and stores bit by bit."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

__all__ = [
    "age_unfinished",
    "array_bytes",
    "as_if_older",
    "bits",
    "change_record",
    "chunk_files",
    "file_bytes",
    "finished_bytes",
    "flip",
    "prefix_of",
    "receipt_files",
]

#: For each variable its dims, dtype, shape and bytes.
Bits = dict[str, tuple[Any, ...]]


def bits(dataset: xr.Dataset, **how: Any) -> Bits:
    """Compute a dataset and return its variables' bits."""
    return {str(name): _bits_of(array) for name, array in dataset.compute(**how).data_vars.items()}


def prefix_of(dataset: xr.Dataset, n_samples: int, **how: Any) -> Bits:
    """Return the bits of the first samples of a dataset, all of which is computed."""
    return {str(name): _bits_of(array[:n_samples]) for name, array in dataset.compute(**how).data_vars.items()}


def _bits_of(array: xr.DataArray) -> tuple[Any, ...]:
    values = np.ascontiguousarray(array.values)
    return array.dims, values.dtype.str, values.shape, values.tobytes()


def file_bytes(path: Path) -> dict[str, bytes]:
    """Return the bytes of every file below a path."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def array_bytes(path: Path) -> dict[str, bytes]:
    """Return the bytes of every file of a store but for what tells when, where and in which steps it was made."""
    content = {name: found for name, found in file_bytes(path).items() if not _is_incidental(name)}
    documents = [name for name in content if name == "zarr.json" or name.startswith("_dasksim/")]
    return content | {name: _without_history(content[name]) for name in documents if name.endswith("zarr.json")}


def _is_incidental(name: str) -> bool:
    return name.startswith("_dasksim/") and ("/receipts/c." in name or name.startswith("_dasksim/audits/"))


def finished_bytes(path: Path) -> dict[str, bytes]:
    """Return :func:`array_bytes` but for unfinished files, which a killed writer may have left a moment ago."""
    return {name: content for name, content in array_bytes(path).items() if not name.endswith(".partial")}


def age_unfinished(path: Path) -> None:
    """Make unfinished files an hour old, so that the next run takes their writers for dead and removes them."""
    for file in path.rglob("*.partial"):
        before = file.stat().st_mtime - 3600
        os.utime(file, (before, before))


def _without_history(content: bytes) -> bytes:
    """Return a document without what tells when, where and in which steps what it describes was made."""
    document = json.loads(content)
    attributes = document["attributes"]
    if "dasksim" in attributes:
        record = json.loads(attributes["dasksim"])
        for key in ("created", "extended_from"):
            for told in (record, *record.get("derived", {}).values()):
                told.pop(key, None)
        document["attributes"] = {**attributes, "dasksim": record, "crc32c": None}
    return json.dumps(document, sort_keys=True).encode()


def change_record(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what a store says of itself; what `change` returns, if anything, takes its place.

    The record then stands in the root only, as in stores of older versions, and as a stranger may write it.
    """
    root = json.loads((path / "zarr.json").read_text())
    record = json.loads(root["attributes"]["dasksim"])
    changed = change(record)
    root["attributes"]["dasksim"] = json.dumps(record if changed is None else changed)
    (path / "zarr.json").write_text(json.dumps(root))
    as_if_older(path)


def as_if_older(path: Path) -> None:
    """Have a store keep its record in the root only, as older versions did."""
    within = path / "_dasksim"
    for document in (within / "zarr.json", *within.glob("derived/*/zarr.json")):
        document.write_text(json.dumps({"attributes": {}, "zarr_format": 3, "node_type": "group"}))


def receipt_files(path: Path) -> dict[int, Path]:
    """Return the files of a store's receipts, by chunk."""
    files = (path / "_dasksim" / "receipts").glob("c.*.0")  # not what a killed run left half written
    return {int(file.name.split(".")[1]): file for file in files}


def chunk_files(path: Path, variable: str) -> dict[int, Path]:
    """Return the files of a variable's shards, by chunk."""
    folder = path / variable / "c"
    return {int(file.relative_to(folder).parts[0]): file for file in folder.rglob("*") if file.is_file()}


def flip(file: Path, position: float = 0.5, bit: int = 2) -> None:
    content = bytearray(file.read_bytes())
    content[int(position * (len(content) - 1))] ^= bit
    file.write_bytes(content)
