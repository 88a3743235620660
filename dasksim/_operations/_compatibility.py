"""What a store says of itself, and whether a call agrees with it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dasksim._core.arrays import is_lazy
from dasksim._core.conditions import Condition
from dasksim._core.failures import VALID, Policy
from dasksim._core.plan import Plan
from dasksim._engine.chunks import given_lazily
from dasksim._engine.pipeline import Pipeline
from dasksim._engine.provenance import describe_condition, provenance
from dasksim.errors import StoreMismatchError
from dasksim.simulators import as_simulator
from dasksim.store import Derivation, Record, Store, StoredVariable, StoreLayout, StoreLike

__all__ = [
    "StoredRequest",
    "again_dtypes",
    "agreed",
    "as_stored",
    "check_lazy_conditions",
    "extended",
    "layout_of",
    "stored_request",
    "variables_of",
]


@dataclass(frozen=True)
class StoredRequest:
    """What a store was made of, found again from its simulator.

    Parameters
    ----------
    store, record
        The store, and what it says of itself.
    pipeline, plan
        What was simulated.
    changes
        What has changed in the simulator since.
    """

    store: Store
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
    simulator = as_simulator(simulator)
    place = Store.at(store)
    record = place.record()
    missing = record.conditions.keys() - (conditions or {}).keys()
    if missing:
        given = ", ".join(f"{name!r}: ..." for name in sorted(missing))
        raise StoreMismatchError(f"the store at {place.name!r} was made with conditions; give conditions={{{given}}}")
    pipeline, plan = simulator.plan(
        record.shape,
        seed=record.seed,
        sub_batch_size=record.sub_batch_size,
        chunk_size=record.chunk_size,
        conditions=dict(conditions or {}),
        device=record.device,
        most_probes=record.policy.most_probes,
    )
    pipeline = as_stored(replace(pipeline, store=place.name), record)
    made = layout_of(pipeline, plan, None, record.policy).record
    # the mask comes from the policy, not from the simulator
    names = [name for name in record.variables if name != VALID or VALID in pipeline.sources]
    if sorted(names) != sorted(pipeline.sources) or made.conditions != record.conditions:
        raise StoreMismatchError(
            f"the store at {place.name!r} has the variables {names} and was made with the conditions "
            f"{record.conditions}; given now are {list(pipeline.sources)} and {made.conditions}"
        )
    return StoredRequest(place, record, pipeline, plan, record.stage_differences(made))


def layout_of(pipeline: Pipeline, plan: Plan, dtypes: Any, policy: Policy) -> StoreLayout:
    """Return how a dataset lies in a store, with the store's record.

    Raises
    ------
    ArgumentError
        If a dtype cannot hold its variable.
    """
    record = Record.of(
        provenance(pipeline, plan),
        shape=(plan.n_samples, *plan.further),
        chunk_size=plan.chunk_size,
        policy=policy,
        variables=variables_of(pipeline),
        dtypes=dtypes,
        coords=pipeline.coords,
    )
    return StoreLayout.of(record, pipeline.coords)


def as_stored(pipeline: Pipeline, found: Record | Derivation | None) -> Pipeline:
    """Return a pipeline with the labels of a store that an older version made, which kept fewer of them.

    Dims may have had names without meaning, there were no attributes, coordinates had to be given, and sizes were lost.
    """
    if found is None or found.has_labels:
        return pipeline
    dims = {
        v.name: automatic
        for v in pipeline.variables
        if (automatic := tuple(f"{v.name}_dim_{i}" for i in range(len(v.sample_shape))))
        and v.name in found.variables
        and found.variables[v.name].dims == ("batch", *v.plates, *automatic)
    }
    variables = tuple(v for v in pipeline.variables if not v.sizes_of or v.name in found.variables)
    labels = found.coords if isinstance(found, Record) else {}
    coords = {name: c._replace(attrs={}) for name, c in pipeline.coords.items() if name in labels and name == c.dims[0]}
    return replace(
        pipeline,
        variables=variables,
        sources={v.name: pipeline.sources[v.name] for v in variables},
        dims={**pipeline.dims, **dims},
        attrs={},
        coords=coords,
    )


def variables_of(pipeline: Pipeline) -> dict[str, StoredVariable]:
    """Return the variables of a dataset, in the dtypes in which they are made."""
    return {
        v.name: StoredVariable(pipeline.array_dims(v), pipeline.array_shape(v), v.dtype, pipeline.attrs.get(v.name, {}))
        for v in pipeline.variables
    }


def agreed(store: Store, found: Record, wanted: Record, allow_changed: bool) -> Record:
    """Return the record under which a call goes on with a store: the store's own, with what the call may change of it.

    Raises
    ------
    StoreMismatchError
        If the call asks for something else than the store holds.
    """
    record = found.continued(wanted)
    differences = record.differences(wanted)
    changed = found.stage_differences(wanted)
    if changed and not allow_changed:
        differences += changed
    if differences:
        advice = "Give the same arguments to continue it, choose another path, or pass overwrite=True to make it anew"
        if record.n_samples < wanted.n_samples:
            advice += "; dasksim.extend makes a store larger"
        if changed and not allow_changed:
            advice += "; where a change leaves the samples the same, pass allow_changed=True"
        raise StoreMismatchError(
            f"the store at {store.name!r} was made by other arguments:\n  " + "\n  ".join(differences) + "\n" + advice
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


def check_lazy_conditions(store: Store, pipeline: Pipeline, plan: Plan) -> None:
    """Refuse lazy conditions that are others than a store holds; they have no digest, so one complete chunk must do.

    Raises
    ------
    StoreMismatchError
        If they have other values in the first complete chunk.
    """
    # first: few calls have any, and for others no receipt need be read
    if not any(is_lazy(condition.values) for condition in pipeline.conditions.values()):
        return
    receipts = store.sound_receipts()
    chunk = receipts.first_whole(plan.n_rows) if receipts is not None else None
    if receipts is None or chunk is None:
        return
    for name in receipts.differing(chunk, given_lazily(pipeline, plan, chunk)):
        raise StoreMismatchError(
            f"condition {name!r} has other values in chunk {chunk} than the store at {store.name!r} was made with; "
            "give the same ones, choose another path, or pass overwrite=True to make it anew"
        )
