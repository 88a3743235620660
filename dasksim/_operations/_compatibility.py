"""What a store says of itself, and whether a call agrees with it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np

from dasksim._core.conditions import Condition
from dasksim._core.failures import VALID, Policy
from dasksim._core.plan import Plan
from dasksim._engine.chunks import given_lazily
from dasksim._engine.pipeline import Pipeline
from dasksim._engine.provenance import describe_condition, provenance
from dasksim.errors import ArgumentTypeError, StoreError, StoreMismatchError
from dasksim.simulators import Simulator
from dasksim.store import (
    ArrayLayout,
    Location,
    Receipts,
    Record,
    StoredStage,
    StoredVariable,
    StoreLayout,
    StoreLike,
    cast,
    choose_inner_rows,
    digest_rows,
    open_receipts,
    stored_dtypes,
    stored_record,
)

__all__ = [
    "StoredRequest",
    "again_dtypes",
    "agreed",
    "check_lazy_conditions",
    "extended",
    "layout_of",
    "stage_differences",
    "stored_request",
]


@dataclass(frozen=True)
class StoredRequest:
    """What a store was made of, found again from its simulator.

    Parameters
    ----------
    location, record
        Where the store is, and what it says of itself.
    pipeline, plan
        What was simulated.
    changes
        What has changed in the simulator since.
    """

    location: Location
    record: Record
    pipeline: Pipeline
    plan: Plan
    changes: list[str]

    @property
    def policy(self) -> Policy:
        """What was done with samples that failed."""
        return self.record.policy


def again_dtypes(record: Record, pipeline: Pipeline) -> dict[str, np.dtype[Any]]:
    """Return the dtypes in which a store holds variables, as far as what a simulator makes now can be cast to them."""
    stored = {name: variable.dtype for name, variable in record.variables.items()}
    made = {v.name: v.dtype for v in pipeline.variables}
    return {n: stored[n] for n in made if n in stored and np.can_cast(made[n], stored[n], "same_kind")}


def stored_request(store: StoreLike, simulator: Any, conditions: Mapping[str, Any] | None) -> StoredRequest:
    """Find out again what a store was made of.

    Raises
    ------
    ArgumentTypeError
        If the simulator is none.
    StoreError
        If there is no store.
    StoreMismatchError
        If the simulator has other variables, or the conditions are others.
    """
    if not isinstance(simulator, Simulator):
        raise ArgumentTypeError(f"simulator must be a Simulator, such as make_simulator returns; got {simulator!r}")
    location, record = stored_record(store)
    pipeline, plan = simulator.plan(
        record.shape,
        seed=record.seed,
        sub_batch_size=record.sub_batch_size,
        chunk_size=record.chunk_size,
        conditions=dict(conditions or {}),
        device=record.device,
        most_probes=record.policy.most_probes,
    )
    pipeline = replace(pipeline, store=location.name)
    made = layout_of(pipeline, plan, None, record.policy).record
    names = [name for name in record.variables if name != VALID or VALID in pipeline.sources]
    if sorted(names) != sorted(pipeline.sources) or made.conditions != record.conditions:
        raise StoreMismatchError(
            f"the store at {location.name!r} has the variables {names} and was made with the conditions "
            f"{record.conditions}; given now are {list(pipeline.sources)} and {made.conditions}"
        )
    return StoredRequest(location, record, pipeline, plan, stage_differences(record.stages, made.stages))


def layout_of(pipeline: Pipeline, plan: Plan, dtypes: Any, policy: Policy) -> StoreLayout:
    """Return how a dataset lies in a store, with the store's record.

    Raises
    ------
    ArgumentError
        If a dtype cannot hold its variable.
    """
    stored = stored_dtypes(dtypes, {v.name: v.dtype for v in pipeline.variables})
    shapes = {v.name: (plan.n_samples, *pipeline.array_shape(v)) for v in pipeline.variables}
    row_bytes = max(math.prod(shape[1:]) * stored[name].itemsize for name, shape in shapes.items())
    inner_rows = choose_inner_rows(plan.chunk_size, plan.sub_batch_size, row_bytes)
    arrays = tuple(
        ArrayLayout(v.name, shapes[v.name], pipeline.array_dims(v), stored[v.name], plan.chunk_size, inner_rows)
        for v in pipeline.variables
    )
    if policy.masks:
        mask = ArrayLayout(VALID, (plan.n_samples,), ("batch",), np.dtype(bool), plan.chunk_size, inner_rows)
        arrays = (*arrays, mask)
    record = Record.of(
        provenance(pipeline, plan),
        shape=(plan.n_samples, *plan.further),
        chunk_size=plan.chunk_size,
        policy=policy,
        variables={a.name: StoredVariable(a.dims, a.shape[1:], a.dtype) for a in arrays},
        coords=pipeline.coords,
    )
    return StoreLayout(arrays, pipeline.coords, record)


def agreed(location: Location, found: Record, wanted: Record, allow_changed: bool) -> Record:
    """Return the record under which a call goes on with a store: the store's own, with what the call may change of it.

    Parameters
    ----------
    location
        Where the store is.
    found
        Its record.
    wanted
        The record that the call would make.
    allow_changed
        Whether to go on with stages that have changed.

    Raises
    ------
    StoreMismatchError
        If the call asks for something else than the store holds.
    """
    record = found.continued(wanted)
    differences = record.differences(wanted)
    changed = stage_differences(found.stages, wanted.stages)
    if changed and not allow_changed:
        differences += changed
    if differences:
        advice = "Give the same arguments to continue it, choose another path, or pass overwrite=True to make it anew"
        if record.n_samples < wanted.n_samples:
            advice += "; dasksim.extend makes a store larger"
        if changed and not allow_changed:
            advice += "; where a change leaves the samples the same, pass allow_changed=True"
        raise StoreMismatchError(
            f"the store at {location.name!r} was made by other arguments:\n  "
            + "\n  ".join(differences)
            + "\n"
            + advice
        )
    return record.with_changed_stages(wanted) if changed else record


def extended(found: Record, wanted: Record, pipeline: Pipeline) -> Record:
    """Return the record of a store that is made longer, for :func:`agreed` to compare.

    Conditions with a batch axis have to begin with the values that the store was made with.
    """
    conditions = {
        name: wanted.conditions[name] if _begins(before, pipeline.conditions.get(name), found.n_samples) else before
        for name, before in found.conditions.items()
    }
    return found.lengthened(wanted.n_samples, conditions)


def _begins(before: Any, condition: Condition | None, n_before: int) -> bool:
    """Whether a condition with a batch axis begins with the values that are described, as far as that is known."""
    if condition is None or condition.is_scalar or not isinstance(before, dict):
        return False
    return bool(before == describe_condition(replace(condition, values=condition.values[:n_before])))


def check_lazy_conditions(location: Location, found: Record, pipeline: Pipeline, plan: Plan) -> None:
    """Refuse lazy conditions that are others than a store holds; they have no digest, so one complete chunk must do.

    Raises
    ------
    StoreMismatchError
        If they have other values in the first complete chunk.
    """
    is_lazy = any(isinstance(condition.values, da.Array) for condition in pipeline.conditions.values())
    receipts = _sound_receipts(location) if is_lazy else None
    for chunk in sorted(receipts.complete_chunks()) if receipts else []:
        receipt = receipts.read_if_sound(chunk) if receipts else {}
        if receipt.get("complete") != plan.n_rows(chunk) or receipt.get("failed"):  # cut short, or with samples masked
            continue
        for name, values in given_lazily(pipeline, plan, chunk).items():
            stored = cast(values, name, found.variables[name].dtype)
            if digest_rows(stored) != receipt.get(f"digest:{name}"):
                raise StoreMismatchError(
                    f"condition {name!r} has other values in chunk {chunk} than the store at {location.name!r} was "
                    "made with; give the same ones, choose another path, or pass overwrite=True to make it anew"
                )
        return


def _sound_receipts(location: Location) -> Receipts | None:
    try:
        return open_receipts(location)
    except StoreError:  # damaged ones are for verify to tell, and for repair to mend
        return None


def stage_differences(found: Sequence[StoredStage], wanted: Sequence[StoredStage]) -> list[str]:
    """Return what has changed between the stages of a store and those of a call."""
    old = {stage.name: stage for stage in found}
    new = {stage.name: stage for stage in wanted}
    if list(old) != list(new):
        return [f"stages: {list(old)} in the store, {list(new)} asked for"]
    differences = []
    for name in new:
        named = _setting_differences(name, old[name].settings, new[name].settings)
        if not old[name].is_like(new[name]) and not named:
            changed = "its source, its arguments or what it captures have changed since the store was made"
            named = [f"stage {name!r}: {changed}"]
        differences += named
    return differences


def _setting_differences(stage: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return which settings of a stage, and of stages inside it, differ; those that a store does not know do not."""
    differences = []
    for name, value in old.items():
        if name == "stages":
            inner = new.get(name, {})
            for stage_inside, settings in value.items():
                differences += _setting_differences(stage_inside, settings, inner.get(stage_inside, {}))
        elif value != new.get(name):
            differences.append(f"stage {stage!r}: {name}: {value!r} in the store, {new.get(name)!r} asked for")
    return differences
