"""What a store says of itself, and whether a call agrees with it."""

import datetime
import json
import math
import platform
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
    FORMAT,
    ArrayLayout,
    Location,
    Receipts,
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
    "created",
    "extended",
    "stage_differences",
    "store_layout",
    "stored_device",
    "stored_policy",
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
    record: Mapping[str, Any]
    pipeline: Pipeline
    plan: Plan
    changes: list[str]

    @property
    def policy(self) -> Policy:
        """What was done with samples that failed."""
        return stored_policy(self.record)


def stored_policy(record: Mapping[str, Any]) -> Policy:
    """Return what a store does with samples that fail."""
    return Policy(*(str(record.get(name, default)) for name, default in _POLICY.items()))


def stored_device(record: Mapping[str, Any]) -> str:
    """Return the kind of device that a store was made on; older stores do not say it."""
    return str(record.get("device", "cpu"))


def again_dtypes(record: Mapping[str, Any], pipeline: Pipeline) -> dict[str, str]:
    """Return the dtypes in which a store holds variables, as far as what a simulator makes now can be cast to them."""
    stored = {name: variable["dtype"] for name, variable in record["variables"].items()}
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
        (record["n_samples"], *record["further"]),
        seed=record["seed"],
        sub_batch_size=record["sub_batch_size"],
        chunk_size=record["chunk_size"],
        conditions=dict(conditions or {}),
        device=stored_device(record),
        most_probes=stored_policy(record).most_probes,
    )
    pipeline = replace(pipeline, store=location.name)
    made = json.loads(json.dumps(provenance(pipeline, plan)))
    names = [name for name in record["variables"] if name != VALID or VALID in pipeline.sources]
    if sorted(names) != sorted(pipeline.sources) or made["conditions"] != record["conditions"]:
        raise StoreMismatchError(
            f"the store at {location.name!r} has the variables {names} and was made with the conditions "
            f"{record['conditions']}; given now are {list(pipeline.sources)} and {made['conditions']}"
        )
    return StoredRequest(location, record, pipeline, plan, stage_differences(record.get("stages", []), made["stages"]))


# What must agree between a store and a call that continues it, with the name that the message uses.
_COMPARED = (
    "n_samples",
    "further",
    "seed",
    "sub_batch_size",
    "chunk_size",
    "device",
    "on_error",
    "on_nonfinite",
    "conditions",
    "variables",
    "coords",
)

# What to do with samples that fail; older stores do not say it.
_POLICY = {"on_error": "raise", "on_nonfinite": "keep"}


def created() -> dict[str, str]:
    """Return when and where something is made."""
    return {"at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "host": platform.node()}


def store_layout(pipeline: Pipeline, plan: Plan, dtypes: Any, policy: Policy) -> StoreLayout:
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
    record = {
        "format": FORMAT,
        **provenance(pipeline, plan),
        "created": created(),
        "n_samples": plan.n_samples,
        "further": list(plan.further),
        "chunk_size": plan.chunk_size,
        "on_error": policy.on_error,
        "on_nonfinite": policy.on_nonfinite,
        "variables": {a.name: {"dims": a.dims, "shape": a.shape[1:], "dtype": a.dtype.name} for a in arrays},
        "coords": {dim: [str(value) for value in values] for dim, values in pipeline.coords.items()},
    }
    return StoreLayout(arrays, pipeline.coords, plan.n_chunks, plan.chunk_size, json.loads(json.dumps(record)))


def agreed(
    location: Location, found: Mapping[str, Any], wanted: Mapping[str, Any], allow_changed: bool
) -> dict[str, Any]:
    """Return the record under which a call goes on with a store: the store's own, with what the call may change of it.

    Failures that ended all until now may be masked or drawn again from now on: complete chunks have none.

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
    record = {"device": stored_device(found), **_POLICY, **found}
    for name in _POLICY:
        if record[name] == "raise":
            record[name] = wanted[name]
    if wanted["variables"].keys() - record["variables"].keys() == {VALID}:
        record["variables"] = {**record["variables"], VALID: wanted["variables"][VALID]}
    differences = [
        f"{name}: {record.get(name)!r} in the store, {wanted[name]!r} asked for"
        for name in _COMPARED
        if record.get(name) != wanted[name]
    ]
    changed = stage_differences(found.get("stages", []), wanted["stages"])
    if changed and not allow_changed:
        differences += changed
    if differences:
        advice = "Give the same arguments to continue it, choose another path, or pass overwrite=True to make it anew"
        if record["n_samples"] < wanted["n_samples"]:
            advice += "; dasksim.extend makes a store larger"
        if changed and not allow_changed:
            advice += "; where a change leaves the samples the same, pass allow_changed=True"
        raise StoreMismatchError(
            f"the store at {location.name!r} was made by other arguments:\n  "
            + "\n  ".join(differences)
            + "\n"
            + advice
        )
    if changed:
        record["former_stages"] = [*record.get("former_stages", []), record["stages"]]
        record["stages"] = wanted["stages"]
    return record


def extended(found: Mapping[str, Any], wanted: Mapping[str, Any], pipeline: Pipeline) -> dict[str, Any]:
    """Return the record of a store that is made longer, for :func:`agreed` to compare.

    Conditions with a batch axis have to begin with the values that the store was made with.
    """
    n_before = found["n_samples"]
    record = {**found, "n_samples": wanted["n_samples"]}
    if n_before < wanted["n_samples"]:
        record["extended_from"] = [*found.get("extended_from", []), n_before]
    record["conditions"] = {
        name: wanted["conditions"][name] if _begins(before, pipeline.conditions.get(name), n_before) else before
        for name, before in found["conditions"].items()
    }
    return record


def _begins(before: Any, condition: Condition | None, n_before: int) -> bool:
    """Whether a condition with a batch axis begins with the values that are described, as far as that is known."""
    if condition is None or condition.is_scalar or not isinstance(before, dict):
        return False
    return bool(before == describe_condition(replace(condition, values=condition.values[:n_before])))


def check_lazy_conditions(location: Location, found: Mapping[str, Any], pipeline: Pipeline, plan: Plan) -> None:
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
            stored = cast(values, name, np.dtype(found["variables"][name]["dtype"]))
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


def stage_differences(found: Sequence[Any], wanted: Sequence[Any]) -> list[str]:
    """Return what has changed between the stages of a store and those of a call."""
    old = {stage["name"]: stage for stage in found}
    new = {stage["name"]: stage for stage in wanted}
    if list(old) != list(new):
        return [f"stages: {list(old)} in the store, {list(new)} asked for"]
    differences = []
    for name in new:
        named = _setting_differences(name, _settings(old[name]), _settings(new[name]))
        is_same = _without_settings(old[name]) == _without_settings(new[name])
        if not is_same and not named:
            changed = "its source, its arguments or what it captures have changed since the store was made"
            named = [f"stage {name!r}: {changed}"]
        differences += named
    return differences


def _without_settings(stage: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in stage.items() if name != "settings"}


def _settings(stage: Mapping[str, Any]) -> dict[str, Any]:
    kind = {"kind": stage["kind"]} if "kind" in stage else {}
    return {**kind, **stage.get("settings", {})}


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
