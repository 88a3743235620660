"""The entries of what a store says of itself, for variables, stages and derivations.

Each stands around the JSON that was read, or that is to be written: what a later version has put there stays as it is.
"""

import datetime
import functools
import json
import math
import platform
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from dasksim.store._dtypes import stored_dtypes

__all__ = [
    "Derivation",
    "StoredStage",
    "StoredVariable",
    "Told",
    "all_told",
    "as_mapping",
    "as_read",
    "created_now",
    "variable_of",
    "without",
]

#: What determines the values of derived variables, and so must agree with a call that makes them.
_OF_DERIVATION = ("seed", "sub_batch_size", "inputs", "variables")


@dataclass(frozen=True)
class StoredVariable:
    """What a store says of a variable.

    Parameters
    ----------
    dims
        Names of its axes, ``"batch"`` first.
    shape
        Shape of one sample.
    dtype
        Type of the stored values.
    attrs
        Its attributes.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample."""
        return math.prod(self.shape) * self.dtype.itemsize

    def told(self) -> dict[str, Any]:
        """Return what a record says of it."""
        told = {"dims": list(self.dims), "shape": list(self.shape), "dtype": self.dtype.name}
        return {**told, "attrs": dict(self.attrs)} if self.attrs else told


@dataclass(frozen=True)
class StoredStage:
    """What a store says of a stage; all but its name may be missing, and nothing is believed of it."""

    document: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Path of the stage."""
        return str(self.document["name"])

    @property
    def kind(self) -> str:
        """The name of its class."""
        return str(self.document.get("kind", ""))

    @property
    def digest(self) -> str:
        """Digest of the source of its functions."""
        return str(self.document.get("digest", ""))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of its inputs."""
        return _texts(self.document.get("inputs"))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the variables that it makes."""
        return _texts(self.document.get("outputs"))

    @property
    def settings(self) -> dict[str, Any]:
        """What its values depend on besides functions; those of stages inside stand under ``"stages"``."""
        kind = {"kind": self.document["kind"]} if "kind" in self.document else {}
        return {**kind, **as_mapping(self.document.get("settings"))}

    def is_like(self, other: "StoredStage", *but: str) -> bool:
        """Whether all but settings, and what else is named, is the same."""
        return without(self.document, "settings", *but) == without(other.document, "settings", *but)


@dataclass(frozen=True)
class Told:
    """What records and derivations have in common."""

    document: Mapping[str, Any]

    @functools.cached_property
    def variables(self) -> dict[str, StoredVariable]:
        """The variables that were simulated, or derived, in the order in which they were made."""
        return {name: variable_of(told) for name, told in self.document["variables"].items()}

    @functools.cached_property
    def stages(self) -> tuple[StoredStage, ...]:
        """The stages that made them; older stores do not say those of derivations."""
        return tuple(map(StoredStage, self.document.get("stages", ())))

    @property
    def has_labels(self) -> bool:
        """Whether it says what its labels are; older stores do not."""
        return "labels" in self.document

    @property
    def n_samples(self) -> int:
        """Samples that there are, or shall be."""
        return int(self.document["n_samples"])

    def stage_differences(self, wanted: "Told") -> list[str]:
        """Return what has changed between its stages and those of a call."""
        old = {stage.name: stage for stage in self.stages}
        new = {stage.name: stage for stage in wanted.stages}
        if list(old) != list(new):
            return [f"stages: {list(old)} in the store, {list(new)} asked for"]
        differences: list[str] = []
        changed: set[str] = set()  # variables
        for name, stage in new.items():
            named = _setting_differences(name, old[name].settings, stage.settings)
            is_like, follows = old[name].is_like(stage), not changed.isdisjoint(stage.inputs)
            # a setting that is named with both values says more than that something has changed
            if not is_like and not named and not (follows and old[name].is_like(stage, "probe")):
                what = "its source, its arguments or what it captures have changed since the store was made"
                named = [f"stage {name!r}: {what}"]
            differences += named
            # one that is only given something else makes something else, and has not changed
            changed.update(stage.outputs if named or not is_like else ())
        return differences

    def _differences(self, wanted: "Told", names: Iterable[str]) -> list[str]:
        old, new = self.document, wanted.document
        return [line for name in names for line in _value_differences(name, old.get(name), new[name])]

    def _with(self, **changes: Any) -> Self:
        return type(self)({**self.document, **changes})


@dataclass(frozen=True)
class Derivation(Told):
    """What a store says of variables that were derived; ``n_samples`` is 0 until they are complete."""

    @classmethod
    def of(
        cls,
        provenance: Mapping[str, Any],
        inputs: Collection[str],
        variables: Mapping[str, StoredVariable],
        dtypes: Any = None,
    ) -> "Derivation":
        """Return what a store will say of a derivation.

        Raises
        ------
        ArgumentError, ArgumentTypeError
            If a dtype cannot be used.
        """
        kept = {name: provenance[name] for name in ("version", "seed", "sub_batch_size", "stages", "packages")}
        told = {
            "inputs": sorted(inputs),
            "variables": all_told(variables, dtypes),
            "labels": {},
            "created": created_now(),
            "n_samples": 0,
        }
        return cls(as_read({**kept, **told}))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the variables that it takes."""
        return _texts(self.document.get("inputs"))

    @property
    def order(self) -> int:
        """The place of the derivation among others, 0 if it has none."""
        return int(self.document.get("order", 0))

    @property
    def is_placed(self) -> bool:
        """Whether it has a place among others; those of the oldest stores have none."""
        return "order" in self.document

    def placed(self, order: int) -> "Derivation":
        """Return it with a place among others, unless it has one."""
        return Derivation({"order": order, **self.document})

    def with_length(self, n_samples: int) -> "Derivation":
        """Return it as complete for so many samples."""
        return self._with(n_samples=n_samples)

    def differences(self, wanted: "Derivation") -> list[str]:
        """Return what a call asks for otherwise, stages apart; see :meth:`stage_differences`."""
        return self._differences(wanted, _OF_DERIVATION)


def _value_differences(name: str, old: Any, new: Any) -> list[str]:
    """Return which values differ: of mappings the entries that do, each with both."""
    if old == new:
        return []
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return [f"{name}: {old!r} in the store, {new!r} asked for"]
    differences = []
    for key in {**old, **new}:
        if key not in old or key not in new:
            where = "asked for, and not in the store" if key in new else "in the store, and not asked for"
            differences.append(f"{name}: {key!r} is {where}")
        else:
            differences += _value_differences(f"{name}: {key!r}", old[key], new[key])
    return differences


def _setting_differences(stage: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return which settings of a stage, and of stages inside it, differ; those that a store does not know do not."""
    differences = []
    for name, value in old.items():
        if name == "stages":
            inner = new.get(name, {})
            for stage_inside, settings in value.items():
                differences += _setting_differences(stage_inside, settings, inner.get(stage_inside, {}))
        elif name == "replace_inputs" and value != new.get(name) and None in (value, new.get(name)):
            ways = ("simulated in the store, and given now", "given in the store, and simulated now")
            differences.append(f"stage {stage!r}: what it makes was {ways[value is not None]}")
        elif value != new.get(name):
            differences.append(f"stage {stage!r}: {name}: {value!r} in the store, {new.get(name)!r} asked for")
    # stores of older versions say nothing of it, and hold what was drawn from the streams of sub-batches
    if "plates" in old and "streams" in new and "streams" not in old:
        differences.append(f"stage {stage!r}: made by an older version of dasksim, in which it drew other numbers")
    return differences


def variable_of(told: Mapping[str, Any]) -> StoredVariable:
    """Return the entry of a variable from what a record says of it."""
    attrs = as_mapping(told.get("attrs"))
    return StoredVariable(tuple(told["dims"]), tuple(told["shape"]), np.dtype(told["dtype"]), attrs)


def all_told(variables: Mapping[str, StoredVariable], dtypes: Any) -> dict[str, Any]:
    """Return what a record says of variables, in the dtypes in which they are to be stored."""
    stored = stored_dtypes(dtypes, {name: variable.dtype for name, variable in variables.items()})
    return {name: replace(variable, dtype=stored[name]).told() for name, variable in variables.items()}


def as_read(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is to be written as it will be when it is read again."""
    return dict(json.loads(json.dumps(told)))


def created_now() -> dict[str, str]:
    """Return when and where something is made."""
    return {"at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "host": platform.node()}


def without(document: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Return a document without some keys."""
    return {name: value for name, value in document.items() if name not in keys}


def as_mapping(value: object) -> dict[str, Any]:
    """Return a value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def _texts(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()
