"""Durable generation: where compiled simulators and stores meet."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from dasksim._chunk import check_policy
from dasksim._executors import check_scheduler, connect
from dasksim._failures import Policy
from dasksim._pipeline import Pipeline
from dasksim._plan import Plan, as_shape, check_flag
from dasksim._record import again_dtypes, agreed, check_lazy_conditions, extended, store_layout, stored_policy
from dasksim._run import check_memory, run_chunks
from dasksim._streams import check_seed
from dasksim._verify import bad_chunks
from dasksim.errors import ArgumentError, ArgumentTypeError, StoreError, StoreMismatchError
from dasksim.simulators import Simulator
from dasksim.store import (
    ChunkChecker,
    ChunkWriter,
    StoreLayout,
    create_arrays,
    create_root,
    finish_store,
    forget_chunks,
    forget_metadata,
    open_dataset,
    open_part,
    open_receipts,
    read_record,
    remove_leftovers,
    remove_store,
    replace_root,
)

__all__ = ["extend", "generate"]


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
    on_error: str = "raise",
    on_nonfinite: str = "keep",
    timeout: float | None = None,
    overwrite: bool = False,
    allow_changed: bool = False,
    repair: bool = False,
    part: tuple[int, int] | None = None,
    scheduler: Any = None,
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
    on_error
        What to do where a stage raises an exception. ``"raise"``: stop; complete chunks are kept. ``"mask"``: the
        sample's variables become NaN or, if they are not floating-point, 0, and the boolean variable ``valid`` says so.
        ``"redraw"``: draw the whole sample again, up to 100 times, which conditions it on success. A batched stage
        fails for all samples of a sub-batch at once; a proposal of a rejection that fails is rejected. Contexts,
        predicates and what dasksim itself raises always stop. :func:`status` tells what failed, and how often.
    on_nonfinite
        The same where a stage returns NaN or an infinite value, or ``"keep"``.
    timeout
        Seconds that a sub-batch may take; by default as long as it likes. Each worker then simulates in a process of
        its own, which is killed when the time is over, and ``on_error`` says what becomes of the samples. Which these
        are is up to the machine, so that a run in which it happens may not be repeatable.
    overwrite
        Whether to remove a store made by dasksim that is at the path. Nothing else is ever removed.
    allow_changed
        Whether to go on with a store although the source of a stage has changed since it was made. The store then
        records both.
    repair
        Whether to check complete chunks against their receipts first, as :func:`verify` does, and to simulate those
        again that are damaged.
    part
        ``(i, m)`` simulates the ``i``-th of ``m`` shares of the chunks, ``i`` from 0. Any number of processes, on any
        number of machines that see the store, can fill it at the same time, and need not know of each other. A call
        without a part simulates whatever is missing.
    scheduler
        ``"synchronous"``, ``"threads"``, ``"processes"``, a ``distributed.Client`` or the address of its scheduler.
        By default the active client if there is one, else threads if all stages are batched, else processes.
    progress
        Whether to show a progress bar; by default in terminals and notebooks.

    Returns
    -------
    xarray.Dataset
        The store, opened lazily; with ``part``, the samples of the part.

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

    Examples
    --------
    >>> import dasksim, tempfile
    >>> simulator = dasksim.make_simulator(lambda rng: {"x": rng.normal(size=3)})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ds = dasksim.generate(simulator, f"{folder}/train.zarr", 1000, seed=1, scheduler="synchronous")
    ...     dict(ds.sizes)
    {'batch': 1000, 'x_dim_0': 3}
    """
    request = _Request.checked(simulator, store, conditions, part, allow_changed, progress, timeout, repair)
    path, policy = request.path, Policy.checked(on_error, on_nonfinite)
    overwrite = check_flag("overwrite", overwrite)
    if overwrite and part is not None:
        raise ArgumentError(
            "overwrite=True does not go with part=: each part would remove what the others made; remove the store first"
        )
    shape = as_shape("n_samples", n_samples)
    seed = None if seed is None else check_seed(seed)
    scheduler = check_scheduler(scheduler, is_batched=True) if scheduler is not None else None
    found = read_record(path)
    own_seed = seed
    if found is not None and not overwrite:
        seed = found["seed"] if seed is None else seed
        sub_batch_size = found["sub_batch_size"] if sub_batch_size is None else sub_batch_size
        if chunk_size is None and sub_batch_size == found["sub_batch_size"]:  # of others it may be no multiple
            chunk_size = found["chunk_size"]
    task = request.resolve(shape, seed, sub_batch_size, chunk_size, dtypes, policy)
    with connect(check_scheduler(scheduler, task.pipeline.is_batched)) as executor:
        check_memory(task.plan, task.pipeline, executor)
        if found is not None and overwrite:
            remove_store(path, found)
        elif found is not None:
            agreed(path, found, task.layout.record, request.allow_changed)
        found = create_root(path, task.layout.record)
        if own_seed is None and found["seed"] != task.plan.seed:  # another writer has come first, with its own seed
            task = request.resolve(shape, found["seed"], sub_batch_size, chunk_size, dtypes, policy)
        record = agreed(path, found, task.layout.record, request.allow_changed)
        check_lazy_conditions(path, found, task.pipeline, task.plan)
        _agree(path, found, record)
        return request.complete(task, record, executor)


def extend(
    store: str | os.PathLike[str],
    simulator: Simulator,
    n_samples: int,
    *,
    conditions: Mapping[str, Any] | None = None,
    allow_changed: bool = False,
    timeout: float | None = None,
    part: tuple[int, int] | None = None,
    scheduler: Any = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """Make a store longer.

    The result has the same bits as a store of ``n_samples`` samples made at once with the same seed, sub-batch size and
    chunk size. All that is not given here is as the store says. An extension that was stopped is continued by the same
    call, or by :func:`generate` with the new number of samples.

    Parameters
    ----------
    store
        Path of the store.
    simulator
        What the store was made with.
    n_samples
        Number of samples that the store shall have, those that it has included.
    conditions
        As given when the store was made; values with a batch axis must begin with those.
    allow_changed, timeout, part, scheduler, progress
        As in :func:`generate`.

    Returns
    -------
    xarray.Dataset
        The store, opened lazily; with ``part``, the samples of the part.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument cannot be used, or the store has more samples.
    StoreError
        If there is no store, or it cannot be written.
    StoreMismatchError
        If the store was made by another simulator or other conditions; the message lists what differs.

    Examples
    --------
    >>> import dasksim, tempfile
    >>> simulator = dasksim.make_simulator(lambda rng: {"x": rng.normal(size=3)})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/train.zarr"
    ...     ds = dasksim.generate(simulator, path, 1000, seed=1, scheduler="synchronous")
    ...     ds = dasksim.extend(path, simulator, 3000, scheduler="synchronous")
    ...     dict(ds.sizes)
    {'batch': 3000, 'x_dim_0': 3}
    """
    request = _Request.checked(simulator, store, conditions, part, allow_changed, progress, timeout)
    path = request.path
    scheduler = check_scheduler(scheduler, is_batched=True) if scheduler is not None else None
    found = read_record(path)
    if found is None:
        raise StoreError(f"there is no store at {str(path)!r} to extend; make one with dasksim.generate")
    shape = as_shape("n_samples", n_samples)
    if len(shape) > 1:
        raise ArgumentTypeError(f"n_samples must be an integer, the length of the batch axis; got {n_samples!r}")
    if shape[0] < found["n_samples"]:
        raise ArgumentError(
            f"n_samples={n_samples} is less than the {found['n_samples']} samples that the store at {str(path)!r} is "
            "made for; a store cannot be made shorter, but a selection of it can be used"
        )
    task = request.resolve_again(found, shape[0])
    longer = extended(found, task.layout.record, task.pipeline)
    with connect(check_scheduler(scheduler, task.pipeline.is_batched)) as executor:
        check_memory(task.plan, task.pipeline, executor)
        record = agreed(path, longer, task.layout.record, request.allow_changed)
        check_lazy_conditions(path, found, task.pipeline, task.plan)
        _agree(path, found, record)
        return request.complete(task, record, executor)


@dataclass(frozen=True)
class _Task:
    """What is simulated, and how it lies in the store."""

    pipeline: Pipeline
    plan: Plan
    layout: StoreLayout
    policy: Policy


@dataclass(frozen=True)
class _Request:
    """What the calls have in common, checked."""

    simulator: Simulator
    path: Path
    conditions: dict[str, Any]
    part: tuple[int, int] | None
    allow_changed: bool
    progress: bool | None
    timeout: float | None
    repair: bool

    @classmethod
    def checked(
        cls,
        simulator: Any,
        store: Any,
        conditions: Any,
        part: Any,
        allow_changed: Any,
        progress: Any,
        timeout: Any,
        repair: Any = False,
    ) -> "_Request":
        if not isinstance(simulator, Simulator):
            raise ArgumentTypeError(f"simulator must be a Simulator, such as make_simulator returns; got {simulator!r}")
        if not isinstance(store, str | os.PathLike):
            raise ArgumentTypeError(f"store must be a path; got {store!r}")
        if "://" in str(store):
            raise ArgumentError(f"store must be a path of this machine's file system, not a URL; got {store!r}")
        if not isinstance(conditions, Mapping | None):
            raise ArgumentTypeError(f"conditions must be a mapping of variables to values; got {conditions!r}")
        return cls(
            simulator,
            Path(store).absolute(),
            dict(conditions or {}),
            _check_part(part),
            check_flag("allow_changed", allow_changed),
            progress if progress is None else check_flag("progress", progress),
            _check_timeout(timeout),
            check_flag("repair", repair),
        )

    def resolve(
        self,
        shape: tuple[int, ...],
        seed: int | None,
        sub_batch_size: int | None,
        chunk_size: int | None,
        dtypes: Any,
        policy: Policy,
    ) -> _Task:
        pipeline, plan = self.simulator.plan(
            shape, seed=seed, sub_batch_size=sub_batch_size, chunk_size=chunk_size, conditions=self.conditions
        )
        check_policy(pipeline, policy)
        pipeline = replace(pipeline, store=str(self.path))
        return _Task(pipeline, plan, store_layout(pipeline, plan, dtypes, policy), policy)

    def resolve_again(self, found: Mapping[str, Any], n_samples: int) -> _Task:
        """Resolve what a store was made of, for another number of samples."""
        shape = (n_samples, *found["further"])
        sizes, policy = (found["sub_batch_size"], found["chunk_size"]), stored_policy(found)
        task = self.resolve(shape, found["seed"], *sizes, None, policy)
        dtypes = again_dtypes(found, task.pipeline)
        return replace(task, layout=store_layout(task.pipeline, task.plan, dtypes, policy))

    def complete(self, task: _Task, record: Mapping[str, Any], executor: Any) -> xr.Dataset:
        """Simulate and write what is missing, and open it."""
        layout = replace(task.layout, record=record)
        if self.repair:
            forget_metadata(self.path, record)
            replace_root(self.path, record)  # without metadata that were gathered in it, which may be damaged too
        create_arrays(self.path, layout)
        remove_leftovers(self.path)
        writer = ChunkWriter(self.path, layout)
        first, stop = _share(self.part, task.plan.n_chunks)
        if self.repair:
            self._forget_bad(record, range(first, stop))
        run_chunks(
            task.pipeline, task.plan, writer, task.policy, self.timeout, range(first, stop), executor, self.progress
        )
        if self.part is None:
            finish_store(self.path, record)
            return open_dataset(self.path)
        receipts = open_receipts(self.path, record)
        if receipts is not None and len(receipts.complete_chunks()) == task.plan.n_chunks:
            finish_store(self.path, record)
        samples = (chunk * task.plan.chunk_size for chunk in (first, stop))
        return open_part(self.path).isel(batch=slice(*samples))

    def _forget_bad(self, record: Mapping[str, Any], chunks: range) -> None:
        checker = ChunkChecker(self.path, record)
        complete = [chunk for chunk in checker.complete if chunk in chunks]
        forget_chunks(self.path, record, bad_chunks(checker, complete, self.progress))


def _agree(path: Path, found: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Have a store say what a call has found out that it shall say, unless another call has changed it since.

    Raises
    ------
    StoreMismatchError
        If one has.
    """
    if record == found:
        return
    now = read_record(path)
    if now == found:
        replace_root(path, record)
    elif now != record:  # one that does the same, such as another part of an extension
        raise StoreMismatchError(
            f"the store at {str(path)!r} was changed by another run just now; see what dasksim.status says of it"
        )


def _share(part: tuple[int, int] | None, n_chunks: int) -> tuple[int, int]:
    """Return the first chunk of a part, and the first one after it."""
    if part is None:
        return 0, n_chunks
    i, m = part
    return i * n_chunks // m, (i + 1) * n_chunks // m


def _check_part(part: Any) -> tuple[int, int] | None:
    if part is None:
        return None
    is_pair = isinstance(part, Sequence) and not isinstance(part, str) and len(part) == 2
    if not is_pair or any(isinstance(value, bool) or not isinstance(value, int | np.integer) for value in part):
        raise ArgumentTypeError(f"part must be a pair of integers (i, m), the i-th of m shares; got {part!r}")
    i, m = map(int, part)
    if not 0 <= i < m:
        raise ArgumentError(f"part=(i, m) needs 0 <= i < m, with i counted from 0; got {part!r}")
    return i, m


def _check_timeout(timeout: Any) -> float | None:
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise ArgumentTypeError(f"timeout must be a number of seconds, or None; got {timeout!r}")
    if not 0 < timeout < math.inf:
        raise ArgumentError(f"timeout must be a finite number of seconds greater than 0, or None; got {timeout!r}")
    return float(timeout)
