"""Compute a dataset in worker processes of this machine."""

from collections.abc import Callable
from typing import Any

import xarray as xr
from dask.system import CPU_COUNT
from loky import get_reusable_executor

from dasksim._core.checks import check_count
from dasksim.store import Record

__all__ = ["compute_in_processes"]

# How long a worker waits for the next call. With loky's default of 10, some gave up while others imported PyTorch.
_IDLE_SECONDS = 300


def compute_in_processes(
    sample: Callable[..., xr.Dataset], batch_shape: Any, n_jobs: int, seed: int | None, options: dict[str, Any]
) -> xr.Dataset:
    """Return the computed dataset of ``sample(batch_shape, seed=seed, **options)``.

    Chunks are made small enough for every worker to have one, as far as there are sub-batches: values depend on these.
    Workers are loky's, which start from nothing rather than run the user's script again, and wait for the next call.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If ``n_jobs`` is neither -1 nor an integer >= 1.
    """
    n_workers = CPU_COUNT if n_jobs == -1 else check_count("n_jobs", n_jobs)
    dataset = sample(batch_shape, seed=seed, **options)
    record = Record.of_dataset(dataset.attrs)
    size = record.sub_batch_size
    n_sub_batches = -(-dataset.sizes["batch"] // size)
    share = -(-n_sub_batches // n_workers) * size
    if share < dataset.chunksizes["batch"][0]:
        # with the seed of the first, which may be fresh entropy
        dataset = sample(batch_shape, **{**options, "seed": record.seed, "chunk_size": share})
    n_chunks = len(dataset.chunksizes["batch"])
    # kept by loky for the next call: to start workers takes more than a second
    executor = get_reusable_executor(max_workers=min(n_workers, n_chunks), timeout=_IDLE_SECONDS)
    return dataset.compute(scheduler="processes", pool=executor, num_workers=n_workers)
