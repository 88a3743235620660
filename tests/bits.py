"""Compare datasets and stores bit by bit."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

__all__ = [
    "age_unfinished",
    "array_bytes",
    "bits",
    "chunk_files",
    "file_bytes",
    "finished_bytes",
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
    content = file_bytes(path)
    content["zarr.json"] = _without_history(content["zarr.json"])
    return {name: content[name] for name in content if not _is_incidental(name)}


def _is_incidental(name: str) -> bool:
    return name.startswith("_dasksim/") and "/receipts/c." in name


def finished_bytes(path: Path) -> dict[str, bytes]:
    """Return :func:`array_bytes` but for unfinished files, which a killed writer may have left a moment ago."""
    return {name: content for name, content in array_bytes(path).items() if not name.endswith(".partial")}


def age_unfinished(path: Path) -> None:
    """Make unfinished files an hour old, so that the next run takes their writers for dead and removes them."""
    for file in path.rglob("*.partial"):
        before = file.stat().st_mtime - 3600
        os.utime(file, (before, before))


def _without_history(root: bytes) -> bytes:
    metadata = json.loads(root)
    record = json.loads(metadata["attributes"]["dasksim"])
    for key in ("created", "extended_from"):
        for told in (record, *record.get("derived", {}).values()):
            told.pop(key, None)
    metadata["attributes"]["dasksim"] = record
    return json.dumps(metadata, sort_keys=True).encode()


def receipt_files(path: Path) -> dict[int, Path]:
    """Return the files of a store's receipts, by chunk."""
    files = (path / "_dasksim" / "receipts").glob("c.*")
    return {int(file.name.split(".")[1]): file for file in files}


def chunk_files(path: Path, variable: str) -> dict[int, Path]:
    """Return the files of a variable's shards, by chunk."""
    folder = path / variable / "c"
    return {int(file.relative_to(folder).parts[0]): file for file in folder.rglob("*") if file.is_file()}
