"""What a run is about to do: said before it begins, and refused where it cannot fit."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dasksim._core.durations import duration
from dasksim._core.plan import Plan
from dasksim._core.telling import counted
from dasksim._engine.pipeline import Pipeline
from dasksim._execution.executors import HERE_AT_FIRST, n_local_workers
from dasksim.errors import StoreError
from dasksim.store import StoreLayout

__all__ = ["announcement", "check_room", "gigabytes"]


def announcement(pipeline: Pipeline, plan: Plan, layout: StoreLayout, chunks: Sequence[int], scheduler: Any) -> str:
    """Return what there is to simulate: samples, bytes, chunks, workers and, of plain functions, an estimate of time.

    Examples
    --------
    ``100,000 samples (4.0 MB) in 2 chunks of 65,536, on 2 worker processes, in about 12 s``
    """
    n_samples = sum(map(plan.n_rows, chunks))
    n_bytes = n_samples * sum(array.row_bytes for array in layout.arrays)
    n_workers = n_local_workers(scheduler) or sum(scheduler.nthreads().values())
    kinds = {"threads": "threads", "processes": "worker processes", HERE_AT_FIRST: "worker processes"}
    most = "up to " * (scheduler == HERE_AT_FIRST)
    where = (
        "" if scheduler == "synchronous" else f", on {most}{n_workers:,} {kinds.get(scheduler, 'threads of a cluster')}"
    )
    n_busy = max(min(n_workers, len(chunks)), 1)
    seconds = pipeline.cost(on_gpu=False).seconds * n_samples / n_busy
    # what batched functions take is not known from a probe of two samples
    is_known = seconds > 0 and not any(step.stage.is_batched for step in pipeline.steps if step.is_run)
    cut = f" of {plan.chunk_size:,}" if len(chunks) > 1 else ""  # the last, or only one may be shorter
    return (
        f"{counted(n_samples, 'sample')} ({_bytes(n_bytes)}) in {counted(len(chunks), 'chunk')}{cut}"
        f"{where}{f', in about {duration(seconds)}' if is_known else ''}"
    )


def check_room(plan: Plan, layout: StoreLayout, folder: Path | None, chunks: Sequence[int]) -> None:
    """Refuse before work what cannot fit on the disk.

    Raises
    ------
    StoreError
        If less is free than floating-point variables take, which are not compressed.
    """
    if folder is None:
        return
    n_bytes = sum(map(plan.n_rows, chunks)) * sum(a.row_bytes for a in layout.arrays if a.dtype.kind in "fc")
    free = shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free
    if n_bytes > free:
        raise StoreError(
            f"{len(chunks):,} chunks need {_bytes(n_bytes)}, but {_bytes(free)} are free at {str(folder)!r}; store "
            "fewer samples, narrower dtypes (dtypes='float32'), or choose another disk"
        )


def gigabytes(n_bytes: float) -> str:
    """Return bytes as text, in gigabytes."""
    return f"{n_bytes / 1e9:,.1f} GB"


def _bytes(n_bytes: float) -> str:
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= size:
            return f"{n_bytes / size:,.1f} {unit}"
    return f"{n_bytes:.0f} bytes"
