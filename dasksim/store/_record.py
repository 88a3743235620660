"""What a store says of itself: its record, with entries for variables, stages and derivations.

Each stands around the JSON that was read, or that is to be written: what a later version has put there stays as it is.
Nothing else in dasksim knows its keys, but for the rules by which the record of a stranger's store is checked.
"""

import datetime
import functools
import json
import math
import platform
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from dasksim._core.failures import VALID, Policy
from dasksim.store._dtypes import stored_dtypes

__all__ = ["ATTRIBUTE", "FORMAT", "Derivation", "Record", "StoredStage", "StoredVariable"]

#: Name of the attribute that holds a record, a JSON string.
ATTRIBUTE = "dasksim"

#: Version of the store's layout.
FORMAT = 1

#: What determines the values of derived variables, and so must agree with a call that makes them.
_OF_DERIVATION = ("seed", "sub_batch_size", "inputs", "variables")

#: What must agree between a store and a call that continues it, under the names that the message uses.
_OF_STORE = (
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

#: What a store of an older version does not say.
_UNSAID = {"device": "cpu", "on_error": "raise", "on_nonfinite": "keep"}

#: What stays the same when a store is extended.
_IDENTITY = ("format", "seed", "sub_batch_size", "chunk_size", "further", "variables", "created")


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
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample."""
        return math.prod(self.shape) * self.dtype.itemsize

    def told(self) -> dict[str, Any]:
        """Return what a record says of it."""
        return {"dims": list(self.dims), "shape": list(self.shape), "dtype": self.dtype.name}


# The variable that says which samples are valid.
_MASK = StoredVariable(("batch",), (), np.dtype(bool))


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
        return {**kind, **self.document.get("settings", {})}

    def is_like(self, other: "StoredStage") -> bool:
        """Whether all but settings is the same."""
        return _without(self.document, "settings") == _without(other.document, "settings")


@dataclass(frozen=True)
class _Told:
    """What records and derivations have in common."""

    document: Mapping[str, Any]

    @functools.cached_property
    def variables(self) -> dict[str, StoredVariable]:
        """The variables that were simulated, or derived, in the order in which they were made."""
        return {name: _variable(told) for name, told in self.document["variables"].items()}

    @functools.cached_property
    def stages(self) -> tuple[StoredStage, ...]:
        """The stages that made them; older stores do not say those of derivations."""
        return tuple(map(StoredStage, self.document.get("stages", ())))

    @property
    def n_samples(self) -> int:
        """Samples that there are, or shall be."""
        return int(self.document["n_samples"])

    def stage_differences(self, wanted: "_Told") -> list[str]:
        """Return what has changed between its stages and those of a call."""
        old = {stage.name: stage for stage in self.stages}
        new = {stage.name: stage for stage in wanted.stages}
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

    def _differences(self, wanted: "_Told", names: Iterable[str]) -> list[str]:
        old, new = self.document, wanted.document
        return [
            f"{name}: {old.get(name)!r} in the store, {new[name]!r} asked for"
            for name in names
            if old.get(name) != new[name]
        ]

    def _with(self, **changes: Any) -> Self:
        return type(self)({**self.document, **changes})


@dataclass(frozen=True)
class Derivation(_Told):
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
            "variables": _all_told(variables, dtypes),
            "created": _created(),
            "n_samples": 0,
        }
        return cls(_as_read({**kept, **told}))

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


@dataclass(frozen=True)
class Record(_Told):
    """What a store says of itself."""

    @classmethod
    def of(
        cls,
        provenance: Mapping[str, Any],
        *,
        shape: Sequence[int],
        chunk_size: int,
        policy: Policy,
        variables: Mapping[str, StoredVariable],
        coords: Mapping[str, Iterable[object]],
        dtypes: Any = None,
    ) -> "Record":
        """Return what a new store says of itself.

        Raises
        ------
        ArgumentError, ArgumentTypeError
            If a dtype cannot be used.
        """
        mask = {VALID: _MASK.told()} if policy.masks else {}
        told = {
            "format": FORMAT,
            **provenance,
            "created": _created(),
            "n_samples": shape[0],
            "further": list(shape[1:]),
            "chunk_size": chunk_size,
            "on_error": policy.on_error,
            "on_nonfinite": policy.on_nonfinite,
            "variables": {**_all_told(variables, dtypes), **mask},
            "coords": {dim: [str(value) for value in values] for dim, values in coords.items()},
        }
        return cls(_as_read(told))

    @classmethod
    def of_dataset(cls, attributes: Mapping[Any, Any]) -> "Record":
        """Return what a dataset's attributes say of how it was made; nothing if they do not."""
        try:
            told = json.loads(attributes.get(ATTRIBUTE, "{}"))
        except (TypeError, ValueError):
            told = {}
        return cls(_mapping(told))

    @property
    def text(self) -> str:
        """The record as it stands in an attribute."""
        return json.dumps(self.document)

    @property
    def shape(self) -> tuple[int, ...]:
        """The batch shape."""
        return (self.n_samples, *self.document["further"])

    @property
    def chunk_size(self) -> int:
        """Samples in a chunk."""
        return int(self.document["chunk_size"])

    @property
    def sub_batch_size(self) -> int:
        """Samples in a sub-batch."""
        return int(self.document["sub_batch_size"])

    @property
    def seed(self) -> int:
        """The seed."""
        return int(self.document["seed"])

    @property
    def n_chunks(self) -> int:
        """Number of chunks; the last one may be short."""
        return -(-self.n_samples // self.chunk_size)

    @property
    def chunk_counts(self) -> tuple[int, ...]:
        """The number of chunks, and those that it had before it was extended."""
        return tuple(-(-n // self.chunk_size) for n in (self.n_samples, *self.former_lengths))

    def samples(self, chunk: int) -> slice:
        """Return the samples of a chunk."""
        return slice(chunk * self.chunk_size, min((chunk + 1) * self.chunk_size, self.n_samples))

    def n_rows(self, chunk: int) -> int:
        """Return the number of samples of a chunk."""
        return min(self.chunk_size, self.n_samples - chunk * self.chunk_size)

    @property
    def former_lengths(self) -> tuple[int, ...]:
        """The numbers of samples that the store had before it was extended."""
        return tuple(self.document.get("extended_from", ()))

    @property
    def shortest(self) -> int:
        """The least number of samples that arrays can have: an extension that was cut off may have left them so."""
        return min([self.n_samples, *self.former_lengths])

    @property
    def device(self) -> str:
        """The kind of device that it was made on."""
        return str(self.document.get("device", _UNSAID["device"]))

    @property
    def policy(self) -> Policy:
        """What it does with samples that fail."""
        names = ("on_error", "on_nonfinite")
        return Policy(*(str(self.document.get(name, _UNSAID[name])) for name in names))

    @property
    def coords(self) -> dict[str, list[str]]:
        """The labels of feature dims, as text."""
        return dict(self.document.get("coords", {}))

    @property
    def conditions(self) -> dict[str, Any]:
        """What conditions it was made with: their values, or what tells arrays from others."""
        return dict(self.document.get("conditions", {}))

    @property
    def version(self) -> str | None:
        """The version of dasksim that made it."""
        return None if (version := self.document.get("version")) is None else str(version)

    @property
    def packages(self) -> dict[str, Any]:
        """The versions of packages that made it."""
        return _mapping(self.document.get("packages"))

    @property
    def created(self) -> dict[str, Any]:
        """When it was made, and where, under ``"at"`` and ``"host"``."""
        return _mapping(self.document.get("created"))

    @functools.cached_property
    def derivations(self) -> dict[str, Derivation]:
        """What was derived, under the names of the first variables."""
        return {key: Derivation(entry) for key, entry in self.document.get("derived", {}).items()}

    @property
    def contexts(self) -> set[str]:
        """The variables that are contexts."""
        return {name for stage in self.stages if stage.kind == "ContextStage" for name in stage.outputs}

    @property
    def all_stages(self) -> tuple[StoredStage, ...]:
        """The stages of what was simulated, and of what was derived."""
        return (*self.stages, *(stage for entry in self.derivations.values() for stage in entry.stages))

    @property
    def complete_derivations(self) -> dict[str, Derivation]:
        """Those that are complete for as many samples as the store has."""
        return {key: entry for key, entry in self.derivations.items() if entry.n_samples == self.n_samples}

    @property
    def visible_variables(self) -> dict[str, StoredVariable]:
        """The variables of the dataset: simulated ones, and derived ones that are complete."""
        complete = [entry.variables for entry in self.complete_derivations.values()]
        return {name: variable for variables in (self.variables, *complete) for name, variable in variables.items()}

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample of the widest variable that was simulated, by which inner chunks are chosen."""
        simulated = self.document.get("of", self.document["variables"]).values()
        return max(_variable(told).sample_bytes for told in simulated)

    @property
    def alone(self) -> "Record":
        """What it says without derivations."""
        return Record(_without(self.document, "derived"))

    def view(self, derivation: str | None) -> "Record | None":
        """Return it as the record of a store of one derivation's variables, or None if there is no such derivation.

        It stays the same while the derivation, or another one, becomes complete.
        """
        if derivation is None:
            return self.alone
        entry = self.derivations.get(derivation)
        if entry is None:
            return None
        own = {"n_samples": self.n_samples, "coords": {}, "of": self.document["variables"]}
        return Record({**self.alone.document, **entry.document, **own})

    def with_derivations(self, entries: Mapping[str, Derivation]) -> "Record":
        """Return it with other derivations, or with none."""
        told = {key: entry.document for key, entry in entries.items()}
        return Record({**self.alone.document, **({"derived": told} if told else {})})

    def lengthened(self, n_samples: int, conditions: Mapping[str, Any]) -> "Record":
        """Return it as that of a store of more samples, made with conditions of more rows."""
        before = self.document["n_samples"]
        longer = {"extended_from": [*self.former_lengths, before]} if before < n_samples else {}
        return self._with(n_samples=n_samples, **longer, conditions=dict(conditions))

    def continued(self, wanted: "Record") -> "Record":
        """Return it with what a call may change of it that asks for another one.

        Failures that ended all until now may be masked or drawn again from now on: complete chunks have none.
        """
        told = {**_UNSAID, **self.document}
        told |= {name: wanted.document[name] for name in ("on_error", "on_nonfinite") if told[name] == "raise"}
        variables, asked = told["variables"], wanted.document["variables"]
        if asked.keys() - variables.keys() == {VALID}:
            told["variables"] = {**variables, VALID: asked[VALID]}
        return Record(told)

    def with_changed_stages(self, wanted: "Record") -> "Record":
        """Return it with another one's stages, and its own as former ones."""
        former = [*self.document.get("former_stages", []), self.document["stages"]]
        return self._with(former_stages=former, stages=wanted.document["stages"])

    def differences(self, wanted: "Record") -> list[str]:
        """Return what a call asks for otherwise, stages apart; see :meth:`stage_differences`."""
        return self._differences(wanted, _OF_STORE)

    def is_same_store(self, other: "Record") -> bool:
        """Whether it is that of another one's store, which may have been extended since."""
        return all(self.document.get(key) == other.document.get(key) for key in _IDENTITY)


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


def _variable(told: Mapping[str, Any]) -> StoredVariable:
    return StoredVariable(tuple(told["dims"]), tuple(told["shape"]), np.dtype(told["dtype"]))


def _all_told(variables: Mapping[str, StoredVariable], dtypes: Any) -> dict[str, Any]:
    stored = stored_dtypes(dtypes, {name: variable.dtype for name, variable in variables.items()})
    return {name: replace(variable, dtype=stored[name]).told() for name, variable in variables.items()}


def _as_read(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is to be written as it will be when it is read again."""
    return dict(json.loads(json.dumps(told)))


def _created() -> dict[str, str]:
    return {"at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "host": platform.node()}


def _without(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != key}


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()
