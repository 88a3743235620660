"""Find out what a path holds, and open stores."""

import contextlib
import json
import math
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr
import zarr
from zarr.errors import ZarrUserWarning
from zarr.storage import LocalStore

from dasksim._failures import Failure
from dasksim.errors import IncompleteStoreError, StoreError
from dasksim.store._receipts import Receipts

__all__ = [
    "ATTRIBUTE",
    "FORMAT",
    "Status",
    "damage",
    "expected_warnings",
    "open_dataset",
    "open_part",
    "open_receipts",
    "read_record",
    "remove_leftovers",
    "status",
]

#: Name of the attribute that holds a store's record, a JSON string.
ATTRIBUTE = "dasksim"

#: Version of the store's layout.
FORMAT = 1

# A file that is being written has a name of its own; one that has lain for so long belongs to a writer that was killed.
_LEFTOVER_SECONDS = 600


_filters_lock = threading.RLock()  # filters of warnings belong to the whole process


@contextlib.contextmanager
def expected_warnings() -> Iterator[None]:
    """Silence Zarr's warnings of consolidated metadata, of files that are being written, and of files of others."""
    with _filters_lock, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata", category=ZarrUserWarning)
        warnings.filterwarnings("ignore", "Object at .* is not recognized", category=ZarrUserWarning)
        yield


def read_record(path: Path) -> dict[str, Any] | None:
    """Return what a store says of itself, or None if there is nothing at the path.

    Raises
    ------
    StoreError
        If something else is there, or a store of a newer format.
    """
    if not path.exists() or (path.is_dir() and all(_is_unfinished(child) for child in path.iterdir())):
        return None
    if not path.is_dir():
        raise StoreError(f"{str(path)!r} is a file, not a store; choose another path")
    try:
        record = json.loads(json.loads((path / "zarr.json").read_text())["attributes"][ATTRIBUTE])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{str(path)!r} is not empty and is no store made by dasksim; choose another path") from error
    if not isinstance(record, dict) or not isinstance(record.get("format"), int):
        raise StoreError(f"{str(path)!r} is no store made by dasksim.generate; choose another path")
    if record["format"] > FORMAT:
        raise StoreError(
            f"the store at {str(path)!r} has format {record['format']}, this dasksim knows up to {FORMAT}; upgrade it"
        )
    return record


def _is_unfinished(path: Path) -> bool:
    return path.name.endswith(".partial")


def remove_leftovers(path: Path) -> None:
    """Remove the unfinished files of writers that were killed, if the store can be written."""
    files = list(path.rglob("*.partial"))
    oldest = _clock(path) - _LEFTOVER_SECONDS if files else 0.0
    for file in files:
        try:
            if file.stat().st_mtime < oldest:
                file.unlink()
        except FileNotFoundError:  # its writer finished
            continue


def _clock(path: Path) -> float:
    """Return the time by the clock that stamps files, which need not be this machine's; 0 if it is unknown."""
    try:
        with tempfile.TemporaryFile(dir=path) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return 0.0


def open_receipts(path: Path, record: Mapping[str, Any]) -> Receipts | None:
    """Return the receipts of a store, or None if its creation was cut off before them.

    Raises
    ------
    StoreError
        If their metadata are damaged.
    """
    try:
        group = zarr.open_group(LocalStore(path, read_only=True), mode="r", use_consolidated=False)
        return Receipts(group, record)
    except (FileNotFoundError, KeyError):
        return None
    except (ValueError, TypeError) as error:
        raise StoreError(damage(path, error)) from error


@dataclass(frozen=True)
class Status:
    """How far a store is.

    Parameters
    ----------
    path
        Where the store is.
    n_samples
        Samples that it is made for.
    n_complete_samples
        Samples in complete chunks.
    n_chunks
        Chunks that it is made of.
    n_complete
        Complete chunks.
    seed
        The seed.
    sub_batch_size, chunk_size
        Sizes in samples.
    seconds
        Time spent on the complete chunks, summed over workers.
    n_proposals, n_accepted
        Proposals made and accepted for the complete chunks; the same unless the simulator rejects some.
    failures
        What failed, and was masked or drawn again, in the complete chunks; the most frequent first.
    missing
        Runs of chunks that are missing, each as its first and last one.
    """

    path: str
    n_samples: int
    n_complete_samples: int
    n_chunks: int
    n_complete: int
    seed: int
    sub_batch_size: int
    chunk_size: int
    seconds: float
    n_proposals: int
    n_accepted: int
    failures: tuple[Failure, ...] = ()
    missing: tuple[tuple[int, int], ...] = ()

    @property
    def n_failed(self) -> int:
        """How many times a sample failed."""
        return sum(failure.count for failure in self.failures)

    @property
    def acceptance_rate(self) -> float:
        """Accepted proposals divided by proposals; NaN if there are none."""
        return self.n_accepted / self.n_proposals if self.n_proposals else math.nan

    @property
    def is_complete(self) -> bool:
        """Whether all chunks are complete."""
        return self.n_complete == self.n_chunks

    def __str__(self) -> str:
        state = (
            "complete" if self.is_complete else "incomplete; run generate again with the same arguments to finish it"
        )
        rate = f", {self.n_complete_samples / self.seconds:,.0f} samples/s a worker" if self.seconds else ""
        lines = [
            f"{self.path}: {state}",
            f"  samples  {self.n_complete_samples:,} of {self.n_samples:,}",
            f"  chunks   {self.n_complete:,} of {self.n_chunks:,} (of {self.chunk_size:,} samples)",
        ]
        if self.missing:
            runs = [str(first) if first == last else f"{first}-{last}" for first, last in self.missing]
            more = f", and {len(runs) - _MOST_RUNS} more runs" if len(runs) > _MOST_RUNS else ""
            lines.append(f"  missing  {', '.join(runs[:_MOST_RUNS])}{more}")
        lines += [
            f"  seed     {self.seed} (sub-batches of {self.sub_batch_size:,} samples)",
            f"  time     {self.seconds:,.1f} s{rate}",
        ]
        if self.n_accepted != self.n_proposals:
            accepted = f"{self.n_accepted:,} of {self.n_proposals:,} proposals ({self.acceptance_rate:.3g})"
            lines.append(f"  accepted {accepted}")
        lines += [f"  {'failed  ' if i == 0 else '        '} {failure}" for i, failure in enumerate(self.failures)]
        return "\n".join(lines)


# Runs of missing chunks that are listed.
_MOST_RUNS = 8


def _runs(chunks: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return ascending numbers as runs, each with its first and last one."""
    starts = [c for i, c in enumerate(chunks) if i == 0 or chunks[i - 1] != c - 1]
    ends = [c for i, c in enumerate(chunks) if i + 1 == len(chunks) or chunks[i + 1] != c + 1]
    return tuple(zip(starts, ends, strict=True))


def status(store: str | Path) -> Status:
    """Return how far a store is, from its receipts.

    Parameters
    ----------
    store
        Path of the store.

    Raises
    ------
    StoreError
        If there is no store made by dasksim.
    """
    path, record = _existing(store)
    receipts = open_receipts(path, record)
    complete = receipts.complete_chunks() if receipts else set()
    totals = receipts.totals() if receipts else dict.fromkeys(("proposals", "accepted", "nanoseconds"), 0)
    n, size = record["n_samples"], record["chunk_size"]
    return Status(
        path=str(path),
        n_samples=n,
        n_complete_samples=sum(min(size, n - chunk * size) for chunk in complete),
        n_chunks=-(-n // size),
        n_complete=len(complete),
        seed=record["seed"],
        sub_batch_size=record["sub_batch_size"],
        chunk_size=size,
        seconds=totals["nanoseconds"] / 1e9,
        n_proposals=totals["proposals"],
        n_accepted=totals["accepted"],
        failures=receipts.failures() if receipts else (),
        missing=_runs([chunk for chunk in range(-(-n // size)) if chunk not in complete]),
    )


def open_dataset(store: str | Path) -> xr.Dataset:
    """Open a complete store as a lazy Dataset, one Dask chunk for each chunk of the store.

    Parameters
    ----------
    store
        Path of the store.

    Returns
    -------
    xarray.Dataset
        With the attribute ``acceptance_rate`` if the simulator rejects proposals.

    Raises
    ------
    StoreError
        If there is no store made by dasksim.
    IncompleteStoreError
        If chunks are missing.
    """
    path, record = _existing(store)
    receipts = open_receipts(path, record)
    n_chunks = -(-record["n_samples"] // record["chunk_size"])
    n_complete = len(receipts.complete_chunks()) if receipts else 0
    if n_complete < n_chunks:
        raise IncompleteStoreError(
            f"the store at {str(path)!r} has {n_complete} of {n_chunks} chunks; run generate again with the same "
            "arguments to finish it"
        )
    dataset = open_part(path)
    totals = receipts.totals() if receipts else {}
    if totals and totals["accepted"] != totals["proposals"]:
        dataset.attrs["acceptance_rate"] = totals["accepted"] / totals["proposals"]
    return dataset


def open_part(store: str | Path) -> xr.Dataset:
    """Open a store of which chunks may be missing, whose samples read as fill values."""
    path, record = _existing(store)
    chunks = {"batch": record["chunk_size"]}
    try:
        with expected_warnings():
            dataset: xr.Dataset = xr.open_zarr(LocalStore(path, read_only=True), consolidated=False, chunks=chunks)
        dataset = dataset[list(record["variables"])]
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(damage(path, error)) from error
    if dataset.sizes["batch"] < record["n_samples"]:
        raise StoreError(
            f"the arrays of the store at {str(path)!r} are shorter than its {record['n_samples']} samples, since an "
            "extension was cut off; run dasksim.generate or dasksim.extend for that many samples to go on"
        )
    return dataset.isel(batch=slice(record["n_samples"]))  # arrays may be longer, where another run has made them so


def damage(path: Path, error: Exception) -> str:
    """Return the message that says that a store is damaged."""
    line = (str(error).splitlines() or [""])[0][:200]
    return (
        f"the store at {str(path)!r} is damaged ({type(error).__name__}: {line}); dasksim.verify tells where, and "
        "generate(..., repair=True) mends it"
    )


def _existing(store: str | Path) -> tuple[Path, dict[str, Any]]:
    path = Path(store)
    record = read_record(path)
    if record is None:
        raise StoreError(f"there is no store at {str(path)!r}")
    return path, record
