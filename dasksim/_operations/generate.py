"""Durable generation: where compiled simulators and stores meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import xarray as xr

from dasksim._core.checks import as_shape, check_flag, check_seed
from dasksim._core.failures import Policy
from dasksim._core.tracebacks import shortened
from dasksim._execution.executors import check_scheduler, connect, lacks_gpus
from dasksim._operations._argument_order import refuse_swapped
from dasksim._operations._compatibility import agreed, check_lazy_conditions, extended
from dasksim._operations._own_data import refuse_own_conditions, refuse_own_functions
from dasksim._operations._request import RunRequest, StorePlan, scheduler_for
from dasksim.errors import ArgumentError, ArgumentTypeError, StoreError
from dasksim.simulators import SimulatorLike
from dasksim.store import Record, StoreLike

__all__ = ["extend", "generate"]


@shortened()
def generate(
    simulator: SimulatorLike,
    store: StoreLike,
    n_samples: int | Sequence[int],
    *,
    seed: int | None = None,
    conditions: Mapping[str, Any] | None = None,
    sub_batch_size: int | None = None,
    chunk_size: int | None = None,
    dtypes: Any = None,
    device: Literal["auto", "cpu", "gpu"] = "auto",
    on_error: Literal["raise", "mask", "redraw"] = "raise",
    on_nonfinite: Literal["keep", "raise", "mask", "redraw"] = "keep",
    timeout: float | None = None,
    overwrite: bool = False,
    allow_changed: bool = False,
    repair: bool = False,
    dry_run: bool = False,
    part: tuple[int, int] | None = None,
    scheduler: Any = None,
    retries: int = 3,
    progress: bool | None = None,
    audit: bool | Literal["warn"] = True,
) -> xr.Dataset:
    """Simulate a dataset into a Zarr store, chunk by chunk, and open it.

    A chunk is complete when its receipt is written, after its data. A run that was stopped in whatever way is continued
    by the same call; complete chunks are not simulated again, and the result has the same bits as if nothing had
    happened.

    Parameters
    ----------
    simulator
        What to sample from: a simulator, or what :func:`make_simulator` takes, such as ``[prior, likelihood]``.
    store
        Where the store is: the path of a folder, a URL, a ``zarr.abc.store.Store``, or an Icechunk repository or
        session.
    n_samples
        Number of samples, or a batch shape as in :meth:`~dasksim.Simulator.sample`.
    seed
        Any integer >= 0. By default fresh entropy, or the seed of the store that is continued.
    conditions
        Values of variables, or distributions to draw them from, as in :meth:`~dasksim.Simulator.sample`. Lazy ones are
        computed chunk by chunk, and cannot be read from the store itself.
    sub_batch_size, chunk_size
        Sizes in samples, as in :meth:`~dasksim.Simulator.sample`. A chunk is a shard of each array of the store.
    dtypes
        In which dtype to store variables: one for all floating-point variables, or a mapping. By default as simulated.
    device
        Where stages run that can run on a GPU, as in :meth:`~dasksim.Simulator.sample`. Values depend on the kind of
        device, so that a store is continued on the kind that it was begun on; ``"auto"`` then means that one. Chunks
        for a GPU go to those workers of a cluster that announce the resource ``"GPU"``; where none does, ``"auto"``
        means the host.
    on_error
        What to do where a stage raises an exception. ``"raise"``: stop; complete chunks are kept. ``"mask"``: what that
        stage and those after it make of the sample becomes NaN or, if it is not floating-point, 0, and the boolean
        variable ``valid`` says so; what stages before it have made, such as the parameters, stays.
        ``"redraw"``: draw the whole sample again, up to 100 times, which conditions it on success. A batched stage
        fails for all samples of a sub-batch at once; a proposal of a rejection that fails is rejected. Contexts,
        predicates and what dasksim itself raises always stop. :func:`status` tells what failed, and how often.
    on_nonfinite
        The same where a stage returns NaN or an infinite value, or ``"keep"``.
    timeout
        Seconds that a sample of plain functions may take, or a sub-batch if a function is batched or makes contexts; by
        default as long as they like. Each worker then simulates in a process of its own, which is killed when the time
        is over, and ``on_error`` says what becomes of the samples. Which these are is up to the machine, so that a run
        in which it happens may not be repeatable. It costs some milliseconds a sub-batch. The probe, one or two samples
        before the run, is not timed.
    overwrite
        Whether to remove a store made by dasksim that is there. Nothing else is ever removed, and no store that a
        function of the simulator keeps arrays of.
    allow_changed
        Whether to go on with a store although the source of a stage has changed since it was made. The store then
        records both.
    repair
        Whether to check complete chunks against their receipts first, as :func:`verify` does, and to simulate those
        again that are damaged.
    dry_run
        Whether to say only what would be done, on standard error, and to write nothing.
    part
        ``(i, m)`` simulates the ``i``-th of ``m`` shares of the chunks, ``i`` from 0. Any number of processes, on any
        number of machines that see the store, can fill it at the same time, and need not know of each other. A call
        without a part simulates whatever is missing.
    scheduler
        ``"synchronous"``, ``"threads"``, ``"processes"``, a ``distributed.Client`` or the address of its scheduler.
        By default the active client if there is one, else this process at first, and processes from when what is left
        is worth their start; threads on a GPU, for a store that other processes cannot write to, and for batched
        functions that cannot be sent. Processes are kept for the next call, up to five minutes.
    retries
        How often a chunk is tried again whose worker died. What a function raises is never tried again.
    progress
        Whether to show a progress bar; by default in terminals and notebooks.
    audit
        Whether to simulate some samples of the first chunk again as soon as it is written, and of a few others at the
        end: alone, in another order and, in a run of ten seconds or more, in another process with another hash seed. It
        takes at most one sample, or one hundredth of the run. What differs in the first chunk stops the run, or with
        ``"warn"`` warns as what differs later does; chunks that begin alike are told too. :func:`status` says what was
        found.

    Returns
    -------
    xarray.Dataset
        The store, opened lazily; with ``part``, the samples of the part. With ``dry_run``, what it would hold, as
        :meth:`~dasksim.Simulator.sample` returns it.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument cannot be used.
    SimulatorError, OutputError
        If the simulator's stages or a function's outputs do not fit.
    StoreError
        If the path holds something else, cannot be written, or the samples do not fit on the disk.
    StoreMismatchError
        If the store was made by other arguments; the message lists what differs.
    IrreproducibleError
        If samples of the first chunk come out otherwise when they are simulated again.

    Examples
    --------
    >>> import dasksim, tempfile
    >>> simulator = dasksim.make_simulator(lambda rng: {"x": rng.normal(size=3)})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ds = dasksim.generate(simulator, f"{folder}/train.zarr", 1000, seed=1, scheduler="synchronous")
    ...     dict(ds.sizes)
    {'batch': 1000, 'x_dim_0': 3}
    """
    refuse_swapped("generate(simulator, {store}, n_samples, ...)", store=store, simulator=simulator)
    request = RunRequest.checked(
        simulator,
        store,
        conditions,
        timeout=timeout,
        allow_changed=allow_changed,
        repair=repair,
        part=part,
        retries=retries,
        progress=progress,
        audit=audit,
    )
    place, policy = request.store, Policy.checked(on_error, on_nonfinite)
    overwrite, dry_run = check_flag("overwrite", overwrite), check_flag("dry_run", dry_run)
    if overwrite and part is not None:
        raise ArgumentError(
            "overwrite=True does not go with part=: each part would remove what the others made; remove the store first"
        )
    shape = as_shape("n_samples", n_samples)
    seed = None if seed is None else check_seed(seed)
    scheduler = scheduler_for(scheduler, place)
    found = place.find_record(mends_root=request.repair)
    asked = (seed, sub_batch_size, chunk_size)
    kept = None if overwrite else found
    kind: str = device
    if found is not None and not overwrite:
        seed = found.seed if seed is None else seed
        sub_batch_size = found.sub_batch_size if sub_batch_size is None else sub_batch_size
        kind = found.device if kind == "auto" else kind
        if chunk_size is None and sub_batch_size == found.sub_batch_size:  # of others it may be no multiple
            chunk_size = found.chunk_size
    with connect(scheduler) as connected:
        if kind == "auto" and lacks_gpus(connected):
            kind = "cpu"

        def planned(seed: int | None, sub_batch_size: int | None, chunk_size: int | None) -> StorePlan:
            return request.resolve(shape, seed, sub_batch_size, chunk_size, dtypes, policy, kind, kept)

        task = planned(seed, sub_batch_size, chunk_size)
        executor = check_scheduler(connected, task.on_gpu)
        task.check_machine(executor)
        if found is not None:
            _check_found(request, task, found, overwrite=overwrite)
        if dry_run:
            return request.planned(task, executor, None if overwrite else found)
        task = _claimed(request, task, found if overwrite else None, asked, planned)
        return request.complete(task, executor)


def _check_found(request: RunRequest, task: StorePlan, found: Record, *, overwrite: bool) -> None:
    """Refuse before anything is changed what cannot be done to the store that is there."""
    refuse_own_conditions(task.pipeline.conditions, request.store)
    if overwrite:
        refuse_own_functions(request.simulator, request.store)
    else:
        agreed(request.store, found, task.layout.record, request.allow_changed)
        request.check(found)


def _claimed(
    request: RunRequest,
    task: StorePlan,
    removed: Record | None,
    asked: tuple[int | None, int | None, int | None],
    planned: Callable[[int | None, int | None, int | None], StorePlan],
) -> StorePlan:
    """Claim the store and prepare it; return the plan that it agrees with.

    Another writer may have come first: its record counts, and so do its seed and sizes where none were asked for.
    """
    with request.store.changing("make the store") as change:
        found = change.claim(task.layout.record, removed)
        mine = (task.plan.seed, task.plan.sub_batch_size, task.plan.chunk_size)
        theirs = (found.seed, found.sub_batch_size, found.chunk_size)
        differ = [own is None and my != their for own, my, their in zip(asked, mine, theirs, strict=True)]
        # what was asked for and differs is refused below
        if any(differ) and asked[1] in (None, found.sub_batch_size):
            # all of it anew: contexts, and sizes that follow them, depend on the seed
            task = planned(*(their if own is None else own for own, their in zip(asked, theirs, strict=True)))
        # again: what was there before may have given way to another writer's
        record = agreed(request.store, found, task.layout.record, request.allow_changed)
        check_lazy_conditions(change, task.pipeline, task.plan)
        task = replace(task, layout=replace(task.layout, record=record))
        change.prepare(task.layout, found, repair=request.repair)
    return task


@shortened()
def extend(
    store: StoreLike,
    simulator: SimulatorLike,
    n_samples: int,
    *,
    conditions: Mapping[str, Any] | None = None,
    allow_changed: bool = False,
    timeout: float | None = None,
    part: tuple[int, int] | None = None,
    scheduler: Any = None,
    retries: int = 3,
    progress: bool | None = None,
    audit: bool | Literal["warn"] = True,
) -> xr.Dataset:
    """Make a store longer.

    The result has the same bits as a store of ``n_samples`` samples made at once with the same seed, sub-batch size and
    chunk size. All that is not given here is as the store says. An extension that was stopped is continued by the same
    call, or by :func:`generate` with the new number of samples.

    Parameters
    ----------
    store
        Where the store is, in any form that :func:`generate` takes.
    simulator
        What the store was made with.
    n_samples
        Number of samples that the store shall have, those that it has included.
    conditions
        As given when the store was made; values with a batch axis must begin with those. Lazy ones cannot be read from
        the store itself.
    allow_changed, timeout, part, scheduler, retries, progress, audit
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
    IrreproducibleError
        If samples of the first new chunk come out otherwise when they are simulated again.

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
    refuse_swapped("extend({store}, simulator, n_samples, ...)", store=store, simulator=simulator)
    request = RunRequest.checked(
        simulator,
        store,
        conditions,
        timeout=timeout,
        allow_changed=allow_changed,
        part=part,
        retries=retries,
        progress=progress,
        audit=audit,
    )
    place = request.store
    scheduler = scheduler_for(scheduler, place)
    found = place.find_record()
    if found is None:
        raise StoreError(f"there is no store at {place.name!r} to extend; make one with dasksim.generate")
    request.check(found)
    shape = as_shape("n_samples", n_samples)
    if len(shape) > 1:
        raise ArgumentTypeError(f"n_samples must be an integer, the length of the batch axis; got {n_samples!r}")
    if shape[0] < found.n_samples:
        raise ArgumentError(
            f"n_samples={n_samples} is less than the {found.n_samples} samples that the store at {place.name!r} is "
            "made for; a store cannot be made shorter, but a selection of it can be used"
        )
    task = request.resolve_again(found, shape[0])
    refuse_own_conditions(task.pipeline.conditions, place)
    longer = extended(found, task.layout.record, task.pipeline)
    with connect(check_scheduler(scheduler, task.on_gpu)) as executor:
        task.check_machine(executor)
        record = agreed(place, longer, task.layout.record, request.allow_changed)
        check_lazy_conditions(place, task.pipeline, task.plan)
        task = replace(task, layout=replace(task.layout, record=record))
        with place.changing("make the store longer") as change:
            change.prepare(task.layout, found)
        return request.complete(task, executor)
