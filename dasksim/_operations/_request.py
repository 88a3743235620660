"""What a call that makes or continues a store asks for, checked."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from dasksim._core.arrays import device_named
from dasksim._core.checks import check_flag, check_retries
from dasksim._core.failures import Policy
from dasksim._core.plan import Plan
from dasksim._engine.chunks import check_policy
from dasksim._engine.pipeline import Pipeline
from dasksim._execution.announcement import announcement, check_room
from dasksim._execution.executors import check_scheduler
from dasksim._execution.graph import compile_dataset
from dasksim._execution.run import check_memory, run_chunks
from dasksim._operations._compatibility import again_dtypes, as_stored, layout_of
from dasksim._operations.verify import bad_chunks
from dasksim._streams.process_wide import is_locked_here
from dasksim.errors import ArgumentError, ArgumentTypeError
from dasksim.simulators import Simulator, as_simulator
from dasksim.store import Record, Store, StoreLayout

__all__ = ["RunRequest", "StorePlan", "fill", "scheduler_for"]


@dataclass(frozen=True)
class StorePlan:
    """What is simulated, and how it lies in the store.

    Parameters
    ----------
    pipeline, plan
        What is simulated.
    layout
        How it lies in the store.
    policy
        What to do with samples that fail.
    """

    pipeline: Pipeline
    plan: Plan
    layout: StoreLayout
    policy: Policy

    @property
    def on_gpu(self) -> bool:
        """Whether stages run on a GPU."""
        return self.pipeline.device == "gpu"

    def check_machine(self, executor: Any) -> None:
        """Refuse before any work what this machine, or a worker of a cluster, cannot do.

        Raises
        ------
        ArgumentError
            If chunks are too large for the memory, or there is no GPU where one is needed.
        """
        check_memory(self.plan, self.pipeline, executor)
        # the GPUs of a cluster are its workers', of which this process knows nothing
        if isinstance(executor, str):
            device_named(self.pipeline.device)


@dataclass(frozen=True)
class RunRequest:
    """What calls that make or continue a store have in common; see :func:`dasksim.generate` for the parameters."""

    simulator: Simulator
    store: Store
    conditions: dict[str, Any]
    timeout: float | None
    allow_changed: bool
    repair: bool
    part: tuple[int, int] | None
    retries: int
    progress: bool | None
    audit: bool | str

    @classmethod
    def checked(
        cls,
        simulator: Any,
        store: Any,
        conditions: Any,
        *,
        timeout: Any,
        allow_changed: Any,
        part: Any,
        retries: Any,
        progress: Any,
        audit: Any,
        repair: Any = False,
    ) -> "RunRequest":
        """Return a request, its arguments checked.

        Raises
        ------
        ArgumentError, ArgumentTypeError
            If one cannot be used.
        """
        simulator = as_simulator(simulator)
        if not isinstance(conditions, Mapping | None):
            raise ArgumentTypeError(f"conditions must be a mapping of variables to values; got {conditions!r}")
        return cls(
            simulator,
            Store.at(store),
            dict(conditions or {}),
            _check_timeout(timeout),
            check_flag("allow_changed", allow_changed),
            check_flag("repair", repair),
            _check_part(part),
            check_retries(retries),
            progress if progress is None else check_flag("progress", progress),
            _check_audit(audit),
        )

    def resolve(
        self,
        shape: tuple[int, ...],
        seed: int | None,
        sub_batch_size: int | None,
        chunk_size: int | None,
        dtypes: Any,
        policy: Policy,
        device: Any,
        found: Record | None = None,
    ) -> StorePlan:
        """Find the schema, cut the samples into chunks, and lay out the store, one that there is with its labels."""
        pipeline, plan = self.simulator.plan(
            shape,
            seed=seed,
            sub_batch_size=sub_batch_size,
            chunk_size=chunk_size,
            conditions=self.conditions,
            device=device,
            most_probes=policy.most_probes,
        )
        check_policy(pipeline, policy)
        pipeline = as_stored(replace(pipeline, store=self.store.name), found)
        return StorePlan(pipeline, plan, layout_of(pipeline, plan, dtypes, policy), policy)

    def resolve_again(self, found: Record, n_samples: int) -> StorePlan:
        """Resolve what a store was made of, for another number of samples."""
        shape, sizes = (n_samples, *found.shape[1:]), (found.sub_batch_size, found.chunk_size)
        task = self.resolve(shape, found.seed, *sizes, None, found.policy, found.device, found)
        # laid out twice: which stored dtypes still hold the variables shows once these are known
        dtypes = again_dtypes(found, task.pipeline)
        return replace(task, layout=layout_of(task.pipeline, task.plan, dtypes, found.policy))

    def check(self, found: Record) -> None:
        """Check that a store can be continued; damaged metadata can, if they are to be repaired."""
        self.store.check_sound(found, repair=self.repair)

    def planned(self, task: StorePlan, executor: Any, found: Record | None) -> xr.Dataset:
        """Say what there is to do, and return the dataset that there will be, lazily; nothing is written.

        Raises
        ------
        StoreError
            If it cannot fit on the disk.
        """
        complete = self.store.complete_chunks() if found is not None else ()
        chunks = [chunk for chunk in range(*_share(self.part, task.plan.n_chunks)) if chunk not in complete]
        print(announcement(task.pipeline, task.plan, task.layout, chunks, executor), file=sys.stderr)  # noqa: T201
        check_room(task.plan, task.layout, self.store.location.folder, chunks)
        return compile_dataset(task.pipeline, task.plan)

    def complete(self, task: StorePlan, executor: Any) -> xr.Dataset:
        """Simulate and write what is missing, and open it."""
        first, stop = _share(self.part, task.plan.n_chunks)
        fill(
            self.store,
            task,
            range(first, stop),
            repair=self.repair,
            timeout=self.timeout,
            executor=executor,
            retries=self.retries,
            progress=self.progress,
            audit=self.audit,
        )
        if self.part is None:
            self.store.finish(task.layout.record)
            return self.store.open()
        # whichever part ends last finishes the store; where two end at once, both may, to the same root
        if len(self.store.complete_chunks()) == task.plan.n_chunks:
            self.store.finish(task.layout.record)
        samples = (chunk * task.plan.chunk_size for chunk in (first, stop))
        return self.store.open_part().isel(batch=slice(*samples))


def fill(
    store: Store,
    task: StorePlan,
    chunks: range,
    *,
    repair: bool,
    timeout: float | None,
    executor: Any,
    retries: int,
    progress: bool | None,
    audit: bool | str = False,
) -> None:
    """Simulate and write the chunks that a store, or a derivation in it, lacks; where it is repaired, damaged ones too.

    See :func:`run_chunks` for the parameters.
    """
    layout = task.layout
    if repair:
        checker = store.checker(layout.record, layout.derivation)
        complete = [chunk for chunk in checker.complete if chunk in chunks]
        # without their receipts they are missing, and made by the run below
        store.forget(layout.record, bad_chunks(checker.problems, layout.record, complete, progress), layout.derivation)
    run_chunks(
        task.pipeline,
        task.plan,
        store.writer(layout),
        task.policy,
        chunks,
        timeout=timeout,
        scheduler=executor,
        retries=retries,
        progress=progress,
        audit=audit,
    )


def scheduler_for(scheduler: Any, store: Store) -> Any:
    """Return the scheduler that was asked for, checked, or that a store needs which other processes cannot write to.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If it cannot be used, or the store cannot be written to.
    """
    # a default waits until it is known whether all stages are batched
    if scheduler is not None:
        scheduler = check_scheduler(scheduler, on_gpu=False)
    if is_locked_here() and scheduler in (None, "threads"):  # a function of another simulator calls
        scheduler = "synchronous"
    store.check_writable()
    if store.is_shared:
        return scheduler
    if scheduler not in (None, "synchronous", "threads"):
        raise ArgumentError(
            f"other processes cannot write to {store.name!r}; use scheduler='threads' or 'synchronous', or a store "
            f"that they share; got scheduler={scheduler!r}"
        )
    return scheduler or "threads"


def _share(part: tuple[int, int] | None, n_chunks: int) -> tuple[int, int]:
    """Return the first chunk of a part, and the first one after it."""
    if part is None:
        return 0, n_chunks
    i, m = part
    # shares meet without a gap, and differ by one chunk at most
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


def _check_audit(audit: Any) -> bool | str:
    if isinstance(audit, bool | np.bool_) or (isinstance(audit, str) and audit == "warn"):
        return audit if isinstance(audit, str) else bool(audit)
    raise ArgumentTypeError(f"audit must be True, False or 'warn'; got {audit!r}")


def _check_timeout(timeout: Any) -> float | None:
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise ArgumentTypeError(f"timeout must be a number of seconds, or None; got {timeout!r}")
    if not 0 < timeout < math.inf:
        raise ArgumentError(f"timeout must be a finite number of seconds greater than 0, or None; got {timeout!r}")
    return float(timeout)
