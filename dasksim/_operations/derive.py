"""Variables computed from those of a store, chunk by chunk, beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import xarray as xr

from dasksim._core.checks import check_flag, check_retries, check_seed
from dasksim._core.failures import VALID, Policy
from dasksim._core.plan import Plan
from dasksim._core.tracebacks import shortened
from dasksim._core.variables import RESERVED
from dasksim._engine.functions import FunctionStage
from dasksim._engine.pipeline import Pipeline
from dasksim._engine.provenance import provenance
from dasksim._engine.stage import Stage
from dasksim._engine.steps import Lowering
from dasksim._execution.executors import check_scheduler, connect
from dasksim._execution.run import check_memory
from dasksim._operations._argument_order import refuse_swapped
from dasksim._operations._compatibility import as_stored, variables_of
from dasksim._operations._own_data import refuse_own_functions
from dasksim._operations._request import StorePlan, fill, scheduler_for
from dasksim.errors import ArgumentError, ArgumentTypeError, StoreError, StoreMismatchError, nearest
from dasksim.simulators import Simulator, make_simulator
from dasksim.store import Derivation, Record, Store, StoredVariable, StoreLike

__all__ = ["derive"]


@shortened()
def derive(
    store: StoreLike,
    fn: Callable[..., Any] | Simulator,
    *,
    seed: int | None = None,
    is_batched: bool = False,
    dims: Mapping[str, str | Sequence[str]] | None = None,
    attrs: Mapping[str, Mapping[str, Any]] | None = None,
    dtypes: Any = None,
    overwrite: bool = False,
    allow_changed: bool = False,
    repair: bool = False,
    scheduler: Any = None,
    retries: int = 3,
    progress: bool | None = None,
) -> xr.Dataset:
    """Add variables to a complete store that are computed from its own, without simulating again.

    As with :func:`generate`, a chunk is complete when its receipt is written, after its data, and a run that was
    stopped is continued by the same call. The new variables are part of the dataset once all chunks are complete.

    Parameters
    ----------
    store
        Where the store is, in any form that :func:`generate` takes.
    fn
        A function that takes variables of the store by name and returns a dict of new ones, or a
        :class:`~dasksim.Simulator` whose functions do. It is given the rows of one sample or, if it is batched, of a
        sub-batch; further batch axes of the store are axes of a sample here. It may take ``rng`` or ``seed``, whose
        streams are those of no simulated stage. Of samples that are masked it sees the fill values.
    seed
        Any integer >= 0; by default the store's. Values depend on it if the function takes ``rng`` or ``seed``.
    is_batched
        Whether the function is called once for a whole sub-batch, as in :func:`make_simulator`.
    dims
        Names of the feature dims of new variables. Those of a dim that the store has get its labels.
    attrs
        Attributes of new variables, as in :func:`make_simulator`.
    dtypes
        In which dtype to store new variables, as in :func:`generate`.
    overwrite
        Whether to remove derived variables of the same names that are there, and what was derived from them. Simulated
        ones are never removed.
    allow_changed
        Whether to go on with a derivation although the function's source has changed since.
    repair
        Whether to check complete chunks of the derivation first, and to compute those again that are damaged.
    scheduler, retries, progress
        As in :func:`generate`.

    Returns
    -------
    xarray.Dataset
        The store, opened lazily, with the new variables.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument cannot be used: the function takes what the store lacks, or returns what it has.
    IncompleteStoreError
        If the store lacks chunks.
    StoreError
        If there is no store, or it cannot be written.
    StoreMismatchError
        If variables of the same names were derived otherwise; the message lists what differs.

    Examples
    --------
    >>> import dasksim, tempfile
    >>> simulator = dasksim.make_simulator(lambda rng: {"x": rng.normal(size=30)})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ds = dasksim.generate(simulator, f"{folder}/s.zarr", 1000, seed=1, scheduler="synchronous")
    ...     ds = dasksim.derive(f"{folder}/s.zarr", lambda x: {"mean": x.mean(), "sd": x.std()})
    ...     list(ds)
    ['x', 'mean', 'sd']
    """
    refuse_swapped("derive({store}, fn, ...)", store=store, simulator=fn)
    if not isinstance(fn, Simulator) and not callable(fn):
        raise ArgumentTypeError(f"fn must be a function or a Simulator; got {fn!r}")
    flags = {"overwrite": overwrite, "allow_changed": allow_changed, "repair": repair}
    flags = {name: check_flag(name, value) for name, value in flags.items()}
    retries, progress = check_retries(retries), progress if progress is None else check_flag("progress", progress)
    place = Store.at(store)
    record = place.record()
    scheduler = scheduler_for(scheduler, place)
    # what is to be repaired may lack shards, which to open it all would refuse
    dataset = place.open_simulated() if flags["repair"] else place.open()
    simulator = make_simulator(fn, is_batched=is_batched, dims=dims, attrs=attrs)
    seed = record.seed if seed is None else check_seed(seed)
    key, entry, pipeline, plan = _planned(simulator, place, record, dataset, seed, dtypes)
    # before anything is removed
    if flags["overwrite"]:
        _refuse_own(fn, place, entry)
    found = _replace_or_match(place, key, entry, overwrite=flags["overwrite"], allow_changed=flags["allow_changed"])
    if found is not None and found.n_samples == plan.n_samples and not flags["repair"]:
        place.end_derivation(key, plan.n_samples)  # a run may have been stopped just before its end
        return place.open()
    with connect(check_scheduler(scheduler, on_gpu=False)) as executor:
        check_memory(plan, pipeline, executor)
        # of no length, so that readers do not see it until all chunks are complete
        layout = place.begin_derivation(key, (found or entry).with_length(0))
        fill(
            place,
            StorePlan(pipeline, plan, layout, Policy()),
            range(plan.n_chunks),
            repair=flags["repair"],
            timeout=None,
            executor=executor,
            retries=retries,
            progress=progress,
        )
        place.end_derivation(key, plan.n_samples)
    return place.open()


def _planned(
    simulator: Simulator, place: Store, record: Record, dataset: xr.Dataset, seed: int, dtypes: Any
) -> tuple[str, Derivation, Pipeline, Plan]:
    """Return the key of a derivation, what the store will say of it, and what is run.

    Raises
    ------
    ArgumentError
        If the store lacks what a function takes, or has what it returns.
    """
    inputs = _inputs(simulator.lower().stages, dataset, record)

    def planned(path: str) -> tuple[Pipeline, Plan]:
        return simulator.plan(
            (record.n_samples,),
            seed=seed,
            sub_batch_size=record.sub_batch_size,
            chunk_size=record.chunk_size,
            # lazy, for shapes and dtypes: workers read the rows by themselves, see _reading
            conditions={name: dataset[name].data for name in inputs},
            # not replaced: what returns an input is refused by its name in _made, whatever its shape
            lowering=_without_coords(simulator.lower(path)),
        )

    # the key, by which streams are addressed, is known only when the variables are
    key = _made(planned("derive/")[0], record)[0].name
    pipeline, plan = planned(f"derive/{key}/")
    pipeline = _reading(replace(pipeline, variables=_made(pipeline, record)), place)
    if key in record.derivations:
        pipeline = as_stored(pipeline, record.derivations[key])
    told = provenance(replace(pipeline, conditions={}), plan)
    entry = Derivation.of(told, inputs, variables_of(pipeline), dtypes)
    _check_dims(entry.variables, plan.n_samples, dataset)
    return key, entry, pipeline, plan


def _without_coords(lowering: Lowering) -> Lowering:
    """Return a lowering without labels of its own: a store has them for dims, not for derivations."""
    attrs = {name: attrs for name, attrs in lowering.attrs.items() if name not in lowering.coords}
    return replace(lowering, coords={}, attrs=attrs, replace_inputs=False, call="derive")


def _inputs(stages: Sequence[Stage], dataset: xr.Dataset, record: Record) -> list[str]:
    """Return the variables of a store that stages take: by name, or all that were simulated.

    Raises
    ------
    ArgumentError
        If a single function takes what is not there.
    """
    known = [str(name) for name in dataset.data_vars]
    if any(stage.takes_all for stage in stages):
        return list(record.variables)
    taken = {name for stage in stages for name in stage.names}
    if len(stages) == 1 and isinstance(stages[0], FunctionStage):
        for name in stages[0].required:
            if name not in known and name not in RESERVED:
                raise ArgumentError(
                    f"the function takes {name!r}, which is no variable of the store; {nearest(name, known)}"
                )
    return [name for name in known if name in taken]


def _made(pipeline: Pipeline, record: Record) -> tuple[Any, ...]:
    """Return the variables that are derived.

    Raises
    ------
    ArgumentError
        If the store has one already, or a dim or labels of its name.
    """
    made = {v.name: v for step in pipeline.steps for v in step.outputs if not v.is_hidden}
    dims = (dim for variable in record.variables.values() for dim in variable.dims)
    # dims too: xarray makes a coordinate of a variable that has the name of one
    taken = {VALID, *record.variables, *record.coords, *dims}
    for name in made:
        if name in taken:
            raise ArgumentError(
                f"the function returns {name!r}, a name that the store has already, or keeps; choose another"
            )
    return tuple(made.values())


def _check_dims(variables: Mapping[str, StoredVariable], n_samples: int, dataset: xr.Dataset) -> None:
    """Refuse dims that the dataset has already with other sizes, or as variables.

    Raises
    ------
    ArgumentError
        If there is one.
    """
    for name, variable in variables.items():
        for dim, size in zip(variable.dims, (n_samples, *variable.shape), strict=True):
            if dataset.sizes.get(dim, size) != size:
                raise ArgumentError(
                    f"{name!r} has size {size} along {dim!r}, but the store has {dataset.sizes[dim]}; give its dim "
                    "another name with dims={...}"
                )
            if dim in dataset.data_vars:
                raise ArgumentError(f"{dim!r} is a variable of the store, and cannot name a dim of {name!r}")


def _reading(pipeline: Pipeline, place: Store) -> Pipeline:
    """Return the pipeline with inputs that are read from the store where they are needed."""
    conditions = {name: replace(condition, values=place.rows(name)) for name, condition in pipeline.conditions.items()}
    sources = {v.name: pipeline.sources[v.name] for v in pipeline.variables}
    return replace(pipeline, conditions=conditions, sources=sources, store=place.name)


def _refuse_own(fn: object, place: Store, entry: Derivation) -> None:
    """Refuse a function that takes or keeps what is removed to make room for its variables.

    Raises
    ------
    ArgumentError
        If it does.
    """
    derived = place.record().derivations
    removed = {name for key in _removed(derived, entry) for name in derived[key].variables}
    taken = sorted(removed & set(entry.inputs))
    if taken:
        raise ArgumentError(
            f"the function takes {taken[0]!r}, which overwrite=True removes before the function runs; name the new "
            "variables otherwise"
        )
    if removed:
        refuse_own_functions(fn, place, removed)


def _removed(derived: Mapping[str, Derivation], entry: Derivation) -> list[str]:
    """Return the derivations that give way to another one: of the same variables, and those that take them."""
    return _dependent(derived, _rivals(derived, entry))


def _rivals(derived: Mapping[str, Derivation], entry: Derivation) -> dict[str, Derivation]:
    return {k: e for k, e in derived.items() if e.variables.keys() & entry.variables.keys()}


def _replace_or_match(
    place: Store, key: str, entry: Derivation, *, overwrite: bool, allow_changed: bool
) -> Derivation | None:
    """With ``overwrite`` remove derivations of the same names; else return the entry of the same one, if there is one.

    Raises
    ------
    StoreMismatchError
        If variables of the same names were derived otherwise.
    """
    derived = place.record().derivations
    rivals = _rivals(derived, entry)
    if overwrite:
        for rival in _removed(derived, entry):
            place.remove_derivation(rival)
        return None
    for name in {*entry.variables}.difference(*(e.variables for e in derived.values())):
        if place.holds_stranger(name):
            raise StoreError(f"the store at {place.name!r} holds a {name!r} that is none of its variables; remove it")
    differences: list[str] = []
    for rival, found in rivals.items():
        differences += found.differences(entry)
        changed = found.stage_differences(entry)
        differences += [] if allow_changed else changed
        if rival != key and not differences:
            differences = [f"variables: {list(found.variables)} in the store, {list(entry.variables)} asked for"]
    if differences:
        raise StoreMismatchError(
            f"the store at {place.name!r} has variables of the same names that were derived otherwise:\n  "
            + "\n  ".join(differences)
            + "\nName the new ones otherwise, or pass overwrite=True to replace them; where a change of the function "
            "leaves them the same, pass allow_changed=True"
        )
    return rivals.get(key)


def _dependent(derived: Mapping[str, Derivation], keys: Iterable[str]) -> list[str]:
    """Return derivations, those that take their variables first."""
    chosen: list[str] = []
    for key in keys:
        takers = [k for k, e in derived.items() if set(e.inputs) & derived[key].variables.keys()]
        # takers first: a removal that is cut off leaves no derivation whose inputs are gone
        chosen += [k for k in (*_dependent(derived, takers), key) if k not in chosen]
    return chosen
