"""Durable generation: where compiled simulators and stores meet."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import xarray as xr

from dasksim._executors import check_scheduler, connect
from dasksim._pipeline import Pipeline
from dasksim._plan import Plan, as_shape, check_flag
from dasksim._provenance import provenance
from dasksim._run import check_memory, check_retries, run_chunks
from dasksim._streams import check_seed
from dasksim.errors import ArgumentError, ArgumentTypeError, StoreMismatchError
from dasksim.simulators import Simulator
from dasksim.store import (
    FORMAT,
    ArrayLayout,
    ChunkWriter,
    StoreLayout,
    choose_inner_rows,
    create_store,
    finish_store,
    open_dataset,
    read_record,
    remove_leftovers,
    remove_store,
    stored_dtypes,
)

__all__ = ["generate"]

# What must agree between a store and a call that continues it, with the name that the message uses.
_COMPARED = ("n_samples", "further", "seed", "sub_batch_size", "chunk_size", "conditions", "variables", "coords")


def generate(
    simulator: Simulator,
    store: str | os.PathLike[str],
    n_samples: int | Sequence[int],
    *,
    seed: int | None = None,
    conditions: Mapping[str, Any] | None = None,
    sub_batch_size: int | None = None,
    chunk_size: int | None = None,
    dtypes: Any = None,
    overwrite: bool = False,
    scheduler: Any = None,
    retries: int = 3,
    progress: bool | None = None,
) -> xr.Dataset:
    """Simulate a dataset into a Zarr store, chunk by chunk, and open it.

    A chunk is complete when its receipt is written, after its data. A run that was stopped in whatever way is continued
    by the same call; complete chunks are not simulated again, and the result has the same bits as if nothing had
    happened.

    Parameters
    ----------
    simulator
        What to sample from.
    store
        Path of the store, a directory that is made.
    n_samples
        Number of samples, or a batch shape as in :meth:`~dasksim.Simulator.sample`.
    seed
        Any integer >= 0. By default fresh entropy, or the seed of the store that is continued.
    conditions
        Values of variables, as in :meth:`~dasksim.Simulator.sample`.
    sub_batch_size, chunk_size
        Sizes in samples, as in :meth:`~dasksim.Simulator.sample`. A chunk is a shard of each array of the store.
    dtypes
        In which dtype to store variables: one for all floating-point variables, or a mapping. By default as simulated.
    overwrite
        Whether to remove a store made by dasksim that is at the path. Nothing else is ever removed.
    scheduler
        ``"synchronous"``, ``"threads"``, ``"processes"``, a ``distributed.Client`` or the address of its scheduler.
        By default the active client if there is one, else threads if all stages are batched, else processes.
    retries
        How often a chunk is tried again whose worker died. What a function raises is never tried again.
    progress
        Whether to show a progress bar; by default in terminals and notebooks.

    Returns
    -------
    xarray.Dataset
        The store, opened lazily.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument cannot be used.
    SimulatorError, OutputError
        If the simulator's stages or a function's outputs do not fit.
    StoreError
        If the path holds something else, or cannot be written.
    StoreMismatchError
        If the store was made by other arguments; the message lists what differs.
    ConnectionError
        If the scheduler of a cluster is lost.

    Examples
    --------
    >>> import dasksim, tempfile
    >>> simulator = dasksim.make_simulator(lambda rng: {"x": rng.normal(size=3)})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ds = dasksim.generate(simulator, f"{folder}/train.zarr", 1000, seed=1, scheduler="synchronous")
    ...     dict(ds.sizes)
    {'batch': 1000, 'x_dim_0': 3}
    """
    if not isinstance(simulator, Simulator):
        raise ArgumentTypeError(f"simulator must be a Simulator, such as make_simulator returns; got {simulator!r}")
    if not isinstance(store, str | os.PathLike):
        raise ArgumentTypeError(f"store must be a path; got {store!r}")
    if "://" in str(store):
        raise ArgumentError(f"store must be a path of this machine's file system, not a URL; got {store!r}")
    if not isinstance(conditions, Mapping | None):
        raise ArgumentTypeError(f"conditions must be a mapping of variables to values; got {conditions!r}")
    overwrite = check_flag("overwrite", overwrite)
    progress = progress if progress is None else check_flag("progress", progress)
    retries = check_retries(retries)
    shape = as_shape("n_samples", n_samples)
    seed = None if seed is None else check_seed(seed)
    scheduler = check_scheduler(scheduler, is_batched=True) if scheduler is not None else None
    path = Path(store).absolute()
    found = read_record(path)
    if found is not None and not overwrite:
        seed = found["seed"] if seed is None else seed
        sub_batch_size = found["sub_batch_size"] if sub_batch_size is None else sub_batch_size
        if chunk_size is None and sub_batch_size == found["sub_batch_size"]:  # of others it may be no multiple
            chunk_size = found["chunk_size"]
    pipeline, plan = simulator.plan(
        shape, seed=seed, sub_batch_size=sub_batch_size, chunk_size=chunk_size, conditions=dict(conditions or {})
    )
    layout = _layout(pipeline, plan, dtypes)
    with connect(check_scheduler(scheduler, pipeline.is_batched)) as executor:
        check_memory(plan, pipeline, executor)
        if found is not None and overwrite:
            remove_store(path)
        elif found is not None:
            _check_same(path, found, layout.record)
        create_store(path, layout)
        found = read_record(path) or {}
        _check_same(path, found, layout.record)  # another writer may have come first
        remove_leftovers(path)
        writer = ChunkWriter(path, replace(layout, record=found))
        run_chunks(path, pipeline, plan, writer, executor, retries, progress)
    finish_store(path)
    return open_dataset(path)


def _layout(pipeline: Pipeline, plan: Plan, dtypes: Any) -> StoreLayout:
    stored = stored_dtypes(dtypes, {v.name: v.dtype for v in pipeline.variables})
    shapes = {v.name: (plan.n_samples, *pipeline.array_shape(v)) for v in pipeline.variables}
    row_bytes = max(math.prod(shape[1:]) * stored[name].itemsize for name, shape in shapes.items())
    inner_rows = choose_inner_rows(plan.chunk_size, plan.sub_batch_size, row_bytes)
    arrays = tuple(
        ArrayLayout(v.name, shapes[v.name], pipeline.array_dims(v), stored[v.name], plan.chunk_size, inner_rows)
        for v in pipeline.variables
    )
    record = {
        "format": FORMAT,
        **provenance(pipeline, plan),
        "n_samples": plan.n_samples,
        "further": list(plan.further),
        "chunk_size": plan.chunk_size,
        "variables": {a.name: {"dims": a.dims, "shape": a.shape[1:], "dtype": a.dtype.name} for a in arrays},
        "coords": {dim: [str(value) for value in values] for dim, values in pipeline.coords.items()},
    }
    return StoreLayout(arrays, pipeline.coords, plan.n_chunks, plan.chunk_size, json.loads(json.dumps(record)))


def _check_same(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differences = [
        f"{name}: {found.get(name)!r} in the store, {wanted[name]!r} asked for"
        for name in _COMPARED
        if found.get(name) != wanted[name]
    ]
    differences += _stage_differences(found.get("stages", []), wanted["stages"])
    if differences:
        error = StoreMismatchError(
            f"the store at {str(path)!r} was made by other arguments:\n  "
            + "\n  ".join(differences)
            + "\nGive the same arguments to continue it, choose another path, or pass overwrite=True to make it anew"
        )
        raise error


def _stage_differences(found: Sequence[Any], wanted: Sequence[Any]) -> list[str]:
    old = {stage["name"]: stage for stage in found}
    new = {stage["name"]: stage for stage in wanted}
    if list(old) != list(new):
        return [f"stages: {list(old)} in the store, {list(new)} asked for"]
    return [
        f"stage {name!r}: its source, its arguments or what it captures have changed since the store was made"
        for name in new
        if new[name] != old[name]
    ]
